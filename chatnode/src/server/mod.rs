//! HTTP: clients on one listener, operators and scrapers on the other.

mod calls;
mod page;
mod socket;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::broker::Broker;
use crate::broker::bus::Bus;
use crate::drain::Connections;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::session::Shared;
use holdfast_settings::Secret;
use holdfast_telemetry::Registry;
use holdfast_telemetry::health::Readiness;

/// Read buffer of one connection. The library's default of 128 KiB would be nearly all of an idle connection's memory.
const READ_BUFFER_BYTES: usize = 1024;

/// Bytes gathered before the socket is written to; several frames leave together.
const WRITE_BUFFER_BYTES: usize = 4096;

/// Accepting fails for want of file descriptors; some become free when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When a refused client may come again.
const RETRY_AFTER_SECONDS: &str = "1";

/// Subprotocol of the JSON form.
const JSON: &str = "centrifuge-json";

/// Subprotocol of the protobuf form.
const PROTOBUF: &str = "centrifuge-protobuf";

/// What client connections share.
pub struct Node {
    /// Rules and limits.
    pub shared: Arc<Shared>,
    /// Streams and presence.
    pub broker: Arc<dyn Broker>,
    /// The other nodes.
    pub bus: Bus,
    /// Fan-out on this node.
    pub hub: Arc<Hub>,
    /// Open connections.
    pub connections: Arc<Connections>,
    /// Tasks of connections.
    pub tasks: TaskTracker,
    /// Figures.
    pub metrics: Metrics,
}

/// Serves clients until `shutdown`.
///
/// Not by `axum::serve`, which waits for ever for a request: whoever connects and says nothing would hold a file descriptor that no
/// limit counts. The time to ask for the upgrade is that to send a connect command after it.
pub async fn serve_clients(
    listener: TcpListener,
    node: Arc<Node>,
    more: Router,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(node.shared.limits.stale_timeout);
    let tasks = TaskTracker::new();
    let health = holdfast_telemetry::http::router(Registry::new(), readiness);
    let router = Router::new()
        .route("/connection/websocket", get(connect))
        .with_state(node)
        .merge(page::router())
        .merge(more)
        // The registry given is an empty one: figures are for the admin listener.
        .merge(health);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let shutdown = shutdown.clone();
                tasks.spawn(serve_client(http.clone(), stream, router.clone(), shutdown));
            }
            Err(error) => {
                warn!(%error, "cannot accept a client");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// Speaks HTTP with one client until it is upgraded or ends.
async fn serve_client(
    http: http1::Builder,
    stream: TcpStream,
    router: Router,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot switch off delays of a connection");
    }
    let service = TowerToHyperService::new(router);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a client's HTTP connection ended");
    }
}

/// Serves operators and scrapers until `shutdown`.
pub async fn serve_admin(
    listener: TcpListener,
    token: Option<Secret>,
    more: Router,
    connections: Arc<Connections>,
    registry: Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/drain", post(drain))
        .with_state((token, connections))
        .merge(more)
        .merge(holdfast_telemetry::http::router(registry, readiness));
    let serve = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = serve.await {
        warn!(%error, "admin listener ended");
    }
}

/// How long a listener may take to end after shutdown; idle kept-alive connections would hold it longer.
pub const LISTENER_GRACE: Duration = Duration::from_millis(500);

async fn drain(
    State((token, connections)): State<(Option<Secret>, Arc<Connections>)>,
    headers: HeaderMap,
) -> Response {
    let Some(token) = token else {
        return (StatusCode::FORBIDDEN, "no admin token is configured\n").into_response();
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default();
    if !bool::from(given.as_bytes().ct_eq(token.expose().as_bytes())) {
        return (StatusCode::UNAUTHORIZED, "wrong or missing bearer token\n").into_response();
    }
    connections.request_drain();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

async fn connect(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if let Err((reason, status, text)) = admit(&node, &headers) {
        node.metrics.rejected_connections.with_label_values(&[reason]).inc();
        let retry = (status == StatusCode::SERVICE_UNAVAILABLE)
            .then_some([(header::RETRY_AFTER, RETRY_AFTER_SECONDS)]);
        return (status, retry, text).into_response();
    }
    let limit = node.shared.limits.message_bytes_max;
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(limit)
        .max_frame_size(limit)
        .protocols([JSON])
        .on_failed_upgrade(|error| debug!(%error, "upgrade failed"))
        .on_upgrade(move |socket| {
            let tasks = node.tasks.clone();
            tasks.track_future(socket::serve(socket, node))
        })
}

/// Why a client may not connect: the reason as counted, the status, and what it is told.
type Refusal = (&'static str, StatusCode, &'static str);

/// Whether the client may connect.
fn admit(node: &Node, headers: &HeaderMap) -> Result<(), Refusal> {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    if node.connections.is_draining() {
        return Err(("draining", unavailable, "this node is being drained\n"));
    }
    if !node.connections.has_room() {
        return Err(("limit", unavailable, "this node has all the connections it may have\n"));
    }
    let allowed = &node.shared.limits.allowed_origins;
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    if let Some(origin) = origin
        && !allowed.is_empty()
        && !allowed.iter().any(|one| one.eq_ignore_ascii_case(origin))
    {
        return Err(("origin", StatusCode::FORBIDDEN, "this origin may not connect\n"));
    }
    let offers_protobuf = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == PROTOBUF);
    if offers_protobuf {
        let text = "the protobuf form of the protocol is not offered, use the JSON form\n";
        return Err(("protocol", StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}
