//! The embedded store: recent samples of all series in memory, older ones in blocks on disk, one way to ask for both.
//!
//! The index is behind one lock that is held only to find or add series; the samples of each series are behind a lock of their own, so
//! a long query does not keep scrapes out. The number of series is bounded; beyond the bound new series are refused and counted, known
//! ones go on. The store itself knows no clock and writes nothing: what it takes waits in a queue for the log, and whoever owns the
//! disk side asks it to begin and end a cut. Without a disk side it is a store in memory, as tests use it.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::Duration;

use crate::Sample;
use crate::append::{AppendError, SeriesRef};
use crate::disk::Blocks;
use crate::exemplar::{Exemplar, ExemplarRing, SeriesExemplars};
use crate::histogram::HistogramSample;
use crate::index::Index;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metadata::{Metadata, MetadataTable};
use crate::queue::{Batch, Queue, Queued};
use crate::selection::Selections;
use crate::series::{Data, Series};
use crate::tap::Tap;

/// How a store is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Samples older than this are dropped.
    pub retention: Duration,
    /// Most series in memory at a time: those with samples of the last minutes.
    pub series_max: usize,
    /// How much older than the newest of its series a sample may be.
    pub out_of_order_window: Duration,
    /// Most exemplars kept.
    pub exemplars_max: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            // As long as rules look back by default, twice over.
            retention: Duration::from_hours(2),
            // About ten times what thirty nodes expose.
            series_max: 50_000,
            // Longer than a sender's retries after a short outage, short enough for a block to be cut soon.
            out_of_order_window: Duration::from_mins(5),
            // About 200 bytes each: 2 MB.
            exemplars_max: 10_000,
        }
    }
}

/// The samples of one series, as a query gets them.
#[derive(Debug, Clone)]
pub struct SeriesData {
    /// What names the series.
    pub labels: Labels,
    /// Samples in order, staleness markers included; a marker ends the histograms too.
    pub samples: Arc<[Sample]>,
    /// Native histograms in order; empty for nearly every series.
    pub histograms: Arc<[HistogramSample]>,
}

impl SeriesData {
    /// A series of plain samples, in order.
    pub fn new(labels: Labels, samples: impl Into<Arc<[Sample]>>) -> Self {
        Self { labels, samples: samples.into(), histograms: Arc::default() }
    }
}

/// What a store holds and has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Series in memory now.
    pub series: usize,
    /// Samples in memory now.
    pub samples: usize,
    /// Bytes of the samples in memory.
    pub chunk_bytes: usize,
    /// Bytes of label strings and posting lists.
    pub index_bytes: usize,
    /// Exemplars held now.
    pub exemplars: usize,
    /// Samples taken since the start.
    pub appended_total: u64,
    /// Samples refused since the start: out of order or a second value for an instant.
    pub rejected_samples_total: u64,
    /// Attempts to add a series beyond the limit, since the start.
    pub rejected_series_total: u64,
}

/// The embedded store. All methods may be called from any thread.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    index: RwLock<Index>,
    selections: Mutex<Selections>,
    exemplars: Mutex<ExemplarRing>,
    metadata: RwLock<MetadataTable>,
    tap: OnceLock<Arc<dyn Tap>>,
    queue: Option<Queue>,
    pub(crate) blocks: Option<Arc<Blocks>>,
    /// What is older goes beside the chunks of its series, because a block holds that time already or is about to.
    pub(crate) floor_ms: AtomicI64,
    /// The newest sample of all.
    pub(crate) newest_ms: AtomicI64,
    /// The owner's clock at the last clean-up; 0 before the first.
    now_ms: AtomicI64,
    /// Late samples held.
    pub(crate) late: AtomicUsize,
    pub(crate) appended: AtomicU64,
    pub(crate) rejected_samples: AtomicU64,
    rejected_series: AtomicU64,
}

impl Store {
    /// An empty store before `blocks`, whose samples a log is to get.
    pub(crate) fn on_disk(config: StoreConfig, blocks: Arc<Blocks>) -> Self {
        Self { queue: Some(Queue::default()), blocks: Some(blocks), ..Self::new(config) }
    }

    /// An empty store in memory.
    pub fn new(config: StoreConfig) -> Self {
        Self {
            config,
            index: RwLock::default(),
            selections: Mutex::default(),
            exemplars: Mutex::new(ExemplarRing::new(config.exemplars_max)),
            metadata: RwLock::default(),
            tap: OnceLock::new(),
            queue: None,
            blocks: None,
            floor_ms: AtomicI64::new(i64::MIN),
            newest_ms: AtomicI64::new(i64::MIN),
            now_ms: AtomicI64::new(0),
            late: AtomicUsize::new(0),
            appended: AtomicU64::new(0),
            rejected_samples: AtomicU64::new(0),
            rejected_series: AtomicU64::new(0),
        }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn selections(&self) -> MutexGuard<'_, Selections> {
        self.selections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn out_of_order_window_ms(&self) -> i64 {
        millis(self.config.out_of_order_window)
    }

    /// The oldest instant that retention keeps, by the owner's clock.
    pub(crate) fn retention_begins_ms(&self) -> i64 {
        match self.now_ms.load(Ordering::Relaxed) {
            0 => i64::MIN,
            now_ms => now_ms.saturating_sub(millis(self.config.retention)),
        }
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
        let series = index.insert(labels);
        // Under the lock of the index, so that the log has the series before anybody can give it samples.
        if let Some(queue) = &self.queue {
            queue.series(series.id, &series.labels);
        }
        Ok((series, true))
    }

    /// From now on `tap` sees what the store takes. There can be one; a second one is handed back.
    ///
    /// # Errors
    /// If there is one already.
    pub fn set_tap(&self, tap: Arc<dyn Tap>) -> Result<(), Arc<dyn Tap>> {
        self.tap.set(tap)
    }

    pub(crate) fn tap(&self) -> Option<&dyn Tap> {
        self.tap.get().map(AsRef::as_ref)
    }

    /// Whether what it takes goes to a log.
    pub(crate) fn is_logged(&self) -> bool {
        self.queue.is_some()
    }

    pub(crate) fn queue_samples(&self, samples: &[Queued]) {
        if let Some(queue) = self.queue.as_ref().filter(|_| !samples.is_empty()) {
            queue.samples(samples);
        }
    }

    pub(crate) fn queue_histogram(&self, id: u64, sample: HistogramSample) {
        if let Some(queue) = &self.queue {
            queue.histogram(id, sample);
        }
    }

    /// Remembers an exemplar of the series named by `series`.
    pub fn append_exemplar(&self, series: &Labels, exemplar: Exemplar) {
        if let Some(tap) = self.tap() {
            tap.exemplar(series, &exemplar);
        }
        self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).push(series, exemplar);
    }

    /// Exemplars from `start_ms` to `end_ms`, both included, of the series that pass all matchers of one of `selectors`.
    pub fn exemplars(
        &self,
        selectors: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Vec<SeriesExemplars> {
        let exemplars = self.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
        exemplars.select(selectors, start_ms, end_ms)
    }

    /// Notes what a target says about the metric family `name`.
    pub fn set_metadata(&self, name: &str, metadata: &Metadata) {
        self.metadata.write().unwrap_or_else(PoisonError::into_inner).set(name, metadata);
    }

    /// What targets said about the metric family `name`; several if they disagree.
    pub fn metadata_of(&self, name: &str) -> Vec<Metadata> {
        self.metadata.read().unwrap_or_else(PoisonError::into_inner).get(name)
    }

    /// Metadata of all metric families, sorted by name.
    pub fn metadata(&self) -> Vec<(Arc<str>, Vec<Metadata>)> {
        self.metadata.read().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// How many series there are in memory.
    pub fn series_count(&self) -> usize {
        self.index().len()
    }

    /// Drops samples in memory that are older than `before_ms`, a chunk at a time, and series that have none left. Returns how many
    /// series were dropped.
    pub fn truncate(&self, before_ms: i64) -> usize {
        self.drop_samples(|data| data.truncate(before_ms))
    }

    /// Drops what is in order and older than `before_ms`, because it cannot be written to disk.
    pub(crate) fn forget(&self, before_ms: i64) {
        self.drop_samples(|data| data.forget(before_ms));
    }

    /// Drops what a block up to `end_ms` holds.
    pub(crate) fn end_cut(&self, end_ms: i64) {
        self.drop_samples(|data| data.end_cut(end_ms));
    }

    /// All series in memory.
    pub(crate) fn all_series(&self) -> Vec<Arc<Series>> {
        self.index().all().cloned().collect()
    }

    /// The oldest sample in memory.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        self.index().all().filter_map(|series| series.lock().oldest_ms()).min()
    }

    /// What was taken since the last call.
    pub(crate) fn take_queued(&self) -> Batch {
        self.queue.as_ref().map(Queue::take).unwrap_or_default()
    }

    /// The series that the log knows by this number.
    pub(crate) fn restore_series(&self, id: u64, labels: &Labels) -> SeriesRef {
        let mut index = self.index_mut();
        let known = index.get(labels).cloned();
        index.reserve(id);
        SeriesRef(known.unwrap_or_else(|| index.insert_as(id, labels)))
    }

    /// Tells the time, which decides what is too old to be imported.
    pub(crate) fn set_clock(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Drops samples by `drop`, which says whether a series has none left.
    fn drop_samples(&self, drop: impl Fn(&mut Data) -> bool) -> usize {
        // The index stays locked from the decision to the removal, so nobody finds a series that is already gone.
        let mut index = self.index_mut();
        let (mut gone, mut late) = (Vec::new(), 0);
        for series in index.all() {
            let mut data = series.lock();
            if drop(&mut data) {
                gone.push(Arc::clone(series));
            }
            late += data.late_len();
        }
        self.late.store(late, Ordering::Relaxed);
        let count = gone.len();
        if count > 0 {
            self.selections().forget();
            index.remove(gone);
        }
        count
    }

    /// Drops what retention no longer keeps at `now_ms`. To be called now and then, such as every minute.
    pub fn enforce_retention(&self, now_ms: i64) -> usize {
        self.set_clock(now_ms);
        self.truncate(now_ms.saturating_sub(millis(self.config.retention)))
    }

    /// What it holds and has refused. Visits every series.
    pub fn stats(&self) -> StoreStats {
        let index = self.index();
        let mut stats = StoreStats {
            series: index.len(),
            index_bytes: index.size_bytes(),
            exemplars: self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).len(),
            appended_total: self.appended.load(Ordering::Relaxed),
            rejected_samples_total: self.rejected_samples.load(Ordering::Relaxed),
            rejected_series_total: self.rejected_series.load(Ordering::Relaxed),
            ..StoreStats::default()
        };
        for series in index.all() {
            let data = series.lock();
            stats.samples += data.len();
            stats.chunk_bytes += data.size_bytes();
        }
        stats
    }
}

/// Whole milliseconds, for arithmetic with timestamps.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "samples come back bit by bit")]
mod tests {
    use super::*;
    use crate::{MatchKind, stale_marker};

    fn store(series_max: usize) -> Store {
        Store::new(StoreConfig {
            retention: Duration::from_hours(1),
            series_max,
            out_of_order_window: Duration::ZERO,
            ..StoreConfig::default()
        })
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
