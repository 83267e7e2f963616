//! Figures of limits and bans.

use holdfast_telemetry::metrics::{counter, counter_vec, gauge, gauge_vec};
use holdfast_telemetry::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::labels::{Offence, Rejection};

/// Families of all listeners.
#[derive(Debug)]
pub(crate) struct Families {
    would_reject: IntCounterVec,
    remembered: IntGaugeVec,
    evicted: IntCounterVec,
    unknown: IntCounterVec,
    bans_in_force: IntGauge,
    bans: IntCounterVec,
    offences: IntCounterVec,
    offenders_lost: IntCounter,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            would_reject: counter_vec(
                r,
                "balancer_listener_would_reject_total",
                "What limits that only observe would have turned away",
                &["listener", "reason"],
            ),
            remembered: gauge_vec(
                r,
                "balancer_limits_clients",
                "Clients and tokens whose consumption is remembered",
                &["listener"],
            ),
            evicted: counter_vec(
                r,
                "balancer_limits_evicted_total",
                "Clients and tokens forgotten too early for want of room",
                &["listener"],
            ),
            unknown: counter_vec(
                r,
                "balancer_limits_unlimited_total",
                "Connections and requests let pass uncounted for want of room",
                &["listener"],
            ),
            bans_in_force: gauge(r, "balancer_bans_in_force", "Clients that are banned"),
            bans: counter_vec(
                r,
                "balancer_bans_total",
                "Clients banned, by the last offence",
                &["offence"],
            ),
            offences: counter_vec(
                r,
                "balancer_offences_total",
                "What clients did that counts towards a ban",
                &["offence"],
            ),
            offenders_lost: counter(
                r,
                "balancer_offenders_lost_total",
                "Offenders forgotten or never noted for want of room",
            ),
        }
    }

    /// Handles of one listener, all series at 0.
    pub(crate) fn handles(&self, listener: &str) -> LimitMetrics {
        let reason =
            |reason: &Rejection| self.would_reject.with_label_values(&[listener, reason.as_str()]);
        LimitMetrics {
            would_reject: Rejection::BY_LIMITS.iter().map(reason).collect(),
            remembered: self.remembered.with_label_values(&[listener]),
            evicted: self.evicted.with_label_values(&[listener]),
            unknown: self.unknown.with_label_values(&[listener]),
        }
    }

    /// Drops the series of a listener that is gone.
    pub(crate) fn forget(&self, listener: &str) {
        // An absent series is what is wanted, so the result of each removal carries no news.
        let _ = self.remembered.remove_label_values(&[listener]);
        let _ = self.evicted.remove_label_values(&[listener]);
        let _ = self.unknown.remove_label_values(&[listener]);
        for reason in Rejection::BY_LIMITS {
            let _ = self.would_reject.remove_label_values(&[listener, reason.as_str()]);
        }
    }

    /// Handles of the bans, all series at 0.
    pub(crate) fn bans(&self) -> BanMetrics {
        let each = |family: &IntCounterVec| {
            Offence::TEXTS.iter().map(|offence| family.with_label_values(&[offence])).collect()
        };
        BanMetrics {
            in_force: self.bans_in_force.clone(),
            bans: each(&self.bans),
            offences: each(&self.offences),
            lost: self.offenders_lost.clone(),
        }
    }
}

/// Handles of one listener.
#[derive(Debug)]
pub(crate) struct LimitMetrics {
    would_reject: Box<[IntCounter]>,
    remembered: IntGauge,
    evicted: IntCounter,
    unknown: IntCounter,
}

impl LimitMetrics {
    /// Counts what limits that only observe let pass.
    pub(crate) fn would_reject(&self, reason: Rejection) {
        let position = Rejection::BY_LIMITS.iter().position(|known| *known == reason);
        if let Some(counter) = position.and_then(|position| self.would_reject.get(position)) {
            counter.inc();
        }
    }

    /// Shows how many clients and tokens are remembered.
    pub(crate) fn remembered(&self, count: usize) {
        self.remembered.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts entries that were `evicted`, and what passed `unknown`.
    pub(crate) fn lost(&self, evicted: u64, unknown: u64) {
        self.evicted.inc_by(evicted);
        self.unknown.inc_by(unknown);
    }
}

/// Handles of the bans.
#[derive(Debug)]
pub(crate) struct BanMetrics {
    in_force: IntGauge,
    bans: Box<[IntCounter]>,
    offences: Box<[IntCounter]>,
    lost: IntCounter,
}

impl BanMetrics {
    /// Shows how many clients are banned.
    pub(crate) fn in_force(&self, count: usize) {
        self.in_force.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a ban.
    pub(crate) fn ban(&self, offence: Offence) {
        self.bans[offence as usize].inc();
    }

    /// Counts an offence.
    pub(crate) fn offence(&self, offence: Offence) {
        self.offences[offence as usize].inc();
    }

    /// Counts offenders that were not remembered.
    pub(crate) fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }
}
