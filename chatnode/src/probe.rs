//! Does a message of ours come back? The only proof that publishing and following both work.
//!
//! Every second the node sends a message through each server in use, to a channel that only it follows, and waits for it. A pub/sub
//! connection can be alive for TCP and dead in fact; without an echo for 3 s all connections to that server are made anew and the node
//! counts as not ready, so that the balancer sends clients elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::broker::bus::PROBE;
use crate::metrics::Metrics;
use holdfast_telemetry::health::Condition;

const EVERY: Duration = Duration::from_secs(1);

/// Without an echo for this long Redis counts as gone. A failover takes less.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// The task.
pub struct Probe {
    broker: Arc<dyn Broker>,
    metrics: Metrics,
    condition: Condition,
    prefix: String,
    /// What came back: channel and message.
    echoes: mpsc::Receiver<(Box<str>, Bytes)>,
    /// When each channel was last heard from, or first sent to.
    heard_at: HashMap<String, Instant>,
    /// Channels that are followed besides those of the present round, because the servers in use have changed.
    followed: HashSet<String>,
    up: bool,
}

impl Probe {
    /// Reports on `condition`.
    pub fn new(
        broker: Arc<dyn Broker>,
        echoes: mpsc::Receiver<(Box<str>, Bytes)>,
        metrics: Metrics,
        condition: Condition,
    ) -> Self {
        // The random part keeps two nodes that were given the same name apart.
        let prefix = format!("{PROBE}{}", uuid::Uuid::new_v4());
        let (heard_at, followed) = (HashMap::new(), HashSet::new());
        Self { broker, metrics, condition, prefix, echoes, heard_at, followed, up: false }
    }

    /// Probes until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
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
        let channels = self.broker.probe_channels(&self.prefix);
        self.forget_all_but(&channels);
        let silent = self.round_trip(&channels, sent_at).await;
        let now = Instant::now();
        for channel in &channels {
            let heard_at = self.heard_at.entry(channel.clone()).or_insert(sent_at);
            if !silent.contains(channel) {
                *heard_at = now;
            }
        }
        if !channels.is_empty() && silent.is_empty() {
            self.metrics.broker.redis_up.set(1);
            self.condition.met();
            if !std::mem::replace(&mut self.up, true) {
                info!("messages come back from Redis");
            }
            return;
        }
        for channel in silent {
            let Some(heard_at) = self.heard_at.get_mut(&channel) else { continue };
            if now - *heard_at >= SILENCE_MAX {
                *heard_at = now;
                self.metrics.broker.redis_up.set(0);
                self.condition.unmet("no message of our own came back from Redis");
                if std::mem::replace(&mut self.up, false) {
                    warn!("no message comes back from Redis, connecting again");
                }
                self.broker.reconnect(&channel);
            }
        }
    }

    /// Sends a message to each channel; those that nothing came back from in time.
    async fn round_trip(&mut self, channels: &[String], sent_at: Instant) -> HashSet<String> {
        let nonce = Bytes::from(fastrand::u64(..).to_string());
        let mut silent: HashSet<String> = channels.iter().cloned().collect();
        while self.echoes.try_recv().is_ok() {}
        let broker = &self.broker;
        let sends = channels.iter().map(async |channel| {
            broker.follow(channel).await?;
            broker.signal(channel, nonce.clone()).await
        });
        let (sends, echoes) = (join_all(sends), &mut self.echoes);
        let wait = async {
            // What could not be sent stays silent, and is counted where the connections are kept.
            sends.await;
            while !silent.is_empty() {
                let Some((channel, message)) = echoes.recv().await else { return };
                if message == nonce && silent.remove(&*channel) {
                    self.metrics.broker.echo_seconds.observe(sent_at.elapsed().as_secs_f64());
                }
            }
        };
        // Out of time: those still in the set are silent.
        let _ = timeout_at(sent_at + EVERY, wait).await;
        silent
    }

    fn forget_all_but(&mut self, channels: &[String]) {
        let wanted: HashSet<_> = channels.iter().cloned().collect();
        for gone in self.followed.difference(&wanted) {
            self.broker.unfollow(gone);
            self.heard_at.remove(gone);
        }
        self.followed = wanted;
    }
}
