//! Evaluation of a plan, node by node, for all steps at once.
//!
//! A node evaluates to a [`Node`]: a number per step, or columns, one per series, with a value per step. Most cells of a column are
//! filled; one that is not holds the staleness marker, which no arithmetic can produce (it is a signalling NaN) and which selectors
//! never let through.

mod aggregate;
mod binary;
mod call;
mod select;

use std::cell::Cell;
use std::collections::HashMap;

use holdfast_series::{Labels, Sample, is_stale, stale_marker};

use crate::plan::{At, Kind, Plan, Shift};
use crate::{EvalError, Expression, Options, Querier, Series, Value, VectorSample};

/// Evaluates at one instant.
///
/// # Errors
/// If the expression cannot be evaluated on the series there are, or a bound is reached.
pub fn instant(
    querier: &dyn Querier,
    expression: &Expression,
    ts_ms: i64,
    options: &Options<'_>,
) -> Result<Value, EvalError> {
    let grid = Grid { start_ms: ts_ms, step_ms: 1, steps: 1 };
    let evaluator = Evaluator { querier, options, ends: (ts_ms, ts_ms), used: Cell::new(0) };
    let at = |value| Sample { timestamp_ms: ts_ms, value };
    if let Plan::Matrix(source) = &*expression.plan {
        return Ok(Value::Matrix(evaluator.matrix(source, grid)?));
    }
    Ok(match evaluator.eval(&expression.plan, grid)? {
        Node::Scalar(values) => Value::Scalar(at(values[0])),
        Node::Text(text) => Value::String { timestamp_ms: ts_ms, text },
        Node::Vector(columns) => {
            let filled = columns.into_iter().filter(|column| is_filled(column.values[0]));
            let sample = |column: Column| VectorSample {
                labels: column.labels,
                sample: at(column.values[0]),
            };
            Value::Vector(filled.map(sample).collect())
        }
    })
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
) -> Result<Value, EvalError> {
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
    let evaluator = Evaluator { querier, options, ends: (start_ms, end_ms), used: Cell::new(0) };
    let columns = match evaluator.eval(&expression.plan, grid)? {
        Node::Scalar(values) => vec![Column { labels: Labels::empty(), values }],
        Node::Vector(columns) => columns,
        Node::Text(_) => Vec::new(),
    };
    let mut series: Vec<Series> =
        columns.into_iter().filter_map(|column| column.into_series(grid)).collect();
    series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    Ok(Value::Matrix(series))
}

/// The instants at which a node is evaluated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    start_ms: i64,
    step_ms: i64,
    steps: usize,
}

impl Grid {
    #[expect(clippy::cast_possible_wrap, reason = "steps are bounded by memory")]
    fn time(self, step: usize) -> i64 {
        self.start_ms + self.step_ms * step as i64
    }

    fn end_ms(self) -> i64 {
        self.time(self.steps - 1)
    }

    fn times(self) -> impl Iterator<Item = i64> {
        (0..self.steps).map(move |step| self.time(step))
    }
}

/// One series of a result, a value per step.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    labels: Labels,
    values: Vec<f64>,
}

impl Column {
    fn empty(labels: Labels, grid: Grid) -> Self {
        Self { labels, values: vec![stale_marker(); grid.steps] }
    }

    fn into_series(self, grid: Grid) -> Option<Series> {
        let filled = self.values.iter().enumerate().filter(|(_, value)| is_filled(**value));
        let sample =
            |(step, value): (usize, &f64)| Sample { timestamp_ms: grid.time(step), value: *value };
        let samples: Vec<Sample> = filled.map(sample).collect();
        (!samples.is_empty()).then_some(Series { labels: self.labels, samples })
    }
}

fn is_filled(value: f64) -> bool {
    !is_stale(value)
}

/// What a node of the plan evaluates to.
#[derive(Debug)]
pub(crate) enum Node {
    Scalar(Vec<f64>),
    Vector(Vec<Column>),
    Text(String),
}

const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

/// Puts columns with the same labels together, which is an error where two of them have a value at the same step.
fn merge(columns: Vec<Column>, message: &str) -> Result<Vec<Column>, EvalError> {
    let mut index: HashMap<Labels, usize> = HashMap::with_capacity(columns.len());
    let mut merged: Vec<Column> = Vec::with_capacity(columns.len());
    for column in columns {
        let Some(&known) = index.get(&column.labels) else {
            index.insert(column.labels.clone(), merged.len());
            merged.push(column);
            continue;
        };
        for (value, new) in merged[known].values.iter_mut().zip(column.values) {
            if is_filled(new) {
                if is_filled(*value) {
                    return Err(EvalError::execution(message));
                }
                *value = new;
            }
        }
    }
    Ok(merged)
}

/// One evaluation.
pub(crate) struct Evaluator<'a> {
    querier: &'a dyn Querier,
    options: &'a Options<'a>,
    /// Start and end of the query itself, for `@ start()` and `@ end()`. The last step may be before the end.
    ends: (i64, i64),
    /// Samples read and values computed so far.
    used: Cell<usize>,
}

impl Evaluator<'_> {
    fn eval(&self, plan: &Plan, grid: Grid) -> Result<Node, EvalError> {
        self.check()?;
        Ok(match plan {
            Plan::Number(number) => Node::Scalar(vec![*number; grid.steps]),
            Plan::Text(text) => Node::Text(text.clone()),
            Plan::Selector(selector) => Node::Vector(self.select(selector, grid, false)?),
            Plan::Matrix(_) => {
                return Err(EvalError::execution("range vector where a value was expected"));
            }
            Plan::Negate(arg) => match self.eval(arg, grid)? {
                Node::Vector(columns) => Node::Vector(self.map_values(columns, grid, |_, v| -v)?),
                Node::Scalar(values) => Node::Scalar(values.into_iter().map(|v| -v).collect()),
                text @ Node::Text(_) => text,
            },
            Plan::Aggregate(aggregate) => Node::Vector(self.aggregate(aggregate, grid)?),
            Plan::Binary(binary) => self.binary(binary, grid)?,
            Plan::Math { function, arg } => {
                let columns = match arg {
                    Some(arg) => self.vector(arg, grid)?,
                    None => vec![time_column(grid)],
                };
                Node::Vector(self.map_values(columns, grid, |_, value| function.apply(value))?)
            }
            Plan::Range { function, source, params } => {
                Node::Vector(self.range_function(*function, source, params, grid)?)
            }
            Plan::AbsentOverTime(source) => Node::Vector(self.absent_over_time(source, grid)?),
            Plan::Call { call, args } => self.call(call, args, grid)?,
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

    /// Applies `function` to step and value of every filled cell and drops the metric's name.
    fn map_values(
        &self,
        mut columns: Vec<Column>,
        grid: Grid,
        function: impl Fn(usize, f64) -> f64,
    ) -> Result<Vec<Column>, EvalError> {
        self.charge(columns.len() * grid.steps)?;
        for column in &mut columns {
            column.labels = column.labels.without_name();
            for (step, value) in column.values.iter_mut().enumerate() {
                if is_filled(*value) {
                    *value = function(step, *value);
                }
            }
        }
        merge(columns, SAME_LABELS)
    }

    /// When something shifted looks, for the evaluation at `time_ms`.
    fn reference_ms(&self, shift: Shift, time_ms: i64) -> i64 {
        let at = match shift.at {
            None => time_ms,
            Some(At::Start) => self.ends.0,
            Some(At::End) => self.ends.1,
            Some(At::Time(at)) => at,
        };
        at - shift.offset_ms
    }

    /// Counts samples against the query's bound.
    fn charge(&self, samples: usize) -> Result<(), EvalError> {
        self.used.set(self.used.get().saturating_add(samples));
        if self.used.get() > self.options.samples_max {
            return Err(EvalError::TooManySamples);
        }
        self.check()
    }

    fn check(&self) -> Result<(), EvalError> {
        match self.options.interrupted {
            Some(interrupted) if interrupted() => Err(EvalError::TimedOut),
            _ => Ok(()),
        }
    }
}

/// The time of each step in seconds, without labels.
fn time_column(grid: Grid) -> Column {
    Column { labels: Labels::empty(), values: seconds(grid).collect() }
}

fn seconds(grid: Grid) -> impl Iterator<Item = f64> {
    grid.times().map(|time_ms| time_ms as f64 / 1000.0)
}
