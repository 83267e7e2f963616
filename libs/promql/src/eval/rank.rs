//! Aggregations that need all values of a group at once, or keep some of its series.

use std::collections::HashMap;

use holdfast_series::Labels;

use super::grouping::Grouping;
use super::{Column, EvalError, Evaluator, Grid, Point, SAME_LABELS, is_filled, merge};
use crate::format_number;
use crate::functions::quantile;
use crate::histogram;
use crate::notes::Note;
use crate::plan::{Aggregate, AggregateOp, Plan};

struct Group {
    labels: Labels,
    members: Vec<Column>,
}

impl Evaluator<'_> {
    fn groups(&self, aggregate: &Aggregate, grid: Grid) -> Result<Vec<Group>, EvalError> {
        let mut grouping = Grouping::new(&aggregate.grouping);
        let mut members: Vec<Vec<Column>> = Vec::new();
        for column in self.vector(&aggregate.arg, grid)? {
            let (position, is_new) = grouping.find(&column);
            if is_new {
                members.push(Vec::new());
            }
            members[position].push(column);
        }
        let groups = grouping.into_keys().into_iter().zip(members);
        Ok(groups.map(|(labels, members)| Group { labels, members }).collect())
    }

    /// Tells that histograms are left out, if there are any.
    fn note_histograms(&self, groups: &[Group], op: &'static str) {
        let mut members = groups.iter().flat_map(|group| &group.members);
        if members.any(|member| member.histograms.is_some()) {
            self.notes.add(Note::HistogramIgnoredInAggregation(op));
        }
    }

    pub(super) fn aggregate_quantile(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let q = self.scalar(aggregate.param()?, grid)?;
        self.notes.check_quantiles(&q);
        let groups = self.groups(aggregate, grid)?;
        self.note_histograms(&groups, "quantile");
        let mut values = Vec::new();
        let columns = groups.into_iter().map(|group| {
            let mut result = Column::empty(group.labels, grid);
            for (step, cell) in result.values.iter_mut().enumerate() {
                values.clear();
                values.extend(group.members.iter().filter_map(|member| member.float(step)));
                if !values.is_empty() {
                    *cell = quantile(q[step], &mut values);
                }
            }
            result
        });
        Ok(columns.collect())
    }

    /// `topk` and `bottomk`.
    pub(super) fn outstanding(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let k = self.scalar(aggregate.param()?, grid)?;
        let top = aggregate.op == AggregateOp::Topk;
        let groups = self.groups(aggregate, grid)?;
        self.note_histograms(&groups, if top { "topk" } else { "bottomk" });
        let mut kept = Vec::new();
        for group in groups {
            kept.extend(outstanding(group, &k, top, grid)?);
        }
        Ok(kept)
    }

    /// `limitk`: the first series of each group.
    pub(super) fn limit(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let k = self.scalar(aggregate.param()?, grid)?;
        let mut kept = Vec::new();
        for mut group in self.groups(aggregate, grid)? {
            for (step, &k) in k.iter().enumerate() {
                let mut left = member_count(k)?;
                for member in &mut group.members {
                    if left == 0 {
                        member.set(step, None);
                    } else if member.is_present(step) {
                        left -= 1;
                    }
                }
            }
            kept.extend(group.members.into_iter().filter(Column::has_any));
        }
        Ok(kept)
    }

    /// `limit_ratio`: a share of the series, chosen by their labels; a negative share chooses the others.
    pub(super) fn limit_ratio(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let mut ratios = self.scalar(aggregate.param()?, grid)?;
        for ratio in &mut ratios {
            if ratio.is_nan() {
                return Err(EvalError::execution("Ratio value is NaN"));
            }
            let used = ratio.clamp(-1.0, 1.0);
            if !(-1.0..=1.0).contains(ratio) {
                self.notes.add(Note::InvalidRatio { got: *ratio, used });
            }
            *ratio = used;
        }
        let mut columns = self.vector(&aggregate.arg, grid)?;
        for column in &mut columns {
            let position = position(&column.labels);
            for (step, &ratio) in ratios.iter().enumerate() {
                let keep = if ratio < 0.0 { position >= 1.0 + ratio } else { position < ratio };
                if !keep {
                    column.set(step, None);
                }
            }
        }
        columns.retain(Column::has_any);
        Ok(columns)
    }

    pub(super) fn count_values(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let Plan::Text(label) = aggregate.param()? else {
            return Err(EvalError::execution("expected a label name"));
        };
        let mut counted = Vec::new();
        for group in self.groups(aggregate, grid)? {
            let mut index: HashMap<String, usize> = HashMap::new();
            for step in 0..grid.steps {
                for member in &group.members {
                    let text = match member.value(step) {
                        None => continue,
                        Some(Point::Float(value)) => format_number(value),
                        Some(Point::Histogram(histogram)) => histogram::to_text(&histogram),
                    };
                    let position = index.get(&text).copied().unwrap_or(counted.len());
                    if position == counted.len() {
                        self.charge(grid.steps)?;
                        counted.push(Column::empty(group.labels.with(label, &text), grid));
                        index.insert(text, position);
                    }
                    let cell = &mut counted[position].values[step];
                    *cell = if is_filled(*cell) { *cell + 1.0 } else { 1.0 };
                }
            }
        }
        merge(counted, SAME_LABELS)
    }
}

/// Where the labels fall between 0 and 1, evenly spread. Not the place Prometheus gives them: its hash depends on how it was built.
fn position(labels: &Labels) -> f64 {
    // The finalizer of SplitMix64 spreads neighbouring fingerprints over all bits.
    let mut hash = labels.fingerprint();
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// The `k` members with the largest or smallest value at each step, best first. NaN counts as worst. Of equal values the
/// earlier ones are kept.
fn outstanding(group: Group, k: &[f64], top: bool, grid: Grid) -> Result<Vec<Column>, EvalError> {
    let mut members = group.members;
    let mut ranked: Vec<usize> = Vec::new();
    let mut kept: Vec<bool> = vec![false; members.len()];
    for (step, &k) in k.iter().enumerate() {
        let k = member_count(k)?;
        let value = |member: usize| members[member].values[step];
        ranked.clear();
        ranked.extend((0..members.len()).filter(|member| is_filled(value(*member))));
        let order = |a: &usize, b: &usize| {
            let (x, y) = (value(*a), value(*b));
            let order = if top { y.partial_cmp(&x) } else { x.partial_cmp(&y) };
            order.unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).then(a.cmp(b))
        };
        if k > 0 && k < ranked.len() {
            ranked.select_nth_unstable_by(k - 1, order);
        }
        ranked.truncate(k);
        ranked.sort_unstable_by(order);
        kept.fill(false);
        for member in &ranked {
            kept[*member] = true;
        }
        for (member, kept) in members.iter_mut().zip(&kept) {
            if !kept {
                member.set(step, None);
            }
        }
    }
    if grid.steps == 1 {
        // An instant query shows the best first.
        let mut columns: Vec<Option<Column>> = members.into_iter().map(Some).collect();
        return Ok(ranked.iter().filter_map(|member| columns[*member].take()).collect());
    }
    members.retain(Column::has_any);
    for member in &mut members {
        member.histograms = None;
    }
    Ok(members)
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
