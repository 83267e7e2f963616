//! A server behind the balancer, on a runtime of its own, so that it can be lost like a process that is killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{any, get};
use axum::{Json, Router};
use tokio::runtime::Runtime;

use super::DEADLINE;

/// What the test sets and the server counts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    /// Status of `/health/ready`.
    pub(crate) ready: AtomicU16,
    /// Nothing is answered any more, but connections stay open.
    pub(crate) hung: AtomicBool,
    pub(crate) requests: AtomicUsize,
}

/// A server.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Upstream {
    /// Starts one on a port that nobody else gets, also after its end.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_at(name, ([127, 0, 0, 1], holdfast_ports::take().unwrap()).into())
    }

    /// Starts one at a known address, as after a restart.
    pub(crate) fn start_at(name: &str, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ready: AtomicU16::new(200),
            hung: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
        });
        let app = Router::new()
            .route("/health/ready", get(ready))
            .route("/ws", any(echo))
            .route("/upload", any(async |body: Bytes| body))
            .fallback(describe)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        Self { address, shared, runtime: Some(runtime) }
    }

    /// Ends it as when a process is killed: when this returns, the kernel has closed its sockets. On a thread of its own, since a
    /// runtime may not wait for another one.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(DEADLINE));
            ended.join().unwrap();
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn hang(shared: &Shared) {
    if shared.hung.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> StatusCode {
    hang(&shared).await;
    StatusCode::from_u16(shared.ready.load(Ordering::SeqCst)).unwrap()
}

/// Says who it is and what it was asked.
async fn describe(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Json<serde_json::Value> {
    hang(&shared).await;
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let headers: BTreeMap<_, _> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    Json(serde_json::json!({
        "server": shared.name, "method": method.as_str(), "uri": uri.to_string(),
        "headers": headers, "body_bytes": body.len(), "port": peer.port(),
    }))
}

/// Sends back what comes, after its name.
async fn echo(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    hang(&shared).await;
    shared.requests.fetch_add(1, Ordering::SeqCst);
    upgrade.max_message_size(1 << 24).max_frame_size(1 << 24).on_upgrade(
        move |mut socket| async move {
            let hello = Message::Text(shared.name.clone().into());
            if socket.send(hello).await.is_err() {
                return;
            }
            while let Some(Ok(message)) = socket.recv().await {
                if matches!(message, Message::Text(_) | Message::Binary(_))
                    && socket.send(message).await.is_err()
                {
                    return;
                }
            }
        },
    )
}
