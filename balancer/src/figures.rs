//! Every figure at a glance: what `/api/v1/stats`, the page on the admin listener and `holdfast-balancer top` show.
//!
//! It is read from the same counters as the metrics, so none of them can say something else. Counters run from the start of the program;
//! whoever wants rates takes two of these.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use holdfast_telemetry::{IntCounter, StripedHistogram};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Algorithm, Mode};
use crate::control::Balancer;
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::pool::state::{AdminState, Health, Passive};
use crate::proxy::listener::Listener;

/// Counters by what they count.
pub(crate) type Counts = BTreeMap<String, u64>;

/// All of them, at one time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Figures {
    /// Of the program.
    pub(crate) version: String,
    /// When they were taken (RFC 3339).
    pub(crate) time: String,
    pub(crate) uptime_seconds: f64,
    /// Client connections open.
    pub(crate) active_connections: u64,
    pub(crate) listeners: Vec<ListenerFigures>,
    pub(crate) pools: Vec<PoolFigures>,
}

/// Those of a listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ListenerFigures {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) mode: Mode,
    pub(crate) active_connections: u64,
    pub(crate) connections_total: u64,
    /// Answers by class of status.
    pub(crate) requests_total: Counts,
    pub(crate) received_bytes_total: u64,
    pub(crate) sent_bytes_total: u64,
    /// Clients turned away, by reason.
    pub(crate) rejected_total: Counts,
    /// Connections ended, by cause.
    pub(crate) closed_total: Counts,
}

/// Those of a pool.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PoolFigures {
    pub(crate) name: String,
    pub(crate) algorithm: Algorithm,
    /// Clients that wait for a server with room.
    pub(crate) queued: u64,
    /// Whether so few servers are usable that all are used.
    pub(crate) panic: bool,
    pub(crate) retries_total: u64,
    /// What could not be served, by cause.
    pub(crate) errors_total: Counts,
    pub(crate) servers: Vec<ServerFigures>,
}

/// Those of a server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ServerFigures {
    pub(crate) name: String,
    pub(crate) state: AdminState,
    pub(crate) health: Health,
    pub(crate) passive: Passive,
    pub(crate) usable: bool,
    pub(crate) weight: u16,
    pub(crate) effective_weight: f64,
    /// Requests in flight, upgraded and TCP connections.
    pub(crate) active_connections: u64,
    pub(crate) connections_total: u64,
    pub(crate) connect_failures_total: u64,
    /// Responses by class of status.
    pub(crate) responses_total: Counts,
    pub(crate) ejections_total: u64,
    /// Time to connect.
    pub(crate) connect: Times,
    /// Time to the head of a response.
    pub(crate) first_byte: Times,
}

/// How often something took how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) sum_seconds: f64,
}

impl Figures {
    /// Takes them.
    pub(crate) fn take(balancer: &Balancer, now: DateTime<Utc>) -> Self {
        let uptime = now.signed_duration_since(balancer.started());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            uptime_seconds: uptime.as_seconds_f64().max(0.0),
            active_connections: balancer.active() as u64,
            listeners: balancer.listeners().iter().map(|l| ListenerFigures::take(l)).collect(),
            pools: balancer.pools().values().map(|pool| PoolFigures::take(pool)).collect(),
        }
    }
}

impl ListenerFigures {
    fn take(listener: &Listener) -> Self {
        let (settings, metrics) = (listener.settings(), &listener.metrics);
        Self {
            name: settings.config.name.to_string(),
            address: listener.address().to_string(),
            mode: settings.config.mode,
            active_connections: metrics.active.get().try_into().unwrap_or(0),
            connections_total: metrics.connections.get(),
            requests_total: metrics.requests(),
            received_bytes_total: metrics.received.get(),
            sent_bytes_total: metrics.sent.get(),
            rejected_total: metrics.rejections(),
            closed_total: metrics.closes(),
        }
    }
}

impl PoolFigures {
    fn take(pool: &Pool) -> Self {
        Self {
            name: pool.name().to_string(),
            algorithm: pool.rules().algorithm,
            queued: pool.metrics.queued.get().try_into().unwrap_or(0),
            panic: pool.metrics.panic.get() != 0,
            retries_total: pool.metrics.retries.get(),
            errors_total: pool.metrics.errors(),
            servers: pool.members().iter().map(|server| ServerFigures::take(server)).collect(),
        }
    }
}

impl ServerFigures {
    fn take(server: &Server) -> Self {
        let (record, metrics) = (server.record(), &server.metrics);
        Self {
            name: server.name().to_string(),
            state: record.state.admin(),
            health: record.state.health(),
            passive: record.state.passive(),
            usable: server.is_usable(),
            weight: record.state.weight().get(),
            effective_weight: metrics.effective_weight.get(),
            active_connections: server.active(),
            connections_total: metrics.connections.get(),
            connect_failures_total: metrics.connect_failures.get(),
            responses_total: metrics.responses(),
            ejections_total: metrics.ejections.iter().map(IntCounter::get).sum(),
            connect: Times::of(&metrics.connect),
            first_byte: Times::of(&metrics.first_byte),
        }
    }
}

impl Times {
    fn of(histogram: &StripedHistogram) -> Self {
        let (count, sum_seconds) = (histogram.get_sample_count(), histogram.get_sample_sum());
        Self { count, sum_seconds }
    }
}
