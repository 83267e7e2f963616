//! Arithmetic with native histograms, as Prometheus does it.
//!
//! Two histograms are brought to the same layout before they are added or compared: the coarser of their resolutions and the wider of
//! their zero buckets. Exponential histograms and those with bounds of their own do not mix, nor do different sets of bounds.

mod estimate;
mod layout;
mod text;

use holdfast_series::{Histogram, ResetHint};

pub(crate) use estimate::{fraction, quantile, variance};
pub(crate) use text::{buckets_shown, to_text};

use self::layout::{Counts, Layout};
use crate::notes::Note;

/// Why two histograms cannot be combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// One has exponential buckets, the other bounds of its own.
    Kinds,
    /// Both have bounds of their own, and these differ.
    Bounds,
}

impl Mismatch {
    pub(crate) fn note(self, metric: String) -> Note {
        match self {
            Self::Kinds => Note::MixedExponentialAndCustom(metric),
            Self::Bounds => Note::IncompatibleCustomBuckets(metric),
        }
    }
}

/// `a + b · factor`, bucket by bucket, where `factor` is 1 or -1.
pub(crate) fn combined(a: &Histogram, b: &Histogram, factor: f64) -> Result<Histogram, Mismatch> {
    let (mut left, right) = layout::common(a, b)?;
    left.zero_count += right.zero_count * factor;
    left.positive = merged(&left.positive, &right.positive, factor);
    left.negative = merged(&left.negative, &right.negative, factor);
    let mut result = left.into_histogram(a);
    result.count = a.count + b.count * factor;
    result.sum = a.sum + b.sum * factor;
    result.reset_hint = combined_hint(a.reset_hint, b.reset_hint);
    Ok(result)
}

fn combined_hint(a: ResetHint, b: ResetHint) -> ResetHint {
    match (a, b) {
        (ResetHint::Gauge, _) | (_, ResetHint::Gauge) => ResetHint::Gauge,
        (a, b) if a == b => a,
        _ => ResetHint::Unknown,
    }
}

fn merged(a: &Counts, b: &Counts, factor: f64) -> Counts {
    let mut merged = Counts::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(&&(left, count)), Some(&&(right, other))) if left == right => {
                merged.push((left, count + other * factor));
                a.next();
                b.next();
            }
            (Some(&&(left, count)), other) if other.is_none_or(|(right, _)| left < *right) => {
                merged.push((left, count));
                a.next();
            }
            (_, Some(&&(right, count))) => {
                merged.push((right, count * factor));
                b.next();
            }
            _ => return merged,
        }
    }
}

/// Every count and the sum multiplied. Below zero it is a gauge from then on.
pub(crate) fn scaled(histogram: &Histogram, factor: f64) -> Histogram {
    let mut scaled = histogram.clone();
    for count in scaled.positive_counts.iter_mut().chain(&mut scaled.negative_counts) {
        *count *= factor;
    }
    scaled.zero_count *= factor;
    scaled.count *= factor;
    scaled.sum *= factor;
    if factor < 0.0 {
        scaled.reset_hint = ResetHint::Gauge;
    }
    scaled
}

/// Every count and the sum divided. By zero, there are no buckets left, as in Prometheus.
pub(crate) fn divided(histogram: &Histogram, by: f64) -> Histogram {
    let mut divided = histogram.clone();
    for count in divided.positive_counts.iter_mut().chain(&mut divided.negative_counts) {
        *count /= by;
    }
    divided.zero_count /= by;
    divided.count /= by;
    divided.sum /= by;
    if by < 0.0 {
        divided.reset_hint = ResetHint::Gauge;
    }
    if by == 0.0 {
        divided.positive_spans.clear();
        divided.positive_counts.clear();
        divided.negative_spans.clear();
        divided.negative_counts.clear();
    }
    divided
}

/// Whether both hold the same observations: empty buckets do not count.
pub(crate) fn equal(a: &Histogram, b: &Histogram) -> bool {
    #[expect(clippy::float_cmp, reason = "histograms are compared exactly")]
    let numbers = a.count == b.count
        && (a.sum == b.sum || (a.sum.is_nan() && b.sum.is_nan()))
        && a.zero_threshold == b.zero_threshold
        && a.zero_count == b.zero_count;
    let same = a.schema == b.schema && a.custom_bounds == b.custom_bounds;
    numbers && same && {
        let (a, b) = (Layout::of(a), Layout::of(b));
        a.positive == b.positive && a.negative == b.negative
    }
}

/// Whether a counter was reset between two histograms.
pub(crate) fn was_reset(before: &Histogram, after: &Histogram) -> bool {
    match after.reset_hint {
        ResetHint::Reset => return true,
        ResetHint::NotReset => return false,
        ResetHint::Unknown | ResetHint::Gauge => {}
    }
    let finer = !after.has_custom_bounds() && after.schema > before.schema;
    if after.count < before.count || finer || after.zero_threshold < before.zero_threshold {
        return true;
    }
    let Ok((before, after)) = layout::common(before, after) else { return true };
    let fell = |before: &Counts, after: &Counts| {
        before.iter().any(|(index, count)| {
            let found = after.binary_search_by_key(index, |(index, _)| *index);
            found.map_or(0.0, |at| after[at].1) < *count
        })
    };
    after.zero_count < before.zero_count
        || fell(&before.positive, &after.positive)
        || fell(&before.negative, &after.negative)
}

#[cfg(test)]
mod tests {
    use holdfast_series::Span;

    use super::*;

    pub(super) fn exponential(schema: i8, first: i32, counts: &[f64]) -> Histogram {
        let length = u32::try_from(counts.len()).unwrap();
        Histogram {
            schema,
            count: counts.iter().sum(),
            sum: 10.0,
            positive_spans: vec![Span { offset: first, length }],
            positive_counts: counts.to_vec(),
            ..Histogram::default()
        }
    }

    #[test]
    fn the_coarser_resolution_wins() {
        // Buckets 1 and 2 of schema 1 are bucket 1 of schema 0, bucket 3 and 4 are bucket 2.
        let (fine, coarse) = (exponential(1, 1, &[1.0, 2.0, 3.0]), exponential(0, 1, &[10.0]));
        let sum = combined(&fine, &coarse, 1.0).unwrap();
        assert_eq!((sum.schema, sum.count, sum.sum), (0, 16.0, 20.0));
        assert_eq!(
            sum.positive().map(|b| (b.index, b.count)).collect::<Vec<_>>(),
            [(1, 13.0), (2, 3.0)]
        );
        let back = combined(&sum, &coarse, -1.0).unwrap();
        assert_eq!(back.positive_counts, [3.0, 3.0]);
    }

    #[test]
    fn the_wider_zero_bucket_swallows_buckets() {
        // With schema 0, bucket 1 holds (1, 2]: a threshold of 1.5 lies within it, so it grows to 2.
        let wide = Histogram {
            zero_threshold: 1.5,
            zero_count: 1.0,
            count: 1.0,
            ..exponential(0, 5, &[])
        };
        let sum = combined(&exponential(0, 0, &[1.0, 2.0, 4.0]), &wide, 1.0).unwrap();
        assert_eq!((sum.zero_threshold, sum.zero_count), (2.0, 4.0));
        assert_eq!(sum.positive().map(|b| (b.index, b.count)).collect::<Vec<_>>(), [(2, 4.0)]);
    }

    #[test]
    fn kinds_and_bounds_do_not_mix() {
        let custom = |bounds: &[f64]| Histogram {
            schema: holdfast_series::CUSTOM_BOUNDS_SCHEMA,
            custom_bounds: bounds.to_vec(),
            ..exponential(0, 0, &[1.0])
        };
        let plain = exponential(0, 0, &[1.0]);
        assert_eq!(combined(&plain, &custom(&[1.0]), 1.0), Err(Mismatch::Kinds));
        assert_eq!(combined(&custom(&[2.0]), &custom(&[1.0]), 1.0), Err(Mismatch::Bounds));
        assert_eq!(combined(&custom(&[2.0]), &custom(&[2.0]), 1.0).unwrap().positive_counts, [2.0]);
    }

    #[test]
    fn a_reset_shows_in_the_counts() {
        let (low, high) = (exponential(0, 1, &[1.0, 1.0]), exponential(0, 1, &[2.0, 1.0]));
        assert!(!was_reset(&low, &high) && was_reset(&high, &low));
        let moved = exponential(0, 2, &[9.0]);
        assert!(was_reset(&low, &moved), "a bucket is gone");
        let told = Histogram { reset_hint: ResetHint::NotReset, ..low.clone() };
        assert!(!was_reset(&high, &told));
        assert!(was_reset(&low, &exponential(1, 1, &[5.0, 5.0])), "a finer resolution");
    }
}
