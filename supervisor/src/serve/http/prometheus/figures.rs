//! Figures of queries, and the log of those that took long.

use std::time::Duration;

use holdfast_telemetry::{Histogram, IntCounter, IntCounterVec, Registry, metrics};

/// Buckets of the duration: a panel takes milliseconds; at the last one a query is given up.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 20.0];
/// Characters of a query that the log gets.
const LOGGED_CHARS_MAX: usize = 500;

/// Figures of queries.
#[derive(Debug)]
pub(in crate::serve::http) struct QueryFigures {
    queries: IntCounterVec,
    seconds: Histogram,
    slow: IntCounter,
    slow_after: Duration,
}

impl QueryFigures {
    /// Registers them; a query that takes longer than `slow_after` is logged.
    pub(in crate::serve::http) fn register(registry: &Registry, slow_after: Duration) -> Self {
        let queries = metrics::counter_vec(
            registry,
            "supervisor_queries_total",
            "Queries of the Prometheus API that were evaluated here, by result",
            &["result"],
        );
        for result in ["ok", "bad_data", "execution", "timeout", "canceled", "internal"] {
            queries.with_label_values(&[result]);
        }
        Self {
            queries,
            seconds: metrics::histogram(
                registry,
                "supervisor_query_seconds",
                "Time that queries of the Prometheus API took, waiting for their turn included",
                &BUCKETS,
            ),
            slow: metrics::counter(
                registry,
                "supervisor_slow_queries_total",
                "Queries that took longer than metrics.slow_query; each is in the log",
            ),
            slow_after,
        }
    }

    /// Counts a query that has ended; `result` is `ok` or the type of its error.
    pub(super) fn count(&self, query: &str, result: &str, took: Duration, waited: Duration) {
        self.queries.with_label_values(&[result]).inc();
        self.seconds.observe(took.as_secs_f64());
        if took >= self.slow_after {
            self.slow.inc();
            let query: String = query.chars().take(LOGGED_CHARS_MAX).collect();
            let (seconds, waited_seconds) = (took.as_secs_f64(), waited.as_secs_f64());
            tracing::warn!(query, result, seconds, waited_seconds, "slow query");
        }
    }
}
