//! What each command answers. Pure: the present and the topologies are arguments; what has to be done is handed back as an [`Outcome`]
//! for the session to carry out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::access;
use super::change::Change;
use super::group::Sentinels;
use super::monitor;
use super::value::{Protocol, Value};
use crate::act::redis::Topology;
use crate::observe::redis::{Login, RedisSamples};

/// The Redis version whose Sentinel we answer like. Clients choose features by it.
pub(super) const REDIS_VERSION: &str = "7.0.15";

/// Of an unknown command's arguments no more is repeated.
const ARGUMENTS_SHOWN_BYTES: usize = 128;

/// The only channel somebody else may publish to: real Sentinels introduce themselves there.
const HELLO_CHANNEL: &str = "__sentinel__:hello";

/// Everything replies depend on.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    /// Every Redis of the settings.
    pub(super) all: Vec<Monitored>,
    pub(super) sentinels: Sentinels,
    pub(super) login: Option<Arc<Login>>,
    pub(super) my_id: String,
    pub(super) started: Instant,
    pub(super) port: u16,
    pub(super) clients: usize,
}

/// One Redis.
#[derive(Debug)]
pub(super) struct Monitored {
    /// Its place in the settings.
    pub(super) index: usize,
    pub(super) topology: Arc<Topology>,
    /// The last `INFO` of its servers.
    pub(super) samples: watch::Receiver<Vec<RedisSamples>>,
    /// How we log in to its servers.
    pub(super) login: Option<Login>,
    /// A client took it off monitoring.
    pub(super) is_removed: bool,
}

impl World {
    /// Those that are told of.
    pub(super) fn monitored(&self) -> impl Iterator<Item = &Monitored> {
        self.all.iter().filter(|it| !it.is_removed)
    }

    /// The one of this name, if it is told of.
    pub(super) fn find(&self, name: &str) -> Option<&Monitored> {
        self.monitored().find(|it| it.topology.status.name == *name)
    }
}

/// What a client has said about itself.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: i64,
    pub(super) address: String,
    pub(super) ip: Option<IpAddr>,
    pub(super) protocol: Protocol,
    pub(super) name: Option<String>,
    /// It has said the password.
    pub(super) is_known: bool,
}

/// What to do about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answer.
    Reply(Value),
    /// Answer and close.
    Quit,
    /// Answer that the password is wrong, and count it.
    WrongPassword,
    /// Change subscriptions; the session answers.
    Subscribe { patterns: bool, names: Vec<String> },
    /// No names: all.
    Unsubscribe { patterns: bool, names: Vec<String> },
    /// Back to a fresh connection.
    Reset,
    /// Change something, then answer.
    Change(Change),
}

/// Answers one command. `arguments` is never empty.
pub(super) fn answer(arguments: &[String], client: &mut Client, world: &World) -> Outcome {
    let name = arguments[0].to_ascii_lowercase();
    let rest = &arguments[1..];
    let before_login = ["auth", "hello", "quit", "reset"].contains(&name.as_str());
    if world.login.is_some() && !client.is_known && !before_login {
        return Outcome::Reply(Value::error(access::UNKNOWN));
    }
    Outcome::Reply(match (name.as_str(), rest) {
        ("ping", []) => Value::Simple("PONG".to_owned()),
        ("ping", [text]) => Value::bulk(text),
        ("hello", _) => return hello(rest, client, world),
        ("auth", [password]) => return auth(None, password, client, world),
        ("auth", [user, password]) => return auth(Some(user), password, client, world),
        ("client", [sub, rest @ ..]) => about_client(sub, rest, client),
        ("command", [sub, ..]) if sub.eq_ignore_ascii_case("count") => Value::Integer(0),
        ("command", [sub, ..]) if sub.eq_ignore_ascii_case("docs") => Value::Map(Vec::new()),
        ("command", _) => Value::Array(Vec::new()),
        ("role", []) => {
            let names = world.monitored().map(|it| Value::bulk(&it.topology.status.name)).collect();
            Value::Array(vec![Value::bulk("sentinel"), Value::Array(names)])
        }
        ("info", _) => Value::Bulk(monitor::info(rest, world)),
        ("sentinel", [sub, rest @ ..]) => return monitor::answer(sub, rest, client, world),
        // We do not take part in the votes of real Sentinels, and need not hear of them.
        ("publish", [channel, _]) if channel == HELLO_CHANNEL => Value::Integer(1),
        ("publish", [_, _]) => {
            Value::error("ERR Only HELLO messages are accepted by Sentinel instances.")
        }
        ("subscribe" | "psubscribe", [_, ..]) => {
            return Outcome::Subscribe { patterns: name.starts_with('p'), names: rest.to_vec() };
        }
        ("unsubscribe" | "punsubscribe", _) => {
            return Outcome::Unsubscribe { patterns: name.starts_with('p'), names: rest.to_vec() };
        }
        ("quit", _) => return Outcome::Quit,
        ("reset", []) => return Outcome::Reset,
        (
            "ping" | "auth" | "client" | "role" | "sentinel" | "publish" | "subscribe"
            | "psubscribe" | "reset",
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

pub(super) fn wrong_number(name: &str) -> Value {
    Value::Error(format!("ERR wrong number of arguments for '{name}' command"))
}

pub(super) fn unknown_sub(command: &str, sub: &str) -> Value {
    Value::Error(format!("ERR unknown subcommand '{sub}'. Try {command} HELP."))
}

fn auth(user: Option<&str>, password: &str, client: &mut Client, world: &World) -> Outcome {
    client.is_known = access::is_right(world.login.as_deref(), user, password);
    if client.is_known { Outcome::Reply(Value::ok()) } else { Outcome::WrongPassword }
}

fn hello(rest: &[String], client: &mut Client, world: &World) -> Outcome {
    let mut protocol = client.protocol;
    let mut name = None;
    let mut rest = rest;
    if let [version, tail @ ..] = rest {
        protocol = match version.as_str() {
            "2" => Protocol::Resp2,
            "3" => Protocol::Resp3,
            text if text.parse::<i64>().is_ok() => {
                return Outcome::Reply(Value::error("NOPROTO unsupported protocol version"));
            }
            _ => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Outcome::Reply(Value::error(text));
            }
        };
        rest = tail;
    }
    while let [option, tail @ ..] = rest {
        rest = match (option.to_ascii_lowercase().as_str(), tail) {
            ("auth", [user, password, tail @ ..]) => {
                let outcome = auth(Some(user), password, client, world);
                if !client.is_known {
                    return outcome;
                }
                tail
            }
            ("setname", [text, tail @ ..]) => {
                name = Some(text.clone());
                tail
            }
            _ => {
                let text = format!("ERR Syntax error in HELLO option '{option}'");
                return Outcome::Reply(Value::Error(text));
            }
        };
    }
    if world.login.is_some() && !client.is_known {
        return Outcome::Reply(Value::error(access::UNKNOWN_HELLO));
    }
    client.protocol = protocol;
    client.name = name.or_else(|| client.name.take());
    let number = if protocol == Protocol::Resp3 { 3 } else { 2 };
    Outcome::Reply(Value::Map(vec![
        (Value::bulk("server"), Value::bulk("redis")),
        (Value::bulk("version"), Value::bulk(REDIS_VERSION)),
        (Value::bulk("proto"), Value::Integer(number)),
        (Value::bulk("id"), Value::Integer(client.id)),
        (Value::bulk("mode"), Value::bulk("sentinel")),
        (Value::bulk("modules"), Value::Array(Vec::new())),
    ]))
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

#[cfg(test)]
mod tests;
