//! A topology in the words of Redis Sentinel. Field names, their order and their notation are Sentinel's.

use std::time::{Duration, Instant};

use super::group::{Sentinel, Sentinels, id_of};
use super::value::Value;
use crate::act::redis::Topology;
use crate::cluster::{Address, RedisRole, RedisState};
use crate::judge::redis::{Link, ServerView};

/// What replies need beside a topology.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) now: Instant,
    pub(super) sentinels: &'a Sentinels,
}

/// Another supervisor that was not heard for this long is shown as down.
const SENTINEL_DOWN_AFTER: Duration = Duration::from_secs(1);

/// Sentinel's default, which clients merely show.
const FAILOVER_TIMEOUT_MILLISECONDS: &str = "180000";

/// `SENTINEL MASTER`; `None` before a primary is known.
pub(super) fn primary(topology: &Topology, facts: &Facts<'_>) -> Option<Value> {
    let status = &topology.status;
    let address = status.primary.as_ref()?;
    let view = view_of(topology, address);
    let down = is_down(topology);
    let failing_over = in_progress(status.state);
    let mut flags = Vec::new();
    if down {
        flags.extend(["s_down", "o_down"]);
    }
    flags.push("master");
    if view.is_none_or(|view| view.link != Link::Open) {
        flags.push("disconnected");
    }
    if failing_over {
        flags.push("failover_in_progress");
    }
    let mut fields = head(&status.name, address, view, flags.join(","));
    if failing_over {
        fields.push(("failover-state", failover_state(status.state).to_owned()));
    }
    pings(&mut fields, view, facts);
    if down {
        let time = view.map_or(0, |view| since(Some(view.link_since), facts));
        fields.push(("s-down-time", time.to_string()));
        fields.push(("o-down-time", time.to_string()));
    }
    roles(&mut fields, view, RedisRole::Primary, topology.hang_after, facts);
    let replicas = topology.views.len().saturating_sub(1);
    fields.extend([
        ("config-epoch", status.epoch.to_string()),
        ("num-slaves", replicas.to_string()),
        ("num-other-sentinels", facts.sentinels.others.len().to_string()),
        ("quorum", facts.sentinels.quorum().to_string()),
        ("failover-timeout", FAILOVER_TIMEOUT_MILLISECONDS.to_owned()),
        ("parallel-syncs", replicas.max(1).to_string()),
    ]);
    Some(Value::fields(fields))
}

/// `SENTINEL REPLICAS`.
pub(super) fn replicas(topology: &Topology, facts: &Facts<'_>) -> Value {
    let primary = topology.status.primary.as_ref();
    let replicas = topology.views.iter().filter(|view| Some(&view.address) != primary);
    Value::Array(replicas.map(|view| replica(view, topology, facts)).collect())
}

fn replica(view: &ServerView, topology: &Topology, facts: &Facts<'_>) -> Value {
    let down = !view.is_reachable(facts.now, topology.hang_after);
    let mut flags = Vec::new();
    if down {
        flags.push("s_down");
    }
    flags.push("slave");
    if view.link != Link::Open {
        flags.push("disconnected");
    }
    let mut fields = head(&view.address.to_string(), &view.address, Some(view), flags.join(","));
    pings(&mut fields, Some(view), facts);
    if down {
        fields.push(("s-down-time", since(Some(view.link_since), facts).to_string()));
    }
    roles(&mut fields, Some(view), RedisRole::Replica, topology.hang_after, facts);
    let sample = view.sample.as_ref();
    let linked = !down && sample.is_some_and(|sample| sample.link_up == Some(true));
    let follows = sample.and_then(|sample| sample.follows.as_ref());
    let follows = follows.or(topology.status.primary.as_ref());
    let down_time = if linked { 0 } else { since(view.moved.map(|(_, at)| at), facts) };
    fields.extend([
        ("master-link-down-time", down_time.to_string()),
        ("master-link-status", if linked { "ok" } else { "err" }.to_owned()),
        ("master-host", follows.map_or("?", Address::host).to_owned()),
        ("master-port", follows.map_or(0, Address::port).to_string()),
        ("slave-priority", sample.map_or(100, |sample| sample.priority).to_string()),
        ("slave-repl-offset", sample.map_or(0, |sample| sample.offset).to_string()),
        ("replica-announced", "1".to_owned()),
    ]);
    Value::fields(fields)
}

/// `SENTINEL SENTINELS`.
pub(super) fn sentinels(_: &Topology, facts: &Facts<'_>) -> Value {
    Value::Array(facts.sentinels.others.iter().map(|other| sentinel(other, facts)).collect())
}

fn sentinel(other: &Sentinel, facts: &Facts<'_>) -> Value {
    let id = id_of(&other.name);
    let heard = since(other.heard, facts).to_string();
    let flags = if other.is_down { "s_down,sentinel,disconnected" } else { "sentinel" };
    let mut fields = vec![
        ("name", id.clone()),
        ("ip", other.address.host().to_owned()),
        ("port", other.address.port().to_string()),
        ("runid", id),
        ("flags", flags.to_owned()),
        ("link-pending-commands", "0".to_owned()),
        ("link-refcount", "1".to_owned()),
        ("last-ping-sent", "0".to_owned()),
        ("last-ok-ping-reply", heard.clone()),
        ("last-ping-reply", heard.clone()),
    ];
    if other.is_down {
        fields.push(("s-down-time", heard.clone()));
    }
    fields.extend([
        ("down-after-milliseconds", SENTINEL_DOWN_AFTER.as_millis().to_string()),
        ("last-hello-message", heard),
        ("voted-leader", "?".to_owned()),
        ("voted-leader-epoch", "0".to_owned()),
    ]);
    Value::fields(fields)
}

/// The line about a primary in `INFO sentinel`.
pub(super) fn info_line(index: usize, topology: &Topology, sentinels: &Sentinels) -> String {
    let status = &topology.status;
    let state = if is_down(topology) { "odown" } else { "ok" };
    let address = status.primary.as_ref().map_or_else(|| "?:0".to_owned(), Address::to_string);
    let replicas = topology.views.len().saturating_sub(1);
    format!(
        "master{index}:name={},status={state},address={address},slaves={replicas},sentinels={}\r\n",
        status.name,
        1 + sentinels.others.len(),
    )
}

/// Whether a failover is going on.
pub(super) fn in_progress(state: RedisState) -> bool {
    matches!(
        state,
        RedisState::Draining
            | RedisState::Electing
            | RedisState::Fencing
            | RedisState::Promoting
            | RedisState::Repointing
            | RedisState::Verifying
    )
}

/// Whether the primary clients are told cannot take writes now: they should not use it, and ask again.
pub(super) fn is_down(topology: &Topology) -> bool {
    match topology.status.state {
        _ if topology.is_planned => false,
        RedisState::Down
        | RedisState::Draining
        | RedisState::Electing
        | RedisState::Fencing
        | RedisState::Promoting
        | RedisState::Held
        | RedisState::Failed => true,
        RedisState::Unknown
        | RedisState::Healthy
        | RedisState::Suspect
        | RedisState::Repointing
        | RedisState::Verifying => false,
    }
}

fn failover_state(state: RedisState) -> &'static str {
    match state {
        RedisState::Draining | RedisState::Electing => "select_slave",
        RedisState::Fencing => "send_slaveof_noone",
        RedisState::Promoting => "wait_promotion",
        _ => "reconf_slaves",
    }
}

type Fields = Vec<(&'static str, String)>;

fn head(name: &str, address: &Address, view: Option<&ServerView>, flags: String) -> Fields {
    let run_id = view.and_then(|view| view.sample.as_ref()).map(|sample| sample.run_id.clone());
    vec![
        ("name", name.to_owned()),
        ("ip", address.host().to_owned()),
        ("port", address.port().to_string()),
        ("runid", run_id.unwrap_or_default()),
        ("flags", flags),
        ("link-pending-commands", "0".to_owned()),
        ("link-refcount", "1".to_owned()),
    ]
}

fn pings(fields: &mut Fields, view: Option<&ServerView>, facts: &Facts<'_>) {
    let waiting = view.and_then(|view| view.waiting_since);
    let answered = since(view.and_then(|view| view.answered_at), facts).to_string();
    fields.extend([
        ("last-ping-sent", since(waiting, facts).to_string()),
        ("last-ok-ping-reply", answered.clone()),
        ("last-ping-reply", answered),
    ]);
}

fn roles(
    fields: &mut Fields,
    view: Option<&ServerView>,
    expected: RedisRole,
    down_after: Duration,
    facts: &Facts<'_>,
) {
    let sample = view.and_then(|view| view.sample.as_ref());
    let role = match sample.map_or(expected, |sample| sample.role) {
        RedisRole::Primary => "master",
        RedisRole::Replica => "slave",
    };
    let refreshed = since(sample.map(|sample| sample.at), facts);
    let reported = since(view.map(|view| view.link_since), facts);
    fields.extend([
        ("down-after-milliseconds", down_after.as_millis().to_string()),
        ("info-refresh", refreshed.to_string()),
        ("role-reported", role.to_owned()),
        ("role-reported-time", reported.to_string()),
    ]);
}

/// Milliseconds since an instant; 0 if there is none.
fn since(at: Option<Instant>, facts: &Facts<'_>) -> u128 {
    at.map_or(0, |at| facts.now.saturating_duration_since(at).as_millis())
}

fn view_of<'t>(topology: &'t Topology, address: &Address) -> Option<&'t ServerView> {
    topology.views.iter().find(|view| view.address == *address)
}
