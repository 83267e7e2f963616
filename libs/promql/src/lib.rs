//! `PromQL`: parsed once, evaluated over anything that can select series.
//!
//! An [`Expression`] is text turned into a checked plan: selectors with their matchers, functions looked up, label lists ready. It is
//! evaluated at one instant ([`instant`]) or over a range ([`range`]) against a [`Querier`], such as the embedded store. Both ways run
//! the same code: every node of the plan is evaluated for all steps at once, a column of values per series, so a range query selects
//! and decodes each series once. Series go through selectors, functions and aggregations one at a time, so that a sum over a hundred
//! thousand series holds one of them and the sum. Rejected: one evaluation per step, as it repeats selection and label work a thousand
//! times; a list of all series between nodes, as most of it would be thrown away by the next; a copy of what several rules of a tick
//! select, which was built and measured (`benches/rules.rs`): 49 ms of CPU with it and 44 ms without for ten rules over 20,000 series, as
//! the store decodes the last minutes of a series in less time than it takes to copy them.
//!
//! The yardstick is Prometheus: what it answers, this answers, its traps included. [`Dialect`] tells its second version from its
//! third. Native histograms are values like numbers: selected, added, scaled and compared, in `rate` and its family, `*_over_time`,
//! `sum`, `avg` and the `histogram_*` functions.
//!
//! What is not there: positions in warnings and errors; `fill` modifiers, `or` between label matchers, duration expressions, `smoothed`
//! and `anchored` selectors, `integral` and `start_timestamp` (all experimental in Prometheus); histograms with different bounds of
//! their own are not reconciled but left out with a warning.

mod compile;
mod error;
mod eval;
mod expression;
mod functions;
mod guard;
mod histogram;
mod json;
mod notes;
mod plan;
mod querier;
mod text;
mod value;

pub use error::{EvalError, ParseError, QueryError};
pub use eval::{instant, range};
pub use expression::Expression;
pub use json::format_value;
pub use querier::{Each, Querier, Selection, SeriesView};
pub use text::{format_number, parse_duration};
pub use value::{Answer, Series, Value, VectorSample};

/// Which version of Prometheus the answers follow where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// 2.x: ranges and look-back include a sample exactly at their left end.
    V2,
    /// 3.x: they do not.
    #[default]
    V3,
}

/// How a query is evaluated, and its bounds.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// How old the newest sample of a series may be for an instant selector to find it.
    pub lookback_ms: i64,
    /// Step of subqueries that name none.
    pub subquery_step_ms: i64,
    /// Which version's answers.
    pub dialect: Dialect,
    /// Most samples and values held in memory by one query.
    pub samples_max: usize,
    /// Most steps of a range query.
    pub steps_max: usize,
    /// Asked once per series and node; what it says ends the query. This is how the caller's clock gets in.
    pub interrupted: Option<&'a (dyn Fn() -> Option<Interruption> + Sync)>,
}

/// Why a caller ends a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// It takes longer than it may: [`EvalError::TimedOut`].
    TimedOut,
    /// Nobody waits for the answer any more: [`EvalError::Canceled`].
    Canceled,
}

impl Options<'_> {
    /// Prometheus' default look-back.
    const LOOKBACK_MS: i64 = 5 * 60 * 1000;
    /// Prometheus' default evaluation interval.
    const SUBQUERY_STEP_MS: i64 = 60 * 1000;
    /// 16 bytes each: a query stays below 160 MB.
    const SAMPLES_MAX: usize = 10_000_000;
    /// Prometheus' bound on points per series.
    const STEPS_MAX: usize = 11_000;
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            lookback_ms: Self::LOOKBACK_MS,
            subquery_step_ms: Self::SUBQUERY_STEP_MS,
            dialect: Dialect::default(),
            samples_max: Self::SAMPLES_MAX,
            steps_max: Self::STEPS_MAX,
            interrupted: None,
        }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("lookback_ms", &self.lookback_ms)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
