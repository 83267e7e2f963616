//! Native histograms: the sparse, exponential buckets of Prometheus as one value of a series.
//!
//! Counts are floating point, also those that were exposed as integers: everything `PromQL` does with a histogram (rates, sums,
//! averages) leaves the integers, and below 2^53 nothing is lost. Bucket counts are absolute, not deltas. A series ends with the
//! staleness marker among its float samples, so there is one marker, not two.
//!
//! Schemas: -4 to 8 are exponential, bucket `i` holds values in `(2^(2^-schema · (i-1)), 2^(2^-schema · i)]`; -53 has bounds of its own
//! (`custom_bounds`), which is how classic histograms are stored as native ones. Source: Prometheus' `model/histogram`.

pub(crate) mod codec;
mod held;

use std::sync::Arc;

pub(crate) use held::Held;

/// The schema whose bounds are listed in [`Histogram::custom_bounds`].
pub const CUSTOM_BOUNDS_SCHEMA: i8 = -53;
/// Exponential schemas.
const SCHEMAS: std::ops::RangeInclusive<i8> = -4..=8;
/// Most buckets of one histogram, both signs together: an SDK keeps 160, and a scrape must not fill the memory with one line.
const BUCKETS_MAX: usize = 20_000;

/// A run of buckets next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Buckets left out since the end of the run before; for the first run the index of its first bucket.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// What the exposition says about a counter reset before this histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetHint {
    /// Nothing; look at the counts.
    #[default]
    Unknown,
    /// There was one.
    Reset,
    /// There was none.
    NotReset,
    /// It is a gauge: counts may fall without a reset.
    Gauge,
}

/// A histogram at one instant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// About counter resets.
    pub reset_hint: ResetHint,
    /// Resolution: -4 to 8, or [`CUSTOM_BOUNDS_SCHEMA`].
    pub schema: i8,
    /// Values from minus this to this are in the zero bucket.
    pub zero_threshold: f64,
    /// Count of the zero bucket.
    pub zero_count: f64,
    /// All observations, those that were NaN included.
    pub count: f64,
    /// Sum of all observations.
    pub sum: f64,
    /// Where the buckets of positive values are.
    pub positive_spans: Vec<Span>,
    /// Their counts, as many as the spans' lengths together.
    pub positive_counts: Vec<f64>,
    /// Where the buckets of negative values are.
    pub negative_spans: Vec<Span>,
    /// Their counts.
    pub negative_counts: Vec<f64>,
    /// Upper bounds for [`CUSTOM_BOUNDS_SCHEMA`], ascending, `+Inf` left out.
    pub custom_bounds: Vec<f64>,
}

/// A histogram of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The value.
    pub histogram: Arc<Histogram>,
}

/// One bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower bound; for negative values the one further from zero.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Observations in it.
    pub count: f64,
    /// Its index within its sign.
    pub index: i32,
}

/// A histogram that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// The schema is unknown.
    #[error("histogram schema {0} is not between -4 and 8")]
    Schema(i8),
    /// Spans and counts do not fit.
    #[error("histogram has {counts} bucket counts and spans for {spans}")]
    Spans {
        /// Buckets that the spans name.
        spans: usize,
        /// Counts given.
        counts: usize,
    },
    /// A span after the first goes back.
    #[error("histogram has a span with a negative offset")]
    Offset,
    /// A count is below zero or not a number.
    #[error("histogram has a negative count")]
    NegativeCount,
    /// Bounds do not ascend, or there are none where there should be.
    #[error("histogram has custom bounds that do not ascend or do not fit its schema")]
    Bounds,
    /// There are too many buckets.
    #[error("histogram has more than {BUCKETS_MAX} buckets")]
    TooLarge,
}

impl Histogram {
    /// Whether it fits together; whatever comes from outside has to pass before it is stored.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), HistogramError> {
        if !SCHEMAS.contains(&self.schema) && self.schema != CUSTOM_BOUNDS_SCHEMA {
            return Err(HistogramError::Schema(self.schema));
        }
        let parts = [
            (&self.positive_spans, &self.positive_counts),
            (&self.negative_spans, &self.negative_counts),
        ];
        for (spans, counts) in parts {
            check_spans(spans, counts)?;
        }
        if self.positive_counts.len() + self.negative_counts.len() > BUCKETS_MAX {
            return Err(HistogramError::TooLarge);
        }
        let gauge = self.reset_hint == ResetHint::Gauge;
        let counts = self.positive_counts.iter().chain(&self.negative_counts);
        if !gauge && counts.chain([&self.zero_count, &self.count]).any(|&count| count < 0.0) {
            return Err(HistogramError::NegativeCount);
        }
        self.check_bounds()
    }

    fn check_bounds(&self) -> Result<(), HistogramError> {
        let custom = self.schema == CUSTOM_BOUNDS_SCHEMA;
        let ascend = self.custom_bounds.is_sorted_by(|a, b| a < b);
        let finite = self.custom_bounds.iter().all(|bound| bound.is_finite());
        // One bucket more than bounds: the last one ends at infinity.
        let last = last_index(&self.positive_spans);
        let fits = last.is_none_or(|last| {
            usize::try_from(last).is_ok_and(|last| last <= self.custom_bounds.len())
        });
        let signs = self.negative_spans.is_empty() && self.zero_count == 0.0;
        let valid =
            if custom { ascend && finite && fits && signs } else { self.custom_bounds.is_empty() };
        if valid { Ok(()) } else { Err(HistogramError::Bounds) }
    }

    /// Bucket counts as messages carry them: integers as differences to the bucket before, floats as they are.
    pub fn counts(deltas: &[i64], floats: &[f64]) -> Vec<f64> {
        if deltas.is_empty() {
            return floats.to_vec();
        }
        let mut count = 0_i64;
        let add = |delta: &i64| {
            count = count.saturating_add(*delta);
            count as f64
        };
        deltas.iter().map(add).collect()
    }

    /// Whether its buckets have bounds of their own.
    pub fn has_custom_bounds(&self) -> bool {
        self.schema == CUSTOM_BOUNDS_SCHEMA
    }

    /// Buckets of positive values, ascending; empty ones within a span included.
    pub fn positive(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.positive_spans, &self.positive_counts).map(|(index, count)| {
            let (lower, upper) = self.bounds(index);
            Bucket { lower, upper, count, index }
        })
    }

    /// Buckets of negative values, from zero outwards.
    pub fn negative(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.negative_spans, &self.negative_counts).map(|(index, count)| {
            let (lower, upper) = self.bounds(index);
            Bucket { lower: -upper, upper: -lower, count, index }
        })
    }

    /// Bounds of the bucket `index` of positive values.
    pub fn bounds(&self, index: i32) -> (f64, f64) {
        if !self.has_custom_bounds() {
            let before = index.saturating_sub(1);
            return (exponential_bound(self.schema, before), exponential_bound(self.schema, index));
        }
        let bound = |index: i32| usize::try_from(index).ok().map(|at| self.custom_bounds.get(at));
        let lower = bound(index.saturating_sub(1)).map_or(f64::NEG_INFINITY, or_infinite);
        let upper = bound(index).map_or(f64::NEG_INFINITY, or_infinite);
        (lower, upper)
    }

    /// Bytes it occupies.
    pub fn size_bytes(&self) -> usize {
        let spans = self.positive_spans.len() + self.negative_spans.len();
        let floats =
            self.positive_counts.len() + self.negative_counts.len() + self.custom_bounds.len();
        size_of::<Self>() + (spans + floats) * 8
    }
}

fn or_infinite(bound: Option<&f64>) -> f64 {
    bound.copied().unwrap_or(f64::INFINITY)
}

/// `2^(index · 2^-schema)`, the upper bound of a bucket; the last finite one is the largest number, as in Prometheus.
fn exponential_bound(schema: i8, index: i32) -> f64 {
    let exponent = f64::from(index) * f64::from(-i32::from(schema)).exp2();
    let bound = exponent.exp2();
    // Only at the exponent 1024 itself; what is beyond is infinite.
    if bound.is_infinite() && exponent <= 1024.0 { f64::MAX } else { bound }
}

/// Counts with the index of their bucket.
pub fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    let mut next = 0_i32;
    let indices = spans.iter().flat_map(move |span| {
        let first = next.saturating_add(span.offset);
        next = first.saturating_add_unsigned(span.length);
        first..next
    });
    indices.zip(counts.iter().copied())
}

fn last_index(spans: &[Span]) -> Option<i32> {
    let end = spans.iter().fold(0_i32, |end, span| {
        end.saturating_add(span.offset).saturating_add_unsigned(span.length)
    });
    (!spans.is_empty()).then(|| end.saturating_sub(1))
}

fn check_spans(spans: &[Span], counts: &[f64]) -> Result<(), HistogramError> {
    let named = spans.iter().fold(0_usize, |sum, span| sum.saturating_add(span.length as usize));
    if named != counts.len() {
        return Err(HistogramError::Spans { spans: named, counts: counts.len() });
    }
    if spans.iter().skip(1).any(|span| span.offset < 0) {
        return Err(HistogramError::Offset);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "bounds are exact powers of two")]
mod tests {
    use super::*;

    fn histogram() -> Histogram {
        Histogram {
            schema: 0,
            zero_threshold: 0.001,
            zero_count: 1.0,
            count: 8.0,
            sum: 20.0,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            positive_counts: vec![1.0, 2.0, 3.0],
            negative_spans: vec![Span { offset: 1, length: 1 }],
            negative_counts: vec![1.0],
            ..Histogram::default()
        }
    }

    #[test]
    fn buckets_have_the_bounds_of_their_schema() {
        let histogram = histogram();
        assert_eq!(histogram.check(), Ok(()));
        let positive: Vec<_> = histogram.positive().map(|b| (b.lower, b.upper, b.count)).collect();
        assert_eq!(positive, [(0.5, 1.0, 1.0), (1.0, 2.0, 2.0), (4.0, 8.0, 3.0)]);
        let negative: Vec<_> = histogram.negative().map(|b| (b.lower, b.upper, b.count)).collect();
        assert_eq!(negative, [(-2.0, -1.0, 1.0)]);
        let fine = Histogram { schema: 1, ..histogram };
        assert_eq!(fine.bounds(2), (std::f64::consts::SQRT_2, 2.0));
        assert_eq!(fine.bounds(2048).1, f64::MAX);
    }

    #[test]
    fn custom_bounds_end_at_infinity() {
        let histogram = Histogram {
            schema: CUSTOM_BOUNDS_SCHEMA,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_counts: vec![1.0, 1.0, 1.0],
            custom_bounds: vec![1.0, 5.0],
            ..Histogram::default()
        };
        assert_eq!(histogram.check(), Ok(()));
        let bounds: Vec<_> = histogram.positive().map(|b| (b.lower, b.upper)).collect();
        assert_eq!(bounds, [(f64::NEG_INFINITY, 1.0), (1.0, 5.0), (5.0, f64::INFINITY)]);
    }

    #[test]
    fn integers_come_as_differences() {
        assert_eq!(Histogram::counts(&[1, 2, -3, 4], &[]), [1.0, 3.0, 0.0, 4.0]);
        assert_eq!(Histogram::counts(&[], &[0.5]), [0.5]);
    }

    #[test]
    fn contradictions_are_named() {
        let bad = |change: fn(&mut Histogram)| {
            let mut histogram = histogram();
            change(&mut histogram);
            histogram.check().unwrap_err()
        };
        assert_eq!(bad(|h| h.schema = 9), HistogramError::Schema(9));
        let missing = HistogramError::Spans { spans: 3, counts: 2 };
        assert_eq!(bad(|h| h.positive_counts.truncate(2)), missing);
        assert_eq!(bad(|h| h.positive_spans[1].offset = -1), HistogramError::Offset);
        assert_eq!(bad(|h| h.zero_count = -1.0), HistogramError::NegativeCount);
        assert_eq!(bad(|h| h.custom_bounds.push(1.0)), HistogramError::Bounds);
    }
}
