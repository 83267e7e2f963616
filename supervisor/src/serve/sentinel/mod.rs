//! The Sentinel-compatible endpoint: Redis clients ask it for the primary as they would ask Redis Sentinel, and are told of changes.
//!
//! It answers from what the controllers publish, at once and without asking anybody. Everything a client can make us keep is bounded:
//! connections, bytes of a command, subscriptions, messages waiting. A client that does not keep up is cut off, which it understands:
//! it connects again and asks. Rejected: a Sentinel library, because none answers as a server; and TLS and passwords, which later come in
//! front of the same session.

mod commands;
mod pattern;
mod replies;
mod session;
mod value;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::act::redis::{SentinelEvent, Topology};
use crate::control::{Failover, RedisCommand};

/// Clients connected at a time. Each keeps one or two connections; a thousand is a large site.
const CONNECTIONS_MAX: usize = 2000;

/// Messages a subscriber may be behind before it is cut off; a failover sends about ten.
const EVENTS_MAX: usize = 1024;

/// Pause after `accept` failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One monitored primary.
#[derive(Debug, Clone)]
pub struct Primary {
    /// What is known of it.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// What subscribers are told.
    pub events: broadcast::Sender<SentinelEvent>,
    /// For `SENTINEL FAILOVER`.
    pub failover: mpsc::Sender<RedisCommand>,
    /// Our limit for silence, shown to clients.
    pub down_after: Duration,
}

/// What all sessions share.
struct Shared {
    primaries: Vec<Primary>,
    events: broadcast::Sender<SentinelEvent>,
    my_id: String,
    started: Instant,
    port: u16,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("my_id", &self.my_id).finish_non_exhaustive()
    }
}

impl Shared {
    fn world(&self) -> commands::World {
        commands::World {
            now: Instant::now().into_std(),
            topologies: self.primaries.iter().map(|p| Arc::clone(&p.topology.borrow())).collect(),
            down_after: self.primaries.iter().map(|primary| primary.down_after).collect(),
            my_id: self.my_id.clone(),
            started: self.started.into_std(),
            port: self.port,
        }
    }

    /// Sets a failover going. Like Sentinel we do not wait for its end.
    fn fail_over(&self, index: usize, by: &str) -> value::Value {
        // The outcome is in the journal; the answer has nowhere to go.
        let (reply, _) = oneshot::channel();
        let by = format!("SENTINEL FAILOVER from {by}");
        match self.primaries[index].failover.try_send(RedisCommand::FailOver(Failover {
            target: None,
            by,
            reply,
        })) {
            Ok(()) => value::Value::ok(),
            Err(_) => value::Value::error("INPROG Failover already in progress"),
        }
    }
}

/// Serves until `shutdown`. Connections are then closed.
///
/// # Errors
/// The listener has no address.
pub async fn run(
    listener: TcpListener,
    primaries: Vec<Primary>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let id = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let shared = Arc::new(Shared {
        events: events.clone(),
        my_id: id[..40].to_owned(),
        started: Instant::now(),
        port: listener.local_addr()?.port(),
        primaries,
    });
    let mut forwarders = JoinSet::new();
    for primary in &shared.primaries {
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
            continue;
        };
        // Without it replies are merely slower.
        let _ = stream.set_nodelay(true);
        let session = session::Session::new(Arc::clone(&shared), stream, next_id, peer.to_string());
        next_id += 1;
        sessions.spawn(async move {
            let ended = session.run().await;
            drop(place);
            ended
        });
    }
    // Nothing a client waits for is lost: it asks the next endpoint.
    sessions.shutdown().await;
    Ok(())
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
