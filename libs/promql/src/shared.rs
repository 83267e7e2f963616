//! Series read once for several expressions.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use holdfast_series::SeriesData;

use crate::QueryError;
use crate::querier::{Each, Querier, Selection, SeriesView};

/// Shows the part of a series that the selection asks for, if there is any.
fn part(selection: &Selection, series: SeriesView<'_>, each: &mut Each<'_>) -> ControlFlow<()> {
    let (start_ms, end_ms) = (selection.start_ms, selection.end_ms);
    let cut = |before: &dyn Fn(i64) -> usize| (before(start_ms), before(end_ms + 1));
    let (first, last) =
        cut(&|ms| series.samples.partition_point(|sample| sample.timestamp_ms < ms));
    let samples = &series.samples[first..last];
    let (first, last) =
        cut(&|ms| series.histograms.partition_point(|sample| sample.timestamp_ms < ms));
    let histograms = &series.histograms[first..last];
    if samples.is_empty() && histograms.is_empty() {
        return ControlFlow::Continue(());
    }
    each(SeriesView { labels: series.labels, samples, histograms })
}

/// Most selectors shared at a time; beyond it selectors go to the source one by one.
const SHARED_MAX: usize = 1_000;

/// A source that reads a selector which several expressions have in common once, over the longest time any of them asks for.
///
/// For the rules of one tick: made with the selections of all of them, dropped afterwards. What only one expression asks for goes
/// straight to the source and is not kept.
pub struct Shared<'a> {
    below: &'a dyn Querier,
    entries: Vec<Entry>,
}

struct Entry {
    selection: Selection,
    series: OnceLock<Result<Vec<SeriesData>, Arc<QueryError>>>,
}

impl<'a> Shared<'a> {
    /// Over `below`, for expressions that will make these selections.
    pub fn new(below: &'a dyn Querier, selections: impl IntoIterator<Item = Selection>) -> Self {
        let mut counted: Vec<(Selection, usize)> = Vec::new();
        for selection in selections.into_iter().take(SHARED_MAX) {
            let known = counted.iter_mut().find(|(known, _)| {
                known.newest_only == selection.newest_only && known.same_matchers(&selection)
            });
            let Some((known, times)) = known else {
                counted.push((selection, 1));
                continue;
            };
            // Only the newest sample of a shorter time cannot be told from that of a longer one.
            let differs = (known.start_ms, known.end_ms) != (selection.start_ms, selection.end_ms);
            if selection.newest_only && differs {
                continue;
            }
            known.start_ms = known.start_ms.min(selection.start_ms);
            known.end_ms = known.end_ms.max(selection.end_ms);
            *times += 1;
        }
        let shared = counted.into_iter().filter(|(_, times)| *times > 1);
        let entry = |(selection, _)| Entry { selection, series: OnceLock::new() };
        Self { below, entries: shared.map(entry).collect() }
    }
}

impl std::fmt::Debug for Shared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("selections", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Querier for Shared<'_> {
    fn select(&self, selection: &Selection, each: &mut Each<'_>) -> Result<(), QueryError> {
        let entry = self.entries.iter().find(|entry| selection.is_within(&entry.selection));
        let Some(entry) = entry else { return self.below.select(selection, each) };
        let series = entry.series.get_or_init(|| {
            let mut series = Vec::new();
            let taken = self.below.select(&entry.selection, &mut |view: SeriesView<'_>| {
                series.push(view.to_data());
                ControlFlow::Continue(())
            });
            taken.map(|()| series).map_err(Arc::new)
        });
        match series {
            Ok(series) => {
                let _stopped = series
                    .iter()
                    .try_for_each(|series| part(selection, SeriesView::of(series), each));
                Ok(())
            }
            Err(error) => Err(QueryError {
                source_name: error.source_name.clone(),
                cause: Box::new(Arc::clone(error)),
            }),
        }
    }
}
