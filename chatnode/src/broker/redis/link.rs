//! Keeps one connection to the primary: finds it, connects, and starts over when it fails or when the primary moves.
//!
//! Backoff grows from 10 ms to 500 ms and starts over whenever the primary's address changes, so that a promotion is followed within
//! milliseconds while a Redis that is simply away is not hammered. A connection that is of no use as soon as it is made, such as for a
//! user who may connect but not run our scripts, is a failure like one that cannot be made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::connection::{ConnectionError, PrimaryConnection, open_primary};
use super::discovery::Whereabouts;
use crate::config;
use crate::metrics::Metrics;
use holdfast_telemetry::errors::Chain;

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A connection that lasted for this long was a good one.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// One kept-up connection.
pub(super) struct Link {
    /// What it is for: part of the client name Redis shows, and of logs.
    purpose: &'static str,
    client_name: String,
    settings: Arc<config::Redis>,
    whereabouts: Whereabouts,
    /// Counts requests to reconnect.
    reset: watch::Receiver<u64>,
    metrics: Metrics,
    backoff: Duration,
    reported: bool,
    /// When the present connection was made.
    connected_at: Option<Instant>,
}

impl Link {
    pub(super) fn new(
        purpose: &'static str,
        node: &str,
        settings: Arc<config::Redis>,
        whereabouts: Whereabouts,
        reset: watch::Receiver<u64>,
        metrics: Metrics,
    ) -> Self {
        // Redis refuses white space in client names.
        let node = node.replace(|c: char| !c.is_ascii_graphic(), "_");
        let client_name = format!("holdfast-chatnode:{node}:{purpose}");
        let (backoff, reported, connected_at) = (BACKOFF_MIN, false, None);
        Self {
            purpose,
            client_name,
            settings,
            whereabouts,
            reset,
            metrics,
            backoff,
            reported,
            connected_at,
        }
    }

    /// A fresh connection, however long that takes.
    ///
    /// # Cancel safety
    /// A connection half made is dropped.
    pub(super) async fn connect(&mut self) -> PrimaryConnection {
        // Told once, not at each turn.
        let mut quiet = false;
        if let Some(connected_at) = self.connected_at.take() {
            if connected_at.elapsed() < SETTLED_AFTER {
                quiet = self.backoff > BACKOFF_MIN;
                self.pause().await;
            } else {
                self.backoff = BACKOFF_MIN;
            }
        }
        loop {
            let address = self.whereabouts.address.borrow_and_update().clone();
            self.reset.mark_unchanged();
            if let Some(address) = address {
                match open_primary(&address, &self.settings, &self.client_name).await {
                    Ok(connection) => {
                        if !quiet {
                            self.reported = false;
                            info!(purpose = self.purpose, address, "connected to Redis");
                        }
                        self.metrics.broker.redis_reconnects.inc();
                        self.connected_at = Some(Instant::now());
                        return connection;
                    }
                    Err(error) => self.failed(&error),
                }
            }
            self.pause().await;
        }
    }

    /// Waits before the next attempt, less if there is news of the primary.
    async fn pause(&mut self) {
        tokio::select! {
            // An error would mean that discovery has ended, and that only happens at shutdown.
            Ok(()) = self.whereabouts.address.changed() => self.backoff = BACKOFF_MIN,
            () = sleep(self.backoff) => self.backoff = (self.backoff * 2).min(BACKOFF_MAX),
        }
    }

    /// Ready when the present connection is to be given up: the primary moved, or somebody asked for it.
    pub(super) async fn moved(&mut self) {
        tokio::select! {
            Ok(()) = self.whereabouts.address.changed() => {
                (self.backoff, self.connected_at) = (BACKOFF_MIN, None);
            }
            Ok(()) = self.reset.changed() => {}
            // Both senders are gone only at shutdown, which ends the caller.
            else => std::future::pending().await,
        }
    }

    /// Reports a failed connection: once in the log until the next success, always to discovery.
    pub(super) fn failed(&mut self, error: &ConnectionError) {
        self.metrics.broker.redis_failures.inc();
        if !std::mem::replace(&mut self.reported, true) {
            warn!(purpose = self.purpose, error = %Chain(error), "connection to Redis failed");
        }
        self.whereabouts.suspect.notify_one();
    }
}
