//! The Sentinel-compatible endpoint: Redis clients ask it for the primary as they would ask Redis Sentinel, and are told of changes.
//!
//! It answers from what the controllers publish, at once and without asking anybody. Everything a client can make us keep is bounded:
//! connections, bytes of a command, subscriptions, messages waiting. A client that does not keep up is cut off, which it understands:
//! it connects again and asks. Rejected: a Sentinel library, because none answers as a server.

mod access;
mod change;
mod commands;
mod group;
mod metrics;
mod monitor;
mod orders;
mod pattern;
mod replies;
mod session;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_psync::Tls;
use holdfast_telemetry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use super::tls::Acceptor;
use crate::act::redis::{SentinelEvent, Topology};
use crate::control::RedisCommand;
use crate::observe::redis::{Login, RedisSamples};
use crate::record::Sink;

pub use group::{Sentinel, Sentinels};

/// Clients connected at a time. Each keeps one or two connections; a thousand is a large site.
const CONNECTIONS_MAX: usize = 2000;

/// Messages a subscriber may be behind before it is cut off; a failover sends about ten.
const EVENTS_MAX: usize = 1024;

/// Clients ask at once. Who does not only takes a place from those that want to know where the primary is.
const FIRST_COMMAND_WITHIN: Duration = Duration::from_secs(30);

/// Pause after `accept` failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One monitored primary.
#[derive(Debug, Clone)]
pub struct Primary {
    /// What is known of it.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// The last `INFO` of its servers.
    pub samples: watch::Receiver<Vec<RedisSamples>>,
    /// What subscribers are told.
    pub events: broadcast::Sender<SentinelEvent>,
    /// For what clients order.
    pub orders: mpsc::Sender<RedisCommand>,
    /// How we log in to its servers.
    pub login: Option<Login>,
}

/// What the endpoint is made of.
pub struct Endpoint {
    /// Every primary, in the order of the settings.
    pub primaries: Vec<Primary>,
    /// The supervisor's name; its identifier comes from it.
    pub name: String,
    /// What clients must say first.
    pub login: Option<Login>,
    /// Clients must speak TLS.
    pub tls: Option<Acceptor>,
    /// How the leader's endpoint is asked, if clients must speak TLS.
    pub peer_tls: Option<Tls>,
    /// The other supervisors, as of now.
    pub sentinels: Arc<dyn Fn() -> Sentinels + Send + Sync>,
    /// Where changes that no controller records are recorded.
    pub sink: Sink,
}

/// What all sessions share.
struct Shared {
    endpoint: Endpoint,
    login: Option<Arc<Login>>,
    events: broadcast::Sender<SentinelEvent>,
    metrics: Metrics,
    my_id: String,
    started: Instant,
    port: u16,
    /// Primaries taken off monitoring by clients, by their place in the settings.
    removed: Mutex<BTreeSet<usize>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("my_id", &self.my_id).finish_non_exhaustive()
    }
}

impl Shared {
    fn world(&self) -> commands::World {
        let removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = self.endpoint.primaries.iter().enumerate();
        commands::World {
            now: Instant::now().into_std(),
            all: all
                .map(|(index, primary)| commands::Monitored {
                    index,
                    topology: Arc::clone(&primary.topology.borrow()),
                    samples: primary.samples.clone(),
                    login: primary.login.clone(),
                    is_removed: removed.contains(&index),
                })
                .collect(),
            sentinels: (self.endpoint.sentinels)(),
            login: self.login.clone(),
            my_id: self.my_id.clone(),
            started: self.started.into_std(),
            port: self.port,
            clients: usize::try_from(self.metrics.connections.get()).unwrap_or(0),
        }
    }
}

/// Serves until `shutdown`. Connections are then closed.
///
/// # Errors
/// The listener has no address.
pub async fn run(
    listener: TcpListener,
    endpoint: Endpoint,
    registry: &Registry,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let shared = Arc::new(Shared {
        events: events.clone(),
        login: endpoint.login.clone().map(Arc::new),
        metrics: Metrics::register(registry),
        my_id: group::id_of(&endpoint.name),
        started: Instant::now(),
        port: listener.local_addr()?.port(),
        removed: Mutex::default(),
        endpoint,
    });
    let mut forwarders = JoinSet::new();
    for primary in &shared.endpoint.primaries {
        forwarders.spawn(forward(primary.events.subscribe(), events.clone()));
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut sessions = JoinSet::new();
    let mut next_id = 1;
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = sessions.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Closed unanswered: the client tries another endpoint, or again.
            tracing::warn!(%peer, max = CONNECTIONS_MAX, "too many connections, one is refused");
            shared.metrics.full();
            continue;
        };
        sessions.spawn(serve(Arc::clone(&shared), stream, next_id, peer, place));
        next_id += 1;
    }
    // Nothing a client waits for is lost: it asks the next endpoint.
    sessions.shutdown().await;
    Ok(())
}

/// A connection from its first byte to its last.
async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    id: i64,
    peer: SocketAddr,
    _place: OwnedSemaphorePermit,
) -> io::Result<()> {
    // Without it replies are merely slower.
    let _ = stream.set_nodelay(true);
    let stream: session::Stream = match &shared.endpoint.tls {
        None => Box::new(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(error) => {
                shared.metrics.no_tls();
                return Err(error);
            }
        },
    };
    shared.metrics.connections.inc();
    let session = session::Session::new(Arc::clone(&shared), stream, id, peer);
    let ended = session.run(FIRST_COMMAND_WITHIN).await;
    shared.metrics.connections.dec();
    ended
}

fn report(ended: Result<io::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection of a Redis client ended"),
        Err(error) => tracing::error!(%error, "a session of a Redis client failed"),
    }
}

/// Brings the messages of one primary to the subscribers of all.
async fn forward(
    mut from: broadcast::Receiver<SentinelEvent>,
    to: broadcast::Sender<SentinelEvent>,
) {
    loop {
        match from.recv().await {
            // Nobody may be subscribed.
            Ok(event) => drop(to.send(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "messages for Redis clients were lost");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
