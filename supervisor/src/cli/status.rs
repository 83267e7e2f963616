//! `holdfast status`: everything at a glance.

use comfy_table::{Cell, Table};

use super::client::Client;
use super::print::{age, append, bytes, millis, table};
use super::{CliError, Output, color};
use crate::cluster::{
    AlertState, CircuitState, GroupBrief, Health, Managed, Manager, RedisStatus, Status,
};

pub(super) async fn run(client: &Client, output: Output) -> Result<(), CliError> {
    let status = client.status().await?;
    output.result(&status, || text(&status, color()))
}

/// The status as people read it.
fn text(status: &Status, colored: bool) -> String {
    let mut parts = vec![headline(status, colored)];
    parts.extend(status.group.as_ref().map(group));
    if !status.servers.nodes.is_empty() {
        parts.push(nodes(status).to_string());
    }
    for redis in &status.redis {
        parts.push(redis_line(redis));
        parts.push(redis_servers(redis).to_string());
    }
    parts.push(others(status));
    if !status.alerts.is_empty() {
        parts.push(alerts(status).to_string());
    }
    parts.join("\n\n")
}

fn headline(status: &Status, colored: bool) -> String {
    let (word, code) = match status.health {
        Health::Ok => ("ok", "32"),
        Health::Degraded => ("degraded", "33"),
        Health::Down => ("down", "1;31"),
    };
    let word = if colored { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
    let mode = if status.observe_only { ", watching only" } else { "" };
    let mut text = format!("The cluster is {word}.   {} {}{mode}", status.name, status.version);
    for problem in &status.problems {
        append!(text, "\n  - {problem}");
    }
    text
}

fn group(group: &GroupBrief) -> String {
    let leader = group.leader.as_deref().unwrap_or("nobody");
    let mut text =
        format!("supervisors: {leader} leads, term {}, this one: {}", group.term, group.state);
    for member in &group.members {
        let heard = match member.heard_seconds {
            _ if member.is_self => continue,
            None => "never heard".to_owned(),
            Some(seconds) => format!("heard {seconds:.1} s ago"),
        };
        let behind = member.behind.map_or_else(String::new, |behind| format!(", {behind} behind"));
        append!(text, "\n  {}: {heard}{behind}", member.name);
    }
    text
}

fn nodes(status: &Status) -> Table {
    let mut table = table([
        "chat node",
        "up",
        "state",
        "weight",
        "health",
        "connections",
        "cpu",
        "memory",
        "circuit",
    ]);
    for node in &status.servers.nodes {
        let server = node.server.as_ref();
        let circuit = match node.circuit {
            CircuitState::Closed => "closed".to_owned(),
            CircuitState::Open => {
                format!("open: {}", node.circuit_reason.as_deref().unwrap_or("?"))
            }
            CircuitState::HalfOpen => {
                format!("half-open: {}", node.circuit_reason.as_deref().unwrap_or("?"))
            }
        };
        table.add_row([
            Cell::new(&node.name),
            yes_no(node.up),
            Cell::new(server.map_or_else(|| "?".to_owned(), |server| server.state.to_string())),
            Cell::new(server.map_or_else(|| "?".to_owned(), |server| server.weight.to_string())),
            Cell::new(server.map_or("?", |server| server.health.as_str())),
            Cell::new(
                node.connections.map_or_else(|| "?".to_owned(), |count| format!("{count:.0}")),
            ),
            Cell::new(
                node.cpu_cores
                    .map_or_else(|| "?".to_owned(), |cores| format!("{:.1} %", cores * 100.0)),
            ),
            Cell::new(node.memory_bytes.map_or_else(|| "?".to_owned(), bytes)),
            Cell::new(circuit),
        ]);
    }
    table
}

fn yes_no(up: Option<bool>) -> Cell {
    match up {
        Some(true) => Cell::new("yes"),
        Some(false) => Cell::new("NO"),
        None => Cell::new("?"),
    }
}

fn redis_line(redis: &RedisStatus) -> String {
    let mut text = format!("Redis {:?} is {}", redis.name, redis.state.name());
    if let Some(reason) = &redis.reason {
        append!(text, " ({reason})");
    }
    if let Some(primary) = &redis.primary {
        append!(text, "; primary {primary}, epoch {}", redis.epoch);
    }
    if let Some(candidate) = &redis.candidate {
        append!(text, "; next in line {candidate}");
        if let Some(loss) = redis.loss_estimate_bytes {
            append!(text, " ({loss} bytes behind)");
        }
    }
    if let Some(pause) = &redis.pause {
        append!(text, "; PAUSED by {}: {}", pause.by, pause.reason);
        if let Some(until) = pause.until {
            append!(text, " (until {})", until.with_timezone(&chrono::Local).format("%F %T"));
        }
    }
    if let Some(appointment) = &redis.switchover {
        let at = appointment.at.with_timezone(&chrono::Local).format("%F %T");
        append!(text, "; will be moved at {at}");
    }
    if redis.awaits_approval {
        append!(text, "; a failover waits for `holdfast approve`");
    }
    managed(&redis.managed, &mut text);
    text
}

/// Who changes roles, if it is not us, and what would go wrong.
fn managed(managed: &Managed, text: &mut String) {
    match managed.by {
        Manager::Holdfast => {}
        Manager::None => append!(text, "; watched only"),
        Manager::Sentinel => {
            let all = managed.sentinels.len();
            let answer =
                managed.sentinels.iter().filter(|sentinel| sentinel.error.is_none()).count();
            append!(text, "; managed by Redis Sentinel, {answer} of {all} answer");
        }
    }
    for risk in &managed.risks {
        append!(text, "\n  WARNING: {risk}");
    }
}

fn redis_servers(redis: &RedisStatus) -> Table {
    let mut table = table(["redis", "up", "role", "link", "behind", "version", "problem"]);
    for server in &redis.servers {
        let role = server.role.map_or("?", |role| match role {
            crate::cluster::RedisRole::Primary => "primary",
            crate::cluster::RedisRole::Replica => "replica",
        });
        let link = match server.link_up {
            Some(true) => "up",
            Some(false) => "down",
            None => "",
        };
        table.add_row([
            Cell::new(&server.address),
            yes_no(server.up),
            Cell::new(role),
            Cell::new(link),
            Cell::new(server.lag_bytes.map(|lag| format!("{lag} B")).unwrap_or_default()),
            Cell::new(server.version.as_deref().unwrap_or("?")),
            Cell::new(server.error.as_deref().unwrap_or("")),
        ]);
    }
    table
}

/// Balancer, canary, backup and drill, a line each.
fn others(status: &Status) -> String {
    let mut lines = Vec::new();
    if let Some(balancer) = &status.servers.balancer {
        let state = match (balancer.up, &balancer.error) {
            (Some(true), _) => "answers".to_owned(),
            (Some(false), Some(error)) => format!("does not answer: {error}"),
            (Some(false), None) => "does not answer".to_owned(),
            (None, _) => "not asked yet".to_owned(),
        };
        lines.push(format!("Balancer {} (pool {}): {state}", balancer.admin, balancer.pool));
    }
    if let Some(canary) = &status.canary {
        let ratio = canary
            .availability_ratio
            .map_or_else(|| "?".to_owned(), |ratio| format!("{:.2} %", ratio * 100.0));
        let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "?".to_owned(), millis);
        lines.push(format!(
            "Canary: available {ratio} of the last minute, acknowledged in {}, delivered in {}; {} sent, {} lost{}",
            seconds(canary.ack_seconds),
            seconds(canary.delivery_seconds),
            canary.sent,
            canary.lost,
            canary.error.as_ref().map(|error| format!("; now: {error}")).unwrap_or_default()
        ));
    }
    if let Some(backup) = &status.backup {
        let newest = match (&backup.newest, backup.newest_at) {
            (Some(_), Some(at)) => {
                let size = backup.newest_bytes.map(|size| bytes(size as f64)).unwrap_or_default();
                let verified =
                    if backup.newest_verified == Some(true) { "verified" } else { "not verified" };
                format!("{} ago, {size}, {verified}, {} kept", age(status.at - at), backup.count)
            }
            _ => "none yet".to_owned(),
        };
        let next = backup
            .next_at
            .map(|at| format!("; next in {}", age(at - status.at)))
            .unwrap_or_default();
        let error = backup
            .error
            .as_ref()
            .map(|error| format!("; the last one failed: {error}"))
            .unwrap_or_default();
        lines.push(format!("Backup: {newest}{next}{error}"));
    }
    if let Some(drill) = &status.drill {
        let last = match (&drill.run, &drill.verdict, &drill.phase) {
            (Some(run), Some(verdict), _) => format!("{run}: {verdict}"),
            (Some(run), None, Some(phase)) => format!("{run} is going on ({phase})"),
            _ => "none yet".to_owned(),
        };
        let next = drill
            .next
            .as_ref()
            .map(|(scenario, at)| format!("; next {scenario} in {}", age(*at - status.at)));
        lines.push(format!("Drill: {last}{}", next.unwrap_or_default()));
    }
    lines.join("\n")
}

fn alerts(status: &Status) -> Table {
    let mut table = table(["alert", "state", "severity", "since", "summary"]);
    for alert in &status.alerts {
        let state = match alert.state {
            AlertState::Pending => "pending",
            AlertState::Firing => "firing",
            AlertState::Resolved => "resolved",
        };
        let severity = alert.labels.get("severity").map_or("", String::as_str);
        let summary = alert.annotations.get("summary").map_or("", String::as_str);
        table.add_row([
            Cell::new(&alert.name),
            Cell::new(state),
            Cell::new(severity),
            Cell::new(age(status.at - alert.active_at)),
            Cell::new(summary),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{CanaryStatus, NodeStatus, ServersStatus};
    use chrono::{TimeZone as _, Utc};

    #[test]
    fn what_is_unknown_is_shown_as_unknown() {
        let node = NodeStatus {
            name: "chatnode-1".to_owned(),
            metrics: "127.0.0.1:1".parse().unwrap(),
            up: None,
            error: None,
            cpu_cores: Some(0.053),
            memory_bytes: None,
            connections: None,
            scrape_seconds: None,
            server: None,
            circuit: CircuitState::Open,
            circuit_reason: Some("NodeSlow fires".to_owned()),
        };
        let canary = CanaryStatus {
            ok: Some(false),
            error: Some("no answer".to_owned()),
            availability_ratio: Some(0.987_6),
            ack_seconds: Some(0.0021),
            delivery_seconds: None,
            sent: 10,
            acked: 9,
            lost: 0,
        };
        let status = Status {
            at: Utc.timestamp_opt(1_000, 0).unwrap(),
            name: "supervisor-1".to_owned(),
            version: "0.1.0".to_owned(),
            observe_only: true,
            group: None,
            health: Health::Degraded,
            problems: vec!["chatnode-1 is slow".to_owned()],
            servers: ServersStatus { nodes: vec![node], balancer: None },
            redis: Vec::new(),
            canary: Some(canary),
            backup: None,
            alerts: Vec::new(),
            drill: None,
        };
        let text = text(&status, false);
        let expected = [
            "The cluster is degraded.   supervisor-1 0.1.0, watching only",
            "  - chatnode-1 is slow",
            "5.3 %",
            "open: NodeSlow fires",
            "available 98.76 % of the last minute, acknowledged in 2.1 ms, delivered in ?",
            "now: no answer",
        ];
        for part in expected {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
