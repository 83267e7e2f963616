//! Does a message of ours come back? The only proof that publishing and following both work.
//!
//! Every second the node publishes to a channel that only it follows, the way clients do, and waits for it. A pub/sub connection can
//! be alive for TCP and dead in fact; without an echo for 3 s all connections to Redis are made anew and the node counts
//! as not ready, so that the balancer sends clients elsewhere.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::broker::redis::RedisBroker;
use crate::broker::{Broker as _, Retention};
use crate::hub::{Hub, Inbox, Mailbox, mailbox};
use crate::metrics::Metrics;
use crate::session::EventKind;
use crate::stream::Publication;
use holdfast_telemetry::health::Condition;

const EVERY: Duration = Duration::from_secs(1);

/// Without an echo for this long Redis counts as gone. A failover takes less.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// The hub's number for the probe; connections count from 1.
const CONNECTION: u64 = 0;

/// The task.
pub struct Probe {
    broker: Arc<RedisBroker>,
    hub: Arc<Hub>,
    metrics: Metrics,
    condition: Condition,
    channel: Arc<str>,
    mailbox: Arc<Mailbox>,
    inbox: Inbox,
    up: bool,
    heard_at: Instant,
}

impl Probe {
    /// Reports on `condition`.
    pub fn new(
        broker: Arc<RedisBroker>,
        hub: Arc<Hub>,
        metrics: Metrics,
        condition: Condition,
    ) -> Self {
        // The control character keeps clients out; the random part keeps two nodes that were given the same name apart.
        let channel = format!("\u{1}probe-{}", uuid::Uuid::new_v4()).into();
        let (mailbox, inbox) = mailbox(64 * 1024, &metrics);
        let heard_at = Instant::now();
        Self { broker, hub, metrics, condition, channel, mailbox, inbox, up: false, heard_at }
    }

    /// Probes until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.hub.join(&self.channel, CONNECTION, &self.mailbox);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.probe() => {}
            }
        }
    }

    async fn probe(&mut self) {
        let sent_at = Instant::now();
        let echoed = timeout_at(sent_at + EVERY, self.round_trip()).await.unwrap_or(false);
        let now = Instant::now();
        if echoed {
            self.metrics.echo_seconds.observe((now - sent_at).as_secs_f64());
            self.metrics.redis_up.set(1);
            self.condition.met();
            self.heard_at = now;
            if !std::mem::replace(&mut self.up, true) {
                info!("messages come back from Redis");
            }
        } else if now - self.heard_at >= SILENCE_MAX {
            self.metrics.redis_up.set(0);
            self.condition.unmet("no message of our own came back from Redis");
            self.heard_at = now;
            if std::mem::replace(&mut self.up, false) {
                warn!("no message comes back from Redis, connecting again");
            }
            self.broker.reconnect();
        }
    }

    /// Whether a message came back.
    async fn round_trip(&mut self) -> bool {
        if self.broker.follow(&self.channel).await.is_err() {
            return false;
        }
        while self.inbox.next_now().is_some() {}
        let nonce = fastrand::u64(..);
        let data = nonce.to_string().into();
        let publication = Publication { offset: 0, data, info: None, time_ms: nonce };
        let retention = Retention { size: 0, ttl: Duration::ZERO };
        if self.broker.publish(&self.channel, publication, retention).await.is_err() {
            return false;
        }
        while let Some(event) = self.inbox.next().await {
            if let EventKind::Publication { time_ms, .. } = event.kind
                && time_ms == nonce
            {
                return true;
            }
        }
        false
    }
}
