//! The backup scheduler: takes a backup when its cron expression says so and when an operator asks, one at a time, and keeps the number
//! that is wanted.
//!
//! It attaches to a replica where there is one ([`crate::act::backup`] chooses). A failed backup is an incident that ends with the next
//! good one. Pruning never touches the newest verified backup, and is frozen while the newest one looks like a collapse.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use croner::Cron;
use holdfast_psync::Endpoint;
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{IntCounterVec, IntGauge, Registry, metrics};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::act::backup::{self, Backup, BackupError, BackupOptions, BackupStore, Progress};
use crate::cluster::{Address, BackupStatus};
use crate::config;
use crate::control::{BackupProgress, BackupReport, ControlError, Leads, TakeBackup};
use crate::record::{Draft, Kind, Severity, Sink};

/// Longest sleep towards the next scheduled time: a clock that is set differently is noticed within it.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Cause under which the journal keeps a failed backup.
const CAUSE: &str = "backup-failed";
/// What the journal calls the subject of its events.
const SUBJECT: &str = "backup";

struct Metrics {
    backups: IntCounterVec,
    last_success: IntGauge,
    last_bytes: IntGauge,
    seconds: holdfast_telemetry::Gauge,
}

impl Metrics {
    fn register(registry: &Registry) -> Self {
        let backups = metrics::counter_vec(
            registry,
            "supervisor_backups_total",
            "Backups by result",
            &["result"],
        );
        for result in ["succeeded", "failed"] {
            backups.with_label_values(&[result]);
        }
        Self {
            backups,
            last_success: metrics::gauge(
                registry,
                "supervisor_backup_last_success_timestamp_seconds",
                "When the newest good backup was taken, 0 if there is none",
            ),
            last_bytes: metrics::gauge(
                registry,
                "supervisor_backup_last_bytes",
                "Size of the newest good backup as stored",
            ),
            seconds: metrics::float_gauge(
                registry,
                "supervisor_backup_seconds",
                "How long the last backup took, verification included",
            ),
        }
    }
}

/// Takes backups.
pub(super) struct BackupScheduler {
    settings: config::Backup,
    store: BackupStore,
    sources: Vec<Endpoint>,
    commands: mpsc::Receiver<TakeBackup>,
    metrics: Metrics,
    status: watch::Sender<BackupStatus>,
    sink: Sink,
    cron: Option<Cron>,
    failed: Option<String>,
    leads: Leads,
}

impl BackupScheduler {
    /// A scheduler for the servers of `redis`, and where it publishes how backups stand. Whoever `leads` keeps to the schedule.
    pub(super) fn new(
        settings: config::Backup,
        redis: &config::Redis,
        commands: mpsc::Receiver<TakeBackup>,
        registry: &Registry,
        sink: Sink,
        leads: Leads,
    ) -> (Self, watch::Receiver<BackupStatus>) {
        let (status, receiver) = watch::channel(BackupStatus {
            running: false,
            newest: None,
            newest_at: None,
            newest_bytes: None,
            newest_verified: None,
            count: 0,
            error: None,
            next_at: None,
        });
        let cron = settings.schedule.as_deref().map(|text| {
            Cron::from_str(text).expect("the settings were checked when they were read")
        });
        let scheduler = Self {
            store: BackupStore::new(&settings.dir, &redis.name),
            sources: redis.servers.iter().map(|server| redis.endpoint(&server.address)).collect(),
            settings,
            commands,
            metrics: Metrics::register(registry),
            status,
            sink,
            cron,
            failed: None,
            leads,
        };
        (scheduler, receiver)
    }

    /// Where the backups are.
    pub(super) fn store(&self) -> BackupStore {
        self.store.clone()
    }

    /// Runs until `shutdown`; a backup in progress is given up then, and what it left is swept up by the next one.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut next = self.next_time(Utc::now());
        loop {
            self.publish(false, next).await;
            let command = tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(until(next, Utc::now())) => None,
                command = self.commands.recv() => command,
            };
            let now = Utc::now();
            let due = next.is_some_and(|next| next <= now);
            let (by, progress, reply) = match command {
                Some(command) => (command.by, command.progress, Some(command.reply)),
                None if due && (self.leads)() => ("the schedule".to_owned(), None, None),
                // Left to the leader.
                None if due => {
                    next = self.next_time(now);
                    continue;
                }
                None => continue,
            };
            if due {
                next = self.next_time(now);
            }
            self.publish(true, next).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.take(&by, now, progress, reply) => {}
            }
        }
    }

    fn next_time(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.as_ref()?.find_next_occurrence(&now.with_timezone(&Local), false);
        next.ok().map(|next| next.with_timezone(&Utc))
    }

    #[tracing::instrument(name = "backup", skip_all, fields(by))]
    async fn take(
        &mut self,
        by: &str,
        now: DateTime<Utc>,
        progress: Option<mpsc::Sender<BackupProgress>>,
        reply: Option<oneshot::Sender<Result<BackupReport, ControlError>>>,
    ) {
        tracing::info!(by, "backup started");
        let begun = tokio::time::Instant::now();
        let options = BackupOptions {
            compression_level: self.settings.compression_level,
            redis_server: self.settings.redis_server.clone(),
            verify: self.settings.verify,
            ..BackupOptions::default()
        };
        let result = backup::take(&self.store, &self.sources, &options, now, move |step| {
            if let Some(progress) = &progress {
                // A slow reader misses a step, not the result.
                let _missed = progress.try_send(to_progress(step));
            }
        })
        .await;
        let seconds = begun.elapsed().as_secs_f64();
        self.metrics.seconds.set(seconds);
        let answer = match result {
            Ok(backup) => Ok(self.succeeded(&backup, by, seconds).await),
            Err(error) => Err(ControlError::Failed(self.failed(&error, by))),
        };
        if let Some(reply) = reply {
            // The asker may have gone; the backup stays.
            let _ = reply.send(answer);
        }
    }

    async fn succeeded(&mut self, backup: &Backup, by: &str, seconds: f64) -> BackupReport {
        let manifest = &backup.manifest;
        let report = BackupReport {
            id: backup.id.clone(),
            source: manifest.source.address.parse().unwrap_or_else(|_| Address::new("unknown", 1)),
            offset: manifest.offset,
            keys: manifest.keys(),
            raw_bytes: manifest.raw_bytes,
            stored_bytes: manifest.stored_bytes,
            verified: backup.verified(),
            seconds,
        };
        let result = if manifest.suspicious.is_none() { "succeeded" } else { "failed" };
        self.metrics.backups.with_label_values(&[result]).inc();
        tracing::info!(
            id = report.id,
            bytes = report.stored_bytes,
            keys = report.keys,
            "backup taken"
        );
        let proof = if report.verified {
            "it was loaded into a scratch server and had every key"
        } else {
            "verification is off"
        };
        let message = format!("{} keys, {} bytes, by {by}", report.keys, report.stored_bytes);
        let detail = serde_json::to_value(&report).unwrap_or_default();
        if let Some(why) = &manifest.suspicious {
            // It is kept, and so is everything older: the data set may have collapsed.
            let draft = Draft::new(Kind::BackupFailed, Severity::Critical, SUBJECT, why.clone());
            (self.sink)(draft.because(message).detail(detail).opens(CAUSE));
            self.failed = Some(why.clone());
        } else {
            let draft = Draft::new(Kind::BackupTaken, Severity::Info, SUBJECT, message)
                .because(manifest.source.reason.clone())
                .because(proof);
            (self.sink)(draft.detail(detail).closes(CAUSE));
            self.failed = None;
        }
        let (store, keep) = (self.store.clone(), self.settings.keep);
        match tokio::task::spawn_blocking(move || store.prune(keep)).await {
            Ok(Ok(pruned)) => {
                if let Some(why) = pruned.frozen {
                    tracing::warn!(why, "old backups are kept");
                }
            }
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "old backups not removed"),
            Err(error) => tracing::warn!(%error, "old backups not removed"),
        }
        report
    }

    fn failed(&mut self, error: &BackupError, by: &str) -> String {
        let text = Chain(error).to_string();
        tracing::warn!(by, error = text, "backup failed");
        self.metrics.backups.with_label_values(&["failed"]).inc();
        (self.sink)(
            Draft::new(
                Kind::BackupFailed,
                Severity::Warning,
                SUBJECT,
                format!("backup failed: {text}"),
            )
            .opens(CAUSE),
        );
        self.failed = Some(text.clone());
        text
    }

    async fn publish(&self, running: bool, next_at: Option<DateTime<Utc>>) {
        let store = self.store.clone();
        let listing = tokio::task::spawn_blocking(move || store.list()).await;
        let (backups, problem) = match listing {
            Ok(Ok(listing)) => (listing.backups, None),
            Ok(Err(error)) => (Vec::new(), Some(Chain(&error).to_string())),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let newest = backups.first();
        // A backup of a data set that has collapsed must not hide that there is no newer good one.
        if let Some(newest) = backups.iter().find(|backup| backup.good()) {
            self.metrics.last_success.set(newest.manifest.taken_at.timestamp());
            self.metrics
                .last_bytes
                .set(i64::try_from(newest.manifest.stored_bytes).unwrap_or(i64::MAX));
        }
        self.status.send_replace(BackupStatus {
            running,
            newest: newest.map(|backup| backup.id.clone()),
            newest_at: newest.map(|backup| backup.manifest.taken_at),
            newest_bytes: newest.map(|backup| backup.manifest.stored_bytes),
            newest_verified: newest.map(Backup::verified),
            count: backups.len(),
            error: self.failed.clone().or(problem),
            next_at,
        });
    }
}

fn to_progress(step: Progress) -> BackupProgress {
    BackupProgress {
        phase: step.phase.name().to_owned(),
        done_bytes: step.bytes,
        total_bytes: step.total,
    }
}

fn until(next: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    next.map_or(SLEEP_MAX, |next| (next - now).to_std().unwrap_or_default().min(SLEEP_MAX))
}

/// The backups of `store` for the operator API.
pub(super) fn lister(
    store: BackupStore,
) -> Arc<dyn Fn() -> Result<serde_json::Value, String> + Send + Sync> {
    Arc::new(move || {
        let listing = store.list().map_err(|error| Chain(&error).to_string())?;
        let backups: Vec<serde_json::Value> = listing
            .backups
            .iter()
            .map(|backup| {
                serde_json::json!({
                    "id": backup.id,
                    "taken_at": backup.manifest.taken_at,
                    "source": backup.manifest.source.address,
                    "offset": backup.manifest.offset,
                    "keys": backup.manifest.keys(),
                    "raw_bytes": backup.manifest.raw_bytes,
                    "stored_bytes": backup.manifest.stored_bytes,
                    "verified": backup.verified(),
                    "suspicious": backup.manifest.suspicious,
                })
            })
            .collect();
        let damaged = listing
            .damaged
            .iter()
            .map(|error| serde_json::json!({"damaged": Chain(error).to_string()}));
        Ok(backups.into_iter().chain(damaged).collect())
    })
}
