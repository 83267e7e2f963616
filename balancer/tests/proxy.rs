//! Requests, WebSocket and TCP connections through the balancer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use support::{Balancer, DEADLINE, Response, Upstream, raw, request, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

fn json(response: &Response) -> serde_json::Value {
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_slice(&response.body).unwrap()
}

#[tokio::test]
async fn a_server_learns_who_asked_and_what() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", upstream.address)])).await;
    let headers = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("Keep-Alive", "timeout=5"),
        ("Accept", "*/*"),
    ];
    let response = request(balancer.address("l"), "GET", "/a/b?c=d%20e", &headers, b"").await;
    assert!(response.head.contains("content-type: application/json"), "{}", response.head);
    let seen = json(&response);
    assert_eq!(seen["uri"], "/a/b?c=d%20e");
    assert_eq!(
        seen["headers"],
        serde_json::json!({
            "host": "test", "accept": "*/*", "x-forwarded-for": "127.0.0.1",
            "x-forwarded-host": "test", "x-forwarded-proto": "http", "x-real-ip": "127.0.0.1",
        })
    );
    balancer.end().await;
}

#[tokio::test]
async fn bodies_pass_both_ways_in_every_framing() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", upstream.address)])).await;
    let address = balancer.address("l");
    let body: Vec<u8> =
        (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let response = request(address, "POST", "/upload", &[], &body).await;
    assert_eq!(response.status, 200);
    assert!(response.body == body, "{} bytes came back", response.body.len());

    let chunked =
        b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let answer = String::from_utf8(raw(address, chunked).await).unwrap();
    assert!(answer.contains("\"body_bytes\":11"), "{answer}");

    let head = request(address, "HEAD", "/x", &[], b"").await;
    assert!(head.status == 200 && head.body.is_empty(), "{head:?}");
    assert!(head.head.contains("content-length: "), "{}", head.head);

    let mut stream = TcpStream::connect(address).await.unwrap();
    let expect = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n\
        Content-Length: 2\r\n\r\n";
    stream.write_all(expect).await.unwrap();
    let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    timeout(DEADLINE, stream.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"body_bytes\":2"),
        "{answer}"
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_on_one_kept_connection() {
    let upstream = Upstream::start("a");
    let settings = format!("[workers]\ncount = 1\n{}", settings("", &[("a", upstream.address)]));
    let balancer = Balancer::start(&settings).await;
    let mut requests = String::new();
    for n in 0..20 {
        write!(requests, "GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    requests.push_str("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = raw(balancer.address("l"), requests.as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    let uris: Vec<_> = answer.split("\"uri\":\"/").skip(1).collect();
    assert_eq!(uris.len(), 21);
    for (n, uri) in uris[..20].iter().enumerate() {
        assert!(uri.starts_with(&format!("{n}\"")), "{n}: {uri}");
    }
    let made = "balancer_server_connections_total{pool=\"p\",server=\"a\"}";
    balancer.wait_metric(made, 1.0).await;
    let answered = "balancer_listener_requests_total{code=\"2xx\",listener=\"l\"}";
    balancer.wait_metric(answered, 21.0).await;
}

#[tokio::test]
async fn what_is_ambiguous_or_too_much_is_refused() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", upstream.address)])).await;
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
    let cases: [(&str, u16); 13] = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("NOT HTTP AT ALL\r\n\r\n", 400),
        (&long, 431),
    ];
    for (bytes, status) in cases {
        let answer = raw(balancer.address("l"), bytes.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{bytes:?}: {answer:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_second_request_cannot_be_smuggled_between_two_lengths() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", upstream.address)])).await;
    for lengths in [
        "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n",
    ] {
        let bytes = format!(
            "POST /x HTTP/1.1\r\nHost: a\r\n{lengths}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = raw(balancer.address("l"), bytes.as_bytes()).await;
        let answer = String::from_utf8(answer).unwrap();
        // Whoever sends two lengths is refused, and the connection is not read any further.
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_websocket_echoes_through() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", upstream.address)])).await;
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    let big = Message::binary((0..2_000_000_u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    for message in [Message::text("hello"), big, Message::text("")] {
        socket.send(message.clone()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == message);
    }
    assert_eq!(balancer.server("a").await["active_connections"], 1);
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    until("the place to be given back", async || {
        let server = balancer.server("a").await;
        if server["active_connections"] == 0 { Ok(()) } else { Err(server) }
    })
    .await;
}

#[tokio::test]
async fn tcp_connections_keep_half_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.reverse();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    let settings =
        settings("", &[("a", address)]).replace("pool = \"p\"", "pool = \"p\"\nmode = \"tcp\"");
    let balancer = Balancer::start(&settings).await;
    let mut stream = TcpStream::connect(balancer.address("l")).await.unwrap();
    let mut sent: Vec<u8> = (0..500_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut got)).await.unwrap().unwrap();
    sent.reverse();
    assert!(got == sent, "{} bytes came back", got.len());
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_closed() {
    let upstream = Upstream::start("a");
    let settings = settings("", &[("a", upstream.address)])
        .replace("pool = \"p\"", "pool = \"p\"\nheader_timeout = \"1s\"\nidle_timeout = \"2s\"");
    let balancer = Balancer::start(&settings).await;
    for begun in ["", "GET / HTTP/1.1\r\nHost:", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        // Reads until it is closed, which the deadline inside makes sure of.
        let answer = raw(balancer.address("l"), begun.as_bytes()).await;
        assert_eq!(!answer.is_empty(), begun.ends_with("\r\n\r\n"), "{begun:?}");
    }
    let rejected = "balancer_listener_rejected_total{listener=\"l\",reason=\"header_timeout\"}";
    balancer.wait_metric(rejected, 2.0).await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_refused() {
    let upstream = Upstream::start("a");
    let settings = settings("", &[("a", upstream.address)])
        .replace("pool = \"p\"", "pool = \"p\"\nmax_connections = 1");
    let balancer = Balancer::start(&settings).await;
    let address: SocketAddr = balancer.address("l");
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 1);
    assert!(raw(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_empty());
    drop(first);
    until("room for another", async || {
        let answer = raw(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        if answer.is_empty() { Err(()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn weights_are_kept_exactly() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text =
        settings("algorithm = \"weighted_round_robin\"", &[("a", a.address), ("b", b.address)])
            + "weight = 50\n";
    let balancer = Balancer::start(&text).await;
    for _ in 0..30 {
        request(balancer.address("l"), "GET", "/", &[], b"").await;
    }
    assert_eq!((a.requests(), b.requests()), (20, 10));
}

#[tokio::test]
async fn a_source_stays_with_its_server() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = settings("algorithm = \"source_hash\"", &[("a", a.address), ("b", b.address)])
        .replace("pool = \"p\"", "pool = \"p\"\ntrusted_proxies = [\"127.0.0.1\"]");
    let balancer = Balancer::start(&text).await;
    for client in 0..40 {
        let source = format!("198.51.100.{client}");
        let mut servers = Vec::new();
        for _ in 0..3 {
            let headers = [("X-Forwarded-For", source.as_str())];
            let response = request(balancer.address("l"), "GET", "/", &headers, b"").await;
            servers.push(json(&response)["server"].clone());
        }
        assert!(servers.iter().all(|server| *server == servers[0]), "{source}: {servers:?}");
    }
    assert!(a.requests() >= 24 && b.requests() >= 24, "{} {}", a.requests(), b.requests());
}

#[tokio::test]
async fn the_end_waits_for_what_is_in_flight_but_not_for_ever() {
    let upstream = Upstream::start("a");
    let text =
        settings("", &[("a", upstream.address)]).replace("period = \"1s\"", "period = \"5s\"");
    let mut balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 1);
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{address}/ws")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    balancer.begin_end();
    // The kept connection without a request ends at once, the WebSocket works on for the drain period.
    let mut rest = Vec::new();
    timeout(DEADLINE, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(!balancer.is_ended());
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    let end = timeout(DEADLINE, async { while let Some(Ok(_)) = socket.next().await {} }).await;
    assert!(end.is_ok());
    until("the end", async || if balancer.is_ended() { Ok(()) } else { Err(()) }).await;
    assert!(timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().is_err());
}
