//! Where series come from.
//!
//! A selector asks once for all series it needs over the whole time of a query, and gets them one after the other as views: whoever
//! decodes samples may use the same buffer for each. Rejected: a list of owned series, as most queries aggregate thousands of series to
//! a few and never need more than one of them at a time.
//!
//! Evaluation is synchronous: a source that is not, such as a remote server, is better given whole expressions than asked for series.

use std::ops::ControlFlow;
use std::sync::Arc;

use holdfast_series::{HistogramSample, Labels, Matcher, Sample, Store};

use crate::QueryError;

/// What a selector needs.
#[derive(Debug, Clone)]
pub struct Selection {
    /// What series have to pass.
    pub matchers: Arc<[Matcher]>,
    /// The oldest sample wanted.
    pub start_ms: i64,
    /// The newest sample wanted.
    pub end_ms: i64,
    /// Only the newest sample of each series is needed. More may be given.
    pub newest_only: bool,
}

/// One selected series.
#[derive(Debug, Clone, Copy)]
pub struct SeriesView<'a> {
    /// What names it.
    pub labels: &'a Labels,
    /// Its samples within the selection in order of time, staleness markers included.
    pub samples: &'a [Sample],
    /// Its native histograms within the selection in order of time.
    pub histograms: &'a [HistogramSample],
}

/// Takes one series after the other; `Break` means that no more are wanted.
pub type Each<'e> = dyn FnMut(SeriesView<'_>) -> ControlFlow<()> + 'e;

/// A source of series: the embedded store, or a table in a test.
pub trait Querier {
    /// Shows each series that passes all matchers and has samples within the selection.
    ///
    /// # Errors
    /// If the source cannot be asked.
    fn select(&self, selection: &Selection, each: &mut Each<'_>) -> Result<(), QueryError>;
}

impl Querier for Store {
    fn select(&self, selection: &Selection, each: &mut Each<'_>) -> Result<(), QueryError> {
        let Selection { matchers, start_ms, end_ms, newest_only } = selection;
        self.visit(
            matchers,
            *start_ms,
            *end_ms,
            *newest_only,
            &mut |labels, samples, histograms| each(SeriesView { labels, samples, histograms }),
        );
        Ok(())
    }
}
