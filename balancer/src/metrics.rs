//! Every figure of the balancer.
//!
//! Labels come from the settings (listeners, pools, servers) and from closed sets named here, so their number is bounded. A part takes
//! its handles once ([`ServerMetrics`], [`ListenerMetrics`]) and the data path only adds to them; the series of a known part exist at 0
//! from the start, and those of a removed part go with it.

use std::sync::Arc;

use holdfast_telemetry::metrics::{
    counter, counter_vec, float_gauge, float_gauge_vec, gauge, gauge_vec, histogram_vec,
};
use holdfast_telemetry::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};
use http::StatusCode;

use crate::pool::state::AdminState;

/// Status codes by class; the position is the first digit less one.
const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// From a connection on the same host (50 µs) to the longest connect timeout worth setting.
const CONNECT_BUCKETS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 3.0];
/// Around 250 ms, above which chat feels slow.
const FIRST_BYTE_BUCKETS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// A fieldless enum whose values are label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            const TEXTS: &[&str] = &[$($text),+];

            /// As in the metric's label and in logs.
            pub fn as_str(self) -> &'static str {
                Self::TEXTS[self as usize]
            }
        }
    };
}

labels! {
    /// Why a client was turned away before any server was asked.
    Rejection {
        /// The listener has as many connections as it may.
        ConnectionLimit = "connection_limit",
        /// Not HTTP, or ambiguous HTTP.
        BadRequest = "bad_request",
        /// The head of a request did not arrive in time.
        HeaderTimeout = "header_timeout",
        /// A method that is not forwarded.
        Method = "method",
    }
}

labels! {
    /// Why a request or connection could not be served by the pool.
    PoolError {
        /// No server may take it.
        NoServer = "no_server",
        /// No server could be connected to.
        Connect = "connect",
        /// A server took the request and closed without a response.
        NoResponse = "no_response",
        /// A server did not respond in time.
        Timeout = "timeout",
    }
}

labels! {
    /// Why a connection ended.
    Close {
        /// The client closed it.
        Client = "client",
        /// The server closed it.
        Server = "server",
        /// It broke.
        Error = "error",
        /// It rested or stalled for longer than `idle_timeout`, or its head for longer than `header_timeout`.
        Timeout = "timeout",
        /// Its server gave no sign of life.
        ServerSilent = "server_silent",
        /// Its server was removed by force.
        ServerRemoved = "server_removed",
        /// The balancer ended and the drain period was over.
        Shutdown = "shutdown",
    }
}

/// All metric families.
#[derive(Debug)]
pub struct Metrics {
    server_up: IntGaugeVec,
    server_usable: IntGaugeVec,
    server_state: IntGaugeVec,
    server_weight: IntGaugeVec,
    server_effective_weight: GaugeVec,
    server_active: IntGaugeVec,
    server_connections: IntCounterVec,
    server_connect_failures: IntCounterVec,
    server_responses: IntCounterVec,
    server_connect: HistogramVec,
    server_first_byte: HistogramVec,
    server_checks: IntCounterVec,
    server_ejections: IntCounterVec,
    pool_errors: IntCounterVec,
    pool_retries: IntCounterVec,
    pool_panic: IntGaugeVec,
    listener_connections: IntCounterVec,
    listener_active: IntGaugeVec,
    listener_requests: IntCounterVec,
    listener_received: IntCounterVec,
    listener_sent: IntCounterVec,
    listener_rejected: IntCounterVec,
    listener_closed: IntCounterVec,
    listener_accept_failures: IntCounterVec,
    /// 1 if the last reload was taken, 0 if its settings were refused.
    pub reload_successful: IntGauge,
    /// When settings were last taken.
    pub reload_timestamp: Gauge,
    /// Connection tasks that panicked.
    pub panics: IntCounter,
}

impl Metrics {
    /// Registers everything with `registry`.
    pub fn register(registry: &Registry) -> Arc<Self> {
        let server = &["pool", "server"];
        let r = registry;
        Arc::new(Self {
            server_up: gauge_vec(
                r,
                "balancer_server_up",
                "Whether the health checks pass; without checks always 1",
                server,
            ),
            server_usable: gauge_vec(
                r,
                "balancer_server_usable",
                "Whether new connections go there",
                server,
            ),
            server_state: gauge_vec(
                r,
                "balancer_server_state",
                "State set by the operator",
                &["pool", "server", "state"],
            ),
            server_weight: gauge_vec(
                r,
                "balancer_server_weight",
                "Weight set, before slow start",
                server,
            ),
            server_effective_weight: float_gauge_vec(
                r,
                "balancer_server_effective_weight",
                "Weight in use, after slow start",
                server,
            ),
            server_active: gauge_vec(
                r,
                "balancer_server_active_connections",
                "Requests in flight, upgraded and TCP connections",
                server,
            ),
            server_connections: counter_vec(
                r,
                "balancer_server_connections_total",
                "Connections made to the server",
                server,
            ),
            server_connect_failures: counter_vec(
                r,
                "balancer_server_connect_failures_total",
                "Connections to the server that could not be made",
                server,
            ),
            server_responses: counter_vec(
                r,
                "balancer_server_responses_total",
                "Responses of the server by class of status",
                &["pool", "server", "code"],
            ),
            server_connect: histogram_vec(
                r,
                "balancer_server_connect_seconds",
                "Time to connect to the server",
                server,
                &CONNECT_BUCKETS,
            ),
            server_first_byte: histogram_vec(
                r,
                "balancer_server_first_byte_seconds",
                "Time from a request sent to the head of its response",
                server,
                &FIRST_BYTE_BUCKETS,
            ),
            server_checks: counter_vec(
                r,
                "balancer_server_health_checks_total",
                "Active health checks",
                &["pool", "server", "result"],
            ),
            server_ejections: counter_vec(
                r,
                "balancer_server_ejections_total",
                "Times passive marking took the server out",
                server,
            ),
            pool_errors: counter_vec(
                r,
                "balancer_pool_errors_total",
                "Requests and connections the pool could not serve",
                &["pool", "cause"],
            ),
            pool_retries: counter_vec(
                r,
                "balancer_pool_retries_total",
                "Attempts at another server after one that failed",
                &["pool"],
            ),
            pool_panic: gauge_vec(
                r,
                "balancer_pool_panic",
                "Whether so few servers are usable that all are used",
                &["pool"],
            ),
            listener_connections: counter_vec(
                r,
                "balancer_listener_connections_total",
                "Connections accepted",
                &["listener"],
            ),
            listener_active: gauge_vec(
                r,
                "balancer_listener_active_connections",
                "Connections open",
                &["listener"],
            ),
            listener_requests: counter_vec(
                r,
                "balancer_listener_requests_total",
                "Requests answered by class of status",
                &["listener", "code"],
            ),
            listener_received: counter_vec(
                r,
                "balancer_listener_received_bytes_total",
                "Bytes received from clients",
                &["listener"],
            ),
            listener_sent: counter_vec(
                r,
                "balancer_listener_sent_bytes_total",
                "Bytes sent to clients",
                &["listener"],
            ),
            listener_rejected: counter_vec(
                r,
                "balancer_listener_rejected_total",
                "Clients turned away before a server was asked",
                &["listener", "reason"],
            ),
            listener_closed: counter_vec(
                r,
                "balancer_listener_closed_total",
                "Connections ended by cause",
                &["listener", "cause"],
            ),
            listener_accept_failures: counter_vec(
                r,
                "balancer_listener_accept_failures_total",
                "Connections that could not be accepted",
                &["listener"],
            ),
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
        })
    }

    /// Handles of one server, all series at 0.
    pub fn server(&self, pool: &str, server: &str) -> ServerMetrics {
        let labels = &[pool, server];
        let with = |value| [pool, server, value];
        ServerMetrics {
            up: self.server_up.with_label_values(labels),
            usable: self.server_usable.with_label_values(labels),
            state: AdminState::ALL.map(|s| self.server_state.with_label_values(&with(s.as_str()))),
            weight: self.server_weight.with_label_values(labels),
            effective_weight: self.server_effective_weight.with_label_values(labels),
            active: self.server_active.with_label_values(labels),
            connections: self.server_connections.with_label_values(labels),
            connect_failures: self.server_connect_failures.with_label_values(labels),
            responses: CODES.map(|code| self.server_responses.with_label_values(&with(code))),
            connect: self.server_connect.with_label_values(labels),
            first_byte: self.server_first_byte.with_label_values(labels),
            checks_passed: self.server_checks.with_label_values(&with("pass")),
            checks_failed: self.server_checks.with_label_values(&with("fail")),
            ejections: self.server_ejections.with_label_values(labels),
        }
    }

    /// Drops the series of a server that is gone.
    pub fn forget_server(&self, pool: &str, server: &str) {
        let labels = &[pool, server];
        let with = |value| [pool, server, value];
        // An absent series is what is wanted, so the result of each removal carries no news.
        let _ = self.server_up.remove_label_values(labels);
        let _ = self.server_usable.remove_label_values(labels);
        let _ = self.server_weight.remove_label_values(labels);
        let _ = self.server_effective_weight.remove_label_values(labels);
        let _ = self.server_active.remove_label_values(labels);
        let _ = self.server_connections.remove_label_values(labels);
        let _ = self.server_connect_failures.remove_label_values(labels);
        let _ = self.server_connect.remove_label_values(labels);
        let _ = self.server_first_byte.remove_label_values(labels);
        let _ = self.server_ejections.remove_label_values(labels);
        for state in AdminState::ALL {
            let _ = self.server_state.remove_label_values(&with(state.as_str()));
        }
        for code in CODES {
            let _ = self.server_responses.remove_label_values(&with(code));
        }
        for result in ["pass", "fail"] {
            let _ = self.server_checks.remove_label_values(&with(result));
        }
    }

    /// Handles of one pool, all series at 0.
    pub fn pool(&self, pool: &str) -> PoolMetrics {
        let error = |cause: &&str| self.pool_errors.with_label_values(&[pool, cause]);
        PoolMetrics {
            errors: PoolError::TEXTS.iter().map(error).collect(),
            retries: self.pool_retries.with_label_values(&[pool]),
            panic: self.pool_panic.with_label_values(&[pool]),
        }
    }

    /// Drops the series of a pool that is gone.
    pub fn forget_pool(&self, pool: &str) {
        // As in `forget_server`.
        let _ = self.pool_retries.remove_label_values(&[pool]);
        let _ = self.pool_panic.remove_label_values(&[pool]);
        for cause in PoolError::TEXTS {
            let _ = self.pool_errors.remove_label_values(&[pool, cause]);
        }
    }

    /// Handles of one listener, all series at 0.
    pub fn listener(&self, listener: &str) -> ListenerMetrics {
        let labels = &[listener];
        let each = |family: &IntCounterVec, values: &[&str]| {
            values.iter().map(|value| family.with_label_values(&[listener, value])).collect()
        };
        ListenerMetrics {
            connections: self.listener_connections.with_label_values(labels),
            active: self.listener_active.with_label_values(labels),
            requests: each(&self.listener_requests, &CODES),
            received: self.listener_received.with_label_values(labels),
            sent: self.listener_sent.with_label_values(labels),
            rejected: each(&self.listener_rejected, Rejection::TEXTS),
            closed: each(&self.listener_closed, Close::TEXTS),
            accept_failures: self.listener_accept_failures.with_label_values(labels),
        }
    }

    /// Drops the series of a listener that is gone.
    pub fn forget_listener(&self, listener: &str) {
        let labels = &[listener];
        // As in `forget_server`.
        let _ = self.listener_connections.remove_label_values(labels);
        let _ = self.listener_active.remove_label_values(labels);
        let _ = self.listener_received.remove_label_values(labels);
        let _ = self.listener_sent.remove_label_values(labels);
        let _ = self.listener_accept_failures.remove_label_values(labels);
        for (family, values) in [
            (&self.listener_requests, &CODES[..]),
            (&self.listener_rejected, Rejection::TEXTS),
            (&self.listener_closed, Close::TEXTS),
        ] {
            for value in values {
                let _ = family.remove_label_values(&[listener, value]);
            }
        }
    }
}

/// Handles of one server.
#[derive(Debug)]
pub struct ServerMetrics {
    pub(crate) up: IntGauge,
    pub(crate) usable: IntGauge,
    pub(crate) state: [IntGauge; 3],
    pub(crate) weight: IntGauge,
    pub(crate) effective_weight: Gauge,
    pub(crate) active: IntGauge,
    pub(crate) connections: IntCounter,
    pub(crate) connect_failures: IntCounter,
    responses: [IntCounter; 5],
    pub(crate) connect: Histogram,
    pub(crate) first_byte: Histogram,
    pub(crate) checks_passed: IntCounter,
    pub(crate) checks_failed: IntCounter,
    pub(crate) ejections: IntCounter,
}

impl ServerMetrics {
    /// Counts a response.
    pub(crate) fn response(&self, status: StatusCode) {
        class(&self.responses, status).inc();
    }
}

/// Handles of one pool.
#[derive(Debug)]
pub struct PoolMetrics {
    errors: Box<[IntCounter]>,
    pub(crate) retries: IntCounter,
    pub(crate) panic: IntGauge,
}

impl PoolMetrics {
    /// Counts what could not be served.
    pub(crate) fn error(&self, cause: PoolError) {
        self.errors[cause as usize].inc();
    }
}

/// Handles of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(crate) connections: IntCounter,
    pub(crate) active: IntGauge,
    requests: Box<[IntCounter]>,
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
    rejected: Box<[IntCounter]>,
    closed: Box<[IntCounter]>,
    pub(crate) accept_failures: IntCounter,
}

impl ListenerMetrics {
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

/// The counter of a status; hyper yields no status outside 100 to 999, and what is above 599 is an error of some kind.
fn class(counters: &[IntCounter], status: StatusCode) -> &IntCounter {
    let digit = usize::from(status.as_u16() / 100);
    &counters[digit.clamp(1, CODES.len()) - 1]
}
