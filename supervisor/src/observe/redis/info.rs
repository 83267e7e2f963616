//! `INFO` as facts.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::cluster::{Address, RedisRole};
use crate::judge::redis::Sample;

/// What `INFO` says, field by field.
pub type Info = BTreeMap<String, String>;

/// More lines than any Redis sends are not kept; one with 100 replicas that has been sent every command has about 700.
const FIELDS_MAX: usize = 2000;

/// The fields of an `INFO` reply.
pub(crate) fn parse(text: &str) -> Info {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.take(FIELDS_MAX).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A sample from the `replication` section, with what only the whole `INFO` has taken from `full`.
///
/// `None` if the fields that matter are missing: then nothing is known rather than something made up.
pub(crate) fn sample(replication: &Info, full: &Info, at: Instant) -> Option<Sample> {
    let text = |name: &str| replication.get(name).map(String::as_str);
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    let role = match text("role")? {
        "master" => RedisRole::Primary,
        _ => RedisRole::Replica,
    };
    let is_replica = role == RedisRole::Replica;
    // A replica that feeds nobody may count in either field; it never has less than the larger says.
    let offset = number("master_repl_offset")?;
    let offset = if is_replica { offset.max(number("slave_repl_offset")?) } else { offset };
    let follows = text("master_host").zip(number("master_port"));
    let follows = follows.and_then(|(host, port)| Some((host, u16::try_from(port).ok()?)));
    // `0…0` and -1 say that there was none.
    let replid2 = text("master_replid2").filter(|id| id.bytes().any(|byte| byte != b'0'));
    let replid2 = replid2.filter(|_| text("second_repl_offset").is_none_or(|o| o != "-1"));
    // The first byte that the two do not share.
    let forked_at = number("second_repl_offset").filter(|_| replid2.is_some());
    let general = |name: &str| full.get(name).cloned();
    Some(Sample {
        at,
        role,
        run_id: general("run_id")?,
        replid: text("master_replid")?.to_owned(),
        replid2: replid2.map(str::to_owned),
        forked_at: forked_at.map(|offset| offset.saturating_sub(1)),
        offset,
        link_up: is_replica.then(|| text("master_link_status") == Some("up")),
        syncing: text("master_sync_in_progress") == Some("1"),
        follows: follows.filter(|_| is_replica).map(|(host, port)| Address::new(host, port)),
        quiet_seconds: number("master_last_io_seconds_ago"),
        priority: number("slave_priority").and_then(|p| u32::try_from(p).ok()).unwrap_or(100),
        loading: full.get("loading").is_some_and(|value| value == "1"),
        replicas: number("connected_slaves").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        version: general("redis_version").unwrap_or_default(),
    })
}
