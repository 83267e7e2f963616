//! What each command answers. Pure: the present and the topologies are arguments; subscriptions and failovers are handed back as
//! [`Outcome`]s for the session to carry out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::replies::{self, Facts};
use super::value::{Protocol, Value};
use crate::act::redis::Topology;

/// The Redis version whose Sentinel we answer like. Clients choose features by it.
const REDIS_VERSION: &str = "7.0.15";

/// Of an unknown command's arguments no more is repeated.
const ARGUMENTS_SHOWN_BYTES: usize = 128;

/// Everything replies depend on.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) topologies: Vec<Arc<Topology>>,
    pub(super) down_after: Vec<Duration>,
    pub(super) my_id: String,
    pub(super) started: Instant,
    pub(super) port: u16,
}

/// What a client has said about itself.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: i64,
    pub(super) address: String,
    pub(super) protocol: Protocol,
    pub(super) name: Option<String>,
}

/// What to do about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answer.
    Reply(Value),
    /// Answer and close.
    Quit,
    /// Change subscriptions; the session answers.
    Subscribe { patterns: bool, names: Vec<String> },
    /// No names: all.
    Unsubscribe { patterns: bool, names: Vec<String> },
    /// Back to a fresh connection.
    Reset,
    /// Start a failover of this primary (by its place in the settings), then answer.
    FailOver(usize),
}

/// Answers one command. `arguments` is never empty.
pub(super) fn answer(arguments: &[String], client: &mut Client, world: &World) -> Outcome {
    let name = arguments[0].to_ascii_lowercase();
    let rest = &arguments[1..];
    Outcome::Reply(match (name.as_str(), rest) {
        ("ping", []) => Value::Simple("PONG".to_owned()),
        ("ping", [text]) => Value::bulk(text),
        ("hello", _) => hello(rest, client),
        // No password is set here: any will do.
        ("auth", [_] | [_, _]) => Value::ok(),
        ("client", [sub, rest @ ..]) => about_client(sub, rest, client),
        ("command", [sub, ..]) if sub.eq_ignore_ascii_case("count") => Value::Integer(0),
        ("command", [sub, ..]) if sub.eq_ignore_ascii_case("docs") => Value::Map(Vec::new()),
        ("command", _) => Value::Array(Vec::new()),
        ("role", []) => {
            let names = world.topologies.iter().map(|t| Value::bulk(&t.status.name)).collect();
            Value::Array(vec![Value::bulk("sentinel"), Value::Array(names)])
        }
        ("info", _) => Value::Bulk(info(rest, world)),
        ("sentinel", [sub, rest @ ..]) => return sentinel(sub, rest, world),
        ("subscribe" | "psubscribe", [_, ..]) => {
            return Outcome::Subscribe { patterns: name.starts_with('p'), names: rest.to_vec() };
        }
        ("unsubscribe" | "punsubscribe", _) => {
            return Outcome::Unsubscribe { patterns: name.starts_with('p'), names: rest.to_vec() };
        }
        ("quit", _) => return Outcome::Quit,
        ("reset", []) => return Outcome::Reset,
        (
            "ping" | "auth" | "client" | "role" | "sentinel" | "subscribe" | "psubscribe" | "reset",
            _,
        ) => wrong_number(&name),
        _ => {
            let mut shown: String = rest.iter().flat_map(|text| ["'", text, "' "]).collect();
            // As Redis does: enough to recognise it by.
            shown.truncate(shown.floor_char_boundary(ARGUMENTS_SHOWN_BYTES));
            Value::Error(format!(
                "ERR unknown command '{}', with args beginning with: {shown}",
                arguments[0]
            ))
        }
    })
}

fn wrong_number(name: &str) -> Value {
    Value::Error(format!("ERR wrong number of arguments for '{name}' command"))
}

fn unknown_sub(command: &str, sub: &str) -> Value {
    Value::Error(format!("ERR unknown subcommand '{sub}'. Try {command} HELP."))
}

fn hello(rest: &[String], client: &mut Client) -> Value {
    let mut protocol = client.protocol;
    let mut name = None;
    let mut rest = rest;
    if let [version, tail @ ..] = rest {
        protocol = match version.as_str() {
            "2" => Protocol::Resp2,
            "3" => Protocol::Resp3,
            text if text.parse::<i64>().is_ok() => {
                return Value::error("NOPROTO unsupported protocol version");
            }
            _ => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Value::error(text);
            }
        };
        rest = tail;
    }
    while let [option, tail @ ..] = rest {
        rest = match (option.to_ascii_lowercase().as_str(), tail) {
            ("auth", [_, _, tail @ ..]) => tail,
            ("setname", [text, tail @ ..]) => {
                name = Some(text.clone());
                tail
            }
            _ => return Value::Error(format!("ERR Syntax error in HELLO option '{option}'")),
        };
    }
    client.protocol = protocol;
    client.name = name.or_else(|| client.name.take());
    let number = if protocol == Protocol::Resp3 { 3 } else { 2 };
    Value::Map(vec![
        (Value::bulk("server"), Value::bulk("redis")),
        (Value::bulk("version"), Value::bulk(REDIS_VERSION)),
        (Value::bulk("proto"), Value::Integer(number)),
        (Value::bulk("id"), Value::Integer(client.id)),
        (Value::bulk("mode"), Value::bulk("sentinel")),
        (Value::bulk("modules"), Value::Array(Vec::new())),
    ])
}

fn about_client(sub: &str, rest: &[String], client: &mut Client) -> Value {
    match (sub.to_ascii_lowercase().as_str(), rest) {
        ("setname", [name]) => {
            client.name = Some(name.clone()).filter(|name| !name.is_empty());
            Value::ok()
        }
        ("getname", []) => client.name.as_ref().map_or(Value::NullBulk, Value::bulk),
        // The library's name would be shown nowhere.
        ("setinfo", [_, _]) => Value::ok(),
        ("id", []) => Value::Integer(client.id),
        ("list" | "info", _) => {
            let name = client.name.as_deref().unwrap_or_default();
            let protocol = if client.protocol == Protocol::Resp3 { 3 } else { 2 };
            let (id, address) = (client.id, &client.address);
            Value::Bulk(format!("id={id} addr={address} name={name} db=0 resp={protocol}\n"))
        }
        ("setname" | "getname" | "setinfo" | "id", _) => {
            wrong_number(&format!("client|{}", sub.to_ascii_lowercase()))
        }
        _ => unknown_sub("CLIENT", sub),
    }
}

fn sentinel(sub: &str, rest: &[String], world: &World) -> Outcome {
    let lower = sub.to_ascii_lowercase();
    let find = |name: &String| world.topologies.iter().position(|t| t.status.name == *name);
    let facts = |index: usize| Facts { now: world.now, down_after: world.down_after[index] };
    let no_such = || Value::error("ERR No such master with that name");
    // Each of these is about one primary.
    let about = |name: &String, reply: &dyn Fn(usize, &Topology) -> Value| {
        find(name).map_or_else(no_such, |index| reply(index, &world.topologies[index]))
    };
    Outcome::Reply(match (lower.as_str(), rest) {
        ("get-master-addr-by-name", [name]) => {
            let primary =
                find(name).and_then(|index| world.topologies[index].status.primary.clone());
            primary.map_or(Value::NullArray, |address| {
                let port = address.port().to_string();
                Value::Array(vec![Value::bulk(address.host()), Value::Bulk(port)])
            })
        }
        ("masters", []) => {
            let all = world.topologies.iter().enumerate();
            Value::Array(all.filter_map(|(i, t)| replies::primary(t, &facts(i))).collect())
        }
        ("master", [name]) => {
            about(name, &|index, t| replies::primary(t, &facts(index)).unwrap_or_else(no_such))
        }
        ("replicas" | "slaves", [name]) => {
            about(name, &|index, topology| replies::replicas(topology, &facts(index)))
        }
        ("sentinels", [name]) => about(name, &|_, _| Value::Array(Vec::new())),
        ("ckquorum", [name]) => about(name, &|_, _| {
            let text = "OK 1 usable Sentinels. Quorum and failover authorization can be reached";
            Value::Simple(text.to_owned())
        }),
        ("myid", []) => Value::bulk(&world.my_id),
        ("failover", [name, mode @ ..])
            if mode.is_empty()
                || (mode.len() == 1 && mode[0].eq_ignore_ascii_case("coordinated")) =>
        {
            match find(name) {
                None => no_such(),
                Some(index) => {
                    let status = &world.topologies[index].status;
                    if replies::in_progress(status.state) {
                        Value::error("INPROG Failover already in progress")
                    } else if status.candidate.is_none() {
                        Value::error("NOGOODSLAVE No suitable replica to promote")
                    } else {
                        return Outcome::FailOver(index);
                    }
                }
            }
        }
        ("is-master-down-by-addr", [_, _, _, _]) => Value::Array(vec![
            // We take part in nobody's vote.
            Value::Integer(0),
            Value::bulk("*"),
            Value::Integer(0),
        ]),
        (
            "get-master-addr-by-name"
            | "masters"
            | "master"
            | "replicas"
            | "slaves"
            | "sentinels"
            | "ckquorum"
            | "myid"
            | "failover"
            | "is-master-down-by-addr",
            _,
        ) => wrong_number(&format!("sentinel|{lower}")),
        _ => unknown_sub("SENTINEL", sub),
    })
}

fn info(sections: &[String], world: &World) -> String {
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
    if wants("sentinel") {
        let lines: String = world
            .topologies
            .iter()
            .enumerate()
            .map(|(index, topology)| replies::info_line(index, topology))
            .collect();
        parts.push(format!(
            "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\n\
             sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\n\
             sentinel_simulate_failure_flags:0\r\n{lines}",
            world.topologies.len(),
        ));
    }
    parts.join("\r\n")
}

#[cfg(test)]
mod tests;
