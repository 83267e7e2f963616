//! Saved commands, cut into what must be replayed together, each with the keys it touches.
//!
//! A server replicates effects: plain commands with their keys in plain places, `MULTI … EXEC` around what belongs together, `SELECT` on a
//! change of database. For the commands clients write with most, the places of the keys are known here; for all others the server itself
//! is asked (`COMMAND GETKEYS`), so that nothing has to be guessed for commands of modules and of later versions.

use bytes::{Bytes, BytesMut};
use holdfast_psync::resp::{CommandParser, Malformed};

/// Largest single command that is read back; Redis' own limit for an argument.
const COMMAND_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Commands whose first argument is their only key.
const ONE_KEY: &[&str] = &[
    "append",
    "decr",
    "decrby",
    "expire",
    "expireat",
    "getdel",
    "getex",
    "getset",
    "hdel",
    "hincrby",
    "hincrbyfloat",
    "hmset",
    "hset",
    "hsetnx",
    "incr",
    "incrby",
    "incrbyfloat",
    "linsert",
    "lpop",
    "lpush",
    "lpushx",
    "lrem",
    "lset",
    "ltrim",
    "persist",
    "pexpire",
    "pexpireat",
    "pfadd",
    "psetex",
    "restore",
    "rpop",
    "rpush",
    "rpushx",
    "sadd",
    "set",
    "setbit",
    "setex",
    "setnx",
    "setrange",
    "spop",
    "srem",
    "xack",
    "xadd",
    "xclaim",
    "xdel",
    "xsetid",
    "xtrim",
    "zadd",
    "zincrby",
    "zpopmax",
    "zpopmin",
    "zrem",
    "zremrangebylex",
    "zremrangebyrank",
    "zremrangebyscore",
];

/// Commands all of whose arguments are keys.
const ALL_KEYS: &[&str] = &["del", "unlink"];

/// Commands that change something no key stands for. They are never replayed: a `FLUSHALL` of then would erase what was written since.
const WITHOUT_KEYS: &[&str] = &["flushall", "flushdb", "function", "script", "swapdb"];

/// Messages of then have no place now: they are left out wherever they stand, also within transactions.
const MESSAGES: &[&str] = &["publish", "spublish"];

/// Where the keys of a command are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// These are they.
    Known(Vec<Bytes>),
    /// It has none.
    None,
    /// The server knows.
    Ask,
}

/// Commands that are replayed together, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Unit {
    pub(super) database: u32,
    pub(super) commands: Vec<Vec<Bytes>>,
}

/// Cuts saved commands into units.
///
/// # Errors
/// They are not commands, or do not end with a whole one.
pub(super) fn units(saved: &[u8]) -> Result<Cutter, Malformed> {
    let mut buffer = BytesMut::from(saved);
    let mut parser = CommandParser::new(0, COMMAND_BYTES_MAX);
    let mut cutter = Cutter::default();
    while let Some((arguments, _)) = parser.next(&mut buffer)? {
        cutter.push(arguments);
    }
    Ok(cutter)
}

/// Puts commands of a stream together to units as they come.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    pub(super) units: Vec<Unit>,
    /// Messages that were left out.
    pub(super) messages: u64,
    database: u32,
    open: Option<Unit>,
}

impl Cutter {
    pub(super) fn push(&mut self, arguments: Vec<Bytes>) {
        match name(&arguments).as_str() {
            "select" => {
                let text = arguments.get(1).and_then(|word| std::str::from_utf8(word).ok());
                self.database = text.and_then(|text| text.parse().ok()).unwrap_or(self.database);
            }
            "multi" => self.open = Some(Unit { database: self.database, commands: Vec::new() }),
            "exec" => self.units.extend(self.open.take().filter(|unit| !unit.commands.is_empty())),
            name if MESSAGES.contains(&name) => self.messages += 1,
            _ => {
                if let Some(unit) = &mut self.open {
                    unit.commands.push(arguments);
                } else {
                    let commands = vec![arguments];
                    self.units.push(Unit { database: self.database, commands });
                }
            }
        }
    }
}

/// A command's name in lower case.
pub(super) fn name(arguments: &[Bytes]) -> String {
    let word = arguments.first().map(|word| String::from_utf8_lossy(word).to_ascii_lowercase());
    word.unwrap_or_default()
}

/// The keys of a command, as far as they are known here.
pub(super) fn keys(arguments: &[Bytes]) -> Keys {
    let name = name(arguments);
    let is = |list: &[&str]| list.contains(&name.as_str());
    if is(WITHOUT_KEYS) {
        Keys::None
    } else if is(ONE_KEY) {
        Keys::Known(arguments.get(1).cloned().into_iter().collect())
    } else if is(ALL_KEYS) {
        Keys::Known(arguments[1..].to_vec())
    } else {
        Keys::Ask
    }
}

#[cfg(test)]
mod tests {
    use holdfast_psync::resp::encode_command;

    use super::*;

    fn saved(lines: &[&str]) -> Vec<u8> {
        let words = |line: &&str| encode_command(&line.split(' ').collect::<Vec<_>>());
        lines.iter().flat_map(words).collect()
    }

    #[test]
    fn transactions_stay_together_and_databases_are_followed() {
        let saved = saved(&[
            "SET a 1",
            "SELECT 2",
            "MULTI",
            "INCR b",
            "PUBLISH m x",
            "DEL c d",
            "EXEC",
            "MULTI",
            "EXEC",
            "SADD e f",
        ]);
        let cutter = units(&saved).unwrap();
        assert_eq!(cutter.messages, 1);
        let shape: Vec<_> =
            cutter.units.iter().map(|unit| (unit.database, unit.commands.len())).collect();
        assert_eq!(shape, [(0, 1), (2, 2), (2, 1)]);
        assert!(units(b"+OK\r\n").is_err());
    }

    #[test]
    fn keys_are_known_for_plain_commands_only() {
        let words = |line: &str| -> Vec<Bytes> {
            line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
        };
        let known = |list: &[&'static str]| {
            Keys::Known(list.iter().map(|key| Bytes::from_static(key.as_bytes())).collect())
        };
        assert_eq!(keys(&words("Set a 1")), known(&["a"]));
        assert_eq!(keys(&words("UNLINK a b")), known(&["a", "b"]));
        assert_eq!(keys(&words("FLUSHALL")), Keys::None);
        assert_eq!(keys(&words("ZUNIONSTORE a 1 b")), Keys::Ask);
        assert_eq!(keys(&[]), Keys::Ask);
    }
}
