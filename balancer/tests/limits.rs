//! Limits per client and per token, lists of networks, bans: what is turned away, who is not, and what operators see and do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use support::{Balancer, DEADLINE, Upstream, raw, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Settings with these lines for the listener and its limits.
fn limited(upstream: &Upstream, listener: &str, limits: &str) -> String {
    let more = format!("pool = \"p\"\n{listener}\n[listener.limits]\n{limits}");
    settings("", &[("a", upstream.address)]).replacen("pool = \"p\"", &more, 1)
}

/// Connects as a client with the address 127.0.0.`host`.
async fn connect(address: SocketAddr, host: u8) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)))?;
    timeout(DEADLINE, socket.connect(address)).await?
}

/// One request on a connection that may go on: status and head, or what came instead.
async fn ask(stream: &mut TcpStream, fields: &str) -> io::Result<(u16, String)> {
    ask_for(stream, "/", fields).await
}

async fn ask_for(stream: &mut TcpStream, target: &str, fields: &str) -> io::Result<(u16, String)> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let exchange = async {
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).to_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length.is_some_and(|length| body.len() >= length.parse().unwrap()) {
                    return Ok((head[9..12].parse().unwrap(), head.to_owned()));
                }
            }
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    timeout(DEADLINE, exchange).await?
}

/// The status of one request on a new connection; an error if it was not served at all.
async fn status(address: SocketAddr, host: u8, fields: &str) -> io::Result<u16> {
    let mut stream = connect(address, host).await?;
    Ok(ask(&mut stream, fields).await?.0)
}

fn rejected(reason: &str) -> String {
    format!("balancer_listener_rejected_total{{listener=\"l\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_client_has_as_many_connections_as_it_may() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&limited(&upstream, "", "connections = 2")).await;
    let address = balancer.address("l");
    let mut first = connect(address, 2).await.unwrap();
    let mut second = connect(address, 2).await.unwrap();
    assert_eq!(ask(&mut first, "").await.unwrap().0, 200);
    assert_eq!(ask(&mut second, "").await.unwrap().0, 200);
    // It hears why if it listens before it speaks.
    let mut third = connect(address, 2).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, third.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("Retry-After"), "{answer}");
    assert_eq!(status(address, 3, "").await.unwrap(), 200, "another client");
    balancer.wait_metric(&rejected("client_connections"), 1.0).await;
    drop(first);
    until("the place to be free again", async || match status(address, 2, "").await {
        Ok(200) => Ok(()),
        seen => Err(seen),
    })
    .await;
    assert_eq!(ask(&mut second, "").await.unwrap().0, 200, "what is open stays");
    balancer.end().await;
}

#[tokio::test]
async fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let upstream = Upstream::start("a");
    let limits = "requests_per_second = 0.01\nrequests_burst = 3";
    let balancer = Balancer::start(&limited(&upstream, "", limits)).await;
    let address = balancer.address("l");
    let mut stream = connect(address, 2).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut stream, "").await.unwrap().0, 200);
    }
    // The connection stays usable for what will be let through.
    for _ in 0..2 {
        let (status, head) = ask(&mut stream, "").await.unwrap();
        assert_eq!(status, 429, "{head}");
        let wait = head.lines().find_map(|line| line.strip_prefix("retry-after: "));
        let wait: u64 = wait.unwrap().parse().unwrap();
        assert!((1..=100).contains(&wait), "{head}");
    }
    assert_eq!(status(address, 2, "").await.unwrap(), 429, "by client, not by connection");
    assert_eq!(status(address, 3, "").await.unwrap(), 200);
    assert_eq!(upstream.requests(), 4);
    balancer.wait_metric(&rejected("request_rate"), 3.0).await;
    balancer.end().await;
}

#[tokio::test]
async fn tokens_have_limits_of_their_own() {
    let upstream = Upstream::start("a");
    for (key, target, fields) in [
        ("header:Authorization", "/", "Authorization: Bearer TOKEN\r\n"),
        ("cookie:session", "/", "Cookie: a=b; session=TOKEN\r\n"),
        ("query:token", "/?a=b&token=TOKEN", ""),
    ] {
        let limits = format!(
            "[listener.limits.token]\nkey = \"{key}\"\nrequests_per_second = 0.001\nrequests_burst = 2"
        );
        let balancer = Balancer::start(&limited(&upstream, "", &limits)).await;
        let mut stream = connect(balancer.address("l"), 2).await.unwrap();
        let mut get = async |token: &str| {
            let (target, fields) = (target.replace("TOKEN", token), fields.replace("TOKEN", token));
            ask_for(&mut stream, &target, &fields).await.unwrap().0
        };
        let seen = [get("one").await, get("one").await, get("one").await, get("two").await];
        assert_eq!(seen, [200, 200, 429, 200], "{key}");
        for _ in 0..3 {
            assert_eq!(ask(&mut stream, "").await.unwrap().0, 200, "none is no token");
        }
        balancer.wait_metric(&rejected("token_rate"), 1.0).await;
        balancer.end().await;
    }
}

#[tokio::test]
async fn lists_are_read_again_with_a_reload() {
    let upstream = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deny");
    std::fs::write(&file, "# nobody\n127.0.0.9\n").unwrap();
    let limits = format!(
        "allow = [\"127.0.0.0/28\"]\ndeny = [\"127.0.0.8\"]\ndeny_file = \"{}\"",
        file.display()
    );
    let balancer = Balancer::start(&limited(&upstream, "", &limits)).await;
    let address = balancer.address("l");
    assert_eq!(status(address, 2, "").await.unwrap(), 200);
    for host in [8, 9, 16] {
        assert!(status(address, host, "").await.is_err(), "{host}");
    }
    balancer.wait_metric(&rejected("denied"), 3.0).await;
    std::fs::write(&file, "127.0.0.2/31\n").unwrap();
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    assert!(status(address, 2, "").await.is_err());
    assert_eq!(status(address, 9, "").await.unwrap(), 200);
    // A list that cannot be read changes nothing, and says where.
    std::fs::write(&file, "127.0.0.2\n127.0.0.300\n").unwrap();
    let (code, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(code, 422);
    let text = answer.to_string();
    assert!(text.contains("limits.deny_file") && text.contains("deny:2: expected"), "{text}");
    assert_eq!(status(address, 9, "").await.unwrap(), 200);
    balancer.end().await;
}

#[tokio::test]
async fn limits_that_observe_only_count() {
    let upstream = Upstream::start("a");
    let limits = "observe = true\nconnections_per_second = 0.001\nrequests_per_second = 0.001\n\
        deny = [\"127.0.0.3\"]";
    let balancer = Balancer::start(&limited(&upstream, "", limits)).await;
    let address = balancer.address("l");
    for host in [2, 2, 2, 3] {
        assert_eq!(status(address, host, "").await.unwrap(), 200);
    }
    let would = |reason: &str| {
        format!("balancer_listener_would_reject_total{{listener=\"l\",reason=\"{reason}\"}}")
    };
    for (reason, count) in [("connection_rate", 2.0), ("request_rate", 2.0), ("denied", 1.0)] {
        balancer.wait_metric(&would(reason), count).await;
        balancer.wait_metric(&rejected(reason), 0.0).await;
    }
    balancer.end().await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_clients_count() {
    let upstream = Upstream::start("a");
    let limits = "connections = 1\nconnections_per_second = 0.001\nrequests_per_second = 0.001\n\
        requests_burst = 2\ndeny = [\"203.0.113.0/24\"]";
    let text = limited(&upstream, "trusted_proxies = [\"127.0.0.5\"]", limits);
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let for_client = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let mut seen = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "203.0.113.4"] {
        // The proxy's own connections are not counted as one client's.
        seen.push(status(address, 5, &for_client(client)).await.unwrap());
    }
    assert_eq!(seen, [200, 200, 429, 200, 403]);
    // Of anybody else it is not believed.
    assert_eq!(status(address, 6, &for_client("203.0.113.4")).await.unwrap(), 200);
    balancer.end().await;
}

#[tokio::test]
async fn behind_a_proxy_header_the_client_it_names_counts() {
    let upstream = Upstream::start("a");
    let listener = "mode = \"tcp\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]";
    let text = limited(&upstream, listener, "connections = 1");
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let open = async |client: &str| {
        let mut stream = connect(address, 1).await?;
        let header = format!("PROXY TCP4 {client} 127.0.0.1 1000 2000\r\n");
        stream.write_all(header.as_bytes()).await?;
        ask(&mut stream, "").await.map(|(status, _)| (status, stream))
    };
    let (status, held) = open("192.0.2.1").await.unwrap();
    assert_eq!(status, 200);
    assert!(open("192.0.2.1").await.is_err(), "one is held");
    assert_eq!(open("192.0.2.2").await.unwrap().0, 200);
    balancer.wait_metric(&rejected("client_connections"), 1.0).await;
    drop(held);
    until("the place to be free again", async || open("192.0.2.1").await.map(drop)).await;
    balancer.end().await;
}

const BANS: &str = "[bans]\noffences = 3\nfirst = \"1h\"\nexempt = [\"127.0.0.7\"]\n";

/// Says what is no HTTP.
async fn offend(address: SocketAddr, host: u8) -> io::Result<String> {
    let mut stream = connect(address, host).await?;
    stream.write_all(b"nonsense\r\n\r\n").await?;
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn who_offends_again_and_again_is_banned() {
    let upstream = Upstream::start("a");
    let text = format!("{BANS}{}", settings("", &[("a", upstream.address)]));
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    for host in [2, 7] {
        for _ in 0..4 {
            let answer = offend(address, host).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        }
    }
    assert!(status(address, 2, "").await.is_err(), "banned");
    assert_eq!(status(address, 7, "").await.unwrap(), 200, "exempt");
    assert_eq!(status(address, 3, "").await.unwrap(), 200);
    balancer.wait_metric("balancer_bans_total{offence=\"bad_request\"}", 1.0).await;
    balancer.wait_metric("balancer_offences_total{offence=\"bad_request\"}", 8.0).await;
    balancer.wait_metric("balancer_bans_in_force", 1.0).await;
    // It stays over a reload, until an operator lifts it.
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    assert!(status(address, 2, "").await.is_err());
    let (code, list) = balancer.api("GET", "/bans", "").await;
    assert_eq!((code, &list["total"]), (200, &serde_json::json!(1)), "{list}");
    assert_eq!(list["bans"][0]["address"], "127.0.0.2", "{list}");
    assert_eq!(list["bans"][0]["offence"], "bad_request", "{list}");
    assert_eq!(balancer.api("DELETE", "/bans/127.0.0.2", "").await.0, 204);
    assert_eq!(status(address, 2, "").await.unwrap(), 200);
    assert_eq!(balancer.api("DELETE", "/bans/127.0.0.2", "").await.0, 404);
    balancer.end().await;
}

#[tokio::test]
async fn an_operator_bans_and_open_connections_end_with_their_next_request() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", upstream.address)])).await;
    let address = balancer.address("l");
    let mut open = connect(address, 2).await.unwrap();
    assert_eq!(ask(&mut open, "").await.unwrap().0, 200);
    let body = "{\"address\": \"127.0.0.2\", \"seconds\": 3600}";
    let (code, ban) = balancer.api("POST", "/bans", body).await;
    assert_eq!((code, &ban["offence"]), (201, &serde_json::json!("operator")), "{ban}");
    assert_eq!(ask(&mut open, "").await.unwrap().0, 403);
    assert!(status(address, 2, "").await.is_err());
    assert_eq!(status(address, 3, "").await.unwrap(), 200);
    for (body, expected) in [
        ("{\"address\": \"127.0.0.300\", \"seconds\": 1}", 422),
        ("{\"address\": \"127.0.0.2\", \"seconds\": 0}", 422),
        ("{\"address\": \"127.0.0.2\"}", 422),
    ] {
        let (code, answer) = balancer.api("POST", "/bans", body).await;
        assert_eq!(code, expected, "{body}: {answer}");
    }
    assert_eq!(balancer.api("DELETE", "/bans/nobody", "").await.0, 404);
    balancer.end().await;
}

#[tokio::test]
async fn connection_floods_end_in_a_ban() {
    let upstream = Upstream::start("a");
    let limits = "connections_per_second = 0.001\nconnections_burst = 5";
    let text = format!("{BANS}{}", limited(&upstream, "", limits));
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    for _ in 0..12 {
        // Served, refused or banned: the flood does not care.
        let _ = status(address, 2, "").await;
    }
    balancer.wait_metric(&rejected("connection_rate"), 4.0).await;
    balancer.wait_metric(&rejected("banned"), 3.0).await;
    assert_eq!(status(address, 3, "").await.unwrap(), 200);
    let (_, list) = balancer.api("GET", "/bans", "").await;
    assert_eq!(list["bans"][0]["offence"], "connection_flood", "{list}");
    let address: IpAddr = list["bans"][0]["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(address, IpAddr::from([127, 0, 0, 2]));
    balancer.end().await;
}

#[tokio::test]
async fn bodies_are_bounded_by_what_they_announce() {
    let upstream = Upstream::start("a");
    let text = limited(&upstream, "max_body_bytes = 10", "");
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let chunks = |body: &str| format!("Transfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
    for (rest, expected) in [
        ("Content-Length: 10\r\n\r\n0123456789".to_owned(), 200),
        ("Content-Length: 11\r\n\r\n0123456789!".to_owned(), 413),
        (chunks("5\r\nhello\r\n5\r\nworld\r\n"), 200),
        (chunks("5\r\nhello\r\n6\r\nworld!\r\n"), 413),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{rest}");
        let answer = raw(address, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{rest:?}: {answer}");
    }
    balancer.wait_metric(&rejected("body_too_long"), 2.0).await;
    balancer.end().await;
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_its_websocket() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&limited(&upstream, "max_frame_bytes = 1000", "")).await;
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let hello = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(hello.into_text().unwrap(), "a");
    let just = Message::binary(vec![7; 1_000]);
    socket.send(just.clone()).await.unwrap();
    assert_eq!(timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap(), just);
    // The word comes while it is still being sent.
    let (mut write, mut read) = socket.split();
    let sending = tokio::spawn(async move {
        // It may be cut off in the middle, after the word.
        let _ = write.send(Message::binary(vec![7; 4 << 20])).await;
    });
    let word = async {
        loop {
            match read.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame,
                Some(Ok(_)) => {}
                other => panic!("no word: {other:?}"),
            }
        }
    };
    let frame = timeout(DEADLINE, word).await.unwrap();
    assert_eq!((u16::from(frame.code), &*frame.reason), (1009, "frame_too_long"));
    timeout(DEADLINE, sending).await.unwrap().unwrap();
    drop(read);
    let closed = "balancer_listener_closed_total{cause=\"frame_too_long\",listener=\"l\"}";
    balancer.wait_metric(closed, 1.0).await;
    balancer.end().await;
}

#[tokio::test]
async fn clients_that_keep_no_rate_are_cut_off() {
    let upstream = Upstream::start("a");
    let balancer = Balancer::start(&limited(&upstream, "min_client_rate = 100000", "")).await;
    let address = balancer.address("l");
    let request = |length: usize| {
        format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    };
    // One sends its body, and one takes its response, byte by byte; neither ever stalls.
    let sends = async {
        let mut stream = connect(address, 2).await.unwrap();
        stream.write_all(request(1_000_000).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let (mut reads, mut writes) = stream.split();
        let trickle = async {
            while writes.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            read = reads.read_exact(&mut answer) => drop(read.unwrap()),
            () = trickle => {}
        }
        assert_eq!(&answer, b"HTTP/1.1 408");
    };
    let takes = async {
        let mut stream = connect(address, 3).await.unwrap();
        // More than fits into the buffers on the way back.
        let body = vec![b'x'; 32 << 20];
        stream.write_all(request(body.len()).as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut some = [0; 100];
        while let Ok(1..) = stream.read(&mut some).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if balancer.metric(SLOW).await > 0.5 {
                break;
            }
        }
    };
    timeout(DEADLINE * 3, async { tokio::join!(sends, takes) }).await.unwrap();
    balancer.wait_metric(SLOW, 1.0).await;
    balancer.end().await;
}

const SLOW: &str = "balancer_listener_closed_total{cause=\"slow_client\",listener=\"l\"}";
