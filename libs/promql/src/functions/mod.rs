//! The functions of `PromQL`, pure: numbers in, numbers out. How they are spread over series and steps is the evaluator's business.

mod date;
mod histogram;
mod labels;
mod numbers;
mod range;

use std::fmt;

pub(crate) use histogram::{Bucket, bucket_quantile, parse_bound};
pub(crate) use labels::{LabelJoin, LabelReplace};
pub(crate) use numbers::{go_max, go_min, kahan_mean, kahan_sum, quantile, variance};
pub(crate) use range::{RangeFunction, Window};

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
    HistogramQuantile,
    LabelJoin(Box<LabelJoin>),
    LabelReplace(Box<LabelReplace>),
    Pi,
    Round,
    Scalar,
    Sort { descending: bool },
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
            "histogram_quantile" => Self::HistogramQuantile,
            "pi" => Self::Pi,
            "round" => Self::Round,
            "scalar" => Self::Scalar,
            "sort" => Self::Sort { descending: false },
            "sort_desc" => Self::Sort { descending: true },
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "vector" => Self::Vector,
            _ => return None,
        })
    }
}
