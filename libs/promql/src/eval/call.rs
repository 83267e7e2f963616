//! Functions that need more than one value at a time, labels, or the time.

use std::collections::HashMap;

use holdfast_series::{Labels, METRIC_NAME, stale_marker};

use super::select::absent_labels;
use super::{
    Column, EvalError, Evaluator, Grid, Node, SAME_LABELS, is_filled, merge, seconds, time_column,
};
use crate::functions::{Bucket, Call, bucket_quantile, go_max, go_min, parse_bound};
use crate::plan::Plan;

/// The label that holds the upper bound of a bucket.
const BUCKET_BOUND: &str = "le";

impl Evaluator<'_> {
    pub(super) fn call(&self, call: &Call, args: &[Plan], grid: Grid) -> Result<Node, EvalError> {
        Ok(match call {
            Call::Time => Node::Scalar(seconds(grid).collect()),
            Call::Pi => Node::Scalar(vec![std::f64::consts::PI; grid.steps]),
            Call::Vector => {
                let values = self.scalar(&args[0], grid)?;
                Node::Vector(vec![Column { labels: Labels::empty(), values }])
            }
            Call::Scalar => Node::Scalar(only_values(&self.vector(&args[0], grid)?, grid)),
            Call::Absent => Node::Vector(vec![self.absent(&args[0], grid)?]),
            Call::Timestamp => Node::Vector(self.timestamp(&args[0], grid)?),
            Call::Round => Node::Vector(self.round(args, grid)?),
            Call::Clamp | Call::ClampMax | Call::ClampMin => {
                Node::Vector(self.clamp(call, args, grid)?)
            }
            Call::HistogramQuantile => Node::Vector(self.histogram_quantile(args, grid)?),
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
        })
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
            Plan::Selector(selector) => absent_labels(selector),
            _ => Labels::empty(),
        };
        let mut absent = Column::empty(labels, grid);
        for (step, cell) in absent.values.iter_mut().enumerate() {
            if !columns.iter().any(|column| is_filled(column.values[step])) {
                *cell = 1.0;
            }
        }
        Ok(absent)
    }

    /// The time of the sample for a selector, of the evaluation for anything else.
    fn timestamp(&self, arg: &Plan, grid: Grid) -> Result<Vec<Column>, EvalError> {
        if let Plan::Selector(selector) = arg {
            let columns = self.select(selector, grid, true)?;
            return self.map_values(columns, grid, |_, time| time);
        }
        let times = time_column(grid).values;
        self.map_values(self.vector(arg, grid)?, grid, |step, _| times[step])
    }

    fn round(&self, args: &[Plan], grid: Grid) -> Result<Vec<Column>, EvalError> {
        let to = match args.get(1) {
            Some(to) => self.scalar(to, grid)?,
            None => vec![1.0; grid.steps],
        };
        self.map_values(self.vector(&args[0], grid)?, grid, |step, value| {
            // Divided by the inverse: it is what keeps 0.1 from becoming 0.10000000000000002.
            let inverse = 1.0 / to[step];
            (value * inverse + 0.5).floor() / inverse
        })
    }

    fn clamp(&self, call: &Call, args: &[Plan], grid: Grid) -> Result<Vec<Column>, EvalError> {
        let columns = self.vector(&args[0], grid)?;
        let first = self.scalar(&args[1], grid)?;
        let (min, max) = match call {
            Call::ClampMin => (Some(first), None),
            Call::ClampMax => (None, Some(first)),
            _ => (Some(first), Some(self.scalar(&args[2], grid)?)),
        };
        self.map_values(columns, grid, |step, mut value| {
            let bounds = (min.as_ref().map(|v| v[step]), max.as_ref().map(|v| v[step]));
            if let (Some(min), Some(max)) = bounds
                && max < min
            {
                return stale_marker();
            }
            if let Some(max) = bounds.1 {
                value = go_min(max, value);
            }
            if let Some(min) = bounds.0 {
                value = go_max(min, value);
            }
            value
        })
    }

    fn histogram_quantile(&self, args: &[Plan], grid: Grid) -> Result<Vec<Column>, EvalError> {
        let q = self.scalar(&args[0], grid)?;
        let columns = self.vector(&args[1], grid)?;
        self.charge(columns.len() * grid.steps)?;
        let mut index: HashMap<Labels, usize> = HashMap::new();
        let mut histograms: Vec<(Labels, Vec<(f64, &Column)>)> = Vec::new();
        for column in &columns {
            let Some(bound) = parse_bound(column.labels.value(BUCKET_BOUND)) else { continue };
            let labels = column.labels.filtered(|name| name != BUCKET_BOUND && name != METRIC_NAME);
            let position = *index.entry(labels.clone()).or_insert(histograms.len());
            if position == histograms.len() {
                histograms.push((labels, Vec::new()));
            }
            histograms[position].1.push((bound, column));
        }
        let quantiles = histograms.into_iter().map(|(labels, members)| {
            let mut result = Column::empty(labels, grid);
            let mut buckets = Vec::with_capacity(members.len());
            for (step, cell) in result.values.iter_mut().enumerate() {
                let filled = members.iter().filter(|(_, column)| is_filled(column.values[step]));
                buckets.clear();
                buckets.extend(
                    filled.map(|(bound, c)| Bucket { bound: *bound, count: c.values[step] }),
                );
                if !buckets.is_empty() {
                    *cell = bucket_quantile(q[step], &mut buckets);
                }
            }
            result
        });
        Ok(quantiles.collect())
    }
}

/// The value of the only series at each step; NaN where there is none or more than one.
fn only_values(columns: &[Column], grid: Grid) -> Vec<f64> {
    let only = |step: usize| {
        let mut filled = columns.iter().map(|column| column.values[step]).filter(|v| is_filled(*v));
        match (filled.next(), filled.next()) {
            (Some(value), None) => value,
            _ => f64::NAN,
        }
    };
    (0..grid.steps).map(only).collect()
}

/// Sorts an instant vector by value; NaN comes last either way.
fn sort(columns: &mut [Column], descending: bool) {
    columns.sort_by(|a, b| {
        let (a, b) = (a.values[0], b.values[0]);
        let order = if descending { b.partial_cmp(&a) } else { a.partial_cmp(&b) };
        order.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
}
