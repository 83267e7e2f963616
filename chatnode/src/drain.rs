//! Leaving without a storm: readiness off, no new connections, the old ones closed evenly over a set time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::hub::Mailbox;
use crate::metrics::Metrics;
use crate::protocol::Disconnect;
use holdfast_telemetry::health::Readiness;

/// How often the next few connections are closed.
const STEP: Duration = Duration::from_millis(10);

/// All client connections of the node, and whether it is leaving.
pub struct Connections {
    open: Mutex<HashMap<u64, Arc<Mailbox>>>,
    next: AtomicU64,
    max: usize,
    draining: CancellationToken,
    metrics: Metrics,
}

/// A place among the open connections; given back on drop.
pub struct Place {
    connections: Arc<Connections>,
    /// The connection's number, from 1.
    pub number: u64,
}

impl Connections {
    /// None open; at most `max`.
    pub fn new(max: usize, metrics: Metrics) -> Self {
        let (open, next) = (Mutex::default(), AtomicU64::new(1));
        Self { open, next, max, draining: CancellationToken::new(), metrics }
    }

    /// Whether there is room for another one.
    pub fn has_room(&self) -> bool {
        self.lock().len() < self.max
    }

    /// Adds an open connection. If the node is leaving it is asked to close at once.
    pub fn add(self: &Arc<Self>, mailbox: &Arc<Mailbox>) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(mailbox));
        self.metrics.connections.inc();
        if self.is_draining() {
            mailbox.cut(Disconnect::SHUTDOWN);
        }
        Place { connections: Arc::clone(self), number }
    }

    /// Whether the node is leaving.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Asks the node to leave.
    pub fn request_drain(&self) {
        self.draining.cancel();
    }

    /// Ready when the node was asked to leave.
    pub async fn drain_requested(&self) {
        self.draining.cancelled().await;
    }

    /// Closes all connections, evenly over `period`.
    pub async fn drain(&self, period: Duration, readiness: &Readiness) {
        self.request_drain();
        readiness.begin_shutdown();
        self.metrics.draining.set(1);
        let open: Vec<_> = self.lock().values().cloned().collect();
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        info!(connections = open.len(), period_ms, "draining");
        let started = Instant::now();
        let mut steps = interval(STEP);
        let mut closed = 0;
        while closed < open.len() {
            steps.tick().await;
            let due = due(open.len(), started.elapsed(), period);
            for mailbox in &open[closed..due.max(closed)] {
                mailbox.cut(Disconnect::SHUTDOWN);
            }
            closed = due.max(closed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Mailbox>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of `total` connections are to be closed by now; the first at once, the last just before the end.
fn due(total: usize, elapsed: Duration, period: Duration) -> usize {
    let share = elapsed.as_secs_f64() / period.as_secs_f64().max(f64::MIN_POSITIVE);
    let due = (total as f64 * share).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates and is capped by the total"
    )]
    let due = due as usize;
    due.saturating_add(1).min(total)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
        self.connections.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_closed_evenly() {
        let period = Duration::from_secs(10);
        let at = |seconds| due(100, Duration::from_secs(seconds), period);
        assert_eq!([at(0), at(1), at(5), at(10), at(99)], [1, 11, 51, 100, 100]);
        assert_eq!(due(0, Duration::ZERO, period), 0);
        assert_eq!(due(7, Duration::ZERO, Duration::ZERO), 1);
        assert_eq!(due(7, Duration::from_millis(1), Duration::ZERO), 7);
    }
}
