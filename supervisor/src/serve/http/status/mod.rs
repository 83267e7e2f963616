//! How is the whole cluster doing, and what is wrong with it?
//!
//! Health is what users have: `Down` when they are not served, `Degraded` when they are but something is missing, unknown or being
//! handled. The canary decides whenever it has spoken, because it goes the way users go; without it the parts are asked whether anything
//! could be served at all. What was not observed yet counts as a problem, never as healthy. Rejected: the worst severity of the firing
//! alerts, because a rule file the operator has thinned out would then make the cluster look well.

use chrono::{DateTime, Utc};

use crate::cluster::{
    AlertState, AlertStatus, BackupStatus, CanaryStatus, CircuitState, DrillStatus, GroupBrief,
    Health, NodeStatus, RedisState, RedisStatus, ServerState, ServersStatus, Status,
};

/// Below this share of acknowledged messages the canary calls the service down rather than shaky.
const AVAILABILITY_DOWN: f64 = 0.5;

/// What the parts say.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The supervisor's name.
    pub name: String,
    /// Whether it only watches.
    pub observe_only: bool,
    /// The supervisors' group, if there is more than this one.
    pub group: Option<GroupBrief>,
    /// Nodes and balancer.
    pub servers: ServersStatus,
    /// Each Redis in the order of the settings.
    pub redis: Vec<RedisStatus>,
    /// The canary, if on.
    pub canary: Option<CanaryStatus>,
    /// Backups, if set.
    pub backup: Option<BackupStatus>,
    /// Drills, if any.
    pub drill: Option<DrillStatus>,
    /// All alerts.
    pub alerts: Vec<AlertStatus>,
}

/// Puts the parts together and judges them as a whole.
pub fn assemble(parts: Parts, at: DateTime<Utc>) -> Status {
    let mut problems = Problems::default();
    canary(parts.canary.as_ref(), &mut problems);
    let verdict = Verdict::of(parts.canary.as_ref());
    group(parts.group.as_ref(), &mut problems);
    servers(&parts.servers, verdict, &mut problems);
    for redis in &parts.redis {
        redis_problems(redis, verdict, &mut problems);
    }
    alerts(&parts.alerts, &mut problems);
    if let Some(error) = parts.backup.as_ref().and_then(|backup| backup.error.as_ref()) {
        problems.degraded(format!("The last backup failed: {error}"));
    }
    let Problems { down, degraded } = problems;
    let health = match (down.is_empty(), degraded.is_empty()) {
        (true, true) => Health::Ok,
        (true, false) => Health::Degraded,
        (false, _) => Health::Down,
    };
    Status {
        at,
        name: parts.name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        observe_only: parts.observe_only,
        health,
        problems: down.into_iter().chain(degraded).collect(),
        group: parts.group,
        servers: parts.servers,
        redis: parts.redis,
        canary: parts.canary,
        backup: parts.backup,
        alerts: parts.alerts.into_iter().filter(|a| a.state != AlertState::Resolved).collect(),
        drill: parts.drill,
    }
}

#[derive(Default)]
struct Problems {
    down: Vec<String>,
    degraded: Vec<String>,
}

impl Problems {
    fn down(&mut self, text: impl Into<String>) {
        self.down.push(text.into());
    }

    fn degraded(&mut self, text: impl Into<String>) {
        self.degraded.push(text.into());
    }

    /// Something users cannot do without: down, unless the canary has just shown that they are served.
    fn vital(&mut self, verdict: Verdict, text: impl Into<String>) {
        match verdict {
            Verdict::Served => self.degraded(text),
            Verdict::NotServed | Verdict::Unknown => self.down(text),
        }
    }
}

/// What the canary says about users.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Served,
    NotServed,
    Unknown,
}

impl Verdict {
    fn of(canary: Option<&CanaryStatus>) -> Self {
        match canary.map(|canary| (canary.ok, canary.availability_ratio)) {
            None | Some((None, _)) => Self::Unknown,
            Some((Some(true), _)) => Self::Served,
            Some((Some(false), Some(share))) if share >= AVAILABILITY_DOWN => Self::Served,
            Some((Some(false), _)) => Self::NotServed,
        }
    }
}

/// `text: cause`, or `text` alone.
fn with_cause(text: String, cause: Option<&String>) -> String {
    match cause {
        Some(cause) => format!("{text}: {cause}"),
        None => text,
    }
}

fn canary(canary: Option<&CanaryStatus>, problems: &mut Problems) {
    let Some(canary) = canary else { return };
    let error = canary.error.as_ref();
    match (canary.ok, Verdict::of(Some(canary))) {
        (Some(true), _) => {}
        (Some(false), Verdict::Served) => {
            problems.degraded(with_cause("The canary's last message failed".to_owned(), error));
        }
        (Some(false), _) => {
            problems.down(with_cause("The canary cannot send messages".to_owned(), error));
        }
        (None, _) => problems.degraded("The canary has not sent a message yet"),
    }
    if canary.lost > 0 {
        problems.degraded(format!("The canary lost {} acknowledged messages", canary.lost));
    }
}

fn group(group: Option<&GroupBrief>, problems: &mut Problems) {
    let Some(group) = group else { return };
    if let Some(why) = group.watches_only() {
        problems.degraded(format!("{why}: it only watches, and changes nothing"));
    }
    for member in group.members.iter().filter(|member| member.is_silent()) {
        problems.degraded(format!("Supervisor {} is not heard", member.name));
    }
}

fn servers(servers: &ServersStatus, verdict: Verdict, problems: &mut Problems) {
    let known_dead = |node: &NodeStatus| {
        node.up == Some(false) || node.server.as_ref().is_some_and(|server| !server.usable)
    };
    if !servers.nodes.is_empty() && servers.nodes.iter().all(known_dead) {
        problems.vital(verdict, "No chat node can take connections");
    }
    if let Some(balancer) = &servers.balancer {
        let error = balancer.error.as_ref();
        match balancer.up {
            Some(true) => {}
            Some(false) => {
                problems
                    .vital(verdict, with_cause("The balancer does not answer".to_owned(), error));
            }
            None => problems.degraded("The balancer has not been heard of yet"),
        }
    }
    for node in &servers.nodes {
        if let Some(text) = node_problem(node) {
            problems.degraded(format!("{} {text}", node.name));
        }
    }
}

/// The one thing that matters most about a node that is not well.
fn node_problem(node: &NodeStatus) -> Option<String> {
    match node.up {
        Some(true) => {}
        Some(false) => return Some(with_cause("does not answer".to_owned(), node.error.as_ref())),
        None => return Some("has not been heard of yet".to_owned()),
    }
    let reason = node.circuit_reason.as_ref();
    match node.circuit {
        CircuitState::Open => {
            return Some(with_cause("is held back by its circuit".to_owned(), reason));
        }
        CircuitState::HalfOpen => {
            return Some(with_cause("is returning step by step".to_owned(), reason));
        }
        CircuitState::Closed => {}
    }
    let server = node.server.as_ref()?;
    match (server.state, server.health.as_str(), server.usable) {
        (ServerState::Drain, ..) => Some("is drained".to_owned()),
        (ServerState::Maintenance, ..) => Some("is in maintenance".to_owned()),
        (ServerState::Ready, "down", _) => Some("fails the balancer's health checks".to_owned()),
        (ServerState::Ready, _, false) => Some("gets no connections from the balancer".to_owned()),
        (ServerState::Ready, _, true) if server.weight == 0 => Some("has weight 0".to_owned()),
        (ServerState::Ready, _, true) => None,
    }
}

fn redis_problems(redis: &RedisStatus, verdict: Verdict, problems: &mut Problems) {
    let name = &redis.name;
    let reason = redis.reason.as_ref();
    let state = |text: &str| with_cause(format!("Redis {name} {text}"), reason);
    match redis.state {
        RedisState::Healthy => {}
        RedisState::Unknown => problems.degraded(state("has not been heard of yet")),
        RedisState::Suspect => problems.degraded(state("may have lost its primary")),
        RedisState::Held => problems.vital(verdict, state("needs a failover, which is withheld")),
        RedisState::Failed => problems.vital(verdict, state("could not be failed over")),
        RedisState::Down
        | RedisState::Draining
        | RedisState::Electing
        | RedisState::Fencing
        | RedisState::Promoting
        | RedisState::Repointing
        | RedisState::Verifying => {
            let text = format!("is being failed over ({})", redis.state.name());
            problems.vital(verdict, state(&text));
        }
    }
    for server in &redis.servers {
        let address = &server.address;
        let is_primary = redis.primary.as_ref() == Some(address);
        if server.up == Some(false) {
            let what = if is_primary { "primary" } else { "replica" };
            let text = format!("Redis {what} {address} does not answer");
            problems.degraded(with_cause(text, server.error.as_ref()));
        } else if server.up.is_none() {
            problems.degraded(format!("Redis {address} has not been heard of yet"));
        } else if !is_primary && server.link_up == Some(false) {
            problems.degraded(format!("Redis replica {address} does not follow its primary"));
        }
    }
}

fn alerts(alerts: &[AlertStatus], problems: &mut Problems) {
    let firing = |severity: &str| {
        let is_it = move |alert: &&AlertStatus| {
            let label = alert.labels.get("severity").map(String::as_str);
            alert.state == AlertState::Firing && label == Some(severity)
        };
        alerts.iter().filter(is_it).collect::<Vec<_>>()
    };
    for alert in firing("critical").into_iter().chain(firing("warning")) {
        let text = format!("Alert {}", alert.name);
        problems.degraded(with_cause(text, alert.annotations.get("summary")));
    }
}

#[cfg(test)]
mod tests;
