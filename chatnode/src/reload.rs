//! Reads the rules of channels again while the node runs.
//!
//! The whole settings file is checked, so a file that could not start a node is not taken in part either; then `[channels]` and
//! `[[namespace]]` are swapped as a whole. Everything else needs a restart, which drains connections to the other nodes. No connection is
//! dropped: a subscription lives by the rules it was made under until it is made again.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_settings::Faults;
use holdfast_telemetry::metrics::gauge;
use holdfast_telemetry::{IntGauge, Registry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::access::unix_seconds;
use crate::config::Config;
use crate::namespaces::Namespaces;

/// Reads the settings again.
pub struct Reload {
    file: PathBuf,
    namespaces: Namespaces,
    successful: IntGauge,
    succeeded_at: IntGauge,
}

impl Reload {
    /// Of the settings in `file`, which were just read.
    pub fn new(file: PathBuf, namespaces: Namespaces, registry: &Registry) -> Self {
        let successful = gauge(
            registry,
            "chatnode_config_last_reload_successful",
            "1 if the settings could be used when they were last read",
        );
        let succeeded_at = gauge(
            registry,
            "chatnode_config_last_reload_success_timestamp_seconds",
            "When settings that could be used were last read",
        );
        let reload = Self { file, namespaces, successful, succeeded_at };
        reload.count(true);
        reload
    }

    fn count(&self, good: bool) {
        self.successful.set(i64::from(good));
        if good {
            self.succeeded_at.set(i64::try_from(unix_seconds()).unwrap_or(i64::MAX));
        }
    }

    /// Reads and swaps; reads files, so not for a task that others wait for.
    ///
    /// # Errors
    /// The settings cannot be used; those of before hold.
    pub fn reload(&self) -> Result<(), Faults> {
        let config = Config::load(&self.file);
        self.count(config.is_ok());
        match config {
            Ok(config) => {
                self.namespaces.replace(config.access.namespaces);
                info!("rules of channels were read again");
                Ok(())
            }
            Err(faults) => {
                error!(%faults, "settings cannot be used, those of before hold");
                Err(faults)
            }
        }
    }

    /// Reloads on every SIGHUP until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return error!(%error, "cannot listen for SIGHUP"),
        };
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                received = hangups.recv() => if received.is_none() { return },
            }
            let reload = Arc::clone(&self);
            // What is wrong with the settings was logged.
            let _ = tokio::task::spawn_blocking(move || reload.reload()).await;
        }
    }
}
