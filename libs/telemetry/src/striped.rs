//! Counters and histograms that several threads change at every request, each thread in memory of its own.
//!
//! A number to which two cores add in turn moves its cache line from one to the other each time, which costs a multiple of the addition;
//! a request adds to ten of them. Here a thread adds to its own stripe, and whoever reads adds the stripes up. What is read is exact at any
//! time. The price is memory, eight times 128 bytes each, so this is for what is counted per request, not for every figure. Rejected:
//! the local metrics of the `prometheus` crate, which are brought together now and then and lag behind until they are.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus::core::{
    Atomic, GenericCounter, GenericCounterVec, Metric, MetricVec, MetricVecBuilder,
};
use prometheus::{HistogramOpts, proto};

/// Threads beyond these share the stripes of others; what they count is as exact, and as slow as anywhere else.
const STRIPES: usize = 8;
/// Numbers in two cache lines. Two, because processors fetch them in pairs.
const NUMBERS: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// Which stripe this thread writes to.
fn stripe() -> usize {
    STRIPE.with(|stripe| *stripe)
}

/// Numbers that share no cache line with anything else.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lines([AtomicU64; NUMBERS]);

/// The number behind a [`StripedCounter`].
#[derive(Debug)]
pub struct Striped([Lines; STRIPES]);

impl Striped {
    fn own(&self) -> &AtomicU64 {
        &self.0[stripe()].0[0]
    }
}

impl Atomic for Striped {
    type T = u64;

    fn new(value: u64) -> Self {
        let this = Self(array::from_fn(|_| Lines::default()));
        this.set(value);
        this
    }

    fn set(&self, value: u64) {
        for (place, stripe) in self.0.iter().enumerate() {
            stripe.0[0].store(if place == 0 { value } else { 0 }, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        // One stripe may have gone below zero by what another has above.
        self.0
            .iter()
            .fold(0, |sum: u64, stripe| sum.wrapping_add(stripe.0[0].load(Ordering::Relaxed)))
    }

    fn inc_by(&self, delta: u64) {
        self.own().fetch_add(delta, Ordering::Relaxed);
    }

    fn dec_by(&self, delta: u64) {
        self.own().fetch_sub(delta, Ordering::Relaxed);
    }
}

/// A counter for what happens at every request.
pub type StripedCounter = GenericCounter<Striped>;
/// The same with labels.
pub type StripedCounterVec = GenericCounterVec<Striped>;

/// A histogram for what happens at every request.
#[derive(Debug, Clone)]
pub struct StripedHistogram(Arc<Distribution>);

#[derive(Debug)]
struct Distribution {
    labels: Vec<proto::LabelPair>,
    /// Upper bounds, ascending.
    bounds: Box<[f64]>,
    /// By stripe: the counts of the buckets, of what is above them, and the sum as the bits of a float.
    stripes: Box<[Lines]>,
}

impl Distribution {
    /// [`Lines`] of each stripe.
    fn stride(&self) -> usize {
        (self.bounds.len() + 2).div_ceil(NUMBERS)
    }

    fn at(&self, stripe: usize, place: usize) -> &AtomicU64 {
        &self.stripes[stripe * self.stride() + place / NUMBERS].0[place % NUMBERS]
    }

    /// How many were counted at `place`, a bucket or what is above them all.
    fn count(&self, place: usize) -> u64 {
        (0..STRIPES).map(|stripe| self.at(stripe, place).load(Ordering::Relaxed)).sum()
    }
}

impl StripedHistogram {
    fn new(labels: Vec<proto::LabelPair>, bounds: &[f64]) -> Self {
        let mut distribution =
            Distribution { labels, bounds: bounds.into(), stripes: Box::default() };
        let lines = STRIPES * distribution.stride();
        distribution.stripes = (0..lines).map(|_| Lines::default()).collect();
        Self(Arc::new(distribution))
    }

    /// Takes a value in.
    pub fn observe(&self, value: f64) {
        let Distribution { bounds, .. } = &*self.0;
        let stripe = stripe();
        let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        self.0.at(stripe, bucket).fetch_add(1, Ordering::Relaxed);
        let add = |sum: u64| (f64::from_bits(sum) + value).to_bits();
        let sum = self.0.at(stripe, bounds.len() + 1);
        sum.update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How many values there were.
    pub fn get_sample_count(&self) -> u64 {
        (0..=self.0.bounds.len()).map(|place| self.0.count(place)).sum()
    }

    /// Their sum.
    pub fn get_sample_sum(&self) -> f64 {
        let place = self.0.bounds.len() + 1;
        let of = |stripe| f64::from_bits(self.0.at(stripe, place).load(Ordering::Relaxed));
        (0..STRIPES).map(of).sum()
    }
}

impl Metric for StripedHistogram {
    fn metric(&self) -> proto::Metric {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.0.bounds.len());
        for (place, bound) in self.0.bounds.iter().enumerate() {
            count += self.0.count(place);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        count += self.0.count(buckets.len());
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count);
        histogram.set_sample_sum(self.get_sample_sum());
        let mut metric = proto::Metric::from_label(self.0.labels.clone());
        metric.set_histogram(histogram);
        metric
    }
}

/// Makes the histograms of a [`StripedHistogramVec`].
#[derive(Debug, Clone)]
pub struct StripedHistogramBuilder;

impl MetricVecBuilder for StripedHistogramBuilder {
    type M = StripedHistogram;
    type P = HistogramOpts;

    fn build<V: AsRef<str>>(
        &self,
        options: &HistogramOpts,
        values: &[V],
    ) -> prometheus::Result<StripedHistogram> {
        let names = &options.common_opts.variable_labels;
        let mut labels: Vec<_> = names
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let mut label = proto::LabelPair::default();
                label.set_name(name.clone());
                label.set_value(value.as_ref().to_owned());
                label
            })
            .collect();
        labels.sort();
        Ok(StripedHistogram::new(labels, &options.buckets))
    }
}

/// Histograms for what happens at every request, with labels.
pub type StripedHistogramVec = MetricVec<StripedHistogramBuilder>;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::metrics::{encode, striped_counter_vec, striped_histogram_vec};

    /// More threads than stripes, each doing `work` a thousand times.
    fn crowd(work: impl Fn() + Sync) {
        thread::scope(|scope| {
            for _ in 0..STRIPES * 2 {
                scope.spawn(|| (0..1_000).for_each(|_| work()));
            }
        });
    }

    #[test]
    fn nothing_that_threads_count_at_once_is_lost() {
        let registry = prometheus::Registry::new();
        let family = striped_counter_vec(&registry, "a_total", "A", &["b"]);
        let counter = family.with_label_values(&["c"]);
        crowd(|| counter.inc_by(2));
        let all = 2 * 1_000 * 2 * STRIPES as u64;
        assert_eq!(counter.get(), all);
        assert!(encode(&registry).contains(&format!("a_total{{b=\"c\"}} {all}\n")));
        counter.reset();
        assert_eq!(counter.get(), 0);
    }

    #[test]
    fn a_histogram_is_shown_as_any_other() {
        let ours = prometheus::Registry::new();
        let bounds = [0.25, 0.5, 1.0];
        let family = striped_histogram_vec(&ours, "a_seconds", "A", &["z", "b"], &bounds);
        let histogram = family.with_label_values(&["1", "2"]);
        let theirs = prometheus::Registry::new();
        let other = crate::metrics::histogram_vec(&theirs, "a_seconds", "A", &["z", "b"], &bounds);
        let other = other.with_label_values(&["1", "2"]);
        // Sums of these are exact, in whatever order they are added.
        for value in [0.125, 0.25, 0.375, 1.0, 7.5] {
            crowd(|| {
                histogram.observe(value);
                other.observe(value);
            });
        }
        assert_eq!(encode(&ours), encode(&theirs));
        assert_eq!(histogram.get_sample_count(), other.get_sample_count());
        assert!((histogram.get_sample_sum() - other.get_sample_sum()).abs() < 1e-9);
    }

    #[test]
    fn more_buckets_than_fit_a_stripe_of_two_lines_are_kept_apart() {
        let bounds: Vec<f64> = (1..=40).map(f64::from).collect();
        let histogram = StripedHistogram::new(Vec::new(), &bounds);
        for bound in &bounds {
            histogram.observe(*bound);
        }
        histogram.observe(41.0);
        for place in 0..=bounds.len() {
            assert_eq!(histogram.0.count(place), 1, "{place}");
        }
        assert!((histogram.get_sample_sum() - 861.0).abs() < 1e-9);
    }
}
