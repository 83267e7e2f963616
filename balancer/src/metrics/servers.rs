//! Figures of servers.

use holdfast_telemetry::metrics::{
    counter_vec, float_gauge_vec, gauge_vec, striped_counter_vec, striped_histogram_vec,
};
use holdfast_telemetry::{
    Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, StripedCounter,
    StripedCounterVec, StripedHistogram, StripedHistogramVec,
};
use http::StatusCode;

use super::{CODES, class, counts};
use crate::figures::Counts;
use crate::pool::state::{AdminState, Cause};

/// From a connection on the same host (50 µs) to the longest connect timeout worth setting.
const CONNECT_BUCKETS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 3.0];
/// Around 250 ms, above which chat feels slow.
const FIRST_BYTE_BUCKETS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// From a connection that fails at once, over reconnect storms, to chat clients that stay for a day.
const SESSION_BUCKETS: [f64; 10] =
    [1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0];

/// Families of all servers.
#[derive(Debug)]
pub(crate) struct Families {
    up: IntGaugeVec,
    usable: IntGaugeVec,
    state: IntGaugeVec,
    weight: IntGaugeVec,
    effective_weight: GaugeVec,
    active: IntGaugeVec,
    connections: StripedCounterVec,
    connect_failures: IntCounterVec,
    responses: StripedCounterVec,
    connect: StripedHistogramVec,
    first_byte: StripedHistogramVec,
    session: StripedHistogramVec,
    checks: IntCounterVec,
    ejections: IntCounterVec,
    agent_checks: IntCounterVec,
    moved: IntCounterVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let labels = &["pool", "server"];
        let r = registry;
        Self {
            up: gauge_vec(
                r,
                "balancer_server_up",
                "Whether the health checks pass; without checks always 1",
                labels,
            ),
            usable: gauge_vec(
                r,
                "balancer_server_usable",
                "Whether new connections go there",
                labels,
            ),
            state: gauge_vec(
                r,
                "balancer_server_state",
                "State set by the operator",
                &["pool", "server", "state"],
            ),
            weight: gauge_vec(r, "balancer_server_weight", "Weight set, before slow start", labels),
            effective_weight: float_gauge_vec(
                r,
                "balancer_server_effective_weight",
                "Weight in use, after slow start",
                labels,
            ),
            active: gauge_vec(
                r,
                "balancer_server_active_connections",
                "Requests in flight, upgraded and TCP connections",
                labels,
            ),
            connections: striped_counter_vec(
                r,
                "balancer_server_connections_total",
                "Connections made to the server",
                labels,
            ),
            connect_failures: counter_vec(
                r,
                "balancer_server_connect_failures_total",
                "Connections to the server that could not be made",
                labels,
            ),
            responses: striped_counter_vec(
                r,
                "balancer_server_responses_total",
                "Responses of the server by class of status",
                &["pool", "server", "code"],
            ),
            connect: striped_histogram_vec(
                r,
                "balancer_server_connect_seconds",
                "Time to connect to the server",
                labels,
                &CONNECT_BUCKETS,
            ),
            first_byte: striped_histogram_vec(
                r,
                "balancer_server_first_byte_seconds",
                "Time from a request sent to the head of its response",
                labels,
                &FIRST_BYTE_BUCKETS,
            ),
            session: striped_histogram_vec(
                r,
                "balancer_server_session_seconds",
                "Age of upgraded and TCP connections to the server when they ended",
                labels,
                &SESSION_BUCKETS,
            ),
            checks: counter_vec(
                r,
                "balancer_server_health_checks_total",
                "Active health checks",
                &["pool", "server", "result"],
            ),
            ejections: counter_vec(
                r,
                "balancer_server_ejections_total",
                "Times the traffic took the server out",
                &["pool", "server", "cause"],
            ),
            moved: counter_vec(
                r,
                "balancer_server_moved_connections_total",
                "Connections told to leave so that their clients go elsewhere",
                &["pool", "server", "cause"],
            ),
            agent_checks: counter_vec(
                r,
                "balancer_server_agent_checks_total",
                "Questions to the server's agent",
                &["pool", "server", "result"],
            ),
        }
    }

    /// Handles of one server, all series at 0.
    pub(crate) fn handles(&self, pool: &str, server: &str) -> ServerMetrics {
        let labels = &[pool, server];
        let with = |value| [pool, server, value];
        ServerMetrics {
            up: self.up.with_label_values(labels),
            usable: self.usable.with_label_values(labels),
            state: AdminState::ALL.map(|s| self.state.with_label_values(&with(s.as_str()))),
            weight: self.weight.with_label_values(labels),
            effective_weight: self.effective_weight.with_label_values(labels),
            active: self.active.with_label_values(labels),
            connections: self.connections.with_label_values(labels),
            connect_failures: self.connect_failures.with_label_values(labels),
            responses: CODES.map(|code| self.responses.with_label_values(&with(code))),
            connect: self.connect.with_label_values(labels),
            first_byte: self.first_byte.with_label_values(labels),
            session: self.session.with_label_values(labels),
            checks_passed: self.checks.with_label_values(&with("pass")),
            checks_failed: self.checks.with_label_values(&with("fail")),
            ejections: Cause::ALL.map(|c| self.ejections.with_label_values(&with(c.as_str()))),
            drained: self.moved.with_label_values(&with("drain")),
            rebalanced: self.moved.with_label_values(&with("rebalance")),
            agent_answers: self.agent_checks.with_label_values(&with("pass")),
            agent_failures: self.agent_checks.with_label_values(&with("fail")),
        }
    }

    /// Drops the series of a server that is gone.
    pub(crate) fn forget(&self, pool: &str, server: &str) {
        let labels = &[pool, server];
        let with = |value| [pool, server, value];
        // An absent series is what is wanted, so the result of each removal carries no news.
        let _ = self.up.remove_label_values(labels);
        let _ = self.usable.remove_label_values(labels);
        let _ = self.weight.remove_label_values(labels);
        let _ = self.effective_weight.remove_label_values(labels);
        let _ = self.active.remove_label_values(labels);
        let _ = self.connections.remove_label_values(labels);
        let _ = self.connect_failures.remove_label_values(labels);
        let _ = self.connect.remove_label_values(labels);
        let _ = self.first_byte.remove_label_values(labels);
        let _ = self.session.remove_label_values(labels);
        for cause in ["drain", "rebalance"] {
            let _ = self.moved.remove_label_values(&with(cause));
        }
        for cause in Cause::ALL {
            let _ = self.ejections.remove_label_values(&with(cause.as_str()));
        }
        for state in AdminState::ALL {
            let _ = self.state.remove_label_values(&with(state.as_str()));
        }
        for code in CODES {
            let _ = self.responses.remove_label_values(&with(code));
        }
        for result in ["pass", "fail"] {
            let _ = self.checks.remove_label_values(&with(result));
            let _ = self.agent_checks.remove_label_values(&with(result));
        }
    }
}

/// Handles of one server.
#[derive(Debug)]
pub(crate) struct ServerMetrics {
    pub(crate) up: IntGauge,
    pub(crate) usable: IntGauge,
    pub(crate) state: [IntGauge; 3],
    pub(crate) weight: IntGauge,
    pub(crate) effective_weight: Gauge,
    pub(crate) active: IntGauge,
    pub(crate) connections: StripedCounter,
    pub(crate) connect_failures: IntCounter,
    responses: [StripedCounter; 5],
    pub(crate) connect: StripedHistogram,
    pub(crate) first_byte: StripedHistogram,
    pub(crate) session: StripedHistogram,
    pub(crate) checks_passed: IntCounter,
    pub(crate) checks_failed: IntCounter,
    /// By [`Cause`].
    pub(crate) ejections: [IntCounter; 4],
    pub(crate) drained: IntCounter,
    pub(crate) rebalanced: IntCounter,
    pub(crate) agent_answers: IntCounter,
    pub(crate) agent_failures: IntCounter,
}

impl ServerMetrics {
    /// Responses by class of status.
    pub(crate) fn responses(&self) -> Counts {
        counts(&CODES, &self.responses)
    }

    /// Counts a response.
    pub(crate) fn response(&self, status: StatusCode) {
        class(&self.responses, status).inc();
    }
}
