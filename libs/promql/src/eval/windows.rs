//! Functions of range vectors: one pass over each series, both edges of the window moving forward.

use holdfast_series::HistogramSample;
use holdfast_series::{Labels, Sample};

use super::rows::Sink;
use super::select::{Cursor, without_markers};
use super::{Column, EvalError, Evaluator, Grid};
use crate::Series;
use crate::functions::{RangeFunction, Window};
use crate::plan::{Plan, RangeSource};

/// What takes the samples of one series that any step's range includes, without staleness markers.
type EachRange<'e> =
    dyn FnMut(&Labels, &[Sample], &[HistogramSample]) -> Result<(), EvalError> + 'e;

impl Evaluator<'_> {
    /// A range vector as a result of its own, for an instant query.
    pub(super) fn matrix(
        &self,
        source: &RangeSource,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let mut all = Vec::new();
        self.each_source(source, grid, &mut |labels, samples, histograms| {
            self.charge(samples.len() + histograms.len())?;
            if !samples.is_empty() || !histograms.is_empty() {
                let (samples, histograms) = (samples.to_vec(), histograms.to_vec());
                all.push(Series { labels: labels.clone(), samples, histograms });
            }
            Ok(())
        })?;
        all.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        Ok(all)
    }

    fn each_source(
        &self,
        source: &RangeSource,
        grid: Grid,
        each: &mut EachRange<'_>,
    ) -> Result<(), EvalError> {
        let (first_ms, last_ms) = self.span(source.shift(), grid);
        match source {
            RangeSource::Selector { selector, range_ms } => {
                let selection =
                    selector.range_selection(*range_ms, first_ms, last_ms, self.options);
                let mut kept = Vec::new();
                self.read(&selection, &mut |series| {
                    let samples = without_markers(series.samples, &mut kept);
                    each(series.labels, samples, series.histograms)
                })
            }
            RangeSource::Subquery { plan, range_ms, step_ms, .. } => {
                let start_ms = self.options.left_edge(first_ms - range_ms);
                let step_ms = step_ms.unwrap_or(self.options.subquery_step_ms).max(1);
                let Some(inner) = subquery_grid(start_ms, last_ms, step_ms) else { return Ok(()) };
                // Every step costs at least one value, so this also bounds the memory of the columns.
                self.charge(inner.steps)?;
                for column in self.vector(plan, inner)? {
                    if let Some(series) = column.into_series(inner) {
                        each(&series.labels, &series.samples, &series.histograms)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// A function of a range vector, series by series.
    pub(super) fn each_range(
        &self,
        function: RangeFunction,
        source: &RangeSource,
        params: &[Plan],
        grid: Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        let mut scalars = Vec::with_capacity(params.len());
        for param in params {
            scalars.push(self.scalar(param, grid)?);
        }
        let (mut marks, mut numbers) = (Vec::new(), vec![0.0; scalars.len()]);
        let mut column = Column::empty(Labels::empty(), grid);
        self.each_source(source, grid, &mut |labels, samples, histograms| {
            column.reset(labels.clone(), grid);
            column.nameless = !function.keeps_name;
            function.check_name(labels, samples, &self.notes);
            function.mark(samples, &mut marks);
            let mut cursors = (Cursor::default(), Cursor::default(), Cursor::default());
            for step in 0..grid.steps {
                let now_ms = grid.time(step);
                let end_ms = self.reference_ms(source.shift(), now_ms);
                let start_ms = end_ms - source.range_ms();
                let edges = (self.options.left_edge(start_ms), end_ms);
                let floats = cursors.0.window(samples, edges, |s| s.timestamp_ms);
                let some = if histograms.is_empty() {
                    0..0
                } else {
                    cursors.1.window(histograms, edges, |s| s.timestamp_ms)
                };
                if floats.is_empty() && some.is_empty() {
                    continue;
                }
                for (number, values) in numbers.iter_mut().zip(&scalars) {
                    *number = values[step];
                }
                // A mark is the position of a sample that stands out from the one before, so the first of a window does not count.
                let first = marks_from(&mut cursors.2, &marks, &floats);
                let window = Window {
                    samples: &samples[floats.clone()],
                    marks: &marks[first],
                    first: floats.start,
                    histograms: &histograms[some],
                    start_ms,
                    end_ms,
                    now_ms,
                    dialect: self.options.dialect,
                    params: &numbers,
                    labels,
                    notes: &self.notes,
                };
                if let Some(value) = function.apply(&window) {
                    column.set(step, Some(value));
                }
            }
            if column.has_any() { sink(&mut column) } else { Ok(()) }
        })
    }

    /// 1 at the steps at which no series has a sample in its range.
    pub(super) fn absent_over_time(
        &self,
        source: &RangeSource,
        grid: Grid,
    ) -> Result<Vec<Column>, EvalError> {
        let mut column = Column::new(source.absent_labels(), vec![1.0; grid.steps]);
        self.each_source(source, grid, &mut |_, samples, histograms| {
            let mut cursors = (Cursor::default(), Cursor::default());
            for (step, cell) in column.values.iter_mut().enumerate() {
                let end_ms = self.reference_ms(source.shift(), grid.time(step));
                let edges = (self.options.left_edge(end_ms - source.range_ms()), end_ms);
                let floats = cursors.0.window(samples, edges, |s| s.timestamp_ms);
                let histograms = cursors.1.window(histograms, edges, |s| s.timestamp_ms);
                if !floats.is_empty() || !histograms.is_empty() {
                    *cell = holdfast_series::stale_marker();
                }
            }
            Ok(())
        })?;
        Ok(vec![column])
    }
}

/// The part of the marks that lies within the window, its first sample left out.
fn marks_from(
    cursor: &mut Cursor,
    marks: &[usize],
    floats: &std::ops::Range<usize>,
) -> std::ops::Range<usize> {
    if marks.is_empty() || floats.len() < 2 {
        return 0..0;
    }
    let position = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
    cursor.window(marks, (position(floats.start) + 1, position(floats.end) - 1), |at| position(*at))
}

/// The steps of a subquery are multiples of its step, so that moving the query does not move them.
fn subquery_grid(start_ms: i64, end_ms: i64, step_ms: i64) -> Option<Grid> {
    let behind = i64::from(start_ms.rem_euclid(step_ms) > 0);
    let first_ms = step_ms.checked_mul(start_ms.div_euclid(step_ms) + behind)?;
    if first_ms > end_ms {
        return None;
    }
    let steps = usize::try_from((end_ms - first_ms) / step_ms + 1).unwrap_or(usize::MAX);
    Some(Grid { start_ms: first_ms, step_ms, steps })
}
