//! Quantiles of classic histograms.

/// Differences between neighbouring buckets below this share are rounding, not a fault of the histogram.
const TOLERANCE: f64 = 1e-12;

/// A bucket: how many observations were at or below its bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) bound: f64,
    pub(crate) count: f64,
}

/// The bound in a label `le`.
pub(crate) fn parse_bound(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// The value below which the share `q` of observations lies, observations spread evenly within a bucket; and whether buckets had to be
/// raised for it by more than rounding.
pub(crate) fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if !(0.0..=1.0).contains(&q) {
        return (if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY }, false);
    }
    let Some(forced) = prepare(buckets) else { return (f64::NAN, false) };
    let observations = buckets[buckets.len() - 1].count;
    if buckets.len() < 2 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    let last = buckets.len() - 1;
    // A NaN rank is below no count, so the search ends at the last bucket, as it does in Prometheus.
    let index = buckets[..last].iter().position(|bucket| bucket.count >= rank).unwrap_or(last);
    if index == last {
        return (buckets[last - 1].bound, forced);
    }
    let Bucket { bound: end, mut count } = buckets[index];
    if index == 0 && end <= 0.0 {
        return (end, forced);
    }
    let mut start = 0.0;
    if index > 0 {
        let below = buckets[index - 1];
        start = below.bound;
        count -= below.count;
        rank -= below.count;
    }
    (start + (end - start) * (rank / count), forced)
}

/// The share of observations between two values.
pub(crate) fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if prepare(buckets).is_none() || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    let observations = buckets[buckets.len() - 1].count;
    if observations == 0.0 || observations.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank = |value: f64| {
        let (mut start, mut below) = (f64::NEG_INFINITY, 0.0);
        for bucket in buckets.iter() {
            if start >= value {
                break;
            }
            if bucket.bound > value {
                // The first bucket begins at zero if it ends above it, else nothing is known of where its observations are.
                let first = start == f64::NEG_INFINITY;
                let from = if first && bucket.bound > 0.0 { 0.0 } else { start };
                let share = match (value - from) / (bucket.bound - from) {
                    share if share.is_finite() => share.clamp(0.0, 1.0),
                    _ => {
                        if first {
                            1.0
                        } else {
                            0.0
                        }
                    }
                };
                return below + (bucket.count - below) * share;
            }
            (start, below) = (bucket.bound, bucket.count);
        }
        below
    };
    (rank(upper) - rank(lower)) / observations
}

/// Sorts the buckets and makes them cumulative; `None` if the last one does not reach to infinity. Says whether buckets were raised by
/// more than rounding.
fn prepare(buckets: &mut Vec<Bucket>) -> Option<bool> {
    buckets.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    if buckets.last().is_none_or(|last| last.bound != f64::INFINITY) {
        return None;
    }
    coalesce(buckets);
    Some(make_monotonic(buckets))
}

/// Adds up buckets with the same bound (`le="1"` and `le="1.0"`).
#[expect(clippy::float_cmp, reason = "the same bound, written in two ways")]
fn coalesce(buckets: &mut Vec<Bucket>) {
    buckets.dedup_by(|next, kept| {
        let same = next.bound == kept.bound;
        if same {
            kept.count += next.count;
        }
        same
    });
}

/// Raises buckets that hold less than the one before: scrapes of several targets are not of the same instant.
fn make_monotonic(buckets: &mut [Bucket]) -> bool {
    let (mut before, mut forced) = (buckets[0].count, false);
    for bucket in &mut buckets[1..] {
        if almost_equal(before, bucket.count) {
            bucket.count = before;
        } else if bucket.count < before {
            bucket.count = before;
            forced = true;
        } else {
            before = bucket.count;
        }
    }
    forced
}

#[expect(clippy::float_cmp, reason = "the exact case comes first, then the tolerance")]
fn almost_equal(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < TOLERANCE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < TOLERANCE
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results are exact by construction")]
mod tests {
    use super::*;

    fn quantile(q: f64, buckets: &[(f64, f64)]) -> f64 {
        let mut buckets = buckets.iter().map(|&(bound, count)| Bucket { bound, count }).collect();
        bucket_quantile(q, &mut buckets).0
    }

    #[test]
    fn observations_are_spread_evenly_within_a_bucket() {
        const INF: f64 = f64::INFINITY;
        for (q, buckets, expected) in [
            (0.5, vec![(1.0, 10.0), (2.0, 20.0), (INF, 20.0)], 1.0),
            (0.75, vec![(1.0, 10.0), (2.0, 20.0), (INF, 20.0)], 1.5),
            (0.25, vec![(INF, 20.0), (2.0, 20.0), (1.0, 10.0)], 0.5),
            (0.99, vec![(1.0, 10.0), (INF, 20.0)], 1.0),
            (0.5, vec![(-1.0, 10.0), (INF, 10.0)], -1.0),
            (0.5, vec![(1.0, 10.0), (1.0, 10.0), (2.0, 40.0), (INF, 40.0)], 1.0),
            (0.75, vec![(1.0, 10.0), (2.0, 8.0), (4.0, 20.0), (INF, 20.0)], 3.0),
            (-1.0, vec![(INF, 1.0)], -INF),
            (2.0, vec![(INF, 1.0)], INF),
        ] {
            assert_eq!(quantile(q, &buckets), expected, "{q} {buckets:?}");
        }
        for (q, buckets) in [
            (0.5, vec![(1.0, 10.0), (2.0, 20.0)]),
            (0.5, vec![(INF, 20.0)]),
            (0.5, vec![(1.0, 0.0), (INF, 0.0)]),
            (0.5, vec![]),
            (f64::NAN, vec![(1.0, 1.0), (INF, 1.0)]),
        ] {
            assert!(quantile(q, &buckets).is_nan(), "{q} {buckets:?}");
        }
    }
}
