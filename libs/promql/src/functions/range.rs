//! Functions of the samples in a range.

use std::fmt;

use holdfast_series::HistogramSample;
use holdfast_series::{Labels, Sample};

use super::numbers::{KahanSum, kahan_mean, kahan_sum, quantile, variance};
use super::{Point, over_time, rate};
use crate::Dialect;
use crate::notes::{Note, Notes};

/// Beyond this many average distances from the edge, a series is taken to begin or end within the range.
const EXTRAPOLATION_DISTANCES: f64 = 1.1;

/// The samples of one series in the range of one step, never empty and without staleness markers.
pub(crate) struct Window<'a> {
    pub(crate) samples: &'a [Sample],
    /// Positions of the samples that stand out from the one before them, as [`RangeFunction::mark`] has found them in the whole series.
    pub(crate) marks: &'a [usize],
    /// The position of the first sample of the window in the whole series.
    pub(crate) first: usize,
    pub(crate) histograms: &'a [HistogramSample],
    /// Edges of the range.
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// When the step is evaluated; not the end of the range if there is an offset.
    pub(crate) now_ms: i64,
    pub(crate) dialect: Dialect,
    /// The scalar arguments, in order.
    pub(crate) params: &'a [f64],
    /// The labels of the series, its metric's name among them.
    pub(crate) labels: &'a Labels,
    pub(crate) notes: &'a Notes,
}

type Compute = fn(&Window<'_>) -> Option<f64>;
type ComputeHistograms = fn(&Window<'_>) -> Option<Point>;

/// A function of the samples in a range; `None` where it says nothing about them.
#[derive(Clone, Copy)]
pub(crate) struct RangeFunction {
    /// Where there are only numbers.
    compute: Compute,
    /// Where there are native histograms; a function without it looks at the numbers alone.
    histograms: Option<ComputeHistograms>,
    /// Which sample stands out from the one before it.
    marks: Option<fn(f64, f64) -> bool>,
    /// It is meant for counters.
    counter: bool,
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
            "changes" | "resets" => |window| Some(window.marks.len() as f64),
            "count_over_time" => |window| Some(window.samples.len() as f64),
            "delta" => |window| window.extrapolated(false, false),
            "deriv" => deriv,
            "double_exponential_smoothing" | "holt_winters" => smooth,
            "first_over_time" => |window| window.values().next(),
            "idelta" => |window| window.last_two(false),
            "increase" => |window| window.extrapolated(true, false),
            "irate" => |window| window.last_two(true),
            "last_over_time" => |window| window.values().next_back(),
            "mad_over_time" => |window| Some(median_absolute_deviation(window)),
            "max_over_time" => |window| window.extreme(greater).map(|best| best.value),
            "min_over_time" => |window| window.extreme(less).map(|best| best.value),
            "predict_linear" => predict_linear,
            "present_over_time" => |_| Some(1.0),
            "quantile_over_time" => |window| {
                let mut values: Vec<f64> = window.values().collect();
                window.notes.check_quantile(window.params[0]);
                Some(quantile(window.params[0], &mut values))
            },
            "rate" => |window| window.extrapolated(true, true),
            "stddev_over_time" => |window| Some(variance(window.values()).sqrt()),
            "stdvar_over_time" => |window| Some(variance(window.values())),
            "sum_over_time" => |window| Some(kahan_sum(window.values())),
            "ts_of_first_over_time" => |window| window.samples.first().map(seconds),
            "ts_of_last_over_time" => |window| window.samples.last().map(seconds),
            "ts_of_max_over_time" => |window| window.extreme(greater_or_equal).map(|s| seconds(&s)),
            "ts_of_min_over_time" => |window| window.extreme(less_or_equal).map(|s| seconds(&s)),
            _ => return None,
        };
        let histograms: Option<ComputeHistograms> = match name {
            "avg_over_time" => Some(|window| over_time::sum(window, true)),
            "changes" => Some(|window| Some(over_time::changes(window).into())),
            "count_over_time" => Some(|window| Some((window.len() as f64).into())),
            "delta" => Some(|window| rate::of_histograms(window, false, false)),
            "first_over_time" => Some(|window| Some(over_time::first(window).1)),
            "idelta" => Some(|window| rate::of_last_two(window, false)),
            "increase" => Some(|window| rate::of_histograms(window, true, false)),
            "irate" => Some(|window| rate::of_last_two(window, true)),
            "last_over_time" => Some(|window| Some(over_time::last(window).1)),
            "present_over_time" => Some(|_| Some(1.0.into())),
            "rate" => Some(|window| rate::of_histograms(window, true, true)),
            "resets" => Some(|window| Some(over_time::resets(window).into())),
            "sum_over_time" => Some(|window| over_time::sum(window, false)),
            "ts_of_first_over_time" => {
                Some(|window| Some((over_time::first(window).0 as f64 / 1000.0).into()))
            }
            "ts_of_last_over_time" => {
                Some(|window| Some((over_time::last(window).0 as f64 / 1000.0).into()))
            }
            _ => None,
        };
        let marks: Option<fn(f64, f64) -> bool> = match name {
            "changes" => {
                Some(|before, value| differs(before, value) && !(before.is_nan() && value.is_nan()))
            }
            "rate" | "increase" | "resets" => Some(|before, value| value < before),
            _ => None,
        };
        let counter = matches!(name, "rate" | "increase");
        let keeps_name = matches!(name, "last_over_time" | "first_over_time");
        Some(Self { compute, histograms, marks, counter, keeps_name })
    }

    pub(crate) fn apply(&self, window: &Window<'_>) -> Option<Point> {
        if window.histograms.is_empty() {
            return (self.compute)(window).map(Point::Float);
        }
        if let Some(compute) = self.histograms {
            return compute(window);
        }
        if window.samples.is_empty() {
            return None;
        }
        window.notes.add(Note::HistogramIgnoredInRange(window.metric()));
        (self.compute)(window).map(Point::Float)
    }

    /// Finds the samples that stand out from the one before them, once for all windows of a series.
    pub(crate) fn mark(&self, samples: &[Sample], marks: &mut Vec<usize>) {
        marks.clear();
        let Some(stands_out) = self.marks else { return };
        let pairs = samples.windows(2).enumerate();
        let found = pairs.filter(|(_, pair)| stands_out(pair[0].value, pair[1].value));
        marks.extend(found.map(|(before, _)| before + 1));
    }

    /// Notes a metric that does not look like the counter it should be.
    pub(crate) fn check_name(&self, labels: &Labels, samples: &[Sample], notes: &Notes) {
        if !self.counter || samples.is_empty() {
            return;
        }
        let name = labels.metric_name();
        let counts = ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end));
        if !counts && !name.is_empty() {
            notes.add(Note::PossibleNonCounter(name.to_owned()));
        }
    }
}

fn seconds(sample: &Sample) -> f64 {
    sample.timestamp_ms as f64 / 1000.0
}

fn greater(value: f64, best: f64) -> bool {
    value > best
}

fn less(value: f64, best: f64) -> bool {
    value < best
}

fn greater_or_equal(value: f64, best: f64) -> bool {
    value >= best
}

fn less_or_equal(value: f64, best: f64) -> bool {
    value <= best
}

impl<'a> Window<'a> {
    fn values(&self) -> impl DoubleEndedIterator<Item = f64> + use<'a> {
        self.samples.iter().map(|sample| sample.value)
    }

    /// Samples of both kinds.
    pub(super) fn len(&self) -> usize {
        self.samples.len() + self.histograms.len()
    }

    /// The metric's name, to tell about it.
    pub(super) fn metric(&self) -> String {
        self.labels.metric_name().to_owned()
    }

    /// The sample whose value beats all others; NaN only if there is nothing else.
    fn extreme(&self, beats: fn(f64, f64) -> bool) -> Option<Sample> {
        self.samples.iter().copied().reduce(|best, sample| {
            if beats(sample.value, best.value) || best.value.is_nan() { sample } else { best }
        })
    }

    /// The change over the range, as if the samples reached to its edges. A counter that falls was reset, and it is never below zero,
    /// so it is not extrapolated to before the time it was zero.
    fn extrapolated(&self, counter: bool, per_second: bool) -> Option<f64> {
        let [first, .., last] = self.samples else { return None };
        let mut change = last.value - first.value;
        if counter {
            for mark in self.marks {
                change += self.samples[mark - self.first - 1].value;
            }
        }
        let mut to_zero = f64::INFINITY;
        let covered = (last.timestamp_ms - first.timestamp_ms) as f64 / 1000.0;
        if counter && change > 0.0 && first.value >= 0.0 {
            to_zero = covered * (first.value / change);
        }
        let instants = (first.timestamp_ms, last.timestamp_ms);
        Some(change * self.factor(instants, self.samples.len(), to_zero, per_second))
    }

    /// What the change between two instants has to be multiplied with to be that of the whole range. There are `count` samples from the
    /// first to the last instant, and the series was zero `to_zero` seconds before the first.
    pub(super) fn factor(
        &self,
        (first_ms, last_ms): (i64, i64),
        count: usize,
        to_zero: f64,
        per_second: bool,
    ) -> f64 {
        let seconds = |from: i64, to: i64| (to - from) as f64 / 1000.0;
        let mut to_start = seconds(self.start_ms, first_ms);
        let mut to_end = seconds(last_ms, self.end_ms);
        let covered = seconds(first_ms, last_ms);
        let distance = covered / (count - 1) as f64;
        let threshold = distance * EXTRAPOLATION_DISTANCES;
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
        let factor = (covered + to_start + to_end) / covered;
        if per_second { factor / seconds(self.start_ms, self.end_ms) } else { factor }
    }

    /// The change between the last two samples, or its rate.
    pub(super) fn last_two(&self, rate: bool) -> Option<f64> {
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
