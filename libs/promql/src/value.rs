//! Results of queries.

use std::sync::Arc;

use holdfast_series::{Histogram, HistogramSample};
use holdfast_series::{Labels, Sample};

/// One series of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSample {
    /// What names it.
    pub labels: Labels,
    /// Its value; the timestamp is that of the evaluation. NaN beside a histogram.
    pub sample: Sample,
    /// Its value if it is a native histogram.
    pub histogram: Option<Arc<Histogram>>,
}

/// One series of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What names it.
    pub labels: Labels,
    /// Its samples in order.
    pub samples: Vec<Sample>,
    /// Its native histograms in order.
    pub histograms: Vec<HistogramSample>,
}

/// What a query returns.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    Scalar(Sample),
    /// Series with one value each.
    Vector(Vec<VectorSample>),
    /// Series with any number of samples.
    Matrix(Vec<Series>),
    /// A text.
    String {
        /// When it was evaluated.
        timestamp_ms: i64,
        /// The text.
        text: String,
    },
}

/// What a query returns, and what it wants to tell about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The result.
    pub value: Value,
    /// Why the result may be wrong.
    pub warnings: Vec<String>,
    /// Why the query may be.
    pub infos: Vec<String>,
}

impl Value {
    /// The `resultType` of Prometheus' HTTP API.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Scalar(_) => "scalar",
            Self::Vector(_) => "vector",
            Self::Matrix(_) => "matrix",
            Self::String { .. } => "string",
        }
    }
}
