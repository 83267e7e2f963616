//! What passes between the nodes of a plan: columns of values over the steps of a query.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_series::{Histogram, HistogramSample};
use holdfast_series::{Labels, METRIC_NAME, Sample, is_stale, stale_marker};

use super::EvalError;
use crate::functions::Point;
use crate::{Series, VectorSample};

/// The instants at which a node is evaluated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) start_ms: i64,
    pub(super) step_ms: i64,
    pub(super) steps: usize,
}

impl Grid {
    pub(super) fn instant(at_ms: i64) -> Self {
        Self { start_ms: at_ms, step_ms: 1, steps: 1 }
    }

    #[expect(clippy::cast_possible_wrap, reason = "steps are bounded by memory")]
    pub(super) fn time(self, step: usize) -> i64 {
        self.start_ms + self.step_ms * step as i64
    }

    pub(super) fn end_ms(self) -> i64 {
        self.time(self.steps - 1)
    }

    pub(super) fn times(self) -> impl Iterator<Item = i64> {
        (0..self.steps).map(move |step| self.time(step))
    }

    /// The time of each step in seconds.
    pub(super) fn seconds(self) -> impl Iterator<Item = f64> {
        self.times().map(|time_ms| time_ms as f64 / 1000.0)
    }
}

/// One series on its way through the plan, a value per step.
///
/// A step without a number holds the staleness marker, which no arithmetic can produce (it is a signalling NaN) and which selectors
/// never let through. Native histograms are rare, so they stand beside the numbers, and nothing is spent on them where there are none.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(super) labels: Labels,
    /// The metric's name is dropped, though it still stands in the labels: taking it out costs a new label set, and an aggregation
    /// needs none. Columns in a list have it taken out, see [`Column::settle`].
    pub(super) nameless: bool,
    pub(super) values: Vec<f64>,
    pub(super) histograms: Option<Vec<Option<Arc<Histogram>>>>,
}

impl Column {
    pub(super) fn new(labels: Labels, values: Vec<f64>) -> Self {
        Self { labels, nameless: false, values, histograms: None }
    }

    pub(super) fn empty(labels: Labels, grid: Grid) -> Self {
        Self::new(labels, vec![stale_marker(); grid.steps])
    }

    /// Begins another series in the same memory.
    pub(super) fn reset(&mut self, labels: Labels, grid: Grid) {
        self.labels = labels;
        self.nameless = false;
        self.values.clear();
        self.values.resize(grid.steps, stale_marker());
        self.histograms = None;
    }

    /// Takes what is there and leaves nothing.
    pub(super) fn take(&mut self) -> Self {
        let mut taken = std::mem::replace(self, Self::new(Labels::empty(), Vec::new()));
        taken.settle();
        taken
    }

    /// Takes the name out of the labels if it is dropped.
    pub(super) fn settle(&mut self) {
        if std::mem::take(&mut self.nameless) {
            self.labels = self.labels.without_name();
        }
    }

    pub(super) fn drop_name(&mut self) {
        self.nameless = true;
    }

    /// The label's value; none for a name that is dropped.
    pub(super) fn label(&self, name: &str) -> &str {
        if self.nameless && name == METRIC_NAME { "" } else { self.labels.value(name) }
    }

    pub(super) fn float(&self, step: usize) -> Option<f64> {
        let value = self.values[step];
        is_filled(value).then_some(value)
    }

    pub(super) fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.as_ref()?[step].as_ref()
    }

    pub(super) fn is_present(&self, step: usize) -> bool {
        is_filled(self.values[step]) || self.histogram(step).is_some()
    }

    pub(super) fn value(&self, step: usize) -> Option<Point> {
        let histogram = || self.histogram(step).map(|found| Point::Histogram(Arc::clone(found)));
        self.float(step).map(Point::Float).or_else(histogram)
    }

    pub(super) fn set(&mut self, step: usize, value: Option<Point>) {
        match value {
            Some(Point::Float(value)) => self.values[step] = value,
            Some(Point::Histogram(histogram)) => {
                self.values[step] = stale_marker();
                let steps = self.values.len();
                let histograms = self.histograms.get_or_insert_with(|| vec![None; steps]);
                histograms[step] = Some(histogram);
                return;
            }
            None => self.values[step] = stale_marker(),
        }
        if let Some(histograms) = &mut self.histograms {
            histograms[step] = None;
        }
    }

    pub(super) fn has_any(&self) -> bool {
        self.values.iter().any(|value| is_filled(*value))
            || self.histograms.as_ref().is_some_and(|all| all.iter().any(Option::is_some))
    }

    /// Applies `function` to step and value of every step that has a value.
    pub(super) fn map(&mut self, mut function: impl FnMut(usize, Point) -> Option<Point>) {
        for step in 0..self.values.len() {
            if let Some(value) = self.value(step) {
                self.set(step, function(step, value));
            }
        }
    }

    /// Applies `function` to step and number of every step that has one. Histograms go.
    pub(super) fn map_floats(&mut self, mut function: impl FnMut(usize, f64) -> f64) {
        self.histograms = None;
        for (step, value) in self.values.iter_mut().enumerate() {
            if is_filled(*value) {
                *value = function(step, *value);
            }
        }
    }

    pub(super) fn into_series(mut self, grid: Grid) -> Option<Series> {
        self.settle();
        let filled = self.values.iter().enumerate().filter(|(_, value)| is_filled(**value));
        let sample =
            |(step, value): (usize, &f64)| Sample { timestamp_ms: grid.time(step), value: *value };
        let samples: Vec<Sample> = filled.map(sample).collect();
        let found = self.histograms.into_iter().flatten().enumerate();
        let histogram = |(step, histogram): (usize, Option<_>)| {
            Some(HistogramSample { timestamp_ms: grid.time(step), histogram: histogram? })
        };
        let histograms: Vec<HistogramSample> = found.filter_map(histogram).collect();
        let any = !samples.is_empty() || !histograms.is_empty();
        any.then_some(Series { labels: self.labels, samples, histograms })
    }

    /// The value of the first step.
    pub(super) fn into_vector_sample(mut self, timestamp_ms: i64) -> Option<VectorSample> {
        self.settle();
        let value = self.value(0)?;
        let (value, histogram) = match value {
            Point::Float(value) => (value, None),
            Point::Histogram(histogram) => (f64::NAN, Some(histogram)),
        };
        let sample = Sample { timestamp_ms, value };
        Some(VectorSample { labels: self.labels, sample, histogram })
    }
}

pub(super) fn is_filled(value: f64) -> bool {
    !is_stale(value)
}

pub(super) const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

/// Puts columns with the same labels together, which is an error where two of them have a value at the same step.
pub(super) fn merge(columns: Vec<Column>, message: &str) -> Result<Vec<Column>, EvalError> {
    let mut index: HashMap<Labels, usize> = HashMap::with_capacity(columns.len());
    let mut merged: Vec<Column> = Vec::with_capacity(columns.len());
    for mut column in columns {
        column.settle();
        let Some(&known) = index.get(&column.labels) else {
            index.insert(column.labels.clone(), merged.len());
            merged.push(column);
            continue;
        };
        for step in 0..column.values.len() {
            if let Some(value) = column.value(step) {
                if merged[known].is_present(step) {
                    return Err(EvalError::execution(message));
                }
                merged[known].set(step, Some(value));
            }
        }
    }
    Ok(merged)
}

/// Whether two of the columns have the same labels.
pub(super) fn has_twins(columns: &[Column]) -> bool {
    let mut seen = std::collections::HashSet::with_capacity(columns.len());
    !columns.iter().all(|column| seen.insert(&column.labels))
}
