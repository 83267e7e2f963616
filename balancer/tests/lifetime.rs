//! Connections that live long: listed, told to leave, too old.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use holdfast_balancer::control::{Kind, SessionFilter, SessionQuery};
use support::{Balancer, DEADLINE, Upstream, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket that has said hello.
async fn open(balancer: &Balancer) -> Socket {
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.next().await.unwrap().unwrap();
    socket
}

/// Reads to the end; the Close frame on the way.
async fn farewell(socket: &mut Socket) -> Option<CloseFrame> {
    let mut last = None;
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                last = frame;
            }
        }
    };
    timeout(DEADLINE, read).await.unwrap();
    last
}

async fn wait_closed(balancer: &Balancer, cause: &str, count: f64) {
    let series = format!("balancer_listener_closed_total{{cause=\"{cause}\",listener=\"l\"}}");
    until(&series, async || {
        let value = balancer.metric(&series).await;
        if (value - count).abs() < 0.1 { Ok(()) } else { Err(value) }
    })
    .await;
}

#[tokio::test]
async fn connections_are_listed_by_pages_and_told_to_leave() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(open(&balancer).await);
    }
    let idle = TcpStream::connect(balancer.address("l")).await.unwrap();
    let all = SessionQuery { limit: 10, ..SessionQuery::default() };
    let listed = until("every connection", async || {
        let listed = balancer.core().sessions(&all).await;
        if listed.len() == 6 { Ok(listed) } else { Err(listed) }
    })
    .await;
    assert!(listed.is_sorted_by_key(|session| session.id));
    let plain = listed.iter().find(|session| session.kind == Kind::Http).unwrap();
    assert_eq!(plain.client, idle.local_addr().unwrap());
    assert_eq!(plain.server, None);
    let sockets_of_a = SessionFilter {
        server: Some("a".to_owned()),
        kind: Some(Kind::WebSocket),
        client: Some("127.0.0.0/8".parse().unwrap()),
        ..SessionFilter::default()
    };
    let of_a = |limit| SessionQuery { after: 0, limit, filter: sockets_of_a.clone() };
    let mut seen = Vec::new();
    let mut query = of_a(2);
    loop {
        let page = balancer.core().sessions(&query).await;
        let Some(last) = page.last() else { break };
        query.after = last.id;
        seen.extend(page);
    }
    assert_eq!(seen.len(), 5);
    for session in &seen {
        assert_eq!((session.pool.as_deref(), session.server.as_deref()), (Some("p"), Some("a")));
        assert!(session.received_bytes > 0 && session.sent_bytes > 0, "{session:?}");
    }
    let elsewhere =
        SessionFilter { client: Some("10.0.0.0/8".parse().unwrap()), ..SessionFilter::default() };
    let elsewhere = SessionQuery { limit: 10, filter: elsewhere, ..SessionQuery::default() };
    assert_eq!(balancer.core().close_sessions(&elsewhere).await, 0);
    let later = SessionQuery { after: seen[4].id, ..of_a(10) };
    assert_eq!(balancer.core().close_sessions(&later).await, 0);
    assert!(balancer.core().close_session(seen[0].id).await);
    assert!(!balancer.core().close_session(seen[0].id + 1_000_000).await);
    assert_eq!(balancer.core().close_sessions(&of_a(2)).await, 2);
    assert_eq!(balancer.core().close_sessions(&of_a(10)).await, 2);
    for socket in &mut sockets {
        let frame = farewell(socket).await.unwrap();
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1012, "operator"));
    }
    wait_closed(&balancer, "operator", 5.0).await;
}

#[tokio::test]
async fn a_client_is_told_to_leave_between_two_frames_and_gets_all_that_was_sent() {
    // A server that stops in the middle of a frame, and goes on when the client has been told.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let payload: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut frame = vec![0x82, 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend(&payload);
    let (go_on, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let server = tokio::spawn({
        let frame = frame.clone();
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4_096];
            let _ = stream.read(&mut head).await.unwrap();
            let response = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
            stream.write_all(response).await.unwrap();
            stream.write_all(&frame[..100_003]).await.unwrap();
            told.recv().await.unwrap();
            stream.write_all(&frame[100_003..]).await.unwrap();
            // The client is told that it is over, so this one never arrives.
            stream.write_all(&[0x81, 2, b'n', b'o']).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            rest
        }
    });
    let balancer = Balancer::start(&settings("", &[("a", address)])).await;
    let mut client = TcpStream::connect(balancer.address("l")).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        timeout(DEADLINE, client.read_exact(&mut byte)).await.unwrap().unwrap();
        answer.push(byte[0]);
    }
    let mut got = vec![0; 100_003];
    timeout(DEADLINE, client.read_exact(&mut got)).await.unwrap().unwrap();
    let all = SessionQuery { limit: 9, ..SessionQuery::default() };
    assert_eq!(balancer.core().close_sessions(&all).await, 1);
    // What the client says meanwhile still reaches the server.
    client.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    go_on.send(()).await.unwrap();
    let rest = async {
        client.read_to_end(&mut got).await.unwrap();
        client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        client.shutdown().await.unwrap();
    };
    timeout(DEADLINE, rest).await.unwrap();
    frame.extend([0x88, 10, 0x03, 0xf4]);
    frame.extend(b"operator");
    assert!(got == frame, "{} bytes, the last {:?}", got.len(), &got[got.len() - 20..]);
    let rest = timeout(DEADLINE, server).await.unwrap().unwrap();
    assert_eq!(rest, [0x81, 0x82, 0, 0, 0, 0, b'h', b'i', 0x88, 0x80, 0, 0, 0, 0]);
    wait_closed(&balancer, "operator", 1.0).await;
}

#[tokio::test]
async fn a_connection_that_is_too_old_ends() {
    let a = Upstream::start("a");
    let rules = "lifetime = { max_age = \"1s\", max_age_jitter = 0.0, close_code = 4000 }";
    let balancer = Balancer::start(&settings(rules, &[("a", a.address)])).await;
    let mut socket = open(&balancer).await;
    socket.send(Message::text("ping")).await.unwrap();
    let frame = farewell(&mut socket).await.unwrap();
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4000, "max_age"));
    wait_closed(&balancer, "max_age", 1.0).await;
}

/// One that takes nothing in, which the kernel cannot tell from one that is gone.
#[tokio::test]
async fn a_client_that_is_gone_is_found_out() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = server.local_addr().unwrap();
    let text = format!(
        "[[listener]]\nname = \"l\"\nlisten = \"127.0.0.1:0\"\nmode = \"tcp\"\npool = \"p\"\n\
         tcp = {{ user_timeout = \"1s\" }}\n\
         [[pool]]\nname = \"p\"\n[[pool.server]]\nname = \"a\"\naddress = \"{address}\"\n"
    );
    let balancer = Balancer::start(&text).await;
    let client = TcpStream::connect(balancer.address("l")).await.unwrap();
    let (mut stream, _) = timeout(DEADLINE, server.accept()).await.unwrap().unwrap();
    let chunk = vec![0; 65_536];
    let push = async { while stream.write_all(&chunk).await.is_ok() {} };
    timeout(DEADLINE * 2, push).await.unwrap();
    wait_closed(&balancer, "error", 1.0).await;
    drop(client);
}
