//! Clients of the operators' listener that take a place, and time, and give nothing for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use futures_util::stream;
use holdfast_telemetry::operators::{Limits, OperatorServer, close_stalled_after};
use holdfast_telemetry::{Registry, metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_mins(1);
/// Nobody is to be cut off by time unless the test is about it.
const NEVER: Duration = Duration::from_hours(1);
const PATIENT: Limits = Limits { connections_max: 4, idle_max: NEVER, body_max: NEVER };

struct Server {
    address: SocketAddr,
    registry: Registry,
    shutdown: CancellationToken,
    /// Gains a permit whenever an endless answer has ended.
    ended: Arc<Semaphore>,
}

/// Adds its permit when the answer it is part of is dropped.
struct Ending(Arc<Semaphore>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

async fn serve(limits: Limits) -> Server {
    serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), limits)
}

fn serve_on(listener: TcpListener, limits: Limits) -> Server {
    let address = listener.local_addr().unwrap();
    let registry = metrics::registry("chatnode", "1.2.3");
    let (shutdown, ended) = (CancellationToken::new(), Arc::new(Semaphore::new(0)));
    let ending = Arc::clone(&ended);
    let router = Router::new()
        .route("/who", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
        .route("/take", post(async |body: Bytes| body.len().to_string()))
        .route(
            "/endless",
            get(async move || {
                let ending = Ending(ending);
                Body::from_stream(stream::repeat_with(move || {
                    let _while_it_lasts = &ending;
                    Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 16_384]))
                }))
            }),
        );
    let server = OperatorServer::new(&registry, "chatnode", limits);
    tokio::spawn(server.serve(listener, router, shutdown.clone().cancelled_owned()));
    Server { address, registry, shutdown, ended }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connects and sends.
    async fn send(&self, request: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// An answer that begins.
    async fn endless(&self) -> TcpStream {
        let mut client = self.send("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
        timeout(DEADLINE, client.read_exact(&mut [0; 1024])).await.unwrap().unwrap();
        client
    }

    fn crowded_out(&self) -> u64 {
        let text = metrics::encode(&self.registry);
        let name = "chatnode_operator_connections_crowded_out_total ";
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    }
}

/// What comes until the server closes; how it closes does not matter.
async fn rest(mut client: TcpStream) -> String {
    let mut all = Vec::new();
    let read = timeout(DEADLINE, client.read_to_end(&mut all));
    // A reset is an end as well.
    let _ = read.await.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

const WHO: &str = "GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn connections_that_say_nothing_make_room_for_who_comes_last() {
    let server = serve(PATIENT).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(server.connect().await);
    }
    let operator = server.send(WHO).await;
    let own = operator.local_addr().unwrap().to_string();
    let answer = rest(operator).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&own), "{answer}");
    // Those that came first had to go; there was room for four, and for the operator in the place of one of them.
    for first in silent.into_iter().take(17) {
        assert_eq!(rest(first).await, "");
    }
    assert_eq!(server.crowded_out(), 17);
}

#[tokio::test]
async fn a_request_in_progress_is_never_crowded_out() {
    let server = serve(PATIENT).await;
    let mut streams = Vec::new();
    for _ in 0..PATIENT.connections_max {
        streams.push(server.endless().await);
    }
    assert_eq!(rest(server.send(WHO).await).await, "", "there is no room");
    assert_eq!(server.crowded_out(), 1);
    for stream in &mut streams {
        timeout(DEADLINE, stream.read_exact(&mut [0; 16_384])).await.unwrap().unwrap();
    }
    streams.pop();
    timeout(DEADLINE, server.ended.acquire()).await.unwrap().unwrap().forget();
    // The place is free a moment after the answer has ended.
    let came_in = async {
        while !rest(server.send(WHO).await).await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, came_in).await.expect("the place of the one that left is free");
}

#[tokio::test]
async fn a_head_that_does_not_arrive_ends_the_connection() {
    let server = serve(Limits { idle_max: Duration::from_millis(200), ..PATIENT }).await;
    rest(server.send("GET /who HTTP/1.1\r\nHos").await).await;
    // Neither is a connection kept for ever after a request.
    let kept = rest(server.send("GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
    assert!(kept.starts_with("HTTP/1.1 200"), "{kept}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_refused() {
    let server = serve(Limits { body_max: Duration::from_millis(200), ..PATIENT }).await;
    let request = "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12";
    let answer = rest(server.send(request).await).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let request =
        "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n12";
    let answer = rest(server.send(request).await).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n2"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    close_stalled_after(&listener, Duration::from_secs(1)).unwrap();
    let server = serve_on(listener, PATIENT);
    let _reads_no_more = server.endless().await;
    timeout(DEADLINE, server.ended.acquire()).await.expect("the answer ends").unwrap().forget();
}

#[tokio::test]
async fn the_end_waits_for_requests_in_progress() {
    let server = serve(PATIENT).await;
    let request = "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1";
    let mut client = server.send(request).await;
    // The next one is answered, so the one before has been taken.
    rest(server.send(WHO).await).await;
    server.shutdown.cancel();
    client.write_all(b"2").await.unwrap();
    let answer = rest(client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
