//! What was taken since the log was last written.
//!
//! Every sample that changed a series goes through here to the write-ahead log, in the order in which it was taken; a series comes
//! before its first sample. Bounded: when the disk does not keep up, or is full, samples stay in memory alone and the queue remembers
//! that the log has a gap, which the next checkpoint closes. A store in memory has no queue.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Sample;
use crate::histogram::HistogramSample;
use crate::labels::Labels;

/// Most samples that wait, 24 bytes each: five seconds of 200,000 samples a second.
const SAMPLES_MAX: usize = 1_000_000;
/// Most histograms that wait.
const HISTOGRAMS_MAX: usize = 50_000;

/// A sample of a series known by number.
pub(crate) type Queued = (u64, Sample);

/// What waits for the log.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) series: Vec<(u64, Labels)>,
    pub(crate) samples: Vec<Queued>,
    pub(crate) histograms: Vec<(u64, HistogramSample)>,
    /// Something could not wait; the log alone does not tell all.
    pub(crate) gap: bool,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.series.is_empty() && self.samples.is_empty() && self.histograms.is_empty()
    }
}

/// The way to the log.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<Batch>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Batch> {
        // Pushing to a list leaves it whole even when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn series(&self, id: u64, labels: &Labels) {
        self.lock().series.push((id, labels.clone()));
    }

    pub(crate) fn samples(&self, samples: &[Queued]) {
        let mut batch = self.lock();
        if batch.samples.len() + samples.len() > SAMPLES_MAX {
            batch.gap = true;
        } else {
            batch.samples.extend_from_slice(samples);
        }
    }

    pub(crate) fn histogram(&self, id: u64, sample: HistogramSample) {
        let mut batch = self.lock();
        if batch.histograms.len() < HISTOGRAMS_MAX {
            batch.histograms.push((id, sample));
        } else {
            batch.gap = true;
        }
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> Batch {
        let mut batch = self.lock();
        // Room for as much again, so that the list does not grow step by step every second.
        let samples = Vec::with_capacity(batch.samples.len());
        let taken = std::mem::take(&mut *batch);
        batch.samples = samples;
        taken
    }
}
