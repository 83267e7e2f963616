//! Figures about other managers. The families are registered once; each Redis has its own series in them.

use holdfast_telemetry::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, metrics};

use crate::cluster::Manager;
use crate::config::Redis;
use crate::judge::sentinel::{Assessment, Risk, SentinelView};

/// The families of all Redis.
pub(in crate::act::redis) struct Families {
    manager: IntGaugeVec,
    up: IntGaugeVec,
    risk: IntGaugeVec,
    lacks: IntGaugeVec,
    unsafe_switches: IntCounterVec,
    empty_restarts: IntCounterVec,
}

impl Families {
    /// Registers them, without series yet.
    pub(in crate::act::redis) fn register(registry: &Registry) -> Self {
        Self {
            manager: metrics::gauge_vec(
                registry,
                "supervisor_redis_manager_info",
                "1 for the manager that changes the roles of the servers",
                &["redis", "manager"],
            ),
            up: metrics::gauge_vec(
                registry,
                "supervisor_redis_sentinel_up",
                "1 if the Redis Sentinel can be asked",
                &["redis", "sentinel"],
            ),
            risk: metrics::gauge_vec(
                registry,
                "supervisor_redis_sentinel_risk",
                "1 for each weak spot of Redis Sentinel that is open now",
                &["redis", "risk"],
            ),
            lacks: metrics::gauge_vec(
                registry,
                "supervisor_redis_sentinel_choice_lacks_bytes",
                "Bytes that the replica Redis Sentinel would promote lacks and another has, -1 if not known",
                &["redis"],
            ),
            unsafe_switches: metrics::counter_vec(
                registry,
                "supervisor_redis_unsafe_switches_total",
                "Changes of the primary by another manager after which the former one went on taking writes",
                &["redis"],
            ),
            empty_restarts: metrics::counter_vec(
                registry,
                "supervisor_redis_empty_restarts_total",
                "Times the primary was restarted without the data its replicas have",
                &["redis"],
            ),
        }
    }

    /// The series of one Redis.
    pub(in crate::act::redis) fn of(&self, config: &Redis) -> Metrics {
        let name = config.name.clone();
        for each in Manager::ALL {
            let value = i64::from(each == config.manager);
            self.manager.with_label_values(&[&name, each.name()]).set(value);
        }
        let metrics = Metrics {
            up: self.up.clone(),
            risk: self.risk.clone(),
            lacks: self.lacks.with_label_values(&[&name]),
            unsafe_switches: self.unsafe_switches.with_label_values(&[&name]),
            empty_restarts: self.empty_restarts.with_label_values(&[&name]),
            name,
        };
        metrics.set_assessment(&Assessment::default());
        for sentinel in config.sentinels.iter().flat_map(|sentinels| &sentinels.addresses) {
            metrics.set_up(&SentinelView::new(sentinel.clone()));
        }
        metrics
    }
}

pub(in crate::act::redis) struct Metrics {
    name: String,
    up: IntGaugeVec,
    risk: IntGaugeVec,
    lacks: IntGauge,
    pub(super) unsafe_switches: IntCounter,
    pub(super) empty_restarts: IntCounter,
}

impl Metrics {
    pub(super) fn set_up(&self, view: &SentinelView) {
        let up = i64::from(view.present().is_some());
        self.up.with_label_values(&[&self.name, &view.address.to_string()]).set(up);
    }

    pub(super) fn set_assessment(&self, assessment: &Assessment) {
        for risk in Risk::ALL {
            let is_open = assessment.findings.iter().any(|finding| finding.risk == risk);
            self.risk.with_label_values(&[&self.name, risk.name()]).set(i64::from(is_open));
        }
        let lacks = assessment.choice_lacks_bytes.and_then(|bytes| i64::try_from(bytes).ok());
        self.lacks.set(lacks.unwrap_or(-1));
    }
}
