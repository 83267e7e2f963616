//! The parts of the cluster as cards and tiles.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::format;
use crate::cluster::{
    Address, BackupStatus, BalancerStatus, CanaryStatus, CircuitState, DrillStatus, NodeStatus,
    RedisRole, RedisServerStatus, RedisState, RedisStatus, ServerState, Status,
};

/// A figure with its name.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    name: &'static str,
    value: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct BalancerView {
    mark: &'static str,
    state: String,
    pool: String,
    address: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    name: String,
    mark: &'static str,
    state: &'static str,
    note: Option<String>,
    facts: Vec<Fact>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RedisView {
    name: String,
    mark: &'static str,
    state: &'static str,
    reason: Option<String>,
    facts: Vec<Fact>,
    servers: Vec<RedisServerView>,
}

#[derive(Debug, Serialize)]
struct RedisServerView {
    address: String,
    role: &'static str,
    is_primary: bool,
    is_candidate: bool,
    mark: &'static str,
    state: &'static str,
    note: Option<String>,
    facts: Vec<Fact>,
}

/// One of the headline figures.
#[derive(Debug, Serialize)]
pub(crate) struct Tile {
    title: &'static str,
    mark: &'static str,
    figure: String,
    note: Option<String>,
    facts: Vec<Fact>,
}

fn fact(name: &'static str, value: impl Into<String>) -> Fact {
    Fact { name, value: value.into() }
}

pub(super) fn balancer(balancer: &BalancerStatus) -> BalancerView {
    let (mark, state) = match (balancer.up, &balancer.error) {
        (Some(true), _) => ("ok", "answers".to_owned()),
        (Some(false), Some(error)) => ("bad", format!("does not answer: {error}")),
        (Some(false), None) => ("bad", "does not answer".to_owned()),
        (None, _) => ("none", "not heard of yet".to_owned()),
    };
    BalancerView { mark, state, pool: balancer.pool.clone(), address: balancer.admin.to_string() }
}

pub(super) fn node(node: &NodeStatus) -> NodeView {
    let server = node.server.as_ref();
    let (mark, state) = match (node.up, node.circuit, server.map(|s| (s.state, s.usable))) {
        (None, ..) => ("none", "unknown"),
        (Some(false), ..) => ("bad", "down"),
        (_, CircuitState::Open, _) => ("warn", "held back"),
        (_, CircuitState::HalfOpen, _) => ("warn", "returning"),
        (_, _, Some((ServerState::Drain, _))) => ("warn", "draining"),
        (_, _, Some((ServerState::Maintenance, _))) => ("warn", "maintenance"),
        (_, _, Some((ServerState::Ready, false))) => ("warn", "not used"),
        (_, _, Some((ServerState::Ready, true)) | None) => ("ok", "up"),
    };
    let facts = [
        node.connections.map(|count| fact("clients", format!("{count:.0}"))),
        node.cpu_cores.map(|cores| fact("CPU", format!("{:.0} %", cores * 100.0))),
        node.memory_bytes.map(|bytes| fact("memory", format::bytes(bytes))),
        server.map(|server| fact("weight", server.weight.to_string())),
    ];
    NodeView {
        name: node.name.clone(),
        mark,
        state,
        note: note(node),
        facts: facts.into_iter().flatten().collect(),
    }
}

/// Why it is not simply up; the state itself stands beside it.
fn note(node: &NodeStatus) -> Option<String> {
    match (node.up, node.circuit) {
        (Some(false), _) => node.error.clone(),
        (_, CircuitState::Open | CircuitState::HalfOpen) => node.circuit_reason.clone(),
        _ => None,
    }
}

pub(super) fn redis(redis: &RedisStatus, now: DateTime<Utc>) -> RedisView {
    let mark = match redis.state {
        RedisState::Healthy => "ok",
        RedisState::Unknown => "none",
        RedisState::Suspect | RedisState::Verifying | RedisState::Repointing => "warn",
        _ => "bad",
    };
    let mut facts = vec![fact("epoch", redis.epoch.to_string())];
    if let Some(candidate) = &redis.candidate {
        facts.push(fact("next in line", candidate.to_string()));
    }
    if let Some(bytes) = redis.loss_estimate_bytes {
        facts.push(fact("would lose", format::bytes(bytes as f64)));
    }
    if let Some(seconds) = redis.expected_seconds {
        facts.push(fact("failover would take", format::seconds(seconds)));
    }
    let majority = if redis.has_majority { "yes" } else { "no: nothing can be decided" };
    facts.push(fact("majority of supervisors", majority.to_owned()));
    facts.push(fact("WAIT is safe for", redis.wait_safe_replicas.to_string()));
    if let Some(restart) = redis
        .restart
        .as_ref()
        .filter(|restart| !restart.left.is_empty() || restart.current.is_some())
    {
        let (done, left) = (restart.done.len(), restart.left.len());
        let stopped = restart.problem.as_ref().map(|why| format!(", stopped: {why}"));
        let text = format!("{done} done, {left} to come{}", stopped.unwrap_or_default());
        facts.push(fact("rolling restart", text));
    }
    let last =
        redis.last_failover.map_or_else(|| "none".to_owned(), |at| format::relative(at, now));
    facts.push(fact("last failover", last));
    if let Some(pause) = &redis.pause {
        let until = pause.until.map(|at| format!(", until {}", at.format("%F %T UTC")));
        let text = format!("{} ({}){}", pause.reason, pause.by, until.unwrap_or_default());
        facts.push(fact("paused", text));
    }
    if let Some(appointment) = &redis.switchover {
        facts.push(fact("will be moved", appointment.at.format("%F %T UTC").to_string()));
    }
    if redis.awaits_approval {
        facts.push(fact("waits for", "holdfast approve".to_owned()));
    }
    // The primary first, as the data flows.
    let is_primary = |server: &&RedisServerStatus| redis.primary.as_ref() == Some(&server.address);
    let primary = redis.servers.iter().filter(is_primary);
    let others = redis.servers.iter().filter(|server| !is_primary(server));
    let view = |server| redis_server(server, redis.primary.as_ref(), redis.candidate.as_ref());
    RedisView {
        name: redis.name.clone(),
        mark,
        state: redis.state.name(),
        reason: redis.reason.clone(),
        facts,
        servers: primary.chain(others).map(view).collect(),
    }
}

fn redis_server(
    server: &RedisServerStatus,
    primary: Option<&Address>,
    candidate: Option<&Address>,
) -> RedisServerView {
    let is_primary = primary == Some(&server.address);
    let (mark, state) = match (server.up, server.role, server.link_up) {
        (None, ..) => ("none", "unknown"),
        (Some(false), ..) => ("bad", "down"),
        (_, Some(RedisRole::Primary), _) if !is_primary => ("warn", "calls itself primary"),
        (_, _, Some(false)) if !is_primary => ("warn", "does not follow"),
        (Some(true), ..) => ("ok", "up"),
    };
    // What a server that is down said last is no longer true.
    let lag = server.lag_bytes.filter(|_| !is_primary && server.up == Some(true));
    let offset = server.offset.filter(|_| server.up == Some(true));
    let facts = [
        lag.map(|lag| fact("behind", format::bytes(lag as f64))),
        offset.map(|offset| fact("offset", offset.to_string())),
        server.version.as_ref().map(|version| fact("version", version)),
    ];
    RedisServerView {
        address: server.address.to_string(),
        role: if is_primary { "primary" } else { "replica" },
        is_primary,
        is_candidate: candidate == Some(&server.address),
        mark,
        state,
        note: server.error.clone().filter(|_| server.up == Some(false)),
        facts: facts.into_iter().flatten().collect(),
    }
}

/// Canary, backup and drill, as far as they are configured.
pub(super) fn tiles(status: &Status) -> Vec<Tile> {
    let now = status.at;
    let canary = status.canary.as_ref().map(canary);
    let backup = status.backup.as_ref().map(|part| backup(part, now));
    let drill = status.drill.as_ref().map(|part| drill(part, now));
    [canary, backup, drill].into_iter().flatten().collect()
}

fn canary(canary: &CanaryStatus) -> Tile {
    let mark = match (canary.ok, canary.availability_ratio) {
        (None, _) => "none",
        (Some(false), _) => "bad",
        (Some(true), Some(share)) if share < 1.0 => "warn",
        (Some(true), _) => "ok",
    };
    let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), format::seconds);
    Tile {
        title: "Canary, last minute",
        mark,
        figure: canary.availability_ratio.map_or_else(|| "–".to_owned(), format::percent),
        note: canary.error.clone(),
        facts: vec![
            fact("acknowledged in", seconds(canary.ack_seconds)),
            fact("delivered in", seconds(canary.delivery_seconds)),
            fact("sent", canary.sent.to_string()),
            fact("lost", canary.lost.to_string()),
        ],
    }
}

fn backup(backup: &BackupStatus, now: DateTime<Utc>) -> Tile {
    let mark = match (&backup.error, backup.newest_at, backup.newest_verified) {
        (Some(_), ..) => "bad",
        (None, None, _) => "none",
        (None, Some(_), Some(true)) => "ok",
        (None, Some(_), _) => "warn",
    };
    let figure = match (backup.running, backup.newest_at) {
        (true, _) => "running".to_owned(),
        (false, Some(at)) => format::relative(at, now),
        (false, None) => "none yet".to_owned(),
    };
    let verified = match backup.newest_verified {
        Some(true) => "restored and compared",
        Some(false) => "not verified",
        None => "–",
    };
    let facts = [
        Some(fact("verified", verified)),
        backup.newest_bytes.map(|bytes| fact("size", format::bytes(bytes as f64))),
        Some(fact("kept", backup.count.to_string())),
        backup.next_at.map(|at| fact("next", format::relative(at, now))),
    ];
    Tile {
        title: "Newest backup",
        mark,
        figure,
        note: backup.error.clone(),
        facts: facts.into_iter().flatten().collect(),
    }
}

fn drill(drill: &DrillStatus, now: DateTime<Utc>) -> Tile {
    let is_running = drill.run.is_some() && drill.finished_at.is_none();
    let (mark, figure) = match (is_running, drill.verdict.as_deref()) {
        (true, _) => ("warn", drill.phase.clone().unwrap_or_else(|| "running".to_owned())),
        (false, Some("pass")) => ("ok", "passed".to_owned()),
        (false, Some("fail")) => ("bad", "failed".to_owned()),
        (false, Some(other)) => ("warn", other.to_owned()),
        (false, None) => ("none", "none yet".to_owned()),
    };
    let next = drill.next.as_ref();
    let facts = [
        drill.scenario.as_ref().map(|scenario| fact("scenario", scenario)),
        drill.finished_at.map(|at| fact("ended", format::relative(at, now))),
        next.map(|(scenario, at)| {
            fact("next", format!("{scenario} {}", format::relative(*at, now)))
        }),
    ];
    let title = if is_running { "Drill going on" } else { "Last drill" };
    let figure = figure.replace('_', " ");
    Tile { title, mark, figure, note: None, facts: facts.into_iter().flatten().collect() }
}
