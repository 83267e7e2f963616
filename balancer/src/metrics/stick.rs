//! Figures of stick tables.

use holdfast_telemetry::metrics::{counter_vec, gauge_vec};
use holdfast_telemetry::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// Whether a client was known.
const RESULTS: [&str; 2] = ["hit", "miss"];

/// Families of all pools; a pool without a table has no series.
#[derive(Debug)]
pub(crate) struct Families {
    entries: IntGaugeVec,
    lookups: IntCounterVec,
    evicted: IntCounterVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            entries: gauge_vec(
                r,
                "balancer_stick_table_entries",
                "Clients whose server is remembered",
                &["pool"],
            ),
            lookups: counter_vec(
                r,
                "balancer_stick_table_lookups_total",
                "Requests and connections whose client was looked up, by whether it was known",
                &["pool", "result"],
            ),
            evicted: counter_vec(
                r,
                "balancer_stick_table_evicted_total",
                "Clients forgotten before their time for want of room",
                &["pool"],
            ),
        }
    }

    /// Handles of one pool, all series at 0.
    pub(crate) fn handles(&self, pool: &str) -> StickMetrics {
        StickMetrics {
            entries: self.entries.with_label_values(&[pool]),
            lookups: RESULTS.map(|result| self.lookups.with_label_values(&[pool, result])),
            evicted: self.evicted.with_label_values(&[pool]),
        }
    }

    /// Drops the series of a pool that has no table any more.
    pub(crate) fn forget(&self, pool: &str) {
        // An absent series is what is wanted, so the result of each removal carries no news.
        let _ = self.entries.remove_label_values(&[pool]);
        let _ = self.evicted.remove_label_values(&[pool]);
        for result in RESULTS {
            let _ = self.lookups.remove_label_values(&[pool, result]);
        }
    }
}

/// Handles of one pool.
#[derive(Debug)]
pub(crate) struct StickMetrics {
    entries: IntGauge,
    lookups: [IntCounter; 2],
    evicted: IntCounter,
}

impl StickMetrics {
    /// Counts a look-up.
    pub(crate) fn count(&self, known: bool) {
        self.lookups[usize::from(!known)].inc();
    }

    /// Shows how many are remembered, and counts those that were `evicted`.
    pub(crate) fn show(&self, entries: usize, evicted: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.evicted.inc_by(evicted);
    }
}
