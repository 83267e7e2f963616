//! HTTP: clients on one listener, operators and scrapers on the other.

mod admission;
mod calls;
mod connection;
pub(crate) mod emulation;
mod page;
mod pipe;
mod upgrade;
mod websocket;
mod wheel;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::access::Gate;
use crate::broker::Broker;
use crate::broker::bus::Bus;
use crate::connections::Connections;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::reload::Reload;
use crate::session::{Bucket, Shared};
use admission::Peer;
pub(crate) use connection::now;
use holdfast_settings::Secret;
use holdfast_telemetry::Registry;
use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::operators::{self, OperatorServer};
pub use wheel::Wheel;

/// Accepting fails for want of file descriptors; some become free when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What client connections share.
pub struct Node {
    /// Rules and limits.
    pub shared: Arc<Shared>,
    /// Who may do what.
    pub gate: Arc<dyn Gate>,
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
    /// Wakes connections when they asked for it.
    pub wheel: Arc<Wheel>,
    /// How many clients may still connect at this moment; `None`: as many as there is room for.
    pub connect_bucket: Mutex<Option<Bucket>>,
    /// Figures.
    pub metrics: Metrics,
}

/// How much larger than its commands a request may be that carries them: they are text within JSON, where one byte may take six.
const ESCAPED: usize = 6;

/// Serves clients until `shutdown`.
///
/// Not by `axum::serve`, which waits for ever for a request: whoever connects and says nothing would hold a file descriptor that no
/// limit counts. The time to ask for the upgrade is that to send a connect command after it, and as many may be about to ask as may be
/// connected.
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
    let body_bytes_max = node.shared.limits.message_bytes_max.saturating_mul(ESCAPED);
    // Those that have not asked for anything yet, beside those that have, whose answer may be a stream.
    let places = node.shared.limits.connections_max.saturating_mul(2);
    let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
    let no_place = node.metrics.rejected_connections.with_label_values(&["limit"]);
    let router = Router::new()
        .route("/connection/websocket", get(upgrade::connect))
        .route(
            "/connection/http_stream",
            post(emulation::http_stream).options(emulation::preflight),
        )
        .route("/connection/sse", get(emulation::sse))
        .route("/emulation", post(emulation::emulation).options(emulation::preflight))
        .layer(DefaultBodyLimit::max(body_bytes_max))
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
            Ok((stream, peer)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    no_place.inc();
                    continue;
                };
                let serve =
                    serve_client(http.clone(), stream, peer, router.clone(), shutdown.clone());
                tasks.spawn(async move {
                    serve.await;
                    drop(place);
                });
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
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot switch off delays of a connection");
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
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

/// What operators may do.
pub struct Operators {
    /// Token of those who may; without it nobody may.
    pub token: Option<Secret>,
    /// What is drained.
    pub connections: Arc<Connections>,
    /// What is read again.
    pub reload: Arc<Reload>,
}

/// Serves operators, scrapers and `more` until `shutdown`.
pub async fn serve_admin(
    listener: TcpListener,
    operators: Operators,
    more: Router,
    registry: Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let server = OperatorServer::new(&registry, "chatnode", operators::Limits::default());
    let router = Router::new()
        .route("/drain", post(drain))
        .route("/reload", post(reload))
        .with_state(Arc::new(operators))
        .merge(more)
        .merge(holdfast_telemetry::http::router(registry, readiness));
    if let Err(error) = operators::close_stalled(&listener) {
        warn!(%error, "operators that do not read are not noticed");
    }
    server.serve(listener, router, shutdown.cancelled_owned()).await;
}

/// How long a listener may take to end after shutdown; idle kept-alive connections would hold it longer.
pub const LISTENER_GRACE: Duration = Duration::from_millis(500);

impl Operators {
    /// Why whoever sent these headers is not one of them; `None` if it is.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let Some(token) = &self.token else {
            let text = "no admin token is configured\n";
            return Some((StatusCode::FORBIDDEN, text).into_response());
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .unwrap_or_default();
        if bool::from(given.as_bytes().ct_eq(token.expose().as_bytes())) {
            return None;
        }
        Some((StatusCode::UNAUTHORIZED, "wrong or missing bearer token\n").into_response())
    }
}

async fn drain(State(operators): State<Arc<Operators>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = operators.refusal(&headers) {
        return refusal;
    }
    operators.connections.request_drain();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

async fn reload(State(operators): State<Arc<Operators>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = operators.refusal(&headers) {
        return refusal;
    }
    let reload = Arc::clone(&operators.reload);
    match tokio::task::spawn_blocking(move || reload.reload()).await {
        Ok(Ok(())) => (StatusCode::OK, "rules of channels were read again\n").into_response(),
        Ok(Err(faults)) => (StatusCode::BAD_REQUEST, format!("{faults}\n")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
