//! The node's figures.

use holdfast_telemetry::metrics::{counter, counter_vec, gauge, histogram};
use holdfast_telemetry::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::broker::BrokerMetrics;
use crate::protocol::command::Request;
use crate::protocol::{Disconnect, ErrorCode};

/// Around the objective of a few milliseconds: publish to confirmed, publish to handed over, echo.
pub(crate) const LATENCY_BUCKETS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// All figures of the node; clones share them.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is described by its help text in `register`")]
pub struct Metrics {
    pub connections: IntGauge,
    pub subscriptions: IntGauge,
    pub channels: IntGauge,
    pub commands: IntCounterVec,
    pub command_errors: IntCounterVec,
    pub limited_commands: IntCounterVec,
    pub publish_seconds: Histogram,
    pub publishes: IntCounterVec,
    pub delivery_lag_seconds: Histogram,
    pub deliveries: IntCounter,
    pub recoveries: IntCounterVec,
    pub insufficient_states: IntCounter,
    pub disconnects: IntCounterVec,
    pub rejected_connections: IntCounterVec,
    pub broker: BrokerMetrics,
    pub queue_bytes: IntGauge,
    pub slow_consumers: IntCounter,
    pub draining: IntGauge,
}

impl Metrics {
    /// Registers every figure.
    pub fn register(r: &Registry) -> Self {
        let metrics = Self {
            connections: gauge(r, "chatnode_connections", "Client connections open now"),
            subscriptions: gauge(r, "chatnode_subscriptions", "Subscriptions of all connections"),
            channels: gauge(r, "chatnode_channels", "Channels that have subscribers here"),
            commands: counter_vec(r, "chatnode_commands_total", "Commands received", &["command"]),
            command_errors: counter_vec(
                r,
                "chatnode_command_errors_total",
                "Commands answered with an error, by its code",
                &["code"],
            ),
            limited_commands: counter_vec(
                r,
                "chatnode_limited_commands_total",
                "Commands refused because there were too many, by whose limit it was",
                &["limit"],
            ),
            publish_seconds: histogram(
                r,
                "chatnode_publish_seconds",
                "Time from accepting a publish to its confirmation by a replica",
                &LATENCY_BUCKETS,
            ),
            publishes: counter_vec(
                r,
                "chatnode_publishes_total",
                "Publishes by result; unconfirmed: stored, but not answered for by enough replicas",
                &["result"],
            ),
            delivery_lag_seconds: histogram(
                r,
                "chatnode_delivery_lag_seconds",
                "Time from accepting a publish, on any node, to handing it to the sockets here",
                &LATENCY_BUCKETS,
            ),
            deliveries: counter(
                r,
                "chatnode_deliveries_total",
                "Publications handed to connections, one for each connection",
            ),
            recoveries: counter_vec(
                r,
                "chatnode_recoveries_total",
                "Subscriptions that asked to continue, by result",
                &["result"],
            ),
            insufficient_states: counter(
                r,
                "chatnode_insufficient_states_total",
                "Subscriptions ended because something may have been missed",
            ),
            disconnects: counter_vec(
                r,
                "chatnode_disconnects_total",
                "Connections closed, by close code; 3000 is the client's own doing",
                &["code"],
            ),
            rejected_connections: counter_vec(
                r,
                "chatnode_rejected_connections_total",
                "Connection attempts refused, by reason",
                &["reason"],
            ),
            broker: BrokerMetrics::register(r),
            queue_bytes: gauge(r, "chatnode_queue_bytes", "Bytes waiting in all outgoing queues"),
            slow_consumers: counter(
                r,
                "chatnode_slow_consumers_total",
                "Connections cut because they read too slowly",
            ),
            draining: gauge(r, "chatnode_draining", "1 while the node is drained"),
        };
        metrics.create_series();
        metrics
    }

    /// Counts an error reply; numbers of the application's own share a series.
    pub fn count_error(&self, code: u32) {
        let known = ErrorCode::ALL.iter().any(|known| known.code == code);
        let label = if known { code.to_string() } else { "other".to_owned() };
        self.command_errors.with_label_values(&[label]).inc();
    }

    /// Known series exist at 0 from the start, so that rates over them are right from the first event on.
    fn create_series(&self) {
        for name in Request::NAMES {
            self.commands.with_label_values(&[name]);
        }
        for error in ErrorCode::ALL {
            self.command_errors.with_label_values(&[error.code.to_string()]);
        }
        for disconnect in Disconnect::ALL {
            self.disconnects.with_label_values(&[disconnect.code.to_string()]);
        }
        for result in ["confirmed", "unconfirmed", "failed"] {
            self.publishes.with_label_values(&[result]);
        }
        for result in ["recovered", "unrecovered"] {
            self.recoveries.with_label_values(&[result]);
        }
        self.command_errors.with_label_values(&["other"]);
        self.disconnects.with_label_values(&["other"]);
        for limit in ["connection", "user", "publish"] {
            self.limited_commands.with_label_values(&[limit]);
        }
        for reason in ["draining", "limit", "address", "user", "rate", "origin", "request"] {
            self.rejected_connections.with_label_values(&[reason]);
        }
    }
}
