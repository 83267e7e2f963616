//! Figures of listeners.

use holdfast_telemetry::metrics::{counter_vec, float_gauge_vec, gauge_vec, striped_counter_vec};
use holdfast_telemetry::{
    GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, StripedCounter,
    StripedCounterVec,
};
use http::StatusCode;

use super::labels::{Close, Rejection};
use super::{CODES, class, counts};
use crate::figures::Counts;

/// Families of all listeners.
#[derive(Debug)]
pub(crate) struct Families {
    connections: StripedCounterVec,
    active: IntGaugeVec,
    requests: StripedCounterVec,
    received: StripedCounterVec,
    sent: StripedCounterVec,
    rejected: IntCounterVec,
    closed: IntCounterVec,
    accept_failures: IntCounterVec,
    certificate_expiry: GaugeVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            connections: striped_counter_vec(
                r,
                "balancer_listener_connections_total",
                "Connections accepted",
                &["listener"],
            ),
            active: gauge_vec(
                r,
                "balancer_listener_active_connections",
                "Connections open",
                &["listener"],
            ),
            requests: striped_counter_vec(
                r,
                "balancer_listener_requests_total",
                "Requests answered by class of status",
                &["listener", "code"],
            ),
            received: striped_counter_vec(
                r,
                "balancer_listener_received_bytes_total",
                "Bytes received from clients",
                &["listener"],
            ),
            sent: striped_counter_vec(
                r,
                "balancer_listener_sent_bytes_total",
                "Bytes sent to clients",
                &["listener"],
            ),
            rejected: counter_vec(
                r,
                "balancer_listener_rejected_total",
                "Clients turned away before a server was asked",
                &["listener", "reason"],
            ),
            closed: counter_vec(
                r,
                "balancer_listener_closed_total",
                "Connections ended by cause",
                &["listener", "cause"],
            ),
            accept_failures: counter_vec(
                r,
                "balancer_listener_accept_failures_total",
                "Connections that could not be accepted",
                &["listener"],
            ),
            certificate_expiry: float_gauge_vec(
                r,
                "balancer_listener_certificate_expiry_timestamp_seconds",
                "When a certificate expires, by its place in the settings",
                &["listener", "certificate"],
            ),
        }
    }

    /// Handles of one listener, all series at 0.
    pub(crate) fn handles(&self, listener: &str) -> ListenerMetrics {
        let labels = &[listener];
        let each = |family: &IntCounterVec, values: &[&str]| {
            values.iter().map(|value| family.with_label_values(&[listener, value])).collect()
        };
        ListenerMetrics {
            connections: self.connections.with_label_values(labels),
            active: self.active.with_label_values(labels),
            requests: CODES.map(|code| self.requests.with_label_values(&[listener, code])).into(),
            received: self.received.with_label_values(labels),
            sent: self.sent.with_label_values(labels),
            rejected: each(&self.rejected, Rejection::TEXTS),
            closed: each(&self.closed, Close::TEXTS),
            accept_failures: self.accept_failures.with_label_values(labels),
        }
    }

    /// Shows when the certificates of a listener expire, in seconds since 1970, instead of those of `before` certificates.
    pub(crate) fn certificates(&self, listener: &str, before: usize, expiry: &[i64]) {
        for place in expiry.len()..before {
            // An absent series is what is wanted, so the result carries no news.
            let _ = self.certificate_expiry.remove_label_values(&[listener, &place.to_string()]);
        }
        for (place, expiry) in expiry.iter().enumerate() {
            let labels = &[listener, &place.to_string()];
            self.certificate_expiry.with_label_values(labels).set(*expiry as f64);
        }
    }

    /// Drops the series of a listener that is gone.
    pub(crate) fn forget(&self, listener: &str) {
        let labels = &[listener];
        // An absent series is what is wanted, so the result of each removal carries no news.
        let _ = self.connections.remove_label_values(labels);
        let _ = self.active.remove_label_values(labels);
        let _ = self.received.remove_label_values(labels);
        let _ = self.sent.remove_label_values(labels);
        let _ = self.accept_failures.remove_label_values(labels);
        for code in CODES {
            let _ = self.requests.remove_label_values(&[listener, code]);
        }
        for (family, values) in [(&self.rejected, Rejection::TEXTS), (&self.closed, Close::TEXTS)] {
            for value in values {
                let _ = family.remove_label_values(&[listener, value]);
            }
        }
    }
}

/// Handles of one listener.
#[derive(Debug)]
pub(crate) struct ListenerMetrics {
    pub(crate) connections: StripedCounter,
    pub(crate) active: IntGauge,
    requests: Box<[StripedCounter]>,
    pub(crate) received: StripedCounter,
    pub(crate) sent: StripedCounter,
    rejected: Box<[IntCounter]>,
    closed: Box<[IntCounter]>,
    pub(crate) accept_failures: IntCounter,
}

impl ListenerMetrics {
    /// Answers by class of status.
    pub(crate) fn requests(&self) -> Counts {
        counts(&CODES, &self.requests)
    }

    /// Clients turned away, by reason.
    pub(crate) fn rejections(&self) -> Counts {
        counts(Rejection::TEXTS, &self.rejected)
    }

    /// Connections ended, by cause.
    pub(crate) fn closes(&self) -> Counts {
        counts(Close::TEXTS, &self.closed)
    }

    /// Counts an answer.
    pub(crate) fn request(&self, status: StatusCode) {
        class(&self.requests, status).inc();
    }

    /// Counts a client that was turned away.
    pub(crate) fn reject(&self, reason: Rejection) {
        self.rejected[reason as usize].inc();
    }

    /// Counts a connection that ended.
    pub(crate) fn close(&self, cause: Close) {
        self.closed[cause as usize].inc();
    }
}
