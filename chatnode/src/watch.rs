//! Looks at streams whose subscribers may have missed something, and tells them how their stream stands.
//!
//! All channels after following was interrupted, and each channel that was quiet for a while: a publication can be lost on its way
//! without any connection failing, and a channel without a next publication would never show the gap. Once for each channel and node,
//! not for each subscriber.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Range};
use crate::hub::Hub;
use crate::namespaces::Namespaces;
use crate::session::EventKind;

/// After this long without a publication a channel is looked at.
const QUIET: Duration = Duration::from_secs(40);

/// How often quiet channels are sought.
const EVERY: Duration = Duration::from_secs(1);

/// Reads under way together, so that they fill one batch without crowding out the clients' own.
const TOGETHER: usize = 64;

/// All nodes lose the primary at the same moment; each begins within this time.
const JITTER: Duration = Duration::from_millis(50);

/// The task.
pub struct Watch {
    /// Whose channels.
    pub hub: Arc<Hub>,
    /// Where streams are read.
    pub broker: Arc<dyn Broker>,
    /// Which channels have streams.
    pub namespaces: Namespaces,
}

impl Watch {
    /// Looks until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let quiet = tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.hub.interruption() => {
                    sleep(JITTER.mul_f64(fastrand::f64())).await;
                    Duration::ZERO
                }
                _ = ticks.tick() => QUIET,
            };
            let channels = self.hub.quiet_channels(quiet).into_iter();
            let looks = channels.filter(|channel| self.has_stream(channel)).map(|c| self.look(c));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = stream::iter(looks).buffer_unordered(TOGETHER).collect() => {}
            }
        }
    }

    fn has_stream(&self, channel: &str) -> bool {
        self.namespaces.of(channel).is_ok_and(|options| options.keeps_history())
    }

    async fn look(&self, channel: Arc<str>) {
        match self.broker.read(&channel, Range::STATE).await {
            Ok(page) => self.hub.looked(&channel, EventKind::Looked(page.state)),
            // Seen and counted where the connection is kept.
            Err(_) => self.hub.not_heard(&channel),
        }
    }
}
