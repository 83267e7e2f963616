//! Where rules get their answers from and leave their results.
//!
//! Rules do not care whether series are in the embedded store or at a remote Prometheus. [`Source`] is all they need; it is synchronous
//! because the engine is, and implemented at the edge. What a rule records is handed over at once, so that the next rule of its group
//! finds it like anything else; laying the samples of a group over the store was tried and cost a search through all of them per rule.

use std::time::Duration;

use holdfast_promql::{EvalError, Expression, Value, VectorSample};
use holdfast_series::{Labels, Sample};

/// How one expression is to be evaluated.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The instant, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Step of subqueries that name none: the interval of the group.
    pub interval: Duration,
}

/// Answers for rules, and a place for their results.
pub trait Source {
    /// The result of an expression.
    ///
    /// # Errors
    /// If it has none, or the series cannot be asked for.
    fn instant(&self, expression: &Expression, at: At) -> Result<Value, EvalError>;

    /// The newest sample of every series `metric{alertname="…"}` within a stretch of time, both ends included. Series that have ended
    /// have a staleness marker as their newest sample or are left out.
    ///
    /// # Errors
    /// If the series cannot be asked for.
    fn newest(
        &self,
        metric: &str,
        alertname: &str,
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<(Labels, Sample)>, EvalError>;

    /// Keeps samples that rules produced, each at its own time.
    fn record(&self, samples: &[VectorSample]);

    /// A clock that only goes forward, to time the rules by.
    fn clock(&self) -> Duration;
}
