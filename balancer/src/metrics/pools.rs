//! Figures of pools.

use super::counts;
use super::labels::{Hedge, PoolError};
use crate::figures::Counts;
use holdfast_telemetry::metrics::{counter_vec, gauge_vec, histogram_vec};
use holdfast_telemetry::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

/// From a request that ends at once to the longest time a client of chat waits (`queue_timeout` is 3 s by default).
const QUEUE_BUCKETS: [f64; 10] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 10.0];

/// Families of all pools.
#[derive(Debug)]
pub(crate) struct Families {
    errors: IntCounterVec,
    retries: IntCounterVec,
    retries_denied: IntCounterVec,
    hedges: IntCounterVec,
    panic: IntGaugeVec,
    queued: IntGaugeVec,
    queue_wait: HistogramVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            errors: counter_vec(
                r,
                "balancer_pool_errors_total",
                "Requests and connections the pool could not serve",
                &["pool", "cause"],
            ),
            retries: counter_vec(
                r,
                "balancer_pool_retries_total",
                "Attempts at another server after one that failed",
                &["pool"],
            ),
            retries_denied: counter_vec(
                r,
                "balancer_pool_retries_denied_total",
                "Attempts at another server that the retry budget did not allow",
                &["pool"],
            ),
            hedges: counter_vec(
                r,
                "balancer_pool_hedges_total",
                "Second connections begun because the first took long, by which of the two was used",
                &["pool", "used"],
            ),
            panic: gauge_vec(
                r,
                "balancer_pool_panic",
                "Whether so few servers are usable that all are used",
                &["pool"],
            ),
            queue_wait: histogram_vec(
                r,
                "balancer_pool_queue_seconds",
                "Time clients waited for a server with room, those who got none included",
                &["pool"],
                &QUEUE_BUCKETS,
            ),
            queued: gauge_vec(
                r,
                "balancer_pool_queued",
                "Clients that wait for a server with room",
                &["pool"],
            ),
        }
    }

    /// Handles of one pool, all series at 0.
    pub(crate) fn handles(&self, pool: &str) -> PoolMetrics {
        let error = |cause: &&str| self.errors.with_label_values(&[pool, cause]);
        PoolMetrics {
            errors: PoolError::TEXTS.iter().map(error).collect(),
            retries: self.retries.with_label_values(&[pool]),
            retries_denied: self.retries_denied.with_label_values(&[pool]),
            hedges: Hedge::TEXTS
                .iter()
                .map(|used| self.hedges.with_label_values(&[pool, used]))
                .collect(),
            panic: self.panic.with_label_values(&[pool]),
            queued: self.queued.with_label_values(&[pool]),
            queue_wait: self.queue_wait.with_label_values(&[pool]),
        }
    }

    /// Drops the series of a pool that is gone.
    pub(crate) fn forget(&self, pool: &str) {
        // An absent series is what is wanted, so the result of each removal carries no news.
        let _ = self.retries.remove_label_values(&[pool]);
        let _ = self.retries_denied.remove_label_values(&[pool]);
        for used in Hedge::TEXTS {
            let _ = self.hedges.remove_label_values(&[pool, used]);
        }
        let _ = self.panic.remove_label_values(&[pool]);
        let _ = self.queued.remove_label_values(&[pool]);
        let _ = self.queue_wait.remove_label_values(&[pool]);
        for cause in PoolError::TEXTS {
            let _ = self.errors.remove_label_values(&[pool, cause]);
        }
    }
}

/// Handles of one pool.
#[derive(Debug)]
pub(crate) struct PoolMetrics {
    errors: Box<[IntCounter]>,
    pub(crate) retries: IntCounter,
    pub(crate) retries_denied: IntCounter,
    hedges: Box<[IntCounter]>,
    pub(crate) panic: IntGauge,
    pub(crate) queued: IntGauge,
    pub(crate) queue_wait: Histogram,
}

impl PoolMetrics {
    /// Counts a second connection.
    pub(crate) fn hedge(&self, used: Hedge) {
        self.hedges[used as usize].inc();
    }

    /// What could not be served, by cause.
    pub(crate) fn errors(&self) -> Counts {
        counts(PoolError::TEXTS, &self.errors)
    }

    /// Counts what could not be served.
    pub(crate) fn error(&self, cause: PoolError) {
        self.errors[cause as usize].inc();
    }
}
