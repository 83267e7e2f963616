//! Series as they will be once this evaluation is recorded.
//!
//! A rule may use what a rule before it in the same group has just computed. Those samples are not in the store yet (the engine records
//! nothing itself), so they are laid over it.

use holdfast_promql::{Querier, QueryError};
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
    fn select(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<SeriesData>, QueryError> {
        let found = self.below.select(matchers, start_ms, end_ms)?;
        Ok(self.lay_over(found, matchers, start_ms, end_ms))
    }

    fn select_latest(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<SeriesData>, QueryError> {
        let found = self.below.select_latest(matchers, start_ms, end_ms)?;
        Ok(self.lay_over(found, matchers, start_ms, end_ms))
    }
}
