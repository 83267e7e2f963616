//! The embedded store as the source of the rules.

use std::sync::Arc;
use std::time::Duration;

use holdfast_promql::{EvalError, Expression, Interruption, Options, Value, VectorSample, instant};
use holdfast_series::{Labels, Matcher, Sample, Store};
use holdfast_telemetry::{IntCounter, Registry, metrics};
use tokio::time::Instant;

use super::RULE_TIMEOUT;
use crate::judge::rules::{At, Source};

/// Answers from the store, and results into it.
pub(in crate::supervise) struct Local {
    store: Arc<Store>,
    begun: Instant,
    /// Samples that the store refused.
    rejected: IntCounter,
}

impl Local {
    /// Rules on `store`.
    pub(in crate::supervise) fn new(store: Arc<Store>, registry: &Registry) -> Self {
        let rejected = metrics::counter(
            registry,
            "supervisor_rule_samples_rejected_total",
            "Samples of rules that the store refused: too many series, or a clock that went back",
        );
        Self { store, begun: Instant::now(), rejected }
    }
}

impl Source for Local {
    fn instant(&self, expression: &Expression, at: At) -> Result<Value, EvalError> {
        let deadline = Instant::now() + RULE_TIMEOUT;
        let is_late = || (Instant::now() >= deadline).then_some(Interruption::TimedOut);
        let options = Options {
            subquery_step_ms: i64::try_from(at.interval.as_millis()).unwrap_or(i64::MAX).max(1),
            interrupted: Some(&is_late),
            ..Options::default()
        };
        Ok(instant(&*self.store, expression, at.time_ms, &options)?.value)
    }

    fn newest(
        &self,
        metric: &str,
        alertname: &str,
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<(Labels, Sample)>, EvalError> {
        let matchers = [Matcher::equal("__name__", metric), Matcher::equal("alertname", alertname)];
        let found = self.store.select_latest(&matchers, start_ms, end_ms);
        let newest = |series: holdfast_series::SeriesData| {
            series.samples.last().map(|sample| (series.labels.clone(), *sample))
        };
        Ok(found.into_iter().filter_map(newest).collect())
    }

    fn record(&self, samples: &[VectorSample]) {
        let mut appender = self.store.appender();
        for VectorSample { labels, sample, histogram } in samples {
            let result = appender.series(labels).and_then(|(mut series, _)| match histogram {
                Some(histogram) => {
                    appender.push_histogram(&mut series, sample.timestamp_ms, Arc::clone(histogram))
                }
                None => appender.push(&mut series, *sample),
            });
            if result.is_err() {
                self.rejected.inc();
            }
        }
    }

    fn clock(&self) -> Duration {
        self.begun.elapsed()
    }
}
