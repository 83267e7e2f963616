//! The native histograms of one series in memory.
//!
//! The newest ones are at hand, as most rules ask for them; older ones are packed, some dozens at a time. One with forty buckets takes half a
//! KiB at hand and a fraction of that packed. One that comes late unpacks what it belongs to.

use super::{HistogramSample, codec};
use crate::append::AppendError;
use crate::series::Pushed;

/// Histograms packed together. Twice as many are at hand at most: ten minutes of scrapes every ten seconds.
const RUN: usize = 32;

/// Histograms in order of time.
#[derive(Debug, Default)]
pub(crate) struct Held {
    packed: Vec<Run>,
    fresh: Vec<HistogramSample>,
}

/// Some histograms, packed.
#[derive(Debug)]
struct Run {
    first_ms: i64,
    last_ms: i64,
    count: usize,
    bytes: Box<[u8]>,
}

impl Run {
    fn of(histograms: &[HistogramSample]) -> Option<Self> {
        let (first, last) = histograms.first().zip(histograms.last())?;
        Some(Self {
            first_ms: first.timestamp_ms,
            last_ms: last.timestamp_ms,
            count: histograms.len(),
            bytes: codec::pack(histograms).ok()?.into(),
        })
    }

    fn read(&self, start_ms: i64, end_ms: i64, into: &mut Vec<HistogramSample>) {
        let read = codec::unpack(&self.bytes, start_ms, end_ms, into);
        debug_assert!(read.is_some(), "what is in memory is as it was packed");
    }
}

impl Held {
    /// Adds one at its place.
    pub(crate) fn push(&mut self, sample: HistogramSample) -> Result<Pushed, AppendError> {
        let timestamp_ms = sample.timestamp_ms;
        if self.packed.last().is_some_and(|run| timestamp_ms <= run.last_ms) {
            self.unpack_from(timestamp_ms);
        }
        let fresh = &mut self.fresh;
        match fresh.binary_search_by_key(&timestamp_ms, |held| held.timestamp_ms) {
            Ok(at) if fresh[at] == sample => Ok(Pushed::Known),
            Ok(_) => Err(AppendError::Duplicate { timestamp_ms }),
            Err(at) => {
                let pushed = if at == fresh.len() { Pushed::InOrder } else { Pushed::Late };
                fresh.insert(at, sample);
                self.pack();
                Ok(pushed)
            }
        }
    }

    fn unpack_from(&mut self, timestamp_ms: i64) {
        let first = self.packed.partition_point(|run| run.last_ms < timestamp_ms);
        let mut all = Vec::new();
        for run in self.packed.drain(first..) {
            run.read(i64::MIN, i64::MAX, &mut all);
        }
        all.append(&mut self.fresh);
        self.fresh = all;
    }

    fn pack(&mut self) {
        while self.fresh.len() >= 2 * RUN {
            // What cannot be packed stays as it is.
            let Some(run) = Run::of(&self.fresh[..RUN]) else { return };
            self.packed.push(run);
            self.fresh.drain(..RUN);
        }
    }

    /// Adds those from `start_ms` to `end_ms`, both included, to `into`.
    pub(crate) fn read(&self, start_ms: i64, end_ms: i64, into: &mut Vec<HistogramSample>) {
        let first = self.packed.partition_point(|run| run.last_ms < start_ms);
        for run in self.packed[first..].iter().take_while(|run| run.first_ms <= end_ms) {
            run.read(start_ms, end_ms, into);
        }
        let first = self.fresh.partition_point(|held| held.timestamp_ms < start_ms);
        let end = self.fresh.partition_point(|held| held.timestamp_ms <= end_ms);
        into.extend_from_slice(self.fresh.get(first..end).unwrap_or_default());
    }

    /// Drops those before.
    pub(crate) fn drop_before(&mut self, before_ms: i64) {
        self.packed.drain(..self.packed.partition_point(|run| run.last_ms < before_ms));
        let Some(first) = self.packed.first_mut() else {
            let old = self.fresh.partition_point(|held| held.timestamp_ms < before_ms);
            self.fresh.drain(..old);
            return;
        };
        if first.first_ms < before_ms {
            let mut rest = Vec::new();
            first.read(before_ms, i64::MAX, &mut rest);
            // What cannot be packed stays as it is.
            if let Some(run) = Run::of(&rest) {
                *first = run;
            }
        }
    }

    /// When the newest is.
    pub(crate) fn newest_ms(&self) -> Option<i64> {
        let packed = self.packed.last().map(|run| run.last_ms);
        self.fresh.last().map(|held| held.timestamp_ms).or(packed)
    }

    /// When the oldest is.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        let fresh = self.fresh.first().map(|held| held.timestamp_ms);
        self.packed.first().map(|run| run.first_ms).or(fresh)
    }

    pub(crate) fn len(&self) -> usize {
        self.packed.iter().map(|run| run.count).sum::<usize>() + self.fresh.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packed.is_empty() && self.fresh.is_empty()
    }

    /// Bytes it occupies.
    pub(crate) fn size_bytes(&self) -> usize {
        let packed = self.packed.iter().map(|run| run.bytes.len() + size_of::<Run>());
        let fresh = self.fresh.iter().map(|held| held.histogram.size_bytes());
        size_of::<Self>() + packed.sum::<usize>() + fresh.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::histogram::{Histogram, Span};

    fn sample(at: i64) -> HistogramSample {
        let counts: Vec<f64> = (0..40).map(|bucket| (at / (bucket + 1)) as f64).collect();
        let histogram = Histogram {
            count: counts.iter().sum(),
            sum: at as f64 / 3.0,
            positive_spans: vec![Span { offset: -8, length: 40 }],
            positive_counts: counts,
            ..Histogram::default()
        };
        HistogramSample { timestamp_ms: at * 1000, histogram: Arc::new(histogram) }
    }

    fn times(held: &Held, start_ms: i64, end_ms: i64) -> Vec<i64> {
        let mut read = Vec::new();
        held.read(start_ms, end_ms, &mut read);
        for one in &read {
            assert_eq!(*one, sample(one.timestamp_ms / 1000));
        }
        read.iter().map(|one| one.timestamp_ms / 1000).collect()
    }

    #[test]
    fn packed_and_fresh_ones_are_read_as_one() {
        let mut held = Held::default();
        for at in (0..300).filter(|at| at % 50 != 7) {
            assert_eq!(held.push(sample(at)), Ok(Pushed::InOrder));
        }
        assert!(held.packed.len() > 6);
        let all: Vec<i64> = (0..300).filter(|at| at % 50 != 7).collect();
        assert_eq!(times(&held, i64::MIN, i64::MAX), all);
        assert_eq!(times(&held, 30_500, 33_000), [31, 32, 33]);
        assert_eq!((held.oldest_ms(), held.newest_ms(), held.len()), (Some(0), Some(299_000), 294));
        let at_hand: usize = all.iter().map(|&at| sample(at).histogram.size_bytes()).sum();
        assert!(held.size_bytes() < at_hand / 2, "{} of {at_hand}", held.size_bytes());
    }

    #[test]
    fn late_ones_find_their_place_and_old_ones_go() {
        let mut held = Held::default();
        for at in (0..200).map(|at| at * 2) {
            held.push(sample(at)).unwrap();
        }
        assert_eq!(held.push(sample(100)), Ok(Pushed::Known));
        let other = HistogramSample { timestamp_ms: 100_000, ..sample(7) };
        assert_eq!(held.push(other), Err(AppendError::Duplicate { timestamp_ms: 100_000 }));
        assert_eq!(held.push(sample(101)), Ok(Pushed::Late));
        assert_eq!(times(&held, 99_000, 103_000), [100, 101, 102]);
        held.drop_before(210_000);
        assert_eq!((held.oldest_ms(), held.len()), (Some(210_000), 95), "in the middle of a run");
        held.drop_before(390_000);
        assert_eq!(times(&held, i64::MIN, i64::MAX), [390, 392, 394, 396, 398]);
        held.drop_before(i64::MAX);
        assert!(held.is_empty());
    }
}
