//! Leaving without a storm: readiness off, no new connections, the old ones closed evenly over a set time.

use std::time::Duration;

use tokio::time::{Instant, interval};
use tracing::info;

use crate::connections::Connections;
use crate::protocol::Disconnect;
use holdfast_telemetry::health::Readiness;

/// How often the next few connections are closed.
const STEP: Duration = Duration::from_millis(10);

impl Connections {
    /// Closes all connections, evenly over `period`.
    pub async fn drain(&self, period: Duration, readiness: &Readiness) {
        self.request_drain();
        readiness.begin_shutdown();
        self.metrics.draining.set(1);
        let open = self.all();
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
