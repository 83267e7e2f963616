//! Is the cluster well enough to be struck, and is it whole again afterwards?
//!
//! Each thing that is not as it should be becomes one sentence. Missing data is such a thing. Incidents, critical alerts and circuits count
//! only before the fault: they look back over their own times, and afterwards say what was, not what is.

use crate::cluster::{
    AlertState, AlertStatus, CanaryStatus, CircuitState, RedisState, RedisStatus, ServersStatus,
};
use crate::observe::canary::WindowReport;
use crate::record::Incident;

/// What is known about the cluster at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) servers: &'a ServersStatus,
    pub(super) redis: &'a [RedisStatus],
    pub(super) canary: &'a CanaryStatus,
    /// The canary's last seconds.
    pub(super) recent: &'a WindowReport,
    pub(super) alerts: &'a [AlertStatus],
    /// The open ones.
    pub(super) incidents: &'a [Incident],
}

/// What keeps the cluster from being struck.
pub(super) fn unmet_before(view: View<'_>) -> Vec<String> {
    let mut unmet = unmet_after(view);
    for incident in view.incidents {
        unmet.push(format!("incident {} ({}) is open", incident.id, incident.subject));
    }
    for alert in view.alerts {
        let is_critical = alert.labels.get("severity").is_some_and(|value| value == "critical");
        if alert.state == AlertState::Firing && is_critical {
            unmet.push(format!("the critical alert {} is firing", alert.name));
        }
    }
    for node in &view.servers.nodes {
        if node.circuit != CircuitState::Closed {
            unmet.push(format!("the circuit of {} is not closed", node.name));
        }
    }
    unmet
}

/// What keeps the cluster from being whole again.
pub(super) fn unmet_after(view: View<'_>) -> Vec<String> {
    let mut unmet = Vec::new();
    servers(view.servers, &mut unmet);
    for status in view.redis {
        redis(status, &mut unmet);
    }
    canary(view.canary, view.recent, &mut unmet);
    unmet
}

fn servers(servers: &ServersStatus, unmet: &mut Vec<String>) {
    if servers.nodes.is_empty() {
        unmet.push("no chat node is known".to_owned());
    }
    for node in &servers.nodes {
        if node.up != Some(true) {
            unmet.push(format!("chat node {} does not answer", node.name));
        }
        let is_usable = node.server.as_ref().is_some_and(|server| server.usable);
        if servers.balancer.is_some() && !is_usable {
            unmet.push(format!("the balancer does not send users to {}", node.name));
        }
    }
    if servers.balancer.as_ref().is_some_and(|balancer| balancer.up != Some(true)) {
        unmet.push("the balancer does not answer".to_owned());
    }
}

fn redis(redis: &RedisStatus, unmet: &mut Vec<String>) {
    let name = &redis.name;
    if redis.state != RedisState::Healthy {
        unmet.push(format!("Redis {name} is {}", redis.state.name()));
    }
    let Some(primary) = &redis.primary else {
        unmet.push(format!("Redis {name} has no primary"));
        return;
    };
    for server in redis.servers.iter().filter(|server| server.up != Some(true)) {
        unmet.push(format!("Redis server {} does not answer", server.address));
    }
    let replicas = redis.servers.iter().filter(|server| server.address != *primary);
    if !replicas.into_iter().any(|server| server.link_up == Some(true)) {
        unmet.push(format!("no replica of Redis {name} is linked to the primary"));
    }
}

fn canary(canary: &CanaryStatus, recent: &WindowReport, unmet: &mut Vec<String>) {
    if canary.ok != Some(true) || recent.acked == 0 {
        unmet.push("the canary's messages are not acknowledged".to_owned());
    } else if recent.failed > 0 {
        unmet.push(format!("{} of the canary's last messages failed", recent.failed));
    }
}

#[cfg(test)]
pub(super) mod tests;
