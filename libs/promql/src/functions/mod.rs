//! The functions of `PromQL`, pure: numbers in, numbers out. How they are spread over series and steps is the evaluator's business.

mod classic;
mod date;
mod labels;
mod numbers;
mod over_time;
mod range;
mod rate;

use std::fmt;
use std::sync::Arc;

use holdfast_series::Histogram;

pub(crate) use classic::{Bucket, bucket_fraction, bucket_quantile, parse_bound};
pub(crate) use labels::{LabelJoin, LabelReplace, natural_order};
pub(crate) use numbers::{KahanSum, Mean, Variance, go_max, go_min, quantile};
pub(crate) use range::{RangeFunction, Window};

use crate::histogram;

/// A value of a series at one instant.
#[derive(Debug, Clone)]
pub(crate) enum Point {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl From<f64> for Point {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Histogram> for Point {
    fn from(histogram: Histogram) -> Self {
        Self::Histogram(Arc::new(histogram))
    }
}

/// A function of one value.
#[derive(Clone, Copy)]
pub(crate) struct MathFunction(fn(f64) -> f64);

impl MathFunction {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let function: fn(f64) -> f64 = match name {
            "abs" => f64::abs,
            "acos" => f64::acos,
            "acosh" => f64::acosh,
            "asin" => f64::asin,
            "asinh" => f64::asinh,
            "atan" => f64::atan,
            "atanh" => f64::atanh,
            "ceil" => f64::ceil,
            "cos" => f64::cos,
            "cosh" => f64::cosh,
            "deg" => f64::to_degrees,
            "exp" => f64::exp,
            "floor" => f64::floor,
            "ln" => f64::ln,
            "log10" => f64::log10,
            "log2" => f64::log2,
            "rad" => f64::to_radians,
            "sgn" => |value| if value == 0.0 { value } else { value.signum() },
            "sin" => f64::sin,
            "sinh" => f64::sinh,
            "sqrt" => f64::sqrt,
            "tan" => f64::tan,
            "tanh" => f64::tanh,
            "day_of_month" => date::day_of_month,
            "day_of_week" => date::day_of_week,
            "day_of_year" => date::day_of_year,
            "days_in_month" => date::days_in_month,
            "hour" => date::hour,
            "minute" => date::minute,
            "month" => date::month,
            "year" => date::year,
            _ => return None,
        };
        Some(Self(function))
    }

    pub(crate) fn apply(self, value: f64) -> f64 {
        (self.0)(value)
    }
}

impl fmt::Debug for MathFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MathFunction")
    }
}

/// A function that looks at more than one value at a time, or at labels or time.
#[derive(Debug)]
pub(crate) enum Call {
    Absent,
    Clamp,
    ClampMax,
    ClampMin,
    /// Start and end of the query, the distance between them, its step.
    End,
    HistogramFraction,
    HistogramPart(HistogramPart),
    HistogramQuantile,
    HistogramQuantiles,
    Info,
    LabelJoin(Box<LabelJoin>),
    LabelReplace(Box<LabelReplace>),
    /// The larger or smaller of two numbers.
    MaxOf,
    MinOf,
    Pi,
    Range,
    Round,
    Scalar,
    Sort {
        descending: bool,
    },
    SortByLabel {
        descending: bool,
    },
    Start,
    Step,
    Time,
    Timestamp,
    Vector,
}

impl Call {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "absent" => Self::Absent,
            "clamp" => Self::Clamp,
            "clamp_max" => Self::ClampMax,
            "clamp_min" => Self::ClampMin,
            "end" => Self::End,
            "histogram_fraction" => Self::HistogramFraction,
            "histogram_quantiles" => Self::HistogramQuantiles,
            "info" => Self::Info,
            "max_of" => Self::MaxOf,
            "min_of" => Self::MinOf,
            "range" => Self::Range,
            "sort_by_label" => Self::SortByLabel { descending: false },
            "sort_by_label_desc" => Self::SortByLabel { descending: true },
            "start" => Self::Start,
            "step" => Self::Step,
            "histogram_quantile" => Self::HistogramQuantile,
            "pi" => Self::Pi,
            "round" => Self::Round,
            "scalar" => Self::Scalar,
            "sort" => Self::Sort { descending: false },
            "sort_desc" => Self::Sort { descending: true },
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "vector" => Self::Vector,
            name => Self::HistogramPart(HistogramPart::by_name(name)?),
        })
    }

    /// Whether it gives a number and no vector.
    pub(crate) fn is_scalar(&self) -> bool {
        matches!(
            self,
            Self::End
                | Self::MaxOf
                | Self::MinOf
                | Self::Pi
                | Self::Range
                | Self::Scalar
                | Self::Start
                | Self::Step
                | Self::Time
        )
    }
}

/// A figure of a native histogram.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HistogramPart {
    Average,
    Count,
    Deviation,
    Sum,
    Variance,
}

impl HistogramPart {
    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "histogram_avg" => Self::Average,
            "histogram_count" => Self::Count,
            "histogram_stddev" => Self::Deviation,
            "histogram_stdvar" => Self::Variance,
            "histogram_sum" => Self::Sum,
            _ => return None,
        })
    }

    pub(crate) fn of(self, of: &Histogram) -> f64 {
        match self {
            Self::Average => of.sum / of.count,
            Self::Count => of.count,
            Self::Deviation => histogram::variance(of).sqrt(),
            Self::Sum => of.sum,
            Self::Variance => histogram::variance(of),
        }
    }
}
