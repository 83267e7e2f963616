//! `SENTINEL` commands that change something, as charts and operators send them. Pure: what to do is an [`Outcome::Change`].
//!
//! What exists is in the settings file, so that a restart finds the same. A client can have a primary replaced, take one off monitoring
//! and back (automatic changes to it are paused meanwhile), and change the time after which silence counts, until the next restart.
//! Options that mean nothing here are accepted and recorded as such, because charts give up at an error.

use std::time::Duration;

use super::commands::{Outcome, World, unknown_sub, wrong_number};
use super::monitor::{no_quorum, no_such};
use super::pattern;
use super::replies;
use super::value::Value;

/// Options of `SENTINEL SET` that take a number and have no counterpart here.
const WITHOUT_EFFECT: [&str; 4] =
    ["quorum", "failover-timeout", "parallel-syncs", "master-reboot-down-after-period"];

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Replace the primary, by its place in the settings.
    FailOver(usize),
    /// `SENTINEL SET`.
    Set {
        /// Which primary.
        index: usize,
        /// Silence counts after this long.
        hang_after: Option<Duration>,
        /// Options that were accepted without effect.
        without_effect: Vec<String>,
    },
    /// Stop to tell of it, and change nothing about it by ourselves.
    Remove(usize),
    /// The end of that.
    Monitor(usize),
    /// Say that these were reset.
    Reset(Vec<usize>),
}

/// Whether a command changes something, and if so, whether only those may send it who may change settings.
pub(super) fn is_change(sub: &str, rest: &[String]) -> Option<bool> {
    match sub {
        "set" | "monitor" | "remove" | "reset" => Some(true),
        "config" => rest.first()?.eq_ignore_ascii_case("set").then_some(true),
        "failover" => Some(false),
        _ => None,
    }
}

/// A command that [`is_change`].
pub(super) fn parse(sub: &str, rest: &[String], world: &World) -> Outcome {
    let result = match (sub, rest) {
        ("failover", [name]) => fail_over(name, world),
        ("failover", [name, mode]) if mode.eq_ignore_ascii_case("coordinated") => {
            fail_over(name, world)
        }
        ("set", [name, options @ ..]) if options.len() >= 2 => set(name, options, world),
        ("remove", [name]) => {
            world.find(name).map(|it| Change::Remove(it.index)).ok_or_else(no_such)
        }
        ("monitor", [name, host, port, quorum]) => monitor(name, (host, port), quorum, world),
        ("reset", [pattern]) => {
            let matches = |name: &str| pattern::matches(pattern.as_bytes(), name.as_bytes());
            let found = world.monitored().filter(|it| matches(&it.topology.status.name));
            Ok(Change::Reset(found.map(|it| it.index).collect()))
        }
        ("config", [_, _, _, ..]) => {
            Err(Value::error("ERR parameters are set in the settings file, section [sentinel]"))
        }
        ("failover" | "set" | "remove" | "monitor" | "reset" | "config", _) => {
            Err(wrong_number(&format!("sentinel|{sub}")))
        }
        _ => Err(unknown_sub("SENTINEL", sub)),
    };
    match result {
        Ok(change) => Outcome::Change(change),
        Err(answer) => Outcome::Reply(answer),
    }
}

fn fail_over(name: &str, world: &World) -> Result<Change, Value> {
    let it = world.find(name).ok_or_else(no_such)?;
    let status = &it.topology.status;
    if replies::in_progress(status.state) {
        return Err(Value::error("INPROG Failover already in progress"));
    }
    if status.candidate.is_none() {
        return Err(Value::error("NOGOODSLAVE No suitable replica to promote"));
    }
    match no_quorum(world) {
        Some(answer) => Err(answer),
        None => Ok(Change::FailOver(it.index)),
    }
}

fn set(name: &str, options: &[String], world: &World) -> Result<Change, Value> {
    let it = world.find(name).ok_or_else(no_such)?;
    let mut hang_after = None;
    let mut without_effect = Vec::new();
    for pair in options.chunks(2) {
        let option = pair[0].to_ascii_lowercase();
        let Some(value) = pair.get(1) else {
            return Err(Value::Error(format!(
                "ERR Unknown option or number of arguments for SENTINEL SET '{option}'"
            )));
        };
        let number = || {
            let number = value.parse::<u64>().ok().filter(|number| *number > 0);
            number.ok_or_else(|| {
                Value::Error(format!("ERR Invalid argument '{value}' for SENTINEL SET '{option}'"))
            })
        };
        match option.as_str() {
            "down-after-milliseconds" => hang_after = Some(Duration::from_millis(number()?)),
            known if WITHOUT_EFFECT.contains(&known) => {
                without_effect.push(format!("{option} {}", number()?));
            }
            "notification-script" | "client-reconfig-script" => {
                return Err(Value::error(
                    "ERR Reconfiguration of scripts path is denied for security reasons. Hooks are set in the settings file.",
                ));
            }
            "auth-pass" | "auth-user" => {
                let login = it.login.as_ref();
                let present = match option.as_str() {
                    "auth-pass" => login.map(|login| login.password.expose()),
                    _ => login.and_then(|login| login.username.as_deref()),
                };
                // Charts say it at each start; only another one would have to be refused.
                if present.unwrap_or_default() != value {
                    return Err(Value::Error(format!(
                        "ERR {option} is set in the settings file (username, password_file of the Redis)"
                    )));
                }
            }
            _ => {
                return Err(Value::Error(format!(
                    "ERR Unknown option or number of arguments for SENTINEL SET '{option}'"
                )));
            }
        }
    }
    Ok(Change::Set { index: it.index, hang_after, without_effect })
}

fn monitor(
    name: &str,
    (host, port): (&str, &str),
    quorum: &str,
    world: &World,
) -> Result<Change, Value> {
    if !quorum.parse::<u32>().is_ok_and(|quorum| quorum > 0) {
        return Err(Value::error("ERR Quorum must be 1 or greater."));
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(Value::error("ERR Invalid port number."));
    }
    let Some(it) = world.all.iter().find(|it| it.topology.status.name == *name) else {
        return Err(Value::Error(format!(
            "ERR no Redis {name:?} in the settings file: add a section [[redis]] with all its servers"
        )));
    };
    if !it.is_removed {
        return Err(Value::error("ERR Duplicate master name."));
    }
    let primary = it.topology.status.primary.as_ref();
    match primary {
        Some(at) if at.host() != host || at.port().to_string() != port => Err(Value::Error(
            format!("ERR the primary of {name} is {at}; move it by SENTINEL FAILOVER"),
        )),
        _ => Ok(Change::Monitor(it.index)),
    }
}
