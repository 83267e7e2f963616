//! HTTP: clients on one listener, operators and scrapers on the other.

mod calls;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::broker::Broker;
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
pub async fn serve_clients(
    listener: TcpListener,
    node: Arc<Node>,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let health = holdfast_telemetry::http::router(Registry::new(), readiness);
    let router = Router::new()
        .route("/connection/websocket", get(connect))
        .with_state(node)
        // The registry given is an empty one: figures are for the admin listener.
        .merge(health);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot switch off delays of a connection");
        }
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serve = axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = serve.await {
        warn!(%error, "client listener ended");
    }
}

/// Serves operators and scrapers until `shutdown`.
pub async fn serve_admin(
    listener: TcpListener,
    token: Option<Secret>,
    connections: Arc<Connections>,
    registry: Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/drain", post(drain))
        .with_state((token, connections))
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
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
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
        .on_failed_upgrade(move |error| debug!(%peer, %error, "upgrade failed"))
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
