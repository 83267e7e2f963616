//! What can go wrong with a query, in Prometheus' words where it has some.

use std::error::Error;

/// The text is not an expression, or asks for something that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// What was found and what was expected.
    pub message: String,
}

/// The source of series failed.
#[derive(Debug, thiserror::Error)]
#[error("select series from {source_name}")]
pub struct QueryError {
    /// Which source.
    pub source_name: String,
    /// Why.
    #[source]
    pub cause: Box<dyn Error + Send + Sync>,
}

/// Why an evaluation has no result.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The parameters of the query make no sense.
    #[error("{0}")]
    BadQuery(String),
    /// The expression cannot be evaluated on these series.
    #[error("{0}")]
    Execution(String),
    /// More samples than the query may touch.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// It took longer than it may.
    #[error("query timed out in expression evaluation")]
    TimedOut,
    /// The caller no longer wants the answer.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// The source of series failed.
    #[error(transparent)]
    Query(QueryError),
}

impl EvalError {
    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self::Execution(message.into())
    }

    /// The `errorType` of Prometheus' HTTP API.
    pub fn api_type(&self) -> &'static str {
        match self {
            Self::BadQuery(_) => "bad_data",
            Self::Execution(_) | Self::TooManySamples => "execution",
            Self::TimedOut => "timeout",
            Self::Canceled => "canceled",
            Self::Query(_) => "internal",
        }
    }
}
