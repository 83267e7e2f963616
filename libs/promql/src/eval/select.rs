//! Selectors: from stored samples to columns and windows.

use holdfast_series::{Labels, Sample, SeriesData, is_stale};

use super::{Column, EvalError, Evaluator, Grid, SAME_LABELS, is_filled, merge};
use crate::functions::{RangeFunction, Window};
use crate::plan::{Plan, RangeSource, Selector, Shift};
use crate::{Dialect, Series};

impl Evaluator<'_> {
    /// An instant selector: at each step the newest sample not older than the look-back, or its timestamp in seconds.
    pub(super) fn select(
        &self,
        selector: &Selector,
        grid: Grid,
        timestamps: bool,
    ) -> Result<Vec<Column>, EvalError> {
        let lookback_ms = self.options.lookback_ms;
        let (first_ms, last_ms) = self.span(selector.shift, grid);
        let start_ms = self.left_edge(first_ms - lookback_ms);
        let found = if first_ms == last_ms {
            self.querier.select_latest(&selector.matchers, start_ms, last_ms)
        } else {
            self.querier.select(&selector.matchers, start_ms, last_ms)
        };
        let found = found.map_err(EvalError::Query)?;
        let mut columns = Vec::with_capacity(found.len());
        for series in found {
            self.charge(series.samples.len() + grid.steps)?;
            let mut column = Column::empty(series.labels, grid);
            let mut seen = 0;
            for (step, cell) in column.values.iter_mut().enumerate() {
                let reference_ms = self.reference_ms(selector.shift, grid.time(step));
                seen = advance(&series.samples, seen, reference_ms);
                let Some(newest) = seen.checked_sub(1).map(|newest| series.samples[newest]) else {
                    continue;
                };
                let oldest_ms = self.left_edge(reference_ms - lookback_ms);
                if newest.timestamp_ms >= oldest_ms && !is_stale(newest.value) {
                    let time = newest.timestamp_ms as f64 / 1000.0;
                    *cell = if timestamps { time } else { newest.value };
                }
            }
            columns.push(column);
        }
        Ok(columns)
    }

    /// The first instant that a range beginning at `edge_ms` includes.
    fn left_edge(&self, edge_ms: i64) -> i64 {
        match self.options.dialect {
            Dialect::V2 => edge_ms,
            Dialect::V3 => edge_ms + 1,
        }
    }

    /// First and last instant at which something shifted looks.
    fn span(&self, shift: Shift, grid: Grid) -> (i64, i64) {
        (self.reference_ms(shift, grid.start_ms), self.reference_ms(shift, grid.end_ms()))
    }

    /// A range vector as a result of its own, for an instant query.
    pub(super) fn matrix(
        &self,
        source: &RangeSource,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let mut series = self.ranges(source, grid)?;
        series.retain(|series| !series.samples.is_empty());
        series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        Ok(series)
    }

    /// All samples that any step's range includes, without staleness markers.
    fn ranges(&self, source: &RangeSource, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let (first_ms, last_ms) = self.span(source.shift(), grid);
        let start_ms = self.left_edge(first_ms - source.range_ms());
        match source {
            RangeSource::Selector { selector, .. } => {
                let found = self
                    .querier
                    .select(&selector.matchers, start_ms, last_ms)
                    .map_err(EvalError::Query)?;
                found.into_iter().map(|series| self.without_markers(&series)).collect()
            }
            RangeSource::Subquery { plan, step_ms, .. } => {
                let step_ms = step_ms.unwrap_or(self.options.subquery_step_ms).max(1);
                self.subquery(plan, start_ms, last_ms, step_ms)
            }
        }
    }

    fn without_markers(&self, series: &SeriesData) -> Result<Series, EvalError> {
        self.charge(series.samples.len())?;
        let samples = series.samples.iter().filter(|sample| !is_stale(sample.value));
        Ok(Series { labels: series.labels.clone(), samples: samples.copied().collect() })
    }

    /// Evaluates at the multiples of `step_ms`, so that moving the query does not move the steps.
    fn subquery(
        &self,
        plan: &Plan,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
    ) -> Result<Vec<Series>, EvalError> {
        let first_ms =
            step_ms * (start_ms.div_euclid(step_ms) + i64::from(start_ms.rem_euclid(step_ms) > 0));
        if first_ms > end_ms {
            return Ok(Vec::new());
        }
        let steps = usize::try_from((end_ms - first_ms) / step_ms + 1).unwrap_or(usize::MAX);
        // Every step costs at least one value, so this also bounds the memory of the columns.
        self.charge(steps)?;
        let grid = Grid { start_ms: first_ms, step_ms, steps };
        let columns = self.vector(plan, grid)?;
        Ok(columns.into_iter().filter_map(|column| column.into_series(grid)).collect())
    }

    /// A function of a range vector.
    pub(super) fn range_function(
        &self,
        function: RangeFunction,
        source: &RangeSource,
        params: &[Plan],
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let mut scalars = Vec::with_capacity(params.len());
        for param in params {
            scalars.push(self.scalar(param, grid)?);
        }
        let mut columns = Vec::new();
        for series in self.ranges(source, grid)? {
            self.charge(grid.steps)?;
            let labels =
                if function.keeps_name { series.labels } else { series.labels.without_name() };
            let mut column = Column::empty(labels, grid);
            let mut cursor = Cursor::default();
            for (step, cell) in column.values.iter_mut().enumerate() {
                let now_ms = grid.time(step);
                let end_ms = self.reference_ms(source.shift(), now_ms);
                let start_ms = end_ms - source.range_ms();
                let samples = cursor.window(&series.samples, self.left_edge(start_ms), end_ms);
                if samples.is_empty() {
                    continue;
                }
                let params: Vec<f64> = scalars.iter().map(|values| values[step]).collect();
                let dialect = self.options.dialect;
                let window = Window { samples, start_ms, end_ms, now_ms, dialect, params: &params };
                if let Some(value) = function.apply(&window) {
                    *cell = value;
                }
            }
            if column.values.iter().any(|value| is_filled(*value)) {
                columns.push(column);
            }
        }
        // Here two series of the same name may not even take turns.
        let count = columns.len();
        let merged = merge(columns, SAME_LABELS)?;
        if merged.len() < count { Err(EvalError::execution(SAME_LABELS)) } else { Ok(merged) }
    }

    /// 1 at the steps at which no series has a sample in its range.
    pub(super) fn absent_over_time(
        &self,
        source: &RangeSource,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let series = self.ranges(source, grid)?;
        let labels = match source {
            RangeSource::Selector { selector, .. } => absent_labels(selector),
            RangeSource::Subquery { .. } => Labels::empty(),
        };
        let mut column = Column::empty(labels, grid);
        for (step, cell) in column.values.iter_mut().enumerate() {
            let end_ms = self.reference_ms(source.shift(), grid.time(step));
            let start_ms = self.left_edge(end_ms - source.range_ms());
            let present = series.iter().any(|series| {
                !Cursor::default().window(&series.samples, start_ms, end_ms).is_empty()
            });
            if !present {
                *cell = 1.0;
            }
        }
        Ok(vec![column])
    }
}

/// The labels that an absent series would have: those its selector asks for by equality, once.
pub(super) fn absent_labels(selector: &Selector) -> Labels {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let mut dropped: Vec<&str> = Vec::new();
    for matcher in &selector.matchers {
        let name = matcher.name();
        if name == holdfast_series::METRIC_NAME {
            continue;
        }
        let again = pairs.iter().any(|(known, _)| *known == name);
        if matcher.kind() == holdfast_series::MatchKind::Equal && !again {
            pairs.push((name, matcher.value()));
        } else {
            dropped.push(name);
        }
    }
    pairs.retain(|(name, _)| !dropped.contains(name));
    Labels::from_pairs(pairs)
}

/// How many samples are not newer than `time_ms`, given that at least `seen` are.
fn advance(samples: &[Sample], mut seen: usize, time_ms: i64) -> usize {
    while samples.get(seen).is_some_and(|sample| sample.timestamp_ms <= time_ms) {
        seen += 1;
    }
    seen
}

/// Finds one window after the other in samples that are in order; both edges only move forward.
#[derive(Default)]
struct Cursor {
    start: usize,
    end: usize,
}

impl Cursor {
    /// Samples from `first_ms` to `last_ms`, both included.
    fn window<'s>(&mut self, samples: &'s [Sample], first_ms: i64, last_ms: i64) -> &'s [Sample] {
        if self.end == 0 {
            self.start = samples.partition_point(|sample| sample.timestamp_ms < first_ms);
            self.end = samples.partition_point(|sample| sample.timestamp_ms <= last_ms);
        }
        self.end = advance(samples, self.end, last_ms);
        self.start = advance(samples, self.start, first_ms - 1);
        &samples[self.start.min(self.end)..self.end]
    }
}
