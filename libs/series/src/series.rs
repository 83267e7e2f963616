//! The recent samples of one series, in memory.
//!
//! Samples that come in order go into compressed chunks. Those that come late (out of order, or older than what is on disk already) wait
//! uncompressed beside them and are merged in when somebody reads; they are few, or they are an import and soon written to a block.
//! While a block is being written, its late samples are set apart, so that they can be dropped once the block is there and are not
//! lost if it fails. The newest sample is known without decoding: most rules ask for nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::append::AppendError;
use crate::chunk::{Chunk, OpenChunk};
use crate::histogram::{Held, HistogramSample};
use crate::labels::Labels;
use crate::{Sample, is_stale};

/// One series.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) id: u64,
    pub(crate) labels: Labels,
    data: Mutex<Data>,
}

/// What a series holds.
#[derive(Debug, Default)]
pub(crate) struct Data {
    sealed: Vec<Chunk>,
    open: OpenChunk,
    late: Option<Box<Late>>,
    /// Nearly no series has any.
    histograms: Option<Box<Held>>,
    /// Dropped from the index; whoever still holds it must look it up anew.
    pub(crate) gone: bool,
}

/// Samples outside the order, each list sorted by time.
#[derive(Debug, Default)]
struct Late {
    fresh: Vec<Sample>,
    /// Being written to a block.
    cutting: Vec<Sample>,
}

/// Which samples may be late, and how late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// What is older belongs to a block, so it is kept apart even if it is in order.
    pub(crate) floor_ms: i64,
    /// How much older than the newest of its series a sample may be; `i64::MAX` for an import.
    pub(crate) window_ms: i64,
}

/// Where a sample went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is the newest of its series.
    InOrder,
    /// It waits beside the chunks.
    Late,
    /// It was there already.
    Known,
}

/// What was read of a series.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) samples: Vec<Sample>,
    pub(crate) histograms: Vec<HistogramSample>,
}

impl Found {
    pub(crate) fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }

    /// Adds what `other` has; where both have an instant, this one counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.samples = merge(std::mem::take(&mut self.samples), &other.samples);
        if !other.histograms.is_empty() {
            self.histograms.extend_from_slice(&other.histograms);
            // Stable, so of two at one instant the one that was here stays in front.
            self.histograms.sort_by_key(|sample| sample.timestamp_ms);
            self.histograms.dedup_by_key(|sample| sample.timestamp_ms);
        }
    }

    /// Takes out what is older than `before_ms`.
    pub(crate) fn split_before(&mut self, before_ms: i64) -> Self {
        let first = self.samples.partition_point(|sample| sample.timestamp_ms < before_ms);
        let rest = self.samples.split_off(first);
        let samples = std::mem::replace(&mut self.samples, rest);
        let first = self.histograms.partition_point(|sample| sample.timestamp_ms < before_ms);
        let rest = self.histograms.split_off(first);
        Self { samples, histograms: std::mem::replace(&mut self.histograms, rest) }
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len() + self.histograms.len()
    }

    pub(crate) fn clear(&mut self) {
        self.samples.clear();
        self.histograms.clear();
    }

    /// Drops all but the newest sample or histogram.
    pub(crate) fn keep_newest(&mut self) {
        let sample_ms = self.samples.last().map(|sample| sample.timestamp_ms);
        let histogram_ms = self.histograms.last().map(|sample| sample.timestamp_ms);
        // A staleness marker at the same instant counts.
        if histogram_ms > sample_ms {
            self.samples.clear();
        } else {
            self.histograms.clear();
        }
        self.samples.drain(..self.samples.len().saturating_sub(1));
        self.histograms.drain(..self.histograms.len().saturating_sub(1));
    }
}

impl Series {
    pub(crate) fn new(id: u64, labels: Labels) -> Self {
        Self { id, labels, data: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Data> {
        // Nothing that runs under this lock leaves the data half changed when it panics.
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    /// Adds a sample.
    pub(crate) fn push(&mut self, sample: Sample, order: Order) -> Result<Pushed, AppendError> {
        let timestamp_ms = sample.timestamp_ms;
        let newest = self.open.newest();
        if timestamp_ms >= order.floor_ms
            && newest.is_none_or(|newest| timestamp_ms > newest.timestamp_ms)
        {
            if self.open.is_full() {
                let sealed = self.open.seal();
                self.sealed.push(sealed);
            }
            self.open.push(sample);
            return Ok(Pushed::InOrder);
        }
        if let Some(newest) = newest {
            let newest_ms = newest.timestamp_ms;
            if timestamp_ms == newest_ms {
                let same = newest.value.to_bits() == sample.value.to_bits();
                let duplicate = Err(AppendError::Duplicate { timestamp_ms });
                return if same { Ok(Pushed::Known) } else { duplicate };
            }
            if timestamp_ms < newest_ms.saturating_sub(order.window_ms) {
                return Err(AppendError::OutOfOrder { timestamp_ms, newest_ms });
            }
            // Two targets that claim one series must not end it for each other.
            if is_stale(sample.value) {
                return Err(AppendError::OutOfOrder { timestamp_ms, newest_ms });
            }
        }
        self.push_late(sample)
    }

    fn push_late(&mut self, sample: Sample) -> Result<Pushed, AppendError> {
        let timestamp_ms = sample.timestamp_ms;
        let mut held = Vec::new();
        self.read_chunks(timestamp_ms, timestamp_ms, &mut held);
        let late = self.late.get_or_insert_default();
        let cutting = find(&late.cutting, timestamp_ms).ok().map(|at| late.cutting[at]);
        let at = find(&late.fresh, timestamp_ms);
        let known = at.ok().map(|at| late.fresh[at]).or(cutting).or_else(|| held.first().copied());
        match (known, at) {
            (Some(known), _) if known.value.to_bits() == sample.value.to_bits() => {
                Ok(Pushed::Known)
            }
            (None, Err(at)) => {
                late.fresh.insert(at, sample);
                Ok(Pushed::Late)
            }
            _ => Err(AppendError::Duplicate { timestamp_ms }),
        }
    }

    /// Adds a histogram. One that is older than what is on disk already is refused.
    pub(crate) fn push_histogram(
        &mut self,
        sample: HistogramSample,
        order: Order,
    ) -> Result<Pushed, AppendError> {
        let timestamp_ms = sample.timestamp_ms;
        let newest_ms = self.histograms.as_ref().and_then(|held| held.newest_ms());
        let newest_ms = newest_ms.unwrap_or(i64::MIN);
        let oldest_ms = newest_ms.saturating_sub(order.window_ms).max(order.floor_ms);
        if timestamp_ms < oldest_ms {
            let newest_ms = newest_ms.max(order.floor_ms);
            return Err(AppendError::OutOfOrder { timestamp_ms, newest_ms });
        }
        self.histograms.get_or_insert_default().push(sample)
    }

    /// Adds the samples from `start_ms` to `end_ms`, both included, to `into`, in order.
    pub(crate) fn read(&self, start_ms: i64, end_ms: i64, into: &mut Found) {
        match &self.late {
            None => self.read_chunks(start_ms, end_ms, &mut into.samples),
            Some(late) => {
                let mut samples = Vec::new();
                self.read_chunks(start_ms, end_ms, &mut samples);
                let cutting = merge(samples, within(&late.cutting, start_ms, end_ms));
                into.samples.extend(merge(cutting, within(&late.fresh, start_ms, end_ms)));
            }
        }
        self.read_histograms(start_ms, end_ms, &mut into.histograms);
    }

    fn read_chunks(&self, start_ms: i64, end_ms: i64, into: &mut Vec<Sample>) {
        let first = self.sealed.partition_point(|chunk| chunk.last_ms < start_ms);
        for chunk in self.sealed[first..].iter().take_while(|chunk| chunk.first_ms <= end_ms) {
            chunk.within(start_ms, end_ms, into);
        }
        if self.open.span().is_some_and(|(first, last)| first <= end_ms && last >= start_ms) {
            self.open.samples_from(start_ms).within(start_ms, end_ms, into);
        }
    }

    fn read_histograms(&self, start_ms: i64, end_ms: i64, into: &mut Vec<HistogramSample>) {
        if let Some(held) = &self.histograms {
            held.read(start_ms, end_ms, into);
        }
    }

    /// Adds the newest sample from `start_ms` to `end_ms` to `into`: at most one, of either kind.
    pub(crate) fn latest(&self, start_ms: i64, end_ms: i64, into: &mut Found) {
        match (self.open.newest(), &self.late, self.histograms.is_none()) {
            (Some(newest), None, true) if newest.timestamp_ms <= end_ms => {
                if newest.timestamp_ms >= start_ms {
                    into.samples.push(newest);
                }
            }
            _ => {
                self.read(start_ms, end_ms, into);
                into.keep_newest();
            }
        }
    }

    /// What no block has: what is in order from `start_ms`, and all that was late.
    pub(crate) fn unwritten(&self, start_ms: i64) -> Found {
        let mut samples = Vec::new();
        self.read_chunks(start_ms, i64::MAX, &mut samples);
        if let Some(late) = &self.late {
            samples = merge(merge(samples, &late.cutting), &late.fresh);
        }
        let mut found = Found { samples, histograms: Vec::new() };
        self.read_histograms(start_ms, i64::MAX, &mut found.histograms);
        found
    }

    /// What a block up to `end_ms`, not included, should hold: what is in order from `start_ms`, and all that was late. The late
    /// samples are set apart until [`Data::end_cut`].
    pub(crate) fn begin_cut(&mut self, start_ms: i64, end_ms: i64) -> Found {
        let last_ms = end_ms.saturating_sub(1);
        let mut samples = Vec::new();
        self.read_chunks(start_ms, last_ms, &mut samples);
        if let Some(late) = &mut self.late {
            let rest =
                late.fresh.split_off(late.fresh.partition_point(|s| s.timestamp_ms < end_ms));
            let fresh = std::mem::replace(&mut late.fresh, rest);
            let before = std::mem::take(&mut late.cutting);
            late.cutting = merge(before, &fresh);
            samples = merge(samples, &late.cutting);
        }
        let mut found = Found { samples, histograms: Vec::new() };
        self.read_histograms(i64::MIN, last_ms, &mut found.histograms);
        found
    }

    /// The block is there: drops what it holds. `true` if nothing is left.
    pub(crate) fn end_cut(&mut self, end_ms: i64) -> bool {
        if let Some(late) = &mut self.late {
            late.cutting = Vec::new();
            if late.fresh.is_empty() {
                self.late = None;
            }
        }
        self.drop_chunks(end_ms);
        self.drop_histograms(end_ms);
        self.end_if_empty()
    }

    /// Drops what lies before, a chunk at a time; `true` if nothing is left.
    pub(crate) fn truncate(&mut self, before_ms: i64) -> bool {
        self.drop_chunks(before_ms);
        self.drop_histograms(before_ms);
        if let Some(late) = &mut self.late {
            for list in [&mut late.fresh, &mut late.cutting] {
                list.drain(..list.partition_point(|sample| sample.timestamp_ms < before_ms));
            }
            if late.fresh.is_empty() && late.cutting.is_empty() {
                self.late = None;
            }
        }
        self.end_if_empty()
    }

    /// Drops what is in order and lies before; `true` if nothing is left.
    pub(crate) fn forget(&mut self, before_ms: i64) -> bool {
        self.drop_chunks(before_ms);
        self.drop_histograms(before_ms);
        self.end_if_empty()
    }

    fn drop_chunks(&mut self, before_ms: i64) {
        let old = self.sealed.partition_point(|chunk| chunk.last_ms < before_ms);
        self.sealed.drain(..old);
        if self.open.span().is_some_and(|(_, last_ms)| last_ms < before_ms) {
            self.open.clear();
        }
    }

    fn drop_histograms(&mut self, before_ms: i64) {
        if let Some(held) = &mut self.histograms {
            held.drop_before(before_ms);
            if held.is_empty() {
                self.histograms = None;
            }
        }
    }

    fn end_if_empty(&mut self) -> bool {
        let empty = self.sealed.is_empty() && self.open.span().is_none();
        self.gone = empty && self.late.is_none() && self.histograms.is_none();
        self.gone
    }

    /// How many samples wait beside the chunks.
    pub(crate) fn late_len(&self) -> usize {
        self.late.as_ref().map_or(0, |late| late.fresh.len() + late.cutting.len())
    }

    /// The oldest sample.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        let sealed = self.sealed.first().map(|chunk| chunk.first_ms);
        let chunks = sealed.or_else(|| self.open.span().map(|(first_ms, _)| first_ms));
        let late = self.late.as_ref().and_then(|late| {
            let first = [late.fresh.first(), late.cutting.first()];
            first.into_iter().flatten().map(|sample| sample.timestamp_ms).min()
        });
        let histogram = self.histograms.as_ref().and_then(|held| held.oldest_ms());
        [chunks, late, histogram].into_iter().flatten().min()
    }

    /// Samples held, histograms included.
    pub(crate) fn len(&self) -> usize {
        let chunks = self.open.len() + self.sealed.iter().map(Chunk::len).sum::<usize>();
        chunks + self.late_len() + self.histograms.as_ref().map_or(0, |held| held.len())
    }

    /// Bytes of the samples.
    pub(crate) fn size_bytes(&self) -> usize {
        let chunks =
            self.open.size_bytes() + self.sealed.iter().map(Chunk::size_bytes).sum::<usize>();
        let histograms = self.histograms.as_ref().map_or(0, |held| held.size_bytes());
        chunks + self.late_len() * size_of::<Sample>() + histograms
    }
}

fn find(samples: &[Sample], timestamp_ms: i64) -> Result<usize, usize> {
    samples.binary_search_by_key(&timestamp_ms, |sample| sample.timestamp_ms)
}

fn within(samples: &[Sample], start_ms: i64, end_ms: i64) -> &[Sample] {
    let first = samples.partition_point(|sample| sample.timestamp_ms < start_ms);
    let end = samples.partition_point(|sample| sample.timestamp_ms <= end_ms);
    samples.get(first..end).unwrap_or_default()
}

/// Both lists as one, by time; where both have an instant, `first` counts.
fn merge(mut first: Vec<Sample>, second: &[Sample]) -> Vec<Sample> {
    let apart = first.last().zip(second.first());
    if apart.is_none_or(|(last, next)| last.timestamp_ms < next.timestamp_ms) {
        first.extend_from_slice(second);
        return first;
    }
    let mut merged = Vec::with_capacity(first.len() + second.len());
    let mut rest = second;
    for sample in first {
        let before = rest.partition_point(|other| other.timestamp_ms < sample.timestamp_ms);
        merged.extend_from_slice(&rest[..before]);
        rest = &rest[before..];
        if rest.first().is_some_and(|other| other.timestamp_ms == sample.timestamp_ms) {
            rest = &rest[1..];
        }
        merged.push(sample);
    }
    merged.extend_from_slice(rest);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPORT: Order = Order { floor_ms: i64::MIN, window_ms: i64::MAX };

    fn sample(timestamp_ms: i64) -> Sample {
        Sample { timestamp_ms, value: timestamp_ms as f64 }
    }

    fn read(data: &Data, start_ms: i64, end_ms: i64) -> Found {
        let mut found = Found::default();
        data.read(start_ms, end_ms, &mut found);
        found
    }

    fn times(found: &Found) -> Vec<i64> {
        found.samples.iter().map(|sample| sample.timestamp_ms).collect()
    }

    #[test]
    fn late_samples_are_merged_in_and_never_twice() {
        let mut data = Data::default();
        for at in [10, 30, 20, 5, 20, 30] {
            data.push(sample(at), IMPORT).unwrap();
        }
        assert_eq!(times(&read(&data, 0, 100)), [5, 10, 20, 30]);
        let mut latest = Found::default();
        data.latest(0, 25, &mut latest);
        assert_eq!(times(&latest), [20]);
        let other = Sample { timestamp_ms: 10, value: 0.5 };
        let duplicate = AppendError::Duplicate { timestamp_ms: 10 };
        assert_eq!(data.push(other, IMPORT), Err(duplicate));
        assert_eq!(data.len(), 4);
    }

    #[test]
    fn a_cut_that_fails_loses_nothing() {
        let mut data = Data::default();
        for at in [100, 200, 150, 50] {
            data.push(sample(at), IMPORT).unwrap();
        }
        assert_eq!(times(&data.begin_cut(i64::MIN, 160)), [50, 100, 150]);
        // The block could not be written; meanwhile one more came.
        data.push(sample(120), IMPORT).unwrap();
        assert_eq!(times(&read(&data, 0, 300)), [50, 100, 120, 150, 200]);
        assert_eq!(times(&data.begin_cut(i64::MIN, 160)), [50, 100, 120, 150]);
        let floor = Order { floor_ms: 160, ..IMPORT };
        data.push(sample(130), floor).unwrap();
        assert!(!data.end_cut(160));
        assert_eq!(times(&read(&data, 0, 300)), [100, 130, 200], "the open chunk reaches beyond");
        assert_eq!(times(&data.begin_cut(160, 190)), [130]);
        data.end_cut(190);
        assert_eq!(times(&data.begin_cut(190, 300)), [200]);
        assert!(data.end_cut(300));
    }

    #[test]
    fn what_is_older_than_the_floor_is_late_even_in_order() {
        let mut data = Data::default();
        let order = Order { floor_ms: 100, window_ms: 0 };
        assert_eq!(data.push(sample(50), order), Ok(Pushed::Late));
        assert_eq!(data.push(sample(150), order), Ok(Pushed::InOrder));
        let refused = AppendError::OutOfOrder { timestamp_ms: 60, newest_ms: 150 };
        assert_eq!(data.push(sample(60), order), Err(refused));
        assert_eq!(times(&read(&data, 0, 200)), [50, 150]);
    }
}
