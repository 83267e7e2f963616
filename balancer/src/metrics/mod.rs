//! Every figure of the balancer.
//!
//! Labels come from the settings (listeners, pools, servers) and from the closed sets of `labels`, so their number is bounded. A part
//! takes its handles once and the data path only adds to them; the series of a known part exist at 0 from the start, and those of a
//! removed part go with it. What every request counts is striped, so that the workers do not wait for each other's cache lines.

mod faults;
mod labels;
mod limits;
mod listeners;
mod pools;
mod record;
mod servers;
mod shared;
mod sight;
mod stick;

use std::sync::Arc;

use holdfast_telemetry::metrics::{counter, float_gauge, gauge};
use holdfast_telemetry::prometheus::core::{Atomic, GenericCounter};
use holdfast_telemetry::{Gauge, IntCounter, IntGauge, Registry};
use http::StatusCode;

use crate::figures::Counts;
pub(crate) use faults::FaultMetrics;
pub use labels::{Close, Hedge, Offence, PoolError, Rejection};
pub(crate) use limits::{BanMetrics, LimitMetrics};
pub(crate) use listeners::ListenerMetrics;
pub(crate) use pools::PoolMetrics;
pub(crate) use record::RecordMetrics;
pub(crate) use servers::ServerMetrics;
pub(crate) use shared::SharedMetrics;
pub(crate) use sight::SightMetrics;
pub(crate) use stick::StickMetrics;

/// Status codes by class; the position is the first digit less one.
const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All metric families.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) servers: servers::Families,
    pub(crate) pools: pools::Families,
    pub(crate) faults: faults::Families,
    pub(crate) listeners: listeners::Families,
    pub(crate) record: Arc<RecordMetrics>,
    pub(crate) limits: limits::Families,
    pub(crate) shared_limits: shared::Families,
    pub(crate) shared_sticks: shared::Families,
    pub(crate) sticks: stick::Families,
    pub(crate) sight: Arc<SightMetrics>,
    /// 1 if the last reload was taken, 0 if its settings were refused.
    pub(crate) reload_successful: IntGauge,
    /// When settings were last taken.
    pub(crate) reload_timestamp: Gauge,
    /// Connection tasks that panicked.
    pub(crate) panics: IntCounter,
    /// New processes that did not take over.
    pub(crate) upgrade_failures: IntCounter,
}

impl Metrics {
    /// Registers everything with `registry`.
    pub fn register(registry: &Registry) -> Arc<Self> {
        let r = registry;
        Arc::new(Self {
            servers: servers::Families::register(r),
            pools: pools::Families::register(r),
            faults: faults::Families::register(r),
            listeners: listeners::Families::register(r),
            record: Arc::new(RecordMetrics::register(r)),
            limits: limits::Families::register(r),
            shared_limits: shared::Families::limits(r),
            shared_sticks: shared::Families::sticks(r),
            sticks: stick::Families::register(r),
            sight: Arc::new(SightMetrics::register(r)),
            reload_successful: gauge(
                r,
                "balancer_config_last_reload_successful",
                "Whether the last reload of the settings was taken",
            ),
            reload_timestamp: float_gauge(
                r,
                "balancer_config_last_reload_timestamp_seconds",
                "When settings were last taken",
            ),
            panics: counter(
                r,
                "balancer_connection_panics_total",
                "Connection tasks that panicked",
            ),
            upgrade_failures: counter(
                r,
                "balancer_upgrade_failures_total",
                "New processes that were started to take over and did not",
            ),
        })
    }
}

/// What counters say, by their labels.
fn counts<C: Atomic<T = u64>>(labels: &[&str], counters: &[GenericCounter<C>]) -> Counts {
    labels.iter().zip(counters).map(|(label, each)| ((*label).to_owned(), each.get())).collect()
}

/// The counter of a status; hyper yields no status outside 100 to 999, and what is above 599 is an error of some kind.
fn class<C>(counters: &[C], status: StatusCode) -> &C {
    let digit = usize::from(status.as_u16() / 100);
    &counters[digit.clamp(1, CODES.len()) - 1]
}
