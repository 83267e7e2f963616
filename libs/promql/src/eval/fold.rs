//! Aggregations that take in one value after the other: a series is folded into its group as it comes, and then forgotten.

use std::sync::Arc;

use holdfast_series::{Histogram, stale_marker};

use super::grouping::Grouping;
use super::{Column, EvalError, Evaluator, Grid, Point, is_filled};
use crate::Dialect;
use crate::functions::{KahanSum, Mean, Variance};
use crate::histogram;
use crate::notes::Note;
use crate::plan::{Aggregate, AggregateOp};

/// What becomes of native histograms.
#[derive(Clone, Copy)]
enum Histograms {
    Sum,
    Mean,
    /// They count like a number.
    Count,
    Ignore(&'static str),
}

/// The histograms of a group at one step.
#[derive(Clone, Default)]
struct HistogramFold {
    sum: Option<Arc<Histogram>>,
    count: f64,
    /// They do not go together.
    broken: bool,
}

struct Group<F> {
    cells: Vec<F>,
    histograms: Option<Vec<HistogramFold>>,
}

impl Evaluator<'_> {
    /// An aggregation that keeps a fixed amount of state for each group and step.
    pub(super) fn fold(&self, aggregate: &Aggregate, grid: Grid) -> Result<Vec<Column>, EvalError> {
        let extreme = |beats: fn(f64, f64) -> bool| {
            move |best: &mut Option<f64>, value: f64| {
                if best.is_none_or(|best| beats(value, best) || best.is_nan()) {
                    *best = Some(value);
                }
            }
        };
        let op = aggregate.op;
        match op {
            AggregateOp::Sum => self.fold_with(
                aggregate,
                grid,
                Histograms::Sum,
                |(sum, seen): &mut (KahanSum, bool), value| {
                    sum.add(value);
                    *seen = true;
                },
                |(sum, seen)| seen.then(|| sum.value()),
            ),
            AggregateOp::Avg => self.fold_with(
                aggregate,
                grid,
                Histograms::Mean,
                |mean: &mut Mean, value| mean.add(value),
                |mean| (mean.count() > 0).then(|| mean.value()),
            ),
            AggregateOp::Min => {
                let add = extreme(|value, best| value < best);
                self.fold_with(aggregate, grid, Histograms::Ignore("min"), add, |best| *best)
            }
            AggregateOp::Max => {
                let add = extreme(|value, best| value > best);
                self.fold_with(aggregate, grid, Histograms::Ignore("max"), add, |best| *best)
            }
            AggregateOp::Count => self.fold_with(
                aggregate,
                grid,
                Histograms::Count,
                |count: &mut u32, _| *count += 1,
                |count| (*count > 0).then(|| f64::from(*count)),
            ),
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                let root = op == AggregateOp::Stddev;
                // The second version does not look at a single value, not even at an infinite one.
                let single = self.options.dialect == Dialect::V2;
                let ignored = Histograms::Ignore(if root { "stddev" } else { "stdvar" });
                self.fold_with(
                    aggregate,
                    grid,
                    ignored,
                    |variance: &mut Variance, value| variance.add(value),
                    |variance| match variance.count() {
                        0 => None,
                        1 if single => Some(0.0),
                        _ if root => Some(variance.value().sqrt()),
                        _ => Some(variance.value()),
                    },
                )
            }
            _ => self.fold_with(
                aggregate,
                grid,
                Histograms::Count,
                |seen: &mut bool, _| *seen = true,
                |seen| seen.then_some(1.0),
            ),
        }
    }

    fn fold_with<F: Clone + Default>(
        &self,
        aggregate: &Aggregate,
        grid: Grid,
        how: Histograms,
        add: impl Fn(&mut F, f64),
        finish: impl Fn(&F) -> Option<f64>,
    ) -> Result<Vec<Column>, EvalError> {
        let mut grouping = Grouping::new(&aggregate.grouping);
        let mut groups: Vec<Group<F>> = Vec::new();
        self.stream(&aggregate.arg, grid, &mut |column| {
            let (position, is_new) = grouping.find(column);
            if is_new {
                self.charge(grid.steps)?;
                groups.push(Group { cells: vec![F::default(); grid.steps], histograms: None });
            }
            let group = &mut groups[position];
            for (cell, value) in group.cells.iter_mut().zip(&column.values) {
                if is_filled(*value) {
                    add(cell, *value);
                }
            }
            if let Some(histograms) = &column.histograms {
                for (step, histogram) in histograms.iter().enumerate() {
                    if let Some(histogram) = histogram {
                        self.fold_histogram(group, step, histogram, how, &add);
                    }
                }
            }
            Ok(())
        })?;
        let finished = grouping.into_keys().into_iter().zip(groups).map(|(labels, group)| {
            let values = group.cells.iter().map(|cell| finish(cell).unwrap_or_else(stale_marker));
            let mut column = Column::new(labels, values.collect());
            for (step, fold) in group.histograms.into_iter().flatten().enumerate() {
                self.finish_histogram(&mut column, step, fold, how);
            }
            column
        });
        Ok(finished.collect())
    }

    fn fold_histogram<F>(
        &self,
        group: &mut Group<F>,
        step: usize,
        histogram: &Arc<Histogram>,
        how: Histograms,
        add: &impl Fn(&mut F, f64),
    ) {
        match how {
            Histograms::Ignore(op) => self.notes.add(Note::HistogramIgnoredInAggregation(op)),
            Histograms::Count => add(&mut group.cells[step], 1.0),
            Histograms::Sum | Histograms::Mean => {
                let steps = group.cells.len();
                let folds =
                    group.histograms.get_or_insert_with(|| vec![HistogramFold::default(); steps]);
                let fold = &mut folds[step];
                fold.count += 1.0;
                let Some(sum) = &fold.sum else {
                    fold.sum = Some(Arc::clone(histogram));
                    return;
                };
                match histogram::combined(sum, histogram, 1.0) {
                    Ok(sum) => fold.sum = Some(Arc::new(sum)),
                    Err(mismatch) => {
                        fold.broken = true;
                        self.notes.add(mismatch.note(String::new()));
                    }
                }
            }
        }
    }

    /// Numbers and histograms do not add up: where both came together there is no result.
    fn finish_histogram(
        &self,
        column: &mut Column,
        step: usize,
        fold: HistogramFold,
        how: Histograms,
    ) {
        let Some(sum) = fold.sum else { return };
        let mixed = column.float(step).is_some();
        if mixed {
            self.notes.add(Note::MixedInAggregation);
        }
        let value = match how {
            Histograms::Mean => histogram::scaled(&sum, 1.0 / fold.count).into(),
            _ => Point::Histogram(sum),
        };
        column.set(step, (!mixed && !fold.broken).then_some(value));
    }
}
