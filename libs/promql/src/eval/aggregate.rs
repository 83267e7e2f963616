//! Aggregations: many series become one per group, or the few that stand out.

use std::collections::HashMap;

use holdfast_series::{Labels, METRIC_NAME};

use super::{Column, EvalError, Evaluator, Grid, SAME_LABELS, is_filled, merge};
use crate::functions::{kahan_mean, kahan_sum, quantile, variance};
use crate::plan::{Aggregate, AggregateOp, LabelList, Plan};
use crate::{Dialect, format_number};

struct Group {
    labels: Labels,
    members: Vec<Column>,
}

impl LabelList {
    /// The labels that put a series into its group.
    pub(super) fn group_labels(&self, labels: &Labels) -> Labels {
        match self {
            Self::Only(names) => labels.filtered(|name| names.iter().any(|n| n == name)),
            Self::Except(names) => {
                labels.filtered(|name| name != METRIC_NAME && !names.iter().any(|n| n == name))
            }
        }
    }
}

impl Evaluator<'_> {
    pub(super) fn aggregate(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let columns = self.vector(&aggregate.arg, grid)?;
        self.charge(columns.len() * grid.steps)?;
        let groups = group(columns, &aggregate.grouping);
        let fold = |function: fn(&mut [f64]) -> f64| fold_groups(&groups, grid, |_, v| function(v));
        Ok(match aggregate.op {
            AggregateOp::Sum => fold(|values| kahan_sum(values.iter().copied())),
            AggregateOp::Avg => fold(|values| kahan_mean(values.iter().copied())),
            AggregateOp::Min => fold(|values| extreme(values, |value, best| value < best)),
            AggregateOp::Max => fold(|values| extreme(values, |value, best| value > best)),
            AggregateOp::Count => fold(|values| values.len() as f64),
            AggregateOp::Group => fold(|_| 1.0),
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                let root = aggregate.op == AggregateOp::Stddev;
                // The second version does not look at a single value, not even at an infinite one.
                let single = self.options.dialect == Dialect::V2;
                fold_groups(&groups, grid, |_, values| {
                    let variance = match values {
                        [_] if single => 0.0,
                        values => variance(values.iter().copied()),
                    };
                    if root { variance.sqrt() } else { variance }
                })
            }
            AggregateOp::Quantile => {
                let q = self.scalar(param(aggregate)?, grid)?;
                fold_groups(&groups, grid, |step, values| quantile(q[step], values))
            }
            AggregateOp::Topk | AggregateOp::Bottomk => {
                let k = self.scalar(param(aggregate)?, grid)?;
                let top = aggregate.op == AggregateOp::Topk;
                let mut kept = Vec::new();
                for group in &groups {
                    kept.extend(outstanding(group, &k, top, grid)?);
                }
                kept
            }
            AggregateOp::CountValues => {
                let Plan::Text(label) = param(aggregate)? else {
                    return Err(EvalError::execution("expected a label name"));
                };
                let counted = groups.iter().flat_map(|group| count_values(group, label, grid));
                merge(counted.collect(), SAME_LABELS)?
            }
        })
    }
}

fn param(aggregate: &Aggregate) -> Result<&Plan, EvalError> {
    aggregate.param.as_ref().ok_or_else(|| EvalError::execution("expected a parameter"))
}

fn group(columns: Vec<Column>, grouping: &LabelList) -> Vec<Group> {
    let mut index: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for column in columns {
        let labels = grouping.group_labels(&column.labels);
        let position = *index.entry(labels.clone()).or_insert(groups.len());
        if position == groups.len() {
            groups.push(Group { labels, members: Vec::new() });
        }
        groups[position].members.push(column);
    }
    groups
}

/// One column per group: `function` of step and values at each step that has any.
fn fold_groups(
    groups: &[Group],
    grid: Grid,
    function: impl Fn(usize, &mut [f64]) -> f64,
) -> Vec<Column> {
    let mut values = Vec::new();
    let mut fold = |group: &Group| {
        let mut result = Column::empty(group.labels.clone(), grid);
        for (step, cell) in result.values.iter_mut().enumerate() {
            values.clear();
            let at_step = group.members.iter().map(|member| member.values[step]);
            values.extend(at_step.filter(|value| is_filled(*value)));
            if !values.is_empty() {
                *cell = function(step, &mut values);
            }
        }
        result
    };
    groups.iter().map(&mut fold).collect()
}

/// The value that beats all others; NaN only if there is nothing else.
fn extreme(values: &[f64], beats: impl Fn(f64, f64) -> bool) -> f64 {
    let better = |best: f64, value: f64| {
        if beats(value, best) || best.is_nan() { value } else { best }
    };
    values.iter().copied().reduce(better).unwrap_or(f64::NAN)
}

/// The `k` members with the largest or smallest value at each step, best first. NaN counts as worst. Of equal values the
/// earlier ones are kept.
fn outstanding(group: &Group, k: &[f64], top: bool, grid: Grid) -> Result<Vec<Column>, EvalError> {
    let mut kept: Vec<Column> =
        group.members.iter().map(|member| Column::empty(member.labels.clone(), grid)).collect();
    let mut ranked: Vec<usize> = Vec::new();
    for (step, &k) in k.iter().enumerate() {
        let k = member_count(k)?;
        let value = |member: &usize| group.members[*member].values[step];
        ranked.clear();
        ranked.extend((0..group.members.len()).filter(|member| is_filled(value(member))));
        ranked.sort_by(|a, b| {
            let (a, b) = (value(a), value(b));
            let order = if top { b.partial_cmp(&a) } else { a.partial_cmp(&b) };
            order.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        });
        for member in ranked.iter().take(k) {
            kept[*member].values[step] = value(member);
        }
    }
    if grid.steps == 1 {
        // An instant query shows the best first.
        let mut columns: Vec<Option<Column>> = kept.into_iter().map(Some).collect();
        return Ok(ranked.iter().filter_map(|member| columns[*member].take()).collect());
    }
    Ok(kept)
}

/// How many members to keep.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked against the range before"
)]
fn member_count(k: f64) -> Result<usize, EvalError> {
    if k.is_nan() || k.abs() >= i64::MAX as f64 {
        // As Go prints large numbers.
        let text =
            if k.is_finite() { format!("{k:e}").replace('e', "e+") } else { format_number(k) };
        return Err(EvalError::execution(format!("Scalar value {text} overflows int64")));
    }
    Ok(k.max(0.0) as usize)
}

/// How often each value comes, the value as a label.
fn count_values(group: &Group, label: &str, grid: Grid) -> Vec<Column> {
    let mut index: HashMap<u64, usize> = HashMap::new();
    let mut counts: Vec<Column> = Vec::new();
    for step in 0..grid.steps {
        for member in &group.members {
            let value = member.values[step];
            if !is_filled(value) {
                continue;
            }
            // All NaN look the same in a label.
            let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
            let position = *index.entry(bits).or_insert(counts.len());
            if position == counts.len() {
                let labels = group.labels.with(label, &format_number(value));
                counts.push(Column::empty(labels, grid));
            }
            let cell = &mut counts[position].values[step];
            *cell = if is_filled(*cell) { *cell + 1.0 } else { 1.0 };
        }
    }
    counts
}
