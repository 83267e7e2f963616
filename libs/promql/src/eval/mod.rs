//! Evaluation of a plan, node by node, for all steps at once.
//!
//! Nodes that look at one series at a time (selectors, functions of ranges, functions of values, arithmetic with a number) hand each
//! series on to the node above as soon as it is computed, see [`rows`]; an aggregation above them folds it into its group at once, and
//! no list of all series ever exists. Nodes that need all series (vector matching, sorting) collect them as columns.

mod aggregate;
mod binary;
mod call;
mod column;
mod fold;
mod grouping;
mod histogram;
mod info;
mod matching;
mod rank;
mod rows;
mod select;
mod windows;

use std::cell::Cell;

use holdfast_series::{Labels, Sample};

use self::column::{Column, Grid, SAME_LABELS, has_twins, is_filled, merge};
use crate::functions::Point;
use crate::notes::Notes;
use crate::plan::{At, Kind, Plan, Shift};
use crate::{Answer, EvalError, Expression, Interruption, Options, Querier, Series, Value};

/// Evaluates at one instant.
///
/// # Errors
/// If the expression cannot be evaluated on the series there are, or a bound is reached.
pub fn instant(
    querier: &dyn Querier,
    expression: &Expression,
    ts_ms: i64,
    options: &Options<'_>,
) -> Result<Answer, EvalError> {
    let grid = Grid::instant(ts_ms);
    let evaluator = Evaluator::new(querier, options, (ts_ms, ts_ms), 0);
    let value = if let Plan::Matrix(source) = &*expression.plan {
        Value::Matrix(evaluator.matrix(source, grid)?)
    } else {
        match evaluator.eval(&expression.plan, grid)? {
            Node::Scalar(values) => Value::Scalar(Sample { timestamp_ms: ts_ms, value: values[0] }),
            Node::Text(text) => Value::String { timestamp_ms: ts_ms, text },
            Node::Vector(columns) => {
                let samples = columns.into_iter().filter_map(|c| c.into_vector_sample(ts_ms));
                Value::Vector(samples.collect())
            }
        }
    };
    Ok(evaluator.answer(value))
}

/// Evaluates from `start_ms` to `end_ms`, both included, every `step_ms`. Returns a matrix, sorted by labels.
///
/// # Errors
/// As [`instant`]; also if there would be too many steps or the expression is no number or instant vector.
pub fn range(
    querier: &dyn Querier,
    expression: &Expression,
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
    options: &Options<'_>,
) -> Result<Answer, EvalError> {
    let bad = |text: &str| Err(EvalError::BadQuery(text.to_owned()));
    if step_ms <= 0 {
        return bad(
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        );
    }
    if end_ms < start_ms {
        return bad("end timestamp must not be before start time");
    }
    let steps = end_ms.saturating_sub(start_ms) / step_ms + 1;
    let Some(steps) = usize::try_from(steps).ok().filter(|steps| *steps <= options.steps_max)
    else {
        return bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        );
    };
    let found = match expression.plan.kind() {
        Kind::Scalar | Kind::Vector => None,
        Kind::Matrix => Some("range vector"),
        Kind::Text => Some("string"),
    };
    if let Some(found) = found {
        return bad(&format!(
            "invalid expression type {found:?} for range query, must be Scalar or instant Vector"
        ));
    }
    let grid = Grid { start_ms, step_ms, steps };
    let evaluator = Evaluator::new(querier, options, (start_ms, end_ms), step_ms);
    let columns = match evaluator.eval(&expression.plan, grid)? {
        Node::Scalar(values) => vec![Column::new(Labels::empty(), values)],
        Node::Vector(columns) => columns,
        Node::Text(_) => Vec::new(),
    };
    let mut series: Vec<Series> =
        columns.into_iter().filter_map(|column| column.into_series(grid)).collect();
    series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    Ok(evaluator.answer(Value::Matrix(series)))
}

/// What a node of the plan evaluates to.
#[derive(Debug)]
pub(crate) enum Node {
    Scalar(Vec<f64>),
    Vector(Vec<Column>),
    Text(String),
}

/// One evaluation.
pub(crate) struct Evaluator<'a> {
    querier: &'a dyn Querier,
    options: &'a Options<'a>,
    /// Start and end of the query itself, for `@ start()` and `@ end()`. The last step may be before the end.
    ends: (i64, i64),
    /// Step of the query itself; 0 for an instant.
    step_ms: i64,
    /// Samples held and values computed so far.
    used: Cell<usize>,
    notes: Notes,
}

impl<'a> Evaluator<'a> {
    fn new(
        querier: &'a dyn Querier,
        options: &'a Options<'a>,
        ends: (i64, i64),
        step_ms: i64,
    ) -> Self {
        Self { querier, options, ends, step_ms, used: Cell::new(0), notes: Notes::default() }
    }

    fn answer(self, value: Value) -> Answer {
        let (warnings, infos) = self.notes.into_texts();
        Answer { value, warnings, infos }
    }

    fn eval(&self, plan: &Plan, grid: Grid) -> Result<Node, EvalError> {
        self.check()?;
        if plan.is_row_wise() {
            return Ok(Node::Vector(self.collect(plan, grid)?));
        }
        Ok(match plan {
            Plan::Number(number) => Node::Scalar(vec![*number; grid.steps]),
            Plan::Text(text) => Node::Text(text.clone()),
            Plan::Matrix(_) => {
                return Err(EvalError::execution("range vector where a value was expected"));
            }
            Plan::Negate(arg) => Node::Scalar(self.scalar(arg, grid)?.iter().map(|v| -v).collect()),
            Plan::Aggregate(aggregate) => Node::Vector(self.aggregate(aggregate, grid)?),
            Plan::Binary(binary) => self.binary(binary, grid)?,
            Plan::Math { function, .. } => {
                let values = grid.seconds().map(|time| function.apply(time)).collect();
                Node::Vector(vec![Column::new(Labels::empty(), values)])
            }
            Plan::AbsentOverTime(source) => Node::Vector(self.absent_over_time(source, grid)?),
            Plan::Call { call, args } => self.call(call, args, grid)?,
            Plan::Selector(_) | Plan::Range { .. } => {
                return Err(EvalError::execution("expected an instant vector"));
            }
        })
    }

    /// Evaluates what the plan knows to be an instant vector.
    fn vector(&self, plan: &Plan, grid: Grid) -> Result<Vec<Column>, EvalError> {
        match self.eval(plan, grid)? {
            Node::Vector(columns) => Ok(columns),
            _ => Err(EvalError::execution("expected an instant vector")),
        }
    }

    /// Evaluates what the plan knows to be a number.
    fn scalar(&self, plan: &Plan, grid: Grid) -> Result<Vec<f64>, EvalError> {
        match self.eval(plan, grid)? {
            Node::Scalar(values) => Ok(values),
            _ => Err(EvalError::execution("expected a scalar")),
        }
    }

    /// When something shifted looks, for the evaluation at `time_ms`.
    fn reference_ms(&self, shift: Shift, time_ms: i64) -> i64 {
        reference_ms(shift, self.ends, time_ms)
    }

    /// Counts samples that are kept against the query's bound.
    fn charge(&self, samples: usize) -> Result<(), EvalError> {
        self.used.set(self.used.get().saturating_add(samples));
        self.afford(0)
    }

    /// Checks that `samples` more could be held, for samples that are let go at once.
    fn afford(&self, samples: usize) -> Result<(), EvalError> {
        if self.used.get().saturating_add(samples) > self.options.samples_max {
            return Err(EvalError::TooManySamples);
        }
        self.check()
    }

    fn check(&self) -> Result<(), EvalError> {
        match self.options.interrupted.and_then(|interrupted| interrupted()) {
            None => Ok(()),
            Some(Interruption::TimedOut) => Err(EvalError::TimedOut),
            Some(Interruption::Canceled) => Err(EvalError::Canceled),
        }
    }
}

/// When something shifted looks, in a query from `ends.0` to `ends.1`, for the evaluation at `time_ms`.
fn reference_ms(shift: Shift, ends: (i64, i64), time_ms: i64) -> i64 {
    let at = match shift.at {
        None => time_ms,
        Some(At::Start) => ends.0,
        Some(At::End) => ends.1,
        Some(At::Time(at)) => at,
    };
    at - shift.offset_ms
}
