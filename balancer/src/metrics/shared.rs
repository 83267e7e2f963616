//! Figures of the limits that several balancers keep together.

use std::time::Duration;

use holdfast_telemetry::metrics::{counter_vec, gauge_vec, histogram_vec};
use holdfast_telemetry::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

/// From a server in the same rack to one that is about to be given up.
const SECONDS: [f64; 8] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5];

/// Families whose series exist only where limits are shared: an absent figure is no outage.
#[derive(Debug)]
pub(crate) struct Families {
    reachable: IntGaugeVec,
    seconds: HistogramVec,
    failures: IntCounterVec,
    dropped: IntCounterVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            reachable: gauge_vec(
                r,
                "balancer_shared_limits_reachable",
                "Whether the Redis that keeps shared limits answered last time",
                &[],
            ),
            seconds: histogram_vec(
                r,
                "balancer_shared_limits_exchange_seconds",
                "Time to tell Redis what was let pass",
                &[],
                &SECONDS,
            ),
            failures: counter_vec(
                r,
                "balancer_shared_limits_failures_total",
                "Exchanges with Redis that failed",
                &[],
            ),
            dropped: counter_vec(
                r,
                "balancer_shared_limits_dropped_total",
                "Clients and tokens whose consumption other balancers were not told",
                &[],
            ),
        }
    }

    /// Handles, all series at their start.
    pub(crate) fn handles(&self) -> SharedMetrics {
        let reachable = self.reachable.with_label_values::<&str>(&[]);
        reachable.set(1);
        SharedMetrics {
            reachable,
            seconds: self.seconds.with_label_values::<&str>(&[]),
            failures: self.failures.with_label_values::<&str>(&[]),
            dropped: self.dropped.with_label_values::<&str>(&[]),
        }
    }
}

/// Handles.
#[derive(Debug)]
pub(crate) struct SharedMetrics {
    reachable: IntGauge,
    seconds: Histogram,
    failures: IntCounter,
    dropped: IntCounter,
}

impl SharedMetrics {
    /// Counts an exchange.
    pub(crate) fn succeeded(&self, took: Duration) {
        self.reachable.set(1);
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts one that failed, with what was to be told.
    pub(crate) fn failed(&self, clients: usize) {
        self.failures.inc();
        self.dropped(clients);
        self.reachable.set(0);
    }

    /// Counts what was not told.
    pub(crate) fn dropped(&self, clients: usize) {
        self.dropped.inc_by(clients as u64);
    }
}
