//! Figures of the endpoint.

use holdfast_telemetry::{IntCounter, IntCounterVec, IntGauge, Registry, metrics};

/// Figures of the endpoint.
pub(super) struct Metrics {
    pub(super) connections: IntGauge,
    pub(super) wrong_passwords: IntCounter,
    refused: IntCounterVec,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let refused = metrics::counter_vec(
            registry,
            "supervisor_sentinel_refused_connections_total",
            "Connections to the Sentinel-compatible endpoint that were closed unanswered, by reason",
            &["reason"],
        );
        for reason in ["full", "silent", "tls"] {
            refused.with_label_values(&[reason]);
        }
        Self {
            connections: metrics::gauge(
                registry,
                "supervisor_sentinel_connections",
                "Connections to the Sentinel-compatible endpoint",
            ),
            wrong_passwords: metrics::counter(
                registry,
                "supervisor_sentinel_wrong_passwords_total",
                "Attempts to log in to the Sentinel-compatible endpoint that were refused",
            ),
            refused,
        }
    }

    /// There are as many as there may be.
    pub(super) fn full(&self) {
        self.refused.with_label_values(&["full"]).inc();
    }

    /// No command.
    pub(super) fn silent(&self) {
        self.refused.with_label_values(&["silent"]).inc();
    }

    /// No handshake.
    pub(super) fn no_tls(&self) {
        self.refused.with_label_values(&["tls"]).inc();
    }
}
