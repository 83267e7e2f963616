//! What drills leave in the metrics.

use holdfast_telemetry::{GaugeVec, IntCounterVec, Registry, metrics};

use super::report::Report;
use super::run::Verdict;
use crate::config::SCENARIOS;

/// Metrics of the drill runner.
pub(super) struct Metrics {
    drills: IntCounterVec,
    rto: GaugeVec,
    rpo: GaugeVec,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let drills = metrics::counter_vec(
            registry,
            "supervisor_drills_total",
            "Finished drills by scenario and verdict",
            &["scenario", "verdict"],
        );
        for scenario in SCENARIOS {
            for verdict in Verdict::ALL {
                drills.with_label_values(&[scenario, verdict.name()]);
            }
        }
        Self {
            drills,
            rto: metrics::float_gauge_vec(
                registry,
                "supervisor_drill_rto_seconds",
                "Longest time without an acknowledged canary message in the last drill that was not aborted",
                &["scenario"],
            ),
            rpo: metrics::float_gauge_vec(
                registry,
                "supervisor_drill_rpo_messages",
                "Acknowledged canary messages lost in the last drill that was not aborted",
                &["scenario"],
            ),
        }
    }

    /// A run is over.
    pub(super) fn count(&self, report: &Report) {
        let scenario = report.scenario.as_str();
        self.drills.with_label_values(&[scenario, report.verdict.name()]).inc();
        if report.verdict == Verdict::Aborted {
            return;
        }
        if let Some(seconds) = report.rto_seconds {
            self.rto.with_label_values(&[scenario]).set(seconds);
        }
        if let Some(messages) = report.rpo_messages {
            self.rpo.with_label_values(&[scenario]).set(messages as f64);
        }
    }
}
