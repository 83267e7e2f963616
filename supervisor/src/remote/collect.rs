//! From the store's samples to request bodies in the spool.
//!
//! The store shows every sample it takes, in the middle of taking it, so they are only put aside there; once a second, or sooner when
//! there are many, a thread makes bodies of them and writes them to the spool. What is put aside is bounded: when the disk is slower
//! than the scrapes for long, samples are dropped and counted.

use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_series::{Exemplar, HistogramSample, Labels, Sample, Tap};
use holdfast_telemetry::errors::Chain;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::spool::{Spool, SpoolError};
use super::wire::{self, TimeSeries, WriteRequest};

/// Samples of one request: some hundred KiB, as Prometheus sends them.
const REQUEST_SAMPLES_MAX: usize = 5_000;
/// Samples put aside at most, about 100 MB.
const PENDING_MAX: usize = 1_000_000;
/// Longest that a sample is only in memory.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Collects what is to be sent.
#[derive(Debug)]
pub(crate) struct Collector {
    pending: Mutex<Pending>,
    full: Notify,
    spool: Arc<Spool>,
    external_labels: Labels,
    metrics: Arc<Metrics>,
    /// Counts the writes to the spool, for those who read it.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pending {
    series: Vec<(Labels, TimeSeries)>,
    samples: usize,
}

impl Collector {
    /// A collector that writes to `folder`.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub(crate) fn open(
        folder: &Path,
        bytes_max: u64,
        external_labels: Labels,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SpoolError> {
        let spool = Arc::new(Spool::open(folder, bytes_max)?);
        Ok(Self {
            pending: Mutex::default(),
            full: Notify::new(),
            spool,
            external_labels,
            metrics,
            written: watch::Sender::new(0),
        })
    }

    /// The spool, and a sign for each write to it.
    pub(crate) fn reader(&self) -> (Arc<Spool>, watch::Receiver<u64>) {
        (Arc::clone(&self.spool), self.written.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing that runs under this lock leaves the list half changed when it panics.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, labels: &Labels, count: usize, fill: impl FnOnce(&mut TimeSeries)) {
        let mut pending = self.lock();
        if pending.samples + count > PENDING_MAX {
            self.metrics.dropped("memory", count);
            return;
        }
        let before = pending.samples;
        pending.samples += count;
        match pending.series.last_mut() {
            Some((last, series)) if last == labels => fill(series),
            _ => {
                let mut series = TimeSeries::default();
                fill(&mut series);
                pending.series.push((labels.clone(), series));
            }
        }
        if before < REQUEST_SAMPLES_MAX && pending.samples >= REQUEST_SAMPLES_MAX {
            self.full.notify_one();
        }
    }

    /// Writes what was put aside until `shutdown`, and then once more.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let ends = tokio::select! {
                () = shutdown.cancelled() => true,
                () = self.full.notified() => false,
                () = tokio::time::sleep(FLUSH_EVERY) => false,
            };
            let own = Arc::clone(&self);
            let flushed = tokio::task::spawn_blocking(move || own.flush()).await;
            if let Err(panic) = flushed {
                std::panic::resume_unwind(panic.into_panic());
            }
            if ends {
                return;
            }
        }
    }

    /// Writes what was put aside.
    fn flush(&self) {
        let pending = mem::take(&mut *self.lock());
        if pending.series.is_empty() {
            return;
        }
        let mut request = WriteRequest::default();
        let mut samples = 0;
        for (labels, mut series) in pending.series {
            series.labels = wire::from_labels(&self.with_external(&labels));
            samples += series.samples.len() + series.histograms.len();
            request.timeseries.push(series);
            if samples >= REQUEST_SAMPLES_MAX {
                self.write(&mem::take(&mut request));
                samples = 0;
            }
        }
        if !request.timeseries.is_empty() {
            self.write(&request);
        }
        if let Err(error) = self.spool.sync() {
            tracing::warn!(error = %Chain(&error), "samples to send are not safe on disk");
        }
        self.metrics.set_spool_bytes(self.spool.bytes());
        self.written.send_modify(|count| *count += 1);
    }

    fn with_external(&self, labels: &Labels) -> Labels {
        let missing = self.external_labels.iter().filter(|(name, _)| labels.get(name).is_none());
        missing.fold(labels.clone(), |labels, (name, value)| labels.with(name, value))
    }

    fn write(&self, request: &WriteRequest) {
        let samples = request.samples();
        let count = u32::try_from(samples).unwrap_or(u32::MAX);
        match self.spool.append(&request.to_body(), count) {
            Ok(0) => {}
            Ok(segments) => {
                tracing::warn!(segments, "the oldest samples to send were dropped: too many wait");
                self.metrics.segments_dropped(segments);
            }
            Err(error) => {
                self.metrics.dropped("disk", samples);
                tracing::warn!(error = %Chain(&error), samples, "samples to send were dropped");
            }
        }
    }
}

impl Tap for Collector {
    fn samples(&self, labels: &Labels, samples: &[Sample]) {
        self.add(labels, samples.len(), |series| {
            series.samples.extend(samples.iter().map(|sample| wire::Sample::from(*sample)));
        });
    }

    fn histogram(&self, labels: &Labels, histogram: &HistogramSample) {
        self.add(labels, 1, |series| series.histograms.push(histogram.into()));
    }

    fn exemplar(&self, labels: &Labels, exemplar: &Exemplar) {
        self.add(labels, 0, |series| series.exemplars.push(exemplar.into()));
    }
}
