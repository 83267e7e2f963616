//! Functions of the samples in a range.

use std::fmt;

use holdfast_series::Sample;

use super::numbers::{KahanSum, kahan_mean, kahan_sum, quantile, variance};
use crate::Dialect;

/// Beyond this many average distances from the edge, a series is taken to begin or end within the range.
const EXTRAPOLATION_DISTANCES: f64 = 1.1;

/// The samples of one series in the range of one step, never empty and without staleness markers.
pub(crate) struct Window<'a> {
    pub(crate) samples: &'a [Sample],
    /// Edges of the range.
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// When the step is evaluated; not the end of the range if there is an offset.
    pub(crate) now_ms: i64,
    pub(crate) dialect: Dialect,
    /// The scalar arguments, in order.
    pub(crate) params: &'a [f64],
}

type Compute = fn(&Window<'_>) -> Option<f64>;

/// A function of the samples in a range; `None` where it says nothing about them.
#[derive(Clone, Copy)]
pub(crate) struct RangeFunction {
    compute: Compute,
    pub(crate) keeps_name: bool,
}

impl fmt::Debug for RangeFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RangeFunction")
    }
}

impl RangeFunction {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let compute: Compute = match name {
            "avg_over_time" => |window| Some(kahan_mean(window.values())),
            "changes" => {
                |window| Some(window.pairs(|a, b| differs(a, b) && !(a.is_nan() && b.is_nan())))
            }
            "count_over_time" => |window| Some(window.samples.len() as f64),
            "delta" => |window| window.extrapolated(false, false),
            "deriv" => deriv,
            "double_exponential_smoothing" => smooth,
            "first_over_time" => |window| window.values().next(),
            "idelta" => |window| window.last_two(false),
            "increase" => |window| window.extrapolated(true, false),
            "irate" => |window| window.last_two(true),
            "last_over_time" => |window| window.values().next_back(),
            "mad_over_time" => |window| Some(median_absolute_deviation(window)),
            "max_over_time" => |window| window.extreme(|value, best| value > best),
            "min_over_time" => |window| window.extreme(|value, best| value < best),
            "predict_linear" => predict_linear,
            "present_over_time" => |_| Some(1.0),
            "quantile_over_time" => |window| {
                let mut values: Vec<f64> = window.values().collect();
                Some(quantile(window.params[0], &mut values))
            },
            "rate" => |window| window.extrapolated(true, true),
            "resets" => |window| Some(window.pairs(|a, b| b < a)),
            "stddev_over_time" => |window| Some(variance(window.values()).sqrt()),
            "stdvar_over_time" => |window| Some(variance(window.values())),
            "sum_over_time" => |window| Some(kahan_sum(window.values())),
            _ => return None,
        };
        let keeps_name = matches!(name, "last_over_time" | "first_over_time");
        Some(Self { compute, keeps_name })
    }

    pub(crate) fn apply(self, window: &Window<'_>) -> Option<f64> {
        (self.compute)(window)
    }
}

impl<'a> Window<'a> {
    fn values(&self) -> impl DoubleEndedIterator<Item = f64> + use<'a> {
        self.samples.iter().map(|sample| sample.value)
    }

    /// How many neighbours satisfy `test`.
    fn pairs(&self, test: impl Fn(f64, f64) -> bool) -> f64 {
        self.samples.windows(2).filter(|pair| test(pair[0].value, pair[1].value)).count() as f64
    }

    /// The value that beats all others; NaN only if there is nothing else.
    fn extreme(&self, beats: impl Fn(f64, f64) -> bool) -> Option<f64> {
        self.values().reduce(
            |best, value| {
                if beats(value, best) || best.is_nan() { value } else { best }
            },
        )
    }

    /// The change over the range, as if the samples reached to its edges. A counter that falls was reset, and it is never below zero,
    /// so it is not extrapolated to before the time it was zero.
    fn extrapolated(&self, counter: bool, per_second: bool) -> Option<f64> {
        let [first, .., last] = self.samples else { return None };
        let mut change = last.value - first.value;
        if counter {
            for pair in self.samples.windows(2) {
                if pair[1].value < pair[0].value {
                    change += pair[0].value;
                }
            }
        }
        let seconds = |from: i64, to: i64| (to - from) as f64 / 1000.0;
        let mut to_start = seconds(self.start_ms, first.timestamp_ms);
        let mut to_end = seconds(last.timestamp_ms, self.end_ms);
        let covered = seconds(first.timestamp_ms, last.timestamp_ms);
        let distance = covered / (self.samples.len() - 1) as f64;
        let threshold = distance * EXTRAPOLATION_DISTANCES;
        let mut to_zero = f64::INFINITY;
        if counter && change > 0.0 && first.value >= 0.0 {
            to_zero = covered * (first.value / change);
        }
        // The versions differ in which comes first: the bound at zero or the bound by distance.
        if self.dialect == Dialect::V2 && to_zero < to_start {
            to_start = to_zero;
        }
        if to_start >= threshold {
            to_start = distance / 2.0;
        }
        if self.dialect == Dialect::V3 && to_zero < to_start {
            to_start = to_zero;
        }
        if to_end >= threshold {
            to_end = distance / 2.0;
        }
        let mut factor = (covered + to_start + to_end) / covered;
        if per_second {
            factor /= seconds(self.start_ms, self.end_ms);
        }
        Some(change * factor)
    }

    /// The change between the last two samples, or its rate.
    fn last_two(&self, rate: bool) -> Option<f64> {
        let [.., before, last] = self.samples else { return None };
        let milliseconds = last.timestamp_ms - before.timestamp_ms;
        let reset = rate && last.value < before.value;
        let change = if reset { last.value } else { last.value - before.value };
        Some(if rate { change / (milliseconds as f64 / 1000.0) } else { change })
    }

    /// Slope per second and value at `intercept_ms` of the line that fits best.
    fn line(&self, intercept_ms: i64) -> (f64, f64) {
        let first = self.samples[0].value;
        // NaN differs from itself, so it is no flat line.
        if !self.samples[1..].iter().any(|sample| differs(sample.value, first)) {
            let flat = if first.is_infinite() { f64::NAN } else { 0.0 };
            return (flat, if first.is_infinite() { f64::NAN } else { first });
        }
        let mut sums = [KahanSum::default(); 4];
        for sample in self.samples {
            let x = (sample.timestamp_ms - intercept_ms) as f64 / 1000.0;
            let y = sample.value;
            for (sum, value) in sums.iter_mut().zip([x, y, x * y, x * x]) {
                sum.add(value);
            }
        }
        let [x, y, xy, xx] = sums.map(KahanSum::value);
        let count = self.samples.len() as f64;
        let slope = (xy - x * y / count) / (xx - x * x / count);
        (slope, y / count - slope * x / count)
    }
}

#[expect(clippy::float_cmp, reason = "any change counts")]
fn differs(a: f64, b: f64) -> bool {
    a != b
}

fn deriv(window: &Window<'_>) -> Option<f64> {
    let [first, .., _] = window.samples else { return None };
    Some(window.line(first.timestamp_ms).0)
}

fn predict_linear(window: &Window<'_>) -> Option<f64> {
    let [_, .., _] = window.samples else { return None };
    let (slope, intercept) = window.line(window.now_ms);
    Some(slope * window.params[0] + intercept)
}

fn median_absolute_deviation(window: &Window<'_>) -> f64 {
    let mut values: Vec<f64> = window.values().collect();
    let median = quantile(0.5, &mut values);
    let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
    quantile(0.5, &mut deviations)
}

/// Holt's double exponential smoothing with a smoothing and a trend factor between 0 and 1.
fn smooth(window: &Window<'_>) -> Option<f64> {
    let [level_factor, trend_factor] = *window.params else { return None };
    let [first, second, ..] = window.samples else { return None };
    let mut trend = second.value - first.value;
    let (mut before, mut level) = (0.0, first.value);
    for (index, sample) in window.samples.iter().enumerate().skip(1) {
        if index > 1 {
            trend = trend_factor * (level - before) + (1.0 - trend_factor) * trend;
        }
        before = level;
        level = level_factor * sample.value + (1.0 - level_factor) * (level + trend);
    }
    Some(level)
}
