//! The samples of all series, compressed, in memory.
//!
//! The index is behind one lock that is held only to find or add series; the samples of each series are behind a lock of their own, so
//! a long query does not keep scrapes out. The newest sample of a series is kept as it is: most rules ask for nothing else, and then
//! nothing has to be decoded. The number of series is bounded; beyond the bound new series are refused and counted, known ones go on.
//! Persistence on disk is not part of this store yet (see the crate's documentation).

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::Sample;
use crate::chunk::{Chunk, OpenChunk};
use crate::index::Index;
use crate::labels::Labels;
use crate::matcher::Matcher;

/// How a store is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Samples older than this are dropped.
    pub retention: Duration,
    /// Most series at a time.
    pub series_max: usize,
}

/// Why a sample was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The series has a newer sample.
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
    /// The series is new and there may be no more.
    #[error("series limit of {series_max} reached")]
    SeriesLimit {
        /// The bound.
        series_max: usize,
    },
}

/// The samples of one series, as a query gets them.
#[derive(Debug, Clone)]
pub struct SeriesData {
    /// What names the series.
    pub labels: Labels,
    /// Samples in order, staleness markers included.
    pub samples: Arc<[Sample]>,
}

/// What a store holds and has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Series held now.
    pub series: usize,
    /// Samples held now.
    pub samples: usize,
    /// Bytes of the compressed samples.
    pub chunk_bytes: usize,
    /// Bytes of label strings and posting lists.
    pub index_bytes: usize,
    /// Samples taken since the start.
    pub appended_total: u64,
    /// Samples refused since the start: out of order or a second value for an instant.
    pub rejected_samples_total: u64,
    /// Attempts to add a series beyond the limit, since the start.
    pub rejected_series_total: u64,
}

/// One series.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) id: u64,
    pub(crate) labels: Labels,
    data: Mutex<Data>,
}

#[derive(Debug, Default)]
struct Data {
    sealed: VecDeque<Chunk>,
    open: OpenChunk,
    newest: Option<Sample>,
    /// Dropped from the index; whoever still holds it must look it up anew.
    gone: bool,
}

impl Series {
    pub(crate) fn new(id: u64, labels: Labels) -> Self {
        Self { id, labels, data: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        // Nothing that runs under this lock leaves the data half changed when it panics.
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn push(&mut self, sample: Sample) -> Result<(), AppendError> {
        let timestamp_ms = sample.timestamp_ms;
        if let Some(newest) = self.newest {
            let newest_ms = newest.timestamp_ms;
            if timestamp_ms < newest_ms {
                return Err(AppendError::OutOfOrder { timestamp_ms, newest_ms });
            }
            if timestamp_ms == newest_ms {
                let same = newest.value.to_bits() == sample.value.to_bits();
                return if same { Ok(()) } else { Err(AppendError::Duplicate { timestamp_ms }) };
            }
        }
        if self.open.is_full() {
            let sealed = self.open.seal();
            self.sealed.push_back(sealed);
        }
        self.open.push(sample);
        self.newest = Some(sample);
        Ok(())
    }

    fn read(&self, start_ms: i64, end_ms: i64) -> Vec<Sample> {
        let mut samples = Vec::new();
        let within = |sample: &Sample| (start_ms..=end_ms).contains(&sample.timestamp_ms);
        let first = self.sealed.partition_point(|chunk| chunk.last_ms < start_ms);
        for chunk in self.sealed.range(first..).take_while(|chunk| chunk.first_ms <= end_ms) {
            samples.extend(chunk.samples().filter(within));
        }
        if self.open.span().is_some_and(|(first, last)| first <= end_ms && last >= start_ms) {
            samples.extend(self.open.samples().filter(within));
        }
        samples
    }

    fn latest(&self, start_ms: i64, end_ms: i64) -> Option<Sample> {
        let newest = self.newest?;
        if newest.timestamp_ms <= end_ms {
            return (newest.timestamp_ms >= start_ms).then_some(newest);
        }
        self.read(start_ms, end_ms).pop()
    }

    /// Drops what lies before; `true` if nothing is left.
    fn truncate(&mut self, before_ms: i64) -> bool {
        while self.sealed.front().is_some_and(|chunk| chunk.last_ms < before_ms) {
            self.sealed.pop_front();
        }
        if self.open.span().is_some_and(|(_, last_ms)| last_ms < before_ms) {
            self.open = OpenChunk::default();
        }
        self.gone = self.sealed.is_empty() && self.open.len() == 0;
        self.gone
    }
}

/// The embedded store. All methods may be called from any thread.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    index: RwLock<Index>,
    appended: AtomicU64,
    rejected_samples: AtomicU64,
    rejected_series: AtomicU64,
}

impl Store {
    /// An empty store.
    pub fn new(config: StoreConfig) -> Self {
        Self {
            config,
            index: RwLock::default(),
            appended: AtomicU64::new(0),
            rejected_samples: AtomicU64::new(0),
            rejected_series: AtomicU64::new(0),
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample to the series named by `labels`, which is created if it is new.
    ///
    /// # Errors
    /// If the sample is not newer than the newest of its series, or the series would be one too many.
    pub fn append(&self, labels: &Labels, ts_ms: i64, value: f64) -> Result<(), AppendError> {
        let (mut series, _) = self.series_for(labels)?;
        self.push(&mut series, Sample { timestamp_ms: ts_ms, value })
    }

    /// The series named by `labels` and whether it is new.
    pub(crate) fn series_for(&self, labels: &Labels) -> Result<(Arc<Series>, bool), AppendError> {
        if let Some(series) = self.index().get(labels) {
            return Ok((Arc::clone(series), false));
        }
        let mut index = self.index_mut();
        if let Some(series) = index.get(labels) {
            return Ok((Arc::clone(series), false));
        }
        let series_max = self.config.series_max;
        if index.len() >= series_max {
            self.rejected_series.fetch_add(1, Ordering::Relaxed);
            return Err(AppendError::SeriesLimit { series_max });
        }
        Ok((index.insert(labels), true))
    }

    /// Adds a sample to a series that was looked up before. If it was dropped meanwhile, it is looked up again.
    pub(crate) fn push(&self, series: &mut Arc<Series>, sample: Sample) -> Result<(), AppendError> {
        loop {
            let mut data = series.lock();
            if !data.gone {
                let result = data.push(sample);
                drop(data);
                return self.count(result);
            }
            drop(data);
            *series = self.series_for(&series.labels)?.0;
        }
    }

    fn count(&self, result: Result<(), AppendError>) -> Result<(), AppendError> {
        let counter = if result.is_ok() { &self.appended } else { &self.rejected_samples };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn collect(
        &self,
        matchers: &[Matcher],
        read: impl Fn(&Data) -> Option<Arc<[Sample]>>,
    ) -> Vec<SeriesData> {
        let selected = self.index().select(matchers);
        let data = |series: &Arc<Series>| {
            let samples = read(&series.lock())?;
            Some(SeriesData { labels: series.labels.clone(), samples })
        };
        selected.iter().filter_map(data).collect()
    }

    /// Series that pass all matchers and have samples from `start_ms` to `end_ms`, both included.
    pub fn select(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<SeriesData> {
        self.collect(matchers, |data| {
            let samples = data.read(start_ms, end_ms);
            (!samples.is_empty()).then(|| samples.into())
        })
    }

    /// As [`Store::select`], with only the newest sample of each series.
    pub fn select_latest(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Vec<SeriesData> {
        self.collect(matchers, |data| {
            data.latest(start_ms, end_ms).map(|sample| Arc::from([sample]))
        })
    }

    /// Label sets of the series that pass all matchers, sorted.
    pub fn series(&self, matchers: &[Matcher]) -> Vec<Labels> {
        let selected = self.index().select(matchers);
        let mut labels: Vec<Labels> = selected.iter().map(|series| series.labels.clone()).collect();
        labels.sort_unstable();
        labels
    }

    /// Label names of the series that pass all matchers.
    pub fn label_names(&self, matchers: &[Matcher]) -> BTreeSet<Arc<str>> {
        self.index().label_names(matchers)
    }

    /// Values of the label `name` of the series that pass all matchers.
    pub fn label_values(&self, name: &str, matchers: &[Matcher]) -> BTreeSet<Arc<str>> {
        self.index().label_values(name, matchers)
    }

    /// How many series there are.
    pub fn series_count(&self) -> usize {
        self.index().len()
    }

    /// Drops samples older than `before_ms`, a chunk at a time, and series that have none left. Returns how many series were dropped.
    pub fn truncate(&self, before_ms: i64) -> usize {
        // The index stays locked from the decision to the removal, so nobody finds a series that is already gone.
        let mut index = self.index_mut();
        let gone: Vec<Arc<Series>> =
            index.all().filter(|series| series.lock().truncate(before_ms)).cloned().collect();
        let count = gone.len();
        if count > 0 {
            index.remove(gone);
        }
        count
    }

    /// Drops what retention no longer keeps at `now_ms`. To be called now and then, such as every minute.
    pub fn enforce_retention(&self, now_ms: i64) -> usize {
        let retention_ms = i64::try_from(self.config.retention.as_millis()).unwrap_or(i64::MAX);
        self.truncate(now_ms.saturating_sub(retention_ms))
    }

    /// What it holds and has refused. Visits every series.
    pub fn stats(&self) -> StoreStats {
        let index = self.index();
        let mut stats = StoreStats {
            series: index.len(),
            index_bytes: index.size_bytes(),
            appended_total: self.appended.load(Ordering::Relaxed),
            rejected_samples_total: self.rejected_samples.load(Ordering::Relaxed),
            rejected_series_total: self.rejected_series.load(Ordering::Relaxed),
            ..StoreStats::default()
        };
        for series in index.all() {
            let data = series.lock();
            stats.samples += data.open.len() + data.sealed.iter().map(Chunk::len).sum::<usize>();
            stats.chunk_bytes +=
                data.open.size_bytes() + data.sealed.iter().map(Chunk::size_bytes).sum::<usize>();
        }
        stats
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "samples come back bit by bit")]
mod tests {
    use super::*;
    use crate::{MatchKind, stale_marker};

    fn store(series_max: usize) -> Store {
        Store::new(StoreConfig { retention: Duration::from_hours(1), series_max })
    }

    fn labels(name: &str, node: &str) -> Labels {
        Labels::from_pairs([("__name__", name), ("node", node), ("job", "chat")])
    }

    fn found(store: &Store, matchers: &[(MatchKind, &str, &str)]) -> Vec<String> {
        let matchers: Vec<Matcher> = matchers
            .iter()
            .map(|&(kind, name, value)| Matcher::new(kind, name, value).unwrap())
            .collect();
        let data = store.select(&matchers, i64::MIN, i64::MAX);
        let show = |series: &SeriesData| {
            format!("{}/{}", series.labels.metric_name(), series.labels.value("node"))
        };
        data.iter().map(show).collect()
    }

    #[test]
    fn series_are_found_by_every_kind_of_matcher() {
        use MatchKind::{Equal, NotEqual, NotRegex, Regex};
        let store = store(100);
        for (name, node) in [("up", "a"), ("up", "b"), ("cpu", "a"), ("cpu", "")] {
            store.append(&labels(name, node), 1, 1.0).unwrap();
        }
        for (matchers, expected) in [
            (vec![(Equal, "__name__", "up")], vec!["up/a", "up/b"]),
            (vec![(Equal, "job", "chat"), (Equal, "node", "a")], vec!["up/a", "cpu/a"]),
            (vec![(Equal, "__name__", "up"), (NotEqual, "node", "a")], vec!["up/b"]),
            (vec![(Equal, "__name__", "cpu"), (Equal, "node", "")], vec!["cpu/"]),
            (vec![(Regex, "__name__", "u.|nothing")], vec!["up/a", "up/b"]),
            (vec![(Regex, "node", "a|b"), (NotRegex, "__name__", "u.*")], vec!["cpu/a"]),
            (vec![(Regex, "node", "b|")], vec!["up/b", "cpu/"]),
            (vec![(Equal, "nothing", "x")], vec![]),
            (vec![(NotEqual, "node", "")], vec!["up/a", "up/b", "cpu/a"]),
        ] {
            assert_eq!(found(&store, &matchers), expected, "{matchers:?}");
        }
        let names: Vec<_> = store.label_values("__name__", &[]).into_iter().collect();
        assert_eq!(names, ["cpu".into(), "up".into()]);
        assert_eq!(store.label_names(&[Matcher::equal("node", "b")]).len(), 3);
        assert_eq!(store.series(&[Matcher::equal("__name__", "up")]).len(), 2);
    }

    #[test]
    fn samples_come_back_by_time_across_chunks() {
        let store = store(10);
        for i in 0..500_i64 {
            store.append(&labels("up", "a"), i * 1000, i as f64).unwrap();
        }
        let up = [Matcher::equal("__name__", "up")];
        for (start, end, count) in
            [(0, 499_000, 500), (119_000, 121_000, 3), (1, 999, 0), (480_001, i64::MAX, 19)]
        {
            let data = store.select(&up, start, end);
            assert_eq!(data.first().map_or(0, |series| series.samples.len()), count);
        }
        assert_eq!(store.select_latest(&up, 0, i64::MAX)[0].samples[0].value, 499.0);
        assert_eq!(store.select_latest(&up, 0, 250_500)[0].samples[0].value, 250.0);
        assert!(store.select_latest(&up, 499_001, i64::MAX).is_empty());
    }

    #[test]
    fn what_cannot_be_taken_is_refused_and_counted() {
        let store = store(1);
        let a = labels("up", "a");
        store.append(&a, 10, 1.0).unwrap();
        store.append(&a, 10, 1.0).unwrap();
        assert_eq!(store.append(&a, 10, 2.0), Err(AppendError::Duplicate { timestamp_ms: 10 }));
        let older = AppendError::OutOfOrder { timestamp_ms: 9, newest_ms: 10 };
        assert_eq!(store.append(&a, 9, 1.0), Err(older));
        let limit = AppendError::SeriesLimit { series_max: 1 };
        assert_eq!(store.append(&labels("up", "b"), 11, 1.0), Err(limit));
        store.append(&a, 11, stale_marker()).unwrap();
        let stats = store.stats();
        assert_eq!((stats.series, stats.samples), (1, 2));
        assert_eq!((stats.rejected_samples_total, stats.rejected_series_total), (2, 1));
    }

    #[test]
    fn retention_drops_chunks_series_and_their_strings() {
        let store = store(10);
        for i in 0..300_i64 {
            store.append(&labels("up", "a"), i * 1000, 0.0).unwrap();
        }
        store.append(&labels("old", "b"), 0, 0.0).unwrap();
        assert_eq!(store.enforce_retention(3_600_000 + 150_000), 1);
        assert_eq!(found(&store, &[(MatchKind::Regex, "__name__", ".+")]), ["up/a"]);
        assert_eq!(store.stats().samples, 180, "the first chunk of 120 is gone");
        assert!(!store.label_values("__name__", &[]).contains("old"));
        store.truncate(i64::MAX);
        assert_eq!(store.series_count(), 0);
        assert_eq!(store.stats().index_bytes, 0);
        store.append(&labels("up", "a"), 5, 0.0).unwrap();
        assert_eq!(store.series_count(), 1);
    }

    #[test]
    fn threads_append_and_select_at_once() {
        let store = store(1000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..500_i64 {
                        let node = format!("{thread}-{}", i % 10);
                        store.append(&labels("up", &node), i, i as f64).unwrap();
                        if i % 50 == 0 {
                            store.truncate(i - 100);
                            store.select(&[Matcher::equal("__name__", "up")], 0, i);
                        }
                    }
                });
            }
        });
        assert_eq!(store.series_count(), 40);
        assert_eq!(store.stats().appended_total, 2000);
    }
}
