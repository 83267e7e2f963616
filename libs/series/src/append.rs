//! The way into the store.
//!
//! An [`Appender`] takes the samples of one scrape or one request: series are looked up once and kept as a [`SeriesRef`], counters and
//! the log are touched once for all samples, when it is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Sample;
use crate::histogram::{Histogram, HistogramError, HistogramSample};
use crate::labels::Labels;
use crate::queue::Queued;
use crate::series::{Data, Order, Pushed, Series};
use crate::store::Store;

/// Most late samples held in memory until they are in a block, 16 bytes each; an import has to wait beyond that.
pub(crate) const LATE_SAMPLES_MAX: usize = 2_000_000;

/// Why a sample was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The series has a newer sample, and this one is older than the out-of-order window allows.
    #[error("sample at {timestamp_ms} ms is older than the newest of its series at {newest_ms} ms")]
    OutOfOrder {
        /// When the sample was.
        timestamp_ms: i64,
        /// When the newest one is.
        newest_ms: i64,
    },
    /// The series has another value at the same instant.
    #[error("series already has another value at {timestamp_ms} ms")]
    Duplicate {
        /// The instant.
        timestamp_ms: i64,
    },
    /// The sample is older than what retention keeps.
    #[error("sample at {timestamp_ms} ms is older than retention, which begins at {oldest_ms} ms")]
    TooOld {
        /// When the sample was.
        timestamp_ms: i64,
        /// When retention begins.
        oldest_ms: i64,
    },
    /// The series is new and there may be no more.
    #[error("series limit of {series_max} reached")]
    SeriesLimit {
        /// The bound.
        series_max: usize,
    },
    /// Too many older samples wait to be written to disk; try again in a few seconds.
    #[error("{LATE_SAMPLES_MAX} older samples wait to be written to disk")]
    Busy,
    /// The histogram contradicts itself.
    #[error("histogram cannot be stored")]
    Histogram(#[source] HistogramError),
}

/// A series that was looked up. Cheap to keep and to clone; stays valid when the series is dropped by retention meanwhile.
#[derive(Debug, Clone)]
pub struct SeriesRef(pub(crate) Arc<Series>);

impl SeriesRef {
    /// What names the series.
    pub fn labels(&self) -> &Labels {
        &self.0.labels
    }
}

/// Where an appender's samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Scrapes, rules, remote writes.
    Observed,
    /// A bulk import.
    Import,
    /// The log.
    Log,
}

/// Takes samples; see [`Store::appender`] and [`Store::importer`].
#[derive(Debug)]
pub struct Appender<'a> {
    store: &'a Store,
    window_ms: i64,
    origin: Origin,
    queued: Vec<Queued>,
    appended: u64,
    rejected: u64,
    late: usize,
    newest_ms: i64,
}

impl Store {
    /// Takes samples as they are observed: none older than the out-of-order window.
    pub fn appender(&self) -> Appender<'_> {
        Appender::new(self, self.out_of_order_window_ms(), Origin::Observed)
    }

    /// Takes samples of any age within retention.
    pub fn importer(&self) -> Appender<'_> {
        Appender::new(self, i64::MAX, Origin::Import)
    }

    /// Takes samples that the log has already.
    pub(crate) fn restorer(&self) -> Appender<'_> {
        Appender::new(self, i64::MAX, Origin::Log)
    }

    /// Adds a sample to the series named by `labels`, which is created if it is new.
    ///
    /// # Errors
    /// If the sample cannot be taken.
    pub fn append(&self, labels: &Labels, ts_ms: i64, value: f64) -> Result<(), AppendError> {
        let mut appender = self.appender();
        let mut series = appender.series(labels)?.0;
        appender.push(&mut series, Sample { timestamp_ms: ts_ms, value })
    }

    /// Adds a histogram to the series named by `labels`, which is created if it is new.
    ///
    /// # Errors
    /// If the histogram cannot be taken.
    pub fn append_histogram(
        &self,
        labels: &Labels,
        ts_ms: i64,
        histogram: Arc<Histogram>,
    ) -> Result<(), AppendError> {
        let mut appender = self.appender();
        let mut series = appender.series(labels)?.0;
        appender.push_histogram(&mut series, ts_ms, histogram)
    }
}

impl<'a> Appender<'a> {
    fn new(store: &'a Store, window_ms: i64, origin: Origin) -> Self {
        let (queued, newest_ms) = (Vec::new(), i64::MIN);
        Self { store, window_ms, origin, queued, appended: 0, rejected: 0, late: 0, newest_ms }
    }

    /// The series named by `labels`, and whether it was created for this call.
    ///
    /// # Errors
    /// If it is new and there may be no more.
    pub fn series(&mut self, labels: &Labels) -> Result<(SeriesRef, bool), AppendError> {
        self.store.series_for(labels).map(|(series, new)| (SeriesRef(series), new))
    }

    /// Adds a sample. If the series was dropped meanwhile, it is created again.
    ///
    /// # Errors
    /// If the sample cannot be taken.
    pub fn push(&mut self, series: &mut SeriesRef, sample: Sample) -> Result<(), AppendError> {
        let pushed =
            self.checked(series, sample.timestamp_ms, |data, order| data.push(sample, order));
        if !matches!(pushed, Ok(Pushed::Known) | Err(_)) && self.origin != Origin::Log {
            if self.store.is_logged() {
                self.queued.push((series.0.id, sample));
            }
            if let Some(tap) = self.store.tap() {
                tap.samples(&series.0.labels, &[sample]);
            }
        }
        pushed.map(drop)
    }

    /// Adds a histogram. As [`Appender::push`], but one that is older than what is on disk already is refused.
    ///
    /// # Errors
    /// If the histogram cannot be taken, or contradicts itself.
    pub fn push_histogram(
        &mut self,
        series: &mut SeriesRef,
        ts_ms: i64,
        histogram: Arc<Histogram>,
    ) -> Result<(), AppendError> {
        if let Err(error) = histogram.check() {
            self.rejected += 1;
            return Err(AppendError::Histogram(error));
        }
        let sample = HistogramSample { timestamp_ms: ts_ms, histogram };
        let add = |data: &mut Data, order| data.push_histogram(sample.clone(), order);
        let pushed = self.checked(series, ts_ms, add)?;
        if pushed != Pushed::Known && self.origin != Origin::Log {
            if let Some(tap) = self.store.tap() {
                tap.histogram(&series.0.labels, &sample);
            }
            self.store.queue_histogram(series.0.id, sample);
        }
        Ok(())
    }

    /// Adds under the lock of the series, and counts.
    fn checked(
        &mut self,
        series: &mut SeriesRef,
        timestamp_ms: i64,
        add: impl Fn(&mut Data, Order) -> Result<Pushed, AppendError>,
    ) -> Result<Pushed, AppendError> {
        let result = match self.import_is_possible(timestamp_ms) {
            Ok(()) => self.add(series, add),
            Err(error) => Err(error),
        };
        match &result {
            Ok(pushed) => {
                self.appended += 1;
                self.late += usize::from(*pushed == Pushed::Late);
                self.newest_ms = self.newest_ms.max(timestamp_ms);
            }
            Err(_) => self.rejected += 1,
        }
        result
    }

    fn add(
        &self,
        series: &mut SeriesRef,
        add: impl Fn(&mut Data, Order) -> Result<Pushed, AppendError>,
    ) -> Result<Pushed, AppendError> {
        loop {
            let mut data = series.0.lock();
            if !data.gone {
                // Read under the lock: a cut raises the floor first and then locks every series.
                let floor_ms = self.store.floor_ms.load(Ordering::Relaxed);
                return add(&mut data, Order { floor_ms, window_ms: self.window_ms });
            }
            drop(data);
            series.0 = self.store.series_for(&series.0.labels)?.0;
        }
    }

    fn import_is_possible(&self, timestamp_ms: i64) -> Result<(), AppendError> {
        if self.origin != Origin::Import {
            return Ok(());
        }
        let oldest_ms = self.store.retention_begins_ms();
        if timestamp_ms < oldest_ms {
            return Err(AppendError::TooOld { timestamp_ms, oldest_ms });
        }
        let late = self.store.late.load(Ordering::Relaxed) + self.late;
        if late >= LATE_SAMPLES_MAX { Err(AppendError::Busy) } else { Ok(()) }
    }
}

impl Drop for Appender<'_> {
    fn drop(&mut self) {
        let store = self.store;
        if self.origin != Origin::Log {
            store.appended.fetch_add(self.appended, Ordering::Relaxed);
            store.rejected_samples.fetch_add(self.rejected, Ordering::Relaxed);
        }
        store.late.fetch_add(self.late, Ordering::Relaxed);
        store.newest_ms.fetch_max(self.newest_ms, Ordering::Relaxed);
        store.queue_samples(&self.queued);
    }
}
