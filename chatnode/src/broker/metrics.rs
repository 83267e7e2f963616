//! The broker's figures.

use holdfast_telemetry::metrics::{counter, counter_vec, gauge, histogram};
use holdfast_telemetry::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::metrics::LATENCY_BUCKETS;

/// Figures of the way to Redis and to other nodes; clones share them.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is described by its help text in `register`")]
pub struct BrokerMetrics {
    pub redis_up: IntGauge,
    pub redis_reconnects: IntCounter,
    pub redis_failures: IntCounter,
    pub resubscribe_seconds: Histogram,
    pub echo_seconds: Histogram,
    pub repaired_publications: IntCounterVec,
    pub repairs_refused: IntCounter,
    pub streams_begun_anew: IntCounter,
    pub reads_shared: IntCounter,
    pub nodes: IntGauge,
    pub node_messages_dropped: IntCounter,
}

impl BrokerMetrics {
    /// Registers every figure.
    pub fn register(r: &Registry) -> Self {
        let metrics = Self {
            redis_up: gauge(r, "chatnode_redis_up", "1 while the node's own messages come back"),
            redis_reconnects: counter(
                r,
                "chatnode_redis_reconnects_total",
                "Connections to Redis made, the first ones included",
            ),
            redis_failures: counter(
                r,
                "chatnode_redis_failures_total",
                "Connections to Redis that failed or could not be made",
            ),
            resubscribe_seconds: histogram(
                r,
                "chatnode_resubscribe_seconds",
                "Time to subscribe to all channels again after a lost connection to Redis",
                &LATENCY_BUCKETS,
            ),
            echo_seconds: histogram(
                r,
                "chatnode_echo_seconds",
                "Round trip of the node's own message through Redis",
                &LATENCY_BUCKETS,
            ),
            repaired_publications: counter_vec(
                r,
                "chatnode_repaired_publications_total",
                "Publications that a new primary lacked and this node wrote again, by where they went",
                &["place"],
            ),
            repairs_refused: counter(
                r,
                "chatnode_repairs_refused_total",
                "Streams whose comparison or repair Redis refused",
            ),
            streams_begun_anew: counter(
                r,
                "chatnode_streams_begun_anew_total",
                "Streams given a new epoch because something was lost that this node did not hold",
            ),
            reads_shared: counter(
                r,
                "chatnode_reads_shared_total",
                "Reads of streams that were answered by another one for the same part",
            ),
            nodes: gauge(
                r,
                "chatnode_nodes",
                "Chat nodes this node knows to be alive, itself included",
            ),
            node_messages_dropped: counter(
                r,
                "chatnode_node_messages_dropped_total",
                "Messages between nodes that were dropped because too many waited",
            ),
        };
        for place in ["put_back", "appended"] {
            metrics.repaired_publications.with_label_values(&[place]);
        }
        metrics
    }
}
