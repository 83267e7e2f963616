//! What a native histogram says about single observations: quantiles, fractions, variance.
//!
//! Within a bucket observations are taken to be spread evenly on a logarithmic scale, and evenly within the zero bucket and buckets with
//! bounds of their own. Source: Prometheus' documentation of `histogram_quantile`, `histogram_fraction` and `histogram_stddev`.

use holdfast_series::{Bucket, Histogram};

/// All buckets that hold something, ascending by value. A zero bucket without negative (positive) neighbours reaches from (to) zero.
pub(super) fn ascending(histogram: &Histogram) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = histogram.negative().collect();
    buckets.reverse();
    if histogram.zero_count != 0.0 {
        let threshold = histogram.zero_threshold;
        let zero =
            Bucket { lower: -threshold, upper: threshold, count: histogram.zero_count, index: 0 };
        buckets.push(zero);
    }
    buckets.extend(histogram.positive());
    buckets.retain(|bucket| bucket.count != 0.0);
    buckets
}

/// The zero bucket cut to the side on which there are other buckets.
fn cut_at_zero(histogram: &Histogram, bucket: Bucket) -> Bucket {
    let (negative, positive) =
        (!histogram.negative_counts.is_empty(), !histogram.positive_counts.is_empty());
    if histogram.has_custom_bounds() || bucket.lower >= 0.0 || bucket.upper <= 0.0 {
        return bucket;
    }
    match (negative, positive) {
        (false, true) => Bucket { lower: 0.0, ..bucket },
        (true, false) => Bucket { upper: 0.0, ..bucket },
        _ => bucket,
    }
}

fn is_linear(histogram: &Histogram, bucket: &Bucket) -> bool {
    histogram.has_custom_bounds() || (bucket.lower <= 0.0 && bucket.upper >= 0.0)
}

/// The value below which the share `q` of observations lies.
pub(crate) fn quantile(q: f64, histogram: &Histogram) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if histogram.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    // From the nearer end, so that rounding matters least; observations of NaN are in no bucket, and count as if above all.
    let forward = histogram.sum.is_nan() || q < 0.5;
    let mut rank = if forward { q } else { 1.0 - q } * histogram.count;
    let mut buckets = ascending(histogram);
    if !forward {
        buckets.reverse();
    }
    let mut count = 0.0;
    let mut reached = None;
    for bucket in buckets {
        count += bucket.count;
        reached = Some(bucket);
        if count >= rank {
            break;
        }
    }
    let Some(bucket) = reached else { return f64::NAN };
    let mut bucket = cut_at_zero(histogram, bucket);
    if histogram.has_custom_bounds() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return bucket.upper;
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return bucket.lower;
        }
    }
    count = count.min(histogram.count);
    if count < rank {
        return if histogram.sum.is_nan() { f64::NAN } else { bucket.upper };
    }
    rank = if forward { rank - (count - bucket.count) } else { count - rank };
    let share = rank / bucket.count;
    if is_linear(histogram, &bucket) {
        return bucket.lower + (bucket.upper - bucket.lower) * share;
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    if bucket.lower > 0.0 {
        (lower + (upper - lower) * share).exp2()
    } else {
        -(upper + (lower - upper) * (1.0 - share)).exp2()
    }
}

/// The share of observations between two values.
pub(crate) fn fraction(lower: f64, upper: f64, histogram: &Histogram) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let buckets = ascending(histogram);
    // Observations of NaN lie between no values.
    let count = if histogram.sum.is_nan() {
        buckets.iter().map(|bucket| bucket.count).sum()
    } else {
        histogram.count
    };
    let rank = |value: f64| {
        let mut rank = 0.0;
        for bucket in &buckets {
            let bucket = cut_at_zero(histogram, *bucket);
            if bucket.lower >= value {
                break;
            }
            if bucket.upper > value {
                rank += bucket.count * share_below(histogram, &bucket, value);
                break;
            }
            rank += bucket.count;
        }
        rank.min(count)
    };
    (rank(upper) - rank(lower)) / histogram.count
}

/// The share of a bucket's observations below a value within it.
fn share_below(histogram: &Histogram, bucket: &Bucket, value: f64) -> f64 {
    if is_linear(histogram, bucket) {
        if bucket.lower == f64::NEG_INFINITY {
            return 1.0;
        }
        return (value - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    let at = value.abs().log2();
    if value > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - (at - upper) / (lower - upper) }
}

/// The variance, every observation taken to lie in the middle of its bucket.
pub(crate) fn variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut sum = crate::functions::KahanSum::default();
    for bucket in ascending(histogram) {
        let value = if histogram.has_custom_bounds() {
            f64::midpoint(bucket.upper, bucket.lower)
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let middle = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -middle } else { middle }
        };
        sum.add(bucket.count * (value - mean) * (value - mean));
    }
    sum.value() / histogram.count
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results are exact by construction")]
mod tests {
    use super::super::tests::exponential;
    use super::*;

    #[test]
    fn quantiles_are_spread_on_a_logarithmic_scale() {
        // 10 observations in (1, 2], 10 in (2, 4].
        let histogram = exponential(0, 1, &[10.0, 10.0]);
        for (q, expected) in [
            (0.0, 1.0),
            (0.25, std::f64::consts::SQRT_2),
            (0.5, 2.0),
            (0.75, 8_f64.sqrt()),
            (1.0, 4.0),
            (-0.1, f64::NEG_INFINITY),
            (1.1, f64::INFINITY),
        ] {
            let found = quantile(q, &histogram);
            assert!(found == expected || (found - expected).abs() < 1e-12, "{q}: {found}");
        }
        assert!(quantile(0.5, &Histogram::default()).is_nan());
        assert!(quantile(f64::NAN, &histogram).is_nan());
    }

    #[test]
    fn the_zero_bucket_is_linear_and_cut_at_zero() {
        let histogram = Histogram {
            zero_threshold: 0.5,
            zero_count: 10.0,
            count: 20.0,
            ..exponential(0, 1, &[10.0])
        };
        assert_eq!(quantile(0.25, &histogram), 0.25);
        assert_eq!(fraction(-1.0, 0.25, &histogram), 0.25);
        assert_eq!(fraction(0.0, 8.0, &histogram), 1.0);
        assert_eq!(fraction(1.0, f64::INFINITY, &histogram), 0.5);
        assert_eq!(fraction(2.0, 1.0, &histogram), 0.0);
    }

    #[test]
    fn observations_stand_in_the_middle_of_their_bucket() {
        let histogram = Histogram { sum: 20.0 * 8_f64.sqrt(), ..exponential(0, 2, &[20.0]) };
        assert!(variance(&histogram).abs() < 1e-12);
    }
}
