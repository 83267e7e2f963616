//! Series as they will be once this evaluation is recorded.
//!
//! A rule may use what a rule before it in the same group has just computed. Those samples are not in the store yet (the engine records
//! nothing itself), so they are laid over it.

use std::ops::ControlFlow;

use holdfast_promql::{Each, Querier, QueryError, Selection, SeriesView};
use holdfast_series::{Labels, Matcher, Sample, SeriesData};

/// A source of series with newer samples on top.
pub(super) struct Overlay<'a> {
    pub(super) below: &'a dyn Querier,
    pub(super) fresh: &'a [(Labels, Sample)],
}

impl Overlay<'_> {
    fn lay_over(
        &self,
        mut found: Vec<SeriesData>,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Vec<SeriesData> {
        for (labels, sample) in self.fresh {
            let within = (start_ms..=end_ms).contains(&sample.timestamp_ms);
            let selected =
                matchers.iter().all(|matcher| matcher.matches(labels.value(matcher.name())));
            if !within || !selected {
                continue;
            }
            if let Some(series) = found.iter_mut().find(|series| series.labels == *labels) {
                let older = series.samples.iter().filter(|s| s.timestamp_ms < sample.timestamp_ms);
                series.samples = older.copied().chain([*sample]).collect();
            } else {
                found.push(SeriesData::new(labels.clone(), [*sample]));
            }
        }
        found
    }
}

impl Querier for Overlay<'_> {
    fn select(&self, selection: &Selection, each: &mut Each<'_>) -> Result<(), QueryError> {
        let mut found = Vec::new();
        self.below.select(selection, &mut |series| {
            found.push(series.to_data());
            ControlFlow::Continue(())
        })?;
        let Selection { matchers, start_ms, end_ms, .. } = selection;
        let found = self.lay_over(found, matchers, *start_ms, *end_ms);
        let view = |series: &SeriesData| each(SeriesView::of(series));
        let _stopped = found.iter().try_for_each(view);
        Ok(())
    }
}
