//! The embedded store while the daemon runs: opened from the state folder, flushed every second, maintained in the background.
//!
//! Two loops, because a compaction may take seconds and the log must not wait for it. A disk that fails is a warning and a counter, never
//! the end of the daemon: the store goes on in memory and writes again by itself as soon as it can.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_series::{Disk, DiskConfig, DiskError, OpenReport, StoreConfig};
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{Histogram, IntCounter, IntGauge, IntGaugeVec, Registry, metrics};
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::Metrics;

/// Folder within the state folder.
const FOLDER: &str = "metrics";
/// Time between two flushes: what a crash can lose.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks whether there is something to cut, compact or drop.
const MAINTAIN_EVERY: Duration = Duration::from_secs(10);
/// Buckets of both loops' durations: a flush is some milliseconds, a compaction of a large block seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Opens the store under `state_dir`.
///
/// # Errors
/// If the folder cannot be used at all, such as when another supervisor has it.
pub(super) fn open(state_dir: &Path, settings: &Metrics) -> anyhow::Result<Arc<Disk>> {
    let config = DiskConfig {
        store: StoreConfig {
            retention: settings.retention,
            series_max: settings.series_max,
            out_of_order_window: settings.out_of_order_window,
            ..StoreConfig::default()
        },
        bytes_max: Some(settings.disk_bytes_max),
    };
    let now_ms = chrono::Utc::now().timestamp_millis();
    let (disk, report) = Disk::open(&state_dir.join(FOLDER), config, now_ms)
        .context("supervisor.state_dir: cannot open the metrics store")?;
    tell(&report);
    Ok(Arc::new(disk))
}

fn tell(report: &OpenReport) {
    let OpenReport { blocks, block_samples, series, samples, torn_bytes, .. } = report;
    tracing::info!(blocks, block_samples, series, samples, torn_bytes, "metrics store opened");
    for damage in &report.damage {
        tracing::warn!(damage, "metrics store is damaged, the rest of it is served");
    }
}

/// Figures of the store.
struct Figures {
    series: IntGauge,
    memory: IntGaugeVec,
    disk: IntGaugeVec,
    blocks: IntGauge,
    log_complete: IntGauge,
    oldest: IntGauge,
    samples: IntCounter,
    samples_rejected: IntCounter,
    series_rejected: IntCounter,
    write_failures: IntCounter,
    damaged: IntCounter,
    cuts: IntCounter,
    compactions: IntCounter,
    expired: IntCounter,
    flush_seconds: Histogram,
    maintain_seconds: Histogram,
    last_flush: IntGauge,
}

impl Figures {
    fn register(registry: &Registry) -> Self {
        let counter = |name, help| metrics::counter(registry, name, help);
        let gauge = |name, help| metrics::gauge(registry, name, help);
        let seconds = |name, help| metrics::histogram(registry, name, help, &BUCKETS);
        Self {
            series: gauge("supervisor_store_series", "Series of the metrics store in memory"),
            memory: metrics::gauge_vec(
                registry,
                "supervisor_store_memory_bytes",
                "Memory of the metrics store for samples and for the index",
                &["part"],
            ),
            disk: metrics::gauge_vec(
                registry,
                "supervisor_store_disk_bytes",
                "Files of the metrics store: blocks and log",
                &["part"],
            ),
            blocks: gauge("supervisor_store_blocks", "Blocks of the metrics store on disk"),
            log_complete: gauge(
                "supervisor_store_log_complete",
                "Whether all samples taken up to the last flush are on disk",
            ),
            oldest: gauge(
                "supervisor_store_oldest_timestamp_seconds",
                "The oldest sample in blocks; 0 if there are none",
            ),
            samples: counter(
                "supervisor_store_samples_total",
                "Samples taken by the metrics store",
            ),
            samples_rejected: counter(
                "supervisor_store_samples_rejected_total",
                "Samples refused by the metrics store: too late, or a second value for an instant",
            ),
            series_rejected: counter(
                "supervisor_store_series_rejected_total",
                "Attempts to add a series beyond metrics.series_max",
            ),
            write_failures: counter(
                "supervisor_store_write_failures_total",
                "Writes of log, checkpoint or block that failed",
            ),
            damaged: counter(
                "supervisor_store_damaged_total",
                "Damaged places met in files of the metrics store since the start",
            ),
            cuts: counter("supervisor_store_cuts_total", "Times that memory was cut into blocks"),
            compactions: counter("supervisor_store_compactions_total", "Compactions of blocks"),
            expired: counter("supervisor_store_expired_total", "Blocks dropped by retention"),
            flush_seconds: seconds("supervisor_store_flush_seconds", "Time to flush the log"),
            maintain_seconds: seconds(
                "supervisor_store_maintain_seconds",
                "Time to cut, compact and drop blocks",
            ),
            last_flush: gauge(
                "supervisor_store_last_flush_timestamp_seconds",
                "When the log was last flushed with success",
            ),
        }
    }

    fn set(&self, disk: &Disk) {
        let (store, disk) = (disk.store().stats(), disk.stats());
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.series.set(bytes(store.series as u64));
        self.memory.with_label_values(&["samples"]).set(bytes(store.chunk_bytes as u64));
        self.memory.with_label_values(&["index"]).set(bytes(store.index_bytes as u64));
        self.disk.with_label_values(&["blocks"]).set(bytes(disk.block_bytes));
        self.disk.with_label_values(&["log"]).set(bytes(disk.log_bytes));
        self.blocks.set(bytes(disk.blocks as u64));
        self.oldest.set(disk.oldest_ms.unwrap_or_default() / 1000);
        for (counter, total) in [
            (&self.samples, store.appended_total),
            (&self.samples_rejected, store.rejected_samples_total),
            (&self.series_rejected, store.rejected_series_total),
            (&self.damaged, disk.damaged_total),
            (&self.cuts, disk.cuts_total),
            (&self.compactions, disk.compactions_total),
            (&self.expired, disk.expired_total),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.set_writes(disk.log_complete, disk.write_failures_total);
    }

    /// What must be seen within a second or two, because an alert depends on it.
    fn set_writes(&self, log_complete: bool, failures: u64) {
        self.log_complete.set(log_complete.into());
        let failures = failures.saturating_sub(self.write_failures.get());
        self.write_failures.inc_by(failures);
    }
}

/// Keeps the store's files up to date.
pub(super) struct Keeper {
    disk: Arc<Disk>,
    figures: Arc<Figures>,
}

impl Keeper {
    /// For the store of `disk`.
    pub(super) fn new(disk: Arc<Disk>, registry: &Registry) -> Self {
        let figures = Arc::new(Figures::register(registry));
        figures.set(&disk);
        Self { disk, figures }
    }

    /// The loop that writes the log.
    pub(super) fn flusher(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut log = LastError::default();
        let (disk, figures) = (Arc::clone(&self.disk), Arc::clone(&self.figures));
        every(FLUSH_EVERY, move || {
            let begun = Instant::now();
            let result = disk.flush();
            figures.flush_seconds.observe(begun.elapsed().as_secs_f64());
            if result.is_ok() {
                figures.last_flush.set(chrono::Utc::now().timestamp());
            }
            figures.set_writes(disk.log_complete(), disk.write_failures());
            log.tell(result.err());
        })
    }

    /// The loop that cuts, compacts and drops.
    pub(super) fn maintainer(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut log = LastError::default();
        let (disk, figures) = (Arc::clone(&self.disk), Arc::clone(&self.figures));
        every(MAINTAIN_EVERY, move || {
            let begun = Instant::now();
            let result = disk.maintain(chrono::Utc::now().timestamp_millis());
            figures.maintain_seconds.observe(begun.elapsed().as_secs_f64());
            figures.set(&disk);
            for damage in disk.take_damage() {
                tracing::warn!(damage, "metrics store is damaged, the rest of it is served");
            }
            log.tell(result.err());
        })
    }
}

/// Runs `work`, which may block, again and again until the future is dropped.
async fn every(interval: Duration, work: impl FnMut() + Send + 'static) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = work;
    loop {
        tick.tick().await;
        let done = tokio::task::spawn_blocking(move || {
            work();
            work
        });
        match done.await {
            Ok(back) => work = back,
            // A panic: the loop ends, which ends the daemon.
            Err(error) => {
                tracing::error!(%error, "the metrics store's work panicked");
                return;
            }
        }
    }
}

/// Logs a failure when it begins, and its end.
#[derive(Default)]
struct LastError {
    failing: bool,
}

impl LastError {
    fn tell(&mut self, error: Option<DiskError>) {
        match error {
            Some(error) if !self.failing => {
                tracing::warn!(error = %Chain(&error), "metrics cannot be written to disk");
                self.failing = true;
            }
            None if self.failing => {
                tracing::info!("metrics are written to disk again");
                self.failing = false;
            }
            _ => {}
        }
    }
}
