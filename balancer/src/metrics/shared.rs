//! Figures of what several balancers keep together: limits, stick tables.

use std::time::Duration;

use holdfast_telemetry::metrics::{counter_vec, gauge_vec, histogram_vec};
use holdfast_telemetry::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

/// From a server in the same rack to one that is about to be given up.
const SECONDS: [f64; 8] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5];

/// Names and helps of the figures about one thing that is shared.
type Names = [(&'static str, &'static str); 4];

const LIMITS: Names = [
    (
        "balancer_shared_limits_reachable",
        "Whether the Redis that keeps shared limits answered last time",
    ),
    ("balancer_shared_limits_exchange_seconds", "Time to tell Redis what was let pass"),
    ("balancer_shared_limits_failures_total", "Exchanges with Redis that failed"),
    (
        "balancer_shared_limits_dropped_total",
        "Clients and tokens whose consumption other balancers were not told",
    ),
];

const STICKS: Names = [
    (
        "balancer_shared_stick_tables_reachable",
        "Whether the Redis that keeps shared stick tables answered last time",
    ),
    ("balancer_shared_stick_tables_exchange_seconds", "Time to tell and hear where clients are"),
    ("balancer_shared_stick_tables_failures_total", "Exchanges about stick tables that failed"),
    (
        "balancer_shared_stick_tables_dropped_total",
        "Clients of whom other balancers were not told, or only later",
    ),
];

/// Families whose series exist only where something is shared: an absent figure is no outage.
#[derive(Debug)]
pub(crate) struct Families {
    reachable: IntGaugeVec,
    seconds: HistogramVec,
    failures: IntCounterVec,
    dropped: IntCounterVec,
}

impl Families {
    /// Of limits.
    pub(super) fn limits(registry: &Registry) -> Self {
        Self::register(registry, LIMITS)
    }

    /// Of stick tables.
    pub(super) fn sticks(registry: &Registry) -> Self {
        Self::register(registry, STICKS)
    }

    fn register(registry: &Registry, names: Names) -> Self {
        let [reachable, seconds, failures, dropped] = names;
        Self {
            reachable: gauge_vec(registry, reachable.0, reachable.1, &[]),
            seconds: histogram_vec(registry, seconds.0, seconds.1, &[], &SECONDS),
            failures: counter_vec(registry, failures.0, failures.1, &[]),
            dropped: counter_vec(registry, dropped.0, dropped.1, &[]),
        }
    }

    /// Drops the series, because nothing is shared any more.
    pub(crate) fn forget(&self) {
        self.reachable.reset();
        self.seconds.reset();
        self.failures.reset();
        self.dropped.reset();
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
