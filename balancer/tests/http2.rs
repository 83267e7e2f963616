//! Clients that speak HTTP/2: what a server is told and what comes back, floods, and the end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use h2::client::Builder;
use http::{HeaderMap, Request};
use support::http2::{Client, answer, get, http2, json, read};
use support::{Balancer, DEADLINE, Upstream, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A server that reads one request to its end, shows it, and answers with `answer`.
async fn scripted(answer: &'static [u8]) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let is_chunked = text.contains("chunked");
            let whole = if is_chunked { text.contains("\r\n0\r\n") } else { true };
            if whole && text.ends_with("\r\n\r\n") {
                stream.write_all(answer).await.unwrap();
                // The balancer closes what it does not keep.
                let _ = timeout(DEADLINE, stream.read(&mut [0])).await;
                return text;
            }
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{text}");
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_server_is_told_what_it_would_be_in_http_1() {
    let upstream = Upstream::start("a");
    let text = http2("sticky_cookie = \"node\"", &[("a", upstream.address)]).replacen(
        "http2 = true",
        "http2 = true\nrequest_id = true\nforwarded = true",
        1,
    );
    let balancer = Balancer::start(&text).await;
    let client = Client::connect(balancer.address("l")).await;
    let request = get("/x?y=z")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-forwarded-for", "6.6.6.6")
        .header("te", "trailers");
    let (response, body) = client.ask(request.body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers()["set-cookie"].to_str().unwrap().starts_with("node="));
    assert!(!response.headers().contains_key("connection"));
    let seen = json(&body);
    assert_eq!((&seen["method"], &seen["uri"]), (&"GET".into(), &"/x?y=z".into()));
    let id = seen["headers"]["x-request-id"].as_str().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(
        seen["headers"],
        serde_json::json!({
            "host": "a.test", "cookie": "a=1; b=2", "x-forwarded-for": "127.0.0.1",
            "x-real-ip": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "a.test",
            "forwarded": "for=127.0.0.1;host=\"a.test\";proto=http", "x-request-id": id,
        })
    );
    let (response, body) =
        client.ask(Request::head("http://a.test/").body(()).unwrap()).await.unwrap();
    assert!(response.status() == 200 && body.is_empty());
    // The same listener speaks HTTP/1.1 with whoever does.
    let old = support::request(balancer.address("l"), "GET", "/", &[], b"").await;
    assert_eq!(old.status, 200);
    balancer.end().await;
}

#[tokio::test]
async fn bodies_pass_both_ways_at_once_on_many_streams() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", upstream.address)])).await;
    let client = Client::connect(balancer.address("l")).await;
    let uploads = (0..20_usize).map(|n| {
        let client = &client;
        async move {
            let content: Vec<u8> =
                (0..300_000 + n).map(|i| u8::try_from((i + n) % 251).unwrap()).collect();
            let mut request = Request::post("http://a.test/upload");
            if n % 2 == 0 {
                request = request.header("content-length", content.len());
            }
            let (response, mut body) = client.send(request.body(()).unwrap(), false).await.unwrap();
            let send = async {
                for piece in content.chunks(50_000) {
                    let mut rest = Bytes::copy_from_slice(piece);
                    while !rest.is_empty() {
                        body.reserve_capacity(rest.len());
                        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                        let room = room.unwrap().unwrap().min(rest.len());
                        body.send_data(rest.split_to(room), false).unwrap();
                    }
                }
                body.send_data(Bytes::new(), true).unwrap();
            };
            let (answer, ()) = tokio::join!(answer(response), send);
            let (head, got, _) = answer.unwrap();
            assert_eq!(head.status(), 200, "{n}");
            assert!(got == content, "{n}: {} of {} bytes", got.len(), content.len());
        }
    });
    join_all(uploads).await;
    let active = "balancer_listener_active_connections{listener=\"l\"}";
    balancer.wait_metric(active, 1.0).await;
    drop(client);
    balancer.wait_metric(active, 0.0).await;
    balancer.end().await;
}

#[tokio::test]
async fn trailers_and_interim_answers_pass() {
    let (server, seen) = scripted(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n\
          Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await;
    let balancer = Balancer::start(&http2("", &[("a", server)])).await;
    let client = Client::connect(balancer.address("l")).await;
    let request = Request::post("http://a.test/").header("trailer", "x-up").body(()).unwrap();
    let (mut response, mut body) = client.send(request, false).await.unwrap();
    body.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-up", "1".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let hint = timeout(DEADLINE, std::future::poll_fn(|cx| response.poll_informational(cx))).await;
    assert_eq!(hint.unwrap().unwrap().unwrap().status(), 103);
    let (head, content, trailers) = answer(response).await.unwrap();
    assert_eq!((head.status().as_u16(), &content[..]), (200, &b"hello"[..]));
    assert_eq!(trailers.unwrap()["x-sum"], "7");
    balancer.end().await;
    let seen = seen.await.unwrap();
    assert!(seen.ends_with("3\r\nabc\r\n0\r\nx-up: 1\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_response_waits_for_the_client_to_take_it() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", upstream.address)])).await;
    // A wide connection of narrow streams: one that is not read does not hold up the others.
    let mut builder = Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let client = Client::connect_with(balancer.address("l"), &builder).await;
    let content = vec![b'x'; 4_000_000];
    let request = Request::post("http://a.test/upload").header("content-length", content.len());
    let (response, mut body) = client.send(request.body(()).unwrap(), false).await.unwrap();
    body.send_data(content.clone().into(), true).unwrap();
    let (head, mut body) = timeout(DEADLINE, response).await.unwrap().unwrap().into_parts();
    assert_eq!(head.status, 200);
    // The first window is filled and nothing is granted: what the balancer took from the server is bounded, and others are served.
    let first = body.data().await.unwrap().unwrap();
    let (other, _) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(other.status(), 200);
    let sent = "balancer_listener_sent_bytes_total{listener=\"l\"}";
    assert!(balancer.metric(sent).await < 1_000_000.0);
    body.flow_control().release_capacity(first.len()).unwrap();
    let rest = timeout(DEADLINE, read(&mut body)).await.unwrap().unwrap();
    assert_eq!(first.len() + rest.len(), content.len());
    balancer.end().await;
}

#[tokio::test]
async fn a_client_that_gives_up_frees_its_server() {
    let upstream = Upstream::start("a");
    upstream.shared.hung.store(true, std::sync::atomic::Ordering::SeqCst);
    let balancer = Balancer::start(&http2("", &[("a", upstream.address)])).await;
    let client = Client::connect(balancer.address("l")).await;
    let (response, mut body) = client.send(get("/").body(()).unwrap(), true).await.unwrap();
    let active = async |expected: u64| {
        until(&format!("{expected} requests at the server"), async || {
            let server = balancer.server("a").await;
            if server["active_connections"] == expected { Ok(()) } else { Err(server) }
        })
        .await;
    };
    active(1).await;
    body.send_reset(Reason::CANCEL);
    active(0).await;
    drop(response);
    // The connection goes on.
    upstream.shared.hung.store(false, std::sync::atomic::Ordering::SeqCst);
    let (response, _) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    balancer.end().await;
}

#[tokio::test]
async fn the_end_is_announced_and_what_is_in_flight_finished() {
    let upstream = Upstream::start("a");
    upstream.shared.hung.store(true, std::sync::atomic::Ordering::SeqCst);
    let text = http2("", &[("a", upstream.address)]).replacen("\"1s\"", "\"60s\"", 1);
    let mut balancer = Balancer::start(&text).await;
    let client = Client::connect(balancer.address("l")).await;
    let idle = Client::connect(balancer.address("l")).await;
    let (response, _) = client.send(get("/").body(()).unwrap(), true).await.unwrap();
    until("the request to be at the server", async || {
        let server = balancer.server("a").await;
        if server["active_connections"] == 1 { Ok(()) } else { Err(server) }
    })
    .await;
    balancer.begin_end();
    // A connection with nothing to do ends at once, and without an error.
    assert!(timeout(DEADLINE, idle.ended).await.unwrap().unwrap().is_ok());
    // The one in flight gets its answer; nothing new is taken.
    upstream.shared.hung.store(false, std::sync::atomic::Ordering::SeqCst);
    // The server hung for good in that request, so it is killed and the answer is ours.
    drop(upstream);
    let (head, _, _) = answer(response).await.unwrap();
    assert_eq!(head.status(), 502);
    assert!(client.ask(get("/").body(()).unwrap()).await.is_err());
    assert!(timeout(DEADLINE, client.ended).await.unwrap().unwrap().is_ok());
    until("the balancer to end", async || if balancer.is_ended() { Ok(()) } else { Err(()) }).await;
}

#[tokio::test]
async fn streams_are_bounded_and_busy_servers_make_them_wait() {
    let upstream = Upstream::start("a");
    let text = http2(
        "server_max_connections = 2\nqueue_max = 1\nqueue_timeout = \"30s\"",
        &[("a", upstream.address)],
    )
    .replacen("http2 = true", "http2 = true\nhttp2_max_streams = 4", 1);
    upstream.shared.hung.store(true, std::sync::atomic::Ordering::SeqCst);
    let balancer = Balancer::start(&text).await;
    let client = Client::connect(balancer.address("l")).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(client.send(get("/").body(()).unwrap(), true).await.unwrap());
    }
    // Two are at the server, and one is in line.
    balancer.wait_metric("balancer_pool_queued{pool=\"p\"}", 1.0).await;
    let (response, body) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), &body[..]), (503, &b"every server is busy\n"[..]));
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(client.sender.current_max_send_streams(), 4);
    balancer.end().await;
}
