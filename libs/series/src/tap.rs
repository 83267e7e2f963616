//! A view of everything the store takes, for those who pass it on (remote write).

use std::fmt::Debug;

use crate::Sample;
use crate::exemplar::Exemplar;
use crate::histogram::HistogramSample;
use crate::labels::Labels;

/// Sees every sample that the store accepted, whichever way it came; not what is read back from disk. Called in the middle of an append,
/// so it must neither wait nor ask the store.
pub trait Tap: Debug + Send + Sync {
    /// Samples of one series, in the order in which they were taken; late ones may be among them.
    fn samples(&self, labels: &Labels, samples: &[Sample]);

    /// A histogram.
    fn histogram(&self, labels: &Labels, histogram: &HistogramSample);

    /// An exemplar; not of interest unless said otherwise.
    fn exemplar(&self, _labels: &Labels, _exemplar: &Exemplar) {}
}
