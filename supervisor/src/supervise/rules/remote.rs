//! A remote Prometheus as the source of the rules.
//!
//! Expressions about nothing but our own figures and alerts are evaluated on the embedded store, which has them in any case: the rule that
//! tells that the remote is away must not depend on it. Results are kept in the embedded store too, and reach the remote by remote write
//! if that is set up; a rule that uses what another one has recorded together with series of the remote needs that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use holdfast_promql::{EvalError, Expression, QueryError, Value, VectorSample};
use holdfast_series::{Labels, METRIC_NAME, MatchKind, Matcher, Sample};
use tokio::runtime::Handle;

use super::local::Local;
use crate::judge::rules::{At, Source};
use crate::remote::prometheus::Prometheus;

/// What the names of our own series begin with.
const OWN: [&str; 3] = ["supervisor_", "prometheus_rule_", "ALERTS"];

/// Answers from a remote, results into the embedded store.
pub(in crate::supervise) struct Remote {
    prometheus: Arc<Prometheus>,
    local: Local,
    runtime: Handle,
    /// The evaluation in which the remote was found to be away: the other rules of it need not wait for it too.
    away_ms: AtomicI64,
}

impl Remote {
    /// Rules on `prometheus`; to be made within the runtime.
    pub(in crate::supervise) fn new(prometheus: Arc<Prometheus>, local: Local) -> Self {
        Self { prometheus, local, runtime: Handle::current(), away_ms: AtomicI64::new(i64::MIN) }
    }
}

/// Whether an expression is about our own figures only.
fn is_own(expression: &Expression) -> bool {
    let own = |matcher: &Matcher| {
        matcher.name() == METRIC_NAME
            && matcher.kind() == MatchKind::Equal
            && OWN.iter().any(|prefix| matcher.value().starts_with(prefix))
    };
    expression.selectors().iter().all(|matchers| matchers.iter().any(own))
}

impl Source for Remote {
    fn instant(&self, expression: &Expression, at: At) -> Result<Value, EvalError> {
        if is_own(expression) {
            return self.local.instant(expression, at);
        }
        if self.away_ms.load(Ordering::Relaxed) == at.time_ms {
            let source_name = "the remote Prometheus".to_owned();
            let cause = "it did not answer another rule of this evaluation".into();
            return Err(EvalError::Query(QueryError { source_name, cause }));
        }
        let result = self.runtime.block_on(self.prometheus.instant(expression.text(), at.time_ms));
        if let Err(EvalError::Query(_)) = &result {
            self.away_ms.store(at.time_ms, Ordering::Relaxed);
        }
        result
    }

    fn newest(
        &self,
        metric: &str,
        alertname: &str,
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<(Labels, Sample)>, EvalError> {
        self.local.newest(metric, alertname, start_ms, end_ms)
    }

    fn record(&self, samples: &[VectorSample]) {
        self.local.record(samples);
    }

    fn clock(&self) -> Duration {
        self.local.clock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_all_ours_is_evaluated_here() {
        for (text, own) in [
            ("supervisor_redis_up == 0", true),
            ("rate(prometheus_rule_evaluation_failures_total[1m]) > 0", true),
            ("count(ALERTS{alertstate=\"firing\"})", true),
            ("vector(1)", true),
            ("up == 0", false),
            ("supervisor_redis_up == 0 or up", false),
            ("{job=\"supervisor\"}", false),
        ] {
            assert_eq!(is_own(&Expression::parse(text).unwrap()), own, "{text}");
        }
    }
}
