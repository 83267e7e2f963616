//! Functions that need more than one value at a time, labels, or the time.

use std::cmp::Ordering;

use holdfast_series::Labels;

use super::{Column, EvalError, Evaluator, Grid, Node, SAME_LABELS, merge};
use crate::functions::{Call, go_max, go_min, natural_order};
use crate::plan::Plan;

impl Evaluator<'_> {
    pub(super) fn call(&self, call: &Call, args: &[Plan], grid: Grid) -> Result<Node, EvalError> {
        Ok(match call {
            Call::Time => Node::Scalar(grid.seconds().collect()),
            Call::Start => constant(self.ends.0 as f64 / 1000.0, grid),
            Call::End => constant(self.ends.1 as f64 / 1000.0, grid),
            Call::Range => constant((self.ends.1 - self.ends.0) as f64 / 1000.0, grid),
            Call::Step => constant(self.step_ms as f64 / 1000.0, grid),
            Call::MaxOf => self.of_two(args, grid, go_max)?,
            Call::MinOf => self.of_two(args, grid, go_min)?,
            Call::Pi => Node::Scalar(vec![std::f64::consts::PI; grid.steps]),
            Call::Vector => {
                let values = self.scalar(&args[0], grid)?;
                Node::Vector(vec![Column::new(Labels::empty(), values)])
            }
            Call::Scalar => Node::Scalar(only_values(&self.vector(&args[0], grid)?, grid)),
            Call::Absent => Node::Vector(vec![self.absent(&args[0], grid)?]),
            Call::HistogramQuantile => Node::Vector(self.histogram_quantile(args, grid)?),
            Call::HistogramQuantiles => Node::Vector(self.histogram_quantiles(args, grid)?),
            Call::HistogramFraction => Node::Vector(self.histogram_fraction(args, grid)?),
            Call::Info => Node::Vector(self.info(args, grid)?),
            Call::LabelReplace(replace) => {
                Node::Vector(self.relabel(&args[0], grid, |labels| replace.apply(labels))?)
            }
            Call::LabelJoin(join) => {
                Node::Vector(self.relabel(&args[0], grid, |labels| join.apply(labels))?)
            }
            Call::Sort { descending } => {
                let mut columns = self.vector(&args[0], grid)?;
                if grid.steps == 1 {
                    sort(&mut columns, *descending);
                }
                Node::Vector(columns)
            }
            Call::SortByLabel { descending } => {
                let mut columns = self.vector(&args[0], grid)?;
                if grid.steps == 1 {
                    sort_by_label(&mut columns, &args[1..], *descending);
                }
                Node::Vector(columns)
            }
            // These look at one series at a time and are evaluated as such.
            Call::Clamp
            | Call::ClampMax
            | Call::ClampMin
            | Call::HistogramPart(_)
            | Call::Round
            | Call::Timestamp => return Err(EvalError::execution("expected an instant vector")),
        })
    }

    fn of_two(
        &self,
        args: &[Plan],
        grid: Grid,
        function: fn(f64, f64) -> f64,
    ) -> Result<Node, EvalError> {
        let (a, b) = (self.scalar(&args[0], grid)?, self.scalar(&args[1], grid)?);
        Ok(Node::Scalar(a.iter().zip(&b).map(|(a, b)| function(*a, *b)).collect()))
    }

    fn relabel(
        &self,
        arg: &Plan,
        grid: Grid,
        change: impl Fn(&Labels) -> Labels,
    ) -> Result<Vec<Column>, EvalError> {
        let mut columns = self.vector(arg, grid)?;
        for column in &mut columns {
            column.labels = change(&column.labels);
        }
        merge(columns, SAME_LABELS)
    }

    fn absent(&self, arg: &Plan, grid: Grid) -> Result<Column, EvalError> {
        let columns = self.vector(arg, grid)?;
        let labels = match arg {
            Plan::Selector(selector) => selector.absent_labels(),
            _ => Labels::empty(),
        };
        let mut absent = Column::empty(labels, grid);
        for (step, cell) in absent.values.iter_mut().enumerate() {
            if !columns.iter().any(|column| column.is_present(step)) {
                *cell = 1.0;
            }
        }
        Ok(absent)
    }
}

/// The same number at each step.
fn constant(value: f64, grid: Grid) -> Node {
    Node::Scalar(vec![value; grid.steps])
}

/// The value of the only series at each step; NaN where there is none or more than one.
fn only_values(columns: &[Column], grid: Grid) -> Vec<f64> {
    let only = |step: usize| {
        let mut filled = columns.iter().filter_map(|column| column.float(step));
        match (filled.next(), filled.next()) {
            (Some(value), None) => value,
            _ => f64::NAN,
        }
    };
    (0..grid.steps).map(only).collect()
}

/// Sorts an instant vector by its labels in the order they are named, then by all.
fn sort_by_label(columns: &mut [Column], names: &[Plan], descending: bool) {
    columns.sort_by(|a, b| {
        let first = names.iter().filter_map(|name| match name {
            Plan::Text(name) => Some(natural_order(a.labels.value(name), b.labels.value(name))),
            _ => None,
        });
        let order = first.fold(Ordering::Equal, Ordering::then);
        let order = order.then_with(|| a.labels.cmp(&b.labels));
        if descending { order.reverse() } else { order }
    });
}

/// Sorts an instant vector by value; NaN comes last either way. Histograms have no order and go.
fn sort(columns: &mut Vec<Column>, descending: bool) {
    columns.retain(|column| column.float(0).is_some());
    columns.sort_by(|a, b| {
        let (a, b) = (a.values[0], b.values[0]);
        let order = if descending { b.partial_cmp(&a) } else { a.partial_cmp(&b) };
        order.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
}
