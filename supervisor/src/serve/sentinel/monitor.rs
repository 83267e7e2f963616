//! `SENTINEL` and `INFO`: what clients, operators and exporters ask about the monitored primaries.

use super::access;
use super::change;
use super::commands::{
    Client, Monitored, Outcome, REDIS_VERSION, World, unknown_sub, wrong_number,
};
use super::pattern;
use super::replies::{self, Facts};
use super::value::Value;
use crate::act::redis::Topology;
use crate::observe::redis::RedisSamples;
use std::fmt::Write as _;

/// The whole `INFO` of a server is asked for this often, and so is its replication section in between.
const INFO_PERIOD_MILLISECONDS: u64 = 1000;

/// `SENTINEL SIMULATE-FAILURE` breaks the process that is asked; drills do that with a report.
const NO_FAILURES: &str = "ERR failures are not simulated here: rehearse with `holdfast drill`, which undoes and reports them";

const HELP: [&str; 23] = [
    "SENTINEL <subcommand> [<arg> ...]. What this supervisor answers:",
    "CKQUORUM <name>  -- can a failover be agreed on now?",
    "CONFIG GET <pattern> | CONFIG SET <param> <value>  -- parameters; they are set in the settings file",
    "DEBUG  -- time constants",
    "FAILOVER <name> [COORDINATED]  -- planned switchover, or failover if the primary is down",
    "FLUSHCONFIG  -- nothing to be done: all state is on disk already",
    "GET-MASTER-ADDR-BY-NAME <name>  -- host and port of the primary",
    "INFO-CACHE <name> [<name> ...]  -- the last INFO of each server",
    "IS-MASTER-DOWN-BY-ADDR <ip> <port> <epoch> <runid>  -- is it down? (no votes are given)",
    "MASTER <name>, MASTERS  -- state of one primary, of all",
    "MONITOR <name> <ip> <port> <quorum>  -- take a primary of the settings back after REMOVE",
    "MYID  -- identifier of this supervisor",
    "PENDING-SCRIPTS  -- none: hooks are in the settings file",
    "REMOVE <name>  -- stop telling of a primary, and pause automatic changes to it",
    "REPLICAS <name>, SLAVES <name>  -- its replicas",
    "RESET <pattern>  -- number of primaries whose name matches",
    "SENTINELS <name>  -- the other supervisors of the group",
    "SET <name> <option> <value> [...]  -- change it until the next restart",
    "SIMULATE-FAILURE  -- refused, see `holdfast drill`",
    "HELP  -- this",
    "Who may change something: whoever knows the password, if one is set; else clients on this host.",
    "Beside these: AUTH CLIENT COMMAND HELLO INFO PING PUBLISH QUIT RESET ROLE",
    "and SUBSCRIBE PSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE.",
];

/// `SENTINEL <sub> …`
pub(super) fn answer(sub: &str, rest: &[String], client: &Client, world: &World) -> Outcome {
    let lower = sub.to_ascii_lowercase();
    if let Some(is_guarded) = change::is_change(&lower, rest) {
        let may = !is_guarded || access::may_change(world.login.as_deref(), client.ip);
        return if may {
            change::parse(&lower, rest, world)
        } else {
            Outcome::Reply(Value::error(access::LOCAL_ONLY))
        };
    }
    // Each of these is about one primary.
    let about = |name: &String, reply: &dyn Fn(&Topology, &Facts<'_>) -> Value| {
        world.find(name).map_or_else(no_such, |it| reply(&it.topology, &facts(world)))
    };
    Outcome::Reply(match (lower.as_str(), rest) {
        ("get-master-addr-by-name", [name]) => {
            let primary = world.find(name).and_then(|it| it.topology.status.primary.clone());
            primary.map_or(Value::NullArray, |address| {
                let port = address.port().to_string();
                Value::Array(vec![Value::bulk(address.host()), Value::Bulk(port)])
            })
        }
        ("masters", []) => {
            let facts = facts(world);
            let all = world.monitored().filter_map(|it| replies::primary(&it.topology, &facts));
            Value::Array(all.collect())
        }
        ("master", [name]) => about(name, &|topology, facts| {
            replies::primary(topology, facts).unwrap_or_else(no_such)
        }),
        ("replicas" | "slaves", [name]) => about(name, &replies::replicas),
        ("sentinels", [name]) => about(name, &replies::sentinels),
        ("ckquorum", [name]) => about(name, &|_, _| check_quorum(world)),
        ("myid", []) => Value::bulk(&world.my_id),
        ("info-cache", [_, ..]) => info_cache(rest, world),
        ("pending-scripts", []) => Value::Array(Vec::new()),
        ("config", [verb, patterns @ ..])
            if verb.eq_ignore_ascii_case("get") && !patterns.is_empty() =>
        {
            config(patterns, world)
        }
        // All state is written as it comes.
        ("flushconfig", []) => Value::ok(),
        ("simulate-failure", [only]) if only.eq_ignore_ascii_case("help") => {
            Value::Array(Vec::new())
        }
        ("simulate-failure", [_, ..]) => Value::error(NO_FAILURES),
        ("debug", []) => Value::fields(vec![("INFO-PERIOD", INFO_PERIOD_MILLISECONDS.to_string())]),
        ("debug", _) => Value::error(
            "ERR time constants are not set here, see probe_interval in the settings file",
        ),
        ("help", []) => Value::Array(HELP.map(|line| Value::Simple(line.to_owned())).into()),
        ("is-master-down-by-addr", [host, port, _, _]) => is_down(host, port, world),
        (
            "get-master-addr-by-name"
            | "masters"
            | "master"
            | "replicas"
            | "slaves"
            | "sentinels"
            | "ckquorum"
            | "myid"
            | "info-cache"
            | "pending-scripts"
            | "config"
            | "flushconfig"
            | "simulate-failure"
            | "help"
            | "is-master-down-by-addr",
            _,
        ) => wrong_number(&format!("sentinel|{lower}")),
        _ => unknown_sub("SENTINEL", sub),
    })
}

/// Answer to a name that is not monitored.
pub(super) fn no_such() -> Value {
    Value::error("ERR No such master with that name")
}

/// Why no failover can be agreed on; `None` if one can.
pub(super) fn no_quorum(world: &World) -> Option<Value> {
    let sentinels = &world.sentinels;
    let short = sentinels.usable() < sentinels.quorum();
    (short || !sentinels.has_majority).then(|| {
        let usable = sentinels.usable();
        let quorum = if short {
            "Not enough available Sentinels to reach the specified quorum for this master. "
        } else {
            ""
        };
        Value::Error(format!(
            "NOQUORUM {usable} usable Sentinels. {quorum}Not enough available Sentinels to reach the majority and authorize a failover"
        ))
    })
}

fn check_quorum(world: &World) -> Value {
    no_quorum(world).unwrap_or_else(|| {
        let usable = world.sentinels.usable();
        Value::Simple(format!(
            "OK {usable} usable Sentinels. Quorum and failover authorization can be reached"
        ))
    })
}

fn facts(world: &World) -> Facts<'_> {
    Facts { now: world.now, sentinels: &world.sentinels }
}

/// Whether a primary is down, for real Sentinels beside us. They get no votes.
fn is_down(host: &str, port: &str, world: &World) -> Value {
    let is_it = |it: &&Monitored| {
        let primary = it.topology.status.primary.as_ref();
        primary.is_some_and(|at| at.host() == host && at.port().to_string() == port)
    };
    let down = world.monitored().find(is_it).is_some_and(|it| replies::is_down(&it.topology));
    Value::Array(vec![Value::Integer(down.into()), Value::bulk("*"), Value::Integer(0)])
}

/// Each primary's servers with the age of their `INFO` and the text.
fn info_cache(names: &[String], world: &World) -> Value {
    let server = |topology: &Topology, samples: &RedisSamples| {
        let view = topology.views.iter().find(|view| view.address == samples.address);
        let at = view.and_then(|view| view.sample.as_ref()).map(|sample| sample.at);
        let age = at.map_or(0, |at| world.now.saturating_duration_since(at).as_millis());
        let mut text = String::new();
        for (name, value) in &samples.info {
            write!(text, "{name}:{value}\r\n").expect("writing to a string cannot fail");
        }
        let age = Value::Integer(i64::try_from(age).unwrap_or(i64::MAX));
        Value::Array(vec![age, Value::Bulk(text)])
    };
    let found = names.iter().filter_map(|name| Some((name, world.find(name)?)));
    let pairs = found.flat_map(|(name, it)| {
        let all = it.samples.borrow();
        let servers = all.iter().map(|samples| server(&it.topology, samples)).collect();
        [Value::bulk(name), Value::Array(servers)]
    });
    Value::Array(pairs.collect())
}

/// `SENTINEL CONFIG GET`: the parameters of 7.0, with what they come to here.
fn config(patterns: &[String], world: &World) -> Value {
    let user = world.login.as_ref().and_then(|login| login.username.clone()).unwrap_or_default();
    let parameters = [
        ("resolve-hostnames", "yes".to_owned()),
        ("announce-hostnames", "yes".to_owned()),
        ("announce-ip", String::new()),
        ("announce-port", world.port.to_string()),
        ("sentinel-user", user),
        // Never shown.
        ("sentinel-pass", String::new()),
    ];
    let wanted = |name: &str| {
        let matches =
            |text: &String| pattern::matches(text.to_ascii_lowercase().as_bytes(), name.as_bytes());
        patterns.iter().any(matches)
    };
    Value::fields(parameters.into_iter().filter(|(name, _)| wanted(name)).collect())
}

/// `INFO [section …]`
pub(super) fn info(sections: &[String], world: &World) -> String {
    let wants = |name: &str| {
        sections.is_empty()
            || sections.iter().any(|section| {
                ["all", "default", "everything", name]
                    .iter()
                    .any(|s| section.eq_ignore_ascii_case(s))
            })
    };
    let mut parts = Vec::new();
    if wants("server") {
        let uptime = world.now.saturating_duration_since(world.started).as_secs();
        parts.push(format!(
            "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:sentinel\r\nholdfast_version:{}\r\n\
             process_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            world.my_id,
            world.port,
            uptime / 86_400,
        ));
    }
    if wants("clients") {
        parts.push(format!("# Clients\r\nconnected_clients:{}\r\n", world.clients));
    }
    if wants("sentinel") {
        let lines: String = world
            .monitored()
            .enumerate()
            .map(|(index, it)| replies::info_line(index, &it.topology, &world.sentinels))
            .collect();
        parts.push(format!(
            "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\n\
             sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\n\
             sentinel_simulate_failure_flags:0\r\n{lines}",
            world.monitored().count(),
        ));
    }
    parts.join("\r\n")
}
