//! Figures of faults made on purpose.

use holdfast_telemetry::metrics::{counter_vec, gauge_vec};
use holdfast_telemetry::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::faults::Effect;

/// Families of all pools.
#[derive(Debug)]
pub(crate) struct Families {
    active: IntGaugeVec,
    injected: IntCounterVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let labels = &["pool", "effect"];
        Self {
            active: gauge_vec(
                registry,
                "balancer_faults_active",
                "Faults in force that operators have injected",
                labels,
            ),
            injected: counter_vec(
                registry,
                "balancer_faults_injected_total",
                "Requests and connections that an injected fault has hit",
                labels,
            ),
        }
    }

    /// Handles of one pool, all series at 0.
    pub(crate) fn handles(&self, pool: &str) -> FaultMetrics {
        FaultMetrics {
            active: Effect::NAMES.map(|effect| self.active.with_label_values(&[pool, effect])),
            injected: Effect::NAMES.map(|effect| self.injected.with_label_values(&[pool, effect])),
        }
    }

    /// Drops the series of a pool that is gone.
    pub(crate) fn forget(&self, pool: &str) {
        for effect in Effect::NAMES {
            // An absent series is what is wanted, so the result of each removal carries no news.
            let _ = self.active.remove_label_values(&[pool, effect]);
            let _ = self.injected.remove_label_values(&[pool, effect]);
        }
    }
}

/// Handles of one pool, by [`Effect::position`].
#[derive(Debug)]
pub(crate) struct FaultMetrics {
    pub(crate) active: [IntGauge; 6],
    pub(crate) injected: [IntCounter; 6],
}
