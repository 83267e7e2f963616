//! What a query wants to tell beside its answer: warnings (the answer may be wrong) and infos (the query may be), in Prometheus' words.
//!
//! Prometheus adds line and column to each text; the parser used here keeps no positions, so they are missing.

use std::cell::RefCell;
use std::fmt;

/// Most texts of a kind in an answer, as in Prometheus' HTTP API.
const SHOWN_MAX: usize = 10;
/// Most texts of a kind remembered while a query runs: one per metric name, and a query over everything has thousands.
const KEPT_MAX: usize = 1_000;

/// Something to tell. Names are those of metrics, empty where there is none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Note {
    InvalidRatio { got: f64, used: f64 },
    InvalidQuantile(f64),
    BadBucketLabel { metric: String, label: String },
    MixedInRange(String),
    MixedInAggregation,
    MixedClassicAndNative(String),
    NotACounterHistogram(String),
    NotAGaugeHistogram(String),
    MixedExponentialAndCustom(String),
    IncompatibleCustomBuckets(String),
    IncompatibleBucketLayout(&'static str),
    PossibleNonCounter(String),
    ForcedMonotonicity(String),
    IncompatibleTypes { lhs: &'static str, op: &'static str, rhs: &'static str },
    HistogramIgnoredInAggregation(&'static str),
    HistogramIgnoredInRange(String),
    QuantileOfNan { metric: String, skewed: bool },
    FractionOfNan(String),
}

impl Note {
    fn is_info(&self) -> bool {
        matches!(
            self,
            Self::PossibleNonCounter(_)
                | Self::ForcedMonotonicity(_)
                | Self::IncompatibleTypes { .. }
                | Self::HistogramIgnoredInAggregation(_)
                | Self::HistogramIgnoredInRange(_)
                | Self::QuantileOfNan { .. }
                | Self::FractionOfNan(_)
        )
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_info() { "PromQL info: " } else { "PromQL warning: " })?;
        match self {
            Self::InvalidRatio { got, used } => {
                write!(f, "ratio value should be between -1 and 1, got {got}, capping to {used}")
            }
            Self::InvalidQuantile(q) => {
                write!(
                    f,
                    "quantile value should be between 0 and 1, got {}",
                    crate::format_number(*q)
                )
            }
            Self::BadBucketLabel { metric, label } => write!(
                f,
                "bucket label \"le\" is missing or has a malformed value of {label:?} for metric name {metric:?}"
            ),
            Self::MixedInRange(metric) => {
                write!(f, "encountered a mix of histograms and floats for metric name {metric:?}")
            }
            Self::MixedInAggregation => {
                f.write_str("encountered a mix of histograms and floats for aggregation")
            }
            Self::MixedClassicAndNative(metric) => write!(
                f,
                "vector contains a mix of classic and native histograms for metric name {metric:?}"
            ),
            Self::NotACounterHistogram(metric) => {
                write!(f, "this native histogram metric is not a counter: {metric:?}")
            }
            Self::NotAGaugeHistogram(metric) => {
                write!(f, "this native histogram metric is not a gauge: {metric:?}")
            }
            Self::MixedExponentialAndCustom(metric) => write!(
                f,
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {metric:?}"
            ),
            Self::IncompatibleCustomBuckets(metric) => write!(
                f,
                "vector contains histograms with incompatible custom buckets for metric name {metric:?}"
            ),
            Self::IncompatibleBucketLayout(op) => {
                write!(f, "incompatible bucket layout encountered for binary operator {op}")
            }
            Self::PossibleNonCounter(metric) => write!(
                f,
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric:?}"
            ),
            Self::ForcedMonotonicity(metric) => write!(
                f,
                "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric name {metric:?}"
            ),
            Self::IncompatibleTypes { lhs, op, rhs } => write!(
                f,
                "incompatible sample types encountered for binary operator {op:?}: {lhs} {op} {rhs}"
            ),
            Self::HistogramIgnoredInAggregation(op) => {
                write!(f, "ignored histogram in {op} aggregation")
            }
            Self::HistogramIgnoredInRange(metric) => write!(
                f,
                "ignored histograms in a range containing both floats and histograms for metric name {metric:?}"
            ),
            Self::QuantileOfNan { metric, skewed } => {
                let result = if *skewed { "skewed higher" } else { "NaN" };
                write!(
                    f,
                    "input to histogram_quantile has NaN observations, result is {result} for metric name {metric:?}"
                )
            }
            Self::FractionOfNan(metric) => write!(
                f,
                "input to histogram_fraction has NaN observations, which are excluded from all fractions for metric name {metric:?}"
            ),
        }
    }
}

/// The notes of one evaluation, each once.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Vec<Note>>);

impl Notes {
    pub(crate) fn add(&self, note: Note) {
        let mut notes = self.0.borrow_mut();
        if notes.len() < KEPT_MAX && !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Notes a quantile that is none.
    pub(crate) fn check_quantile(&self, q: f64) {
        if !(0.0..=1.0).contains(&q) {
            self.add(Note::InvalidQuantile(q));
        }
    }

    /// Notes those that are none.
    pub(crate) fn check_quantiles(&self, q: &[f64]) {
        for q in q {
            self.check_quantile(*q);
        }
    }

    /// Warnings and infos, each kind cut to what an answer shows.
    pub(crate) fn into_texts(self) -> (Vec<String>, Vec<String>) {
        let (infos, warnings): (Vec<Note>, Vec<Note>) =
            self.0.into_inner().into_iter().partition(Note::is_info);
        (shown(&warnings, "warning"), shown(&infos, "info"))
    }
}

fn shown(notes: &[Note], kind: &str) -> Vec<String> {
    let mut texts: Vec<String> = notes.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    if notes.len() > SHOWN_MAX {
        texts.push(format!("{} more {kind} annotations omitted", notes.len() - SHOWN_MAX));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_note_is_told_once_and_only_so_many() {
        let notes = Notes::default();
        notes.add(Note::InvalidQuantile(2.0));
        for index in 0..24 {
            notes.add(Note::PossibleNonCounter(format!("m{}", index % 12)));
        }
        let (warnings, infos) = notes.into_texts();
        assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 2"]);
        assert_eq!(infos.len(), 11);
        assert_eq!(infos[10], "2 more info annotations omitted");
    }
}
