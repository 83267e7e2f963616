//! Selectors: from stored samples to columns.

use std::ops::ControlFlow;

use holdfast_series::HistogramSample;
use holdfast_series::{Labels, Sample, is_stale};

use super::rows::Sink;
use super::{Column, EvalError, Evaluator, Grid, Point};
use crate::plan::{RangeSource, Selector, Shift};
use crate::querier::{Selection, SeriesView};
use crate::{Dialect, Options};

impl Options<'_> {
    /// The first instant that a range beginning at `edge_ms` includes.
    pub(crate) fn left_edge(&self, edge_ms: i64) -> i64 {
        match self.dialect {
            Dialect::V2 => edge_ms,
            Dialect::V3 => edge_ms.saturating_add(1),
        }
    }
}

impl Selector {
    /// What an instant selector needs whose first and last look are at these instants.
    pub(crate) fn selection(
        &self,
        first_ms: i64,
        last_ms: i64,
        options: &Options<'_>,
    ) -> Selection {
        Selection {
            matchers: self.matchers.clone(),
            start_ms: options.left_edge(first_ms - options.lookback_ms),
            end_ms: last_ms,
            newest_only: first_ms == last_ms,
        }
    }

    /// What a range selector needs whose first and last look are at these instants.
    pub(crate) fn range_selection(
        &self,
        range_ms: i64,
        first_ms: i64,
        last_ms: i64,
        options: &Options<'_>,
    ) -> Selection {
        Selection {
            matchers: self.matchers.clone(),
            start_ms: options.left_edge(first_ms - range_ms),
            end_ms: last_ms,
            newest_only: false,
        }
    }
}

impl Evaluator<'_> {
    /// First and last instant at which something shifted looks.
    pub(super) fn span(&self, shift: Shift, grid: Grid) -> (i64, i64) {
        (self.reference_ms(shift, grid.start_ms), self.reference_ms(shift, grid.end_ms()))
    }

    /// Reads a selection, and stops at the first error of `each`.
    pub(super) fn read(
        &self,
        selection: &Selection,
        each: &mut dyn FnMut(SeriesView<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let mut result = Ok(());
        let selected = self.querier.select(selection, &mut |series| {
            let held = series.samples.len() + series.histograms.len();
            result = self.afford(held).and_then(|()| each(series));
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        selected.map_err(EvalError::Query)?;
        result
    }

    /// An instant selector: at each step the newest sample not older than the look-back, or its timestamp in seconds.
    pub(super) fn each_selected(
        &self,
        selector: &Selector,
        grid: Grid,
        timestamps: bool,
        sink: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        let (first_ms, last_ms) = self.span(selector.shift, grid);
        let selection = selector.selection(first_ms, last_ms, self.options);
        let mut column = Column::empty(Labels::empty(), grid);
        self.read(&selection, &mut |series| {
            column.reset(series.labels.clone(), grid);
            let (mut floats, mut histograms) = (0, 0);
            for step in 0..grid.steps {
                let reference_ms = self.reference_ms(selector.shift, grid.time(step));
                let oldest_ms = self.options.left_edge(reference_ms - self.options.lookback_ms);
                floats = advance(series.samples, floats, reference_ms, |s| s.timestamp_ms);
                let float = floats.checked_sub(1).map(|newest| series.samples[newest]);
                if !series.histograms.is_empty() {
                    let all = series.histograms;
                    histograms = advance(all, histograms, reference_ms, |s| s.timestamp_ms);
                    let newest = histograms.checked_sub(1).map(|newest| &all[newest]);
                    let newest = newest.filter(|found| {
                        found.timestamp_ms >= oldest_ms
                            && float.is_none_or(|float| float.timestamp_ms < found.timestamp_ms)
                    });
                    if let Some(found) = newest {
                        column.set(step, Some(shown_histogram(found, timestamps)));
                        continue;
                    }
                }
                if let Some(newest) = float
                    && newest.timestamp_ms >= oldest_ms
                    && !is_stale(newest.value)
                {
                    let time = newest.timestamp_ms as f64 / 1000.0;
                    column.values[step] = if timestamps { time } else { newest.value };
                }
            }
            if column.has_any() { sink(&mut column) } else { Ok(()) }
        })
    }
}

fn shown_histogram(sample: &HistogramSample, timestamps: bool) -> Point {
    if timestamps {
        Point::Float(sample.timestamp_ms as f64 / 1000.0)
    } else {
        Point::Histogram(sample.histogram.clone())
    }
}

impl Selector {
    /// The labels that an absent series would have: those its selector asks for by equality, once.
    pub(super) fn absent_labels(&self) -> Labels {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let mut dropped: Vec<&str> = Vec::new();
        for matcher in self.matchers.iter() {
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
}

impl RangeSource {
    pub(super) fn absent_labels(&self) -> Labels {
        match self {
            Self::Selector { selector, .. } => selector.absent_labels(),
            Self::Subquery { .. } => Labels::empty(),
        }
    }
}

/// How many samples are not newer than `time_ms`, given that at least `seen` are.
pub(super) fn advance<T>(
    samples: &[T],
    mut seen: usize,
    time_ms: i64,
    timestamp_ms: impl Fn(&T) -> i64,
) -> usize {
    while samples.get(seen).is_some_and(|sample| timestamp_ms(sample) <= time_ms) {
        seen += 1;
    }
    seen
}

/// Finds one window after the other in samples that are in order; both edges only move forward.
#[derive(Default)]
pub(super) struct Cursor {
    start: usize,
    end: usize,
    moved: bool,
}

impl Cursor {
    /// Where the samples from `first_ms` to `last_ms` are, both included.
    pub(super) fn window<T>(
        &mut self,
        samples: &[T],
        (first_ms, last_ms): (i64, i64),
        timestamp_ms: impl Fn(&T) -> i64,
    ) -> std::ops::Range<usize> {
        if !self.moved {
            self.moved = true;
            self.start = samples.partition_point(|sample| timestamp_ms(sample) < first_ms);
            self.end = samples.partition_point(|sample| timestamp_ms(sample) <= last_ms);
        }
        self.end = advance(samples, self.end, last_ms, &timestamp_ms);
        self.start = advance(samples, self.start, first_ms - 1, &timestamp_ms);
        self.start.min(self.end)..self.end
    }
}

/// Samples without staleness markers; copied only where there are any.
pub(super) fn without_markers<'s>(
    samples: &'s [Sample],
    kept: &'s mut Vec<Sample>,
) -> &'s [Sample] {
    if !samples.iter().any(|sample| is_stale(sample.value)) {
        return samples;
    }
    kept.clear();
    kept.extend(samples.iter().filter(|sample| !is_stale(sample.value)));
    kept
}
