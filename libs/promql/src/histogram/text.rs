//! A native histogram in the HTTP API and in the value of a label.

use std::fmt::Write as _;

use holdfast_series::Histogram;

use super::estimate::ascending;
use crate::format_number;

/// Which bounds belong to a bucket, as Prometheus' HTTP API numbers it: 0 the upper one, 1 the lower one, 3 both.
type Boundaries = u8;

/// The buckets that hold something: boundaries, lower bound, upper bound, count.
pub(crate) fn buckets_shown(histogram: &Histogram) -> Vec<(Boundaries, f64, f64, f64)> {
    let boundaries = |lower: f64, upper: f64| match (histogram.has_custom_bounds(), lower, upper) {
        (false, lower, upper) if lower <= 0.0 && upper >= 0.0 => 3,
        (false, lower, _) if lower < 0.0 => 1,
        (true, f64::NEG_INFINITY, _) => 3,
        _ => 0,
    };
    let buckets = ascending(histogram).into_iter();
    buckets.map(|b| (boundaries(b.lower, b.upper), b.lower, b.upper, b.count)).collect()
}

/// As `count_values` names it: `{count:3, sum:4, (1,2]:3}`.
pub(crate) fn to_text(histogram: &Histogram) -> String {
    let mut text =
        format!("{{count:{}, sum:{}", format_number(histogram.count), format_number(histogram.sum));
    for (boundaries, lower, upper, count) in buckets_shown(histogram) {
        let (open, close) = match boundaries {
            0 => ('(', ']'),
            1 => ('[', ')'),
            _ => ('[', ']'),
        };
        let (lower, upper) = (format_number(lower), format_number(upper));
        let _infallible = write!(text, ", {open}{lower},{upper}{close}:{}", format_number(count));
    }
    text + "}"
}
