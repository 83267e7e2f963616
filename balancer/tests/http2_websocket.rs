//! WebSockets over HTTP/2 (RFC 8441): the server sees a handshake of HTTP/1.1, the client a stream.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use holdfast_balancer::control::{Kind, SessionFilter, SessionQuery};
use http::{Method, Request};
use support::http2::{Client, answer, get, http2};
use support::{Balancer, DEADLINE, Upstream, until};
use tokio::time::timeout;

/// A WebSocket as a client of HTTP/2 sees it: what it has read, and both halves of its stream.
struct Socket {
    seen: Vec<u8>,
    receive: RecvStream,
    send: SendStream<Bytes>,
}

fn connect(protocol: &'static str, path: &str) -> Request<()> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://a.test{path}"))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from(protocol));
    request.body(()).unwrap()
}

impl Socket {
    /// Opens one whose server has said hello.
    async fn open(client: &Client) -> Self {
        let (response, send) = client.send(connect("websocket", "/ws"), false).await.unwrap();
        let response = timeout(DEADLINE, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let mut socket = Self { seen: Vec::new(), receive: response.into_body(), send };
        socket.expect(&[0x81, 1, b'a']).await;
        socket
    }

    /// Sends one binary message, as far as it is granted.
    async fn send(&mut self, content: &[u8]) {
        let mut frame = vec![0x82];
        match u16::try_from(content.len()) {
            Ok(length @ ..126) => frame.push(0x80 | u8::try_from(length).unwrap()),
            Ok(length) => {
                frame.push(0xfe);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0xff);
                frame.extend((content.len() as u64).to_be_bytes());
            }
        }
        // A mask of zeroes changes nothing.
        frame.extend([0; 4]);
        frame.extend(content);
        let mut rest = Bytes::from(frame);
        while !rest.is_empty() {
            self.send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| self.send.poll_capacity(cx));
            let room = timeout(DEADLINE, room).await.unwrap().unwrap().unwrap().min(rest.len());
            self.send.send_data(rest.split_to(room), false).unwrap();
        }
    }

    /// Reads until that many bytes are there.
    async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.seen.len() < count {
            let data = timeout(DEADLINE, self.receive.data()).await.unwrap().unwrap().unwrap();
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            self.seen.extend_from_slice(&data);
        }
        self.seen.drain(..count).collect()
    }

    async fn expect(&mut self, bytes: &[u8]) {
        assert_eq!(self.read(bytes.len()).await, bytes);
    }

    async fn expect_message(&mut self, content: &[u8]) {
        let mut head = vec![0x82];
        match u16::try_from(content.len()) {
            Ok(length @ ..126) => head.push(u8::try_from(length).unwrap()),
            Ok(length) => head.extend([&[126][..], &length.to_be_bytes()].concat()),
            Err(_) => head.extend([&[127][..], &(content.len() as u64).to_be_bytes()].concat()),
        }
        self.expect(&head).await;
        assert!(self.read(content.len()).await == content, "{} bytes differ", content.len());
    }

    /// Waits for the end of the server's side; what came before.
    async fn end(&mut self) -> Result<Vec<u8>, h2::Error> {
        loop {
            match timeout(DEADLINE, self.receive.data()).await.unwrap() {
                None => return Ok(std::mem::take(&mut self.seen)),
                Some(data) => self.seen.extend_from_slice(&data?),
            }
        }
    }
}

async fn wait_active(balancer: &Balancer, expected: u64) {
    until(&format!("{expected} connections at the server"), async || {
        let server = balancer.server("a").await;
        if server["active_connections"] == expected { Ok(()) } else { Err(server) }
    })
    .await;
}

/// A client that may ask for WebSockets: the balancer has said so.
async fn client(balancer: &Balancer) -> Client {
    let client = Client::connect(balancer.address("l")).await;
    let (response, _) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(client.sender.is_extended_connect_protocol_enabled());
    client
}

#[tokio::test]
async fn messages_of_every_size_pass_on_streams_of_one_connection() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let client = client(&balancer).await;
    let (mut one, mut two) = (Socket::open(&client).await, Socket::open(&client).await);
    for size in [0, 5, 126, 70_000, 1_500_000] {
        let content: Vec<u8> = (0..size).map(|i| u8::try_from(i % 253).unwrap()).collect();
        // Echoes come while the rest is still on its way, so both directions have to go on.
        one.send(&content).await;
        one.expect_message(&content).await;
        two.send(b"between").await;
        two.expect_message(b"between").await;
    }
    wait_active(&balancer, 2).await;
    // One client ends its side, the other gives up; the server hears of both.
    one.send.send_data(Bytes::new(), true).unwrap();
    wait_active(&balancer, 1).await;
    two.send.send_reset(Reason::CANCEL);
    wait_active(&balancer, 0).await;
    let (response, _) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    balancer.end().await;
}

#[tokio::test]
async fn a_websocket_is_listed_told_to_leave_and_lost_with_its_server_alone() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let client = client(&balancer).await;
    let mut told = Socket::open(&client).await;
    let filter = SessionFilter { kind: Some(Kind::WebSocket), ..SessionFilter::default() };
    let query = SessionQuery { limit: 10, filter, ..SessionQuery::default() };
    let listed = until("the WebSocket to be listed", async || {
        let listed = balancer.core().sessions(&query).await;
        if listed.len() == 1 { Ok(listed) } else { Err(listed) }
    })
    .await;
    assert_eq!(listed[0].client.ip().to_string(), "127.0.0.1");
    assert!(balancer.core().close_session(listed[0].id).await);
    // A Close frame that says 1012 (service restart) and why, then the end of the stream.
    assert_eq!(told.end().await.unwrap(), [&[0x88, 10, 0x03, 0xf4], &b"operator"[..]].concat());
    told.send.send_data(Bytes::new(), true).unwrap();
    wait_active(&balancer, 0).await;

    let mut lost = Socket::open(&client).await;
    let (status, _) = balancer.api("DELETE", "/pools/p/servers/a?force=true", "").await;
    assert_eq!(status, 204);
    // However it is told, the stream ends, and the connection goes on.
    let _ = lost.end().await;
    let (response, _) = client.ask(get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 503);
    balancer.end().await;
}

#[tokio::test]
async fn what_is_no_websocket_is_no_tunnel() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&http2("", &[("a", a.address)])).await;
    let client = client(&balancer).await;
    // A server that answers a handshake otherwise is heard.
    let (response, _) = client.send(connect("websocket", "/upload"), true).await.unwrap();
    assert_eq!(answer(response).await.unwrap().0.status(), 200);
    let plain = Request::builder().method(Method::CONNECT).uri("a.test:443").body(()).unwrap();
    for request in [plain, connect("connect-udp", "/ws")] {
        let (response, _) = client.send(request, true).await.unwrap();
        assert_eq!(answer(response).await.unwrap().0.status(), 405);
    }
    assert_eq!(a.requests(), 1);
    balancer.end().await;
}
