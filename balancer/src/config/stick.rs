//! What brings clients back to their server that keep no cookies: as written, and checked.

use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::PoolConfig;
use super::check::{Checker, read_key};
use crate::stick::{StickKey, StickRules};

/// Who comes back later has lost what a server kept of it anyway.
const TTL: Duration = Duration::from_mins(30);
/// Each use may be told to the others twice in this time.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Beyond a week a table remembers who is gone.
const TTL_MAX: Duration = Duration::from_hours(7 * 24);
/// What ten nodes serve at a time, in 10 MB.
const ENTRIES_MAX: usize = 100_000;
const ENTRIES_MAX_MIN: usize = 100;
/// A gigabyte.
const ENTRIES_MAX_MAX: usize = 10_000_000;

/// `[pool.stick_table]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StickTable {
    key: String,
    #[serde(with = "duration", default = "ttl")]
    ttl: Duration,
    #[serde(default = "entries_max")]
    max_entries: usize,
    #[serde(default)]
    shared: bool,
}

impl Checker<'_> {
    /// The table under `at`; `None` after a fault.
    pub(super) fn stick_table(&mut self, at: &str, written: &StickTable) -> Option<StickRules> {
        let key = match written.key.as_str() {
            "source" => Some(StickKey::Source),
            text => read_key(text).map(StickKey::Part),
        };
        if key.is_none() {
            let expected =
                "expected \"source\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
            self.fault(format!("{at}.key"), format!("{expected}, found {:?}", written.key));
        }
        self.require(format!("{at}.ttl"), (TTL_MIN..=TTL_MAX).contains(&written.ttl), || {
            let [min, max, found] = [TTL_MIN, TTL_MAX, written.ttl].map(duration::format);
            format!("expected {min} to {max}, found {found}")
        });
        let entries = written.max_entries;
        self.require(
            format!("{at}.max_entries"),
            (ENTRIES_MAX_MIN..=ENTRIES_MAX_MAX).contains(&entries),
            || format!("expected {ENTRIES_MAX_MIN} to {ENTRIES_MAX_MAX}, found {entries}"),
        );
        Some(StickRules {
            key: key?,
            ttl: written.ttl,
            entries_max: entries,
            shared: written.shared,
        })
    }

    /// Whoever shares a table needs a place to share it.
    pub(super) fn sharing(&mut self, pools: &[PoolConfig], has_redis: bool) {
        for (i, pool) in pools.iter().enumerate() {
            let shared = pool.rules.stick.as_ref().is_some_and(|stick| stick.shared);
            self.require(format!("pool[{i}].stick_table.shared"), !shared || has_redis, || {
                "needs [redis]".to_owned()
            });
        }
    }
}

fn ttl() -> Duration {
    TTL
}
fn entries_max() -> usize {
    ENTRIES_MAX
}
