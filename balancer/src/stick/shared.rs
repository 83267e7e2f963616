//! Stick tables that several balancers share.
//!
//! No request waits for it: what a balancer learns it adds to a stream in Redis a few times a second, many clients in one command, and the
//! same command reads what the others have added. Between two exchanges a client that changes balancers may be sent to another server; the
//! last word in the stream then holds everywhere. A stream and no key per client, because a balancer that begins has to hear of all clients,
//! and one that works only of those that have moved; its length is bounded by the table's, its age by the time that entries hold.
//!
//! When Redis cannot be reached each balancer goes on with what it knows. Afterwards it reads the stream from its beginning: it may be
//! another server's, and nothing in it is wrong twice.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use redis::Script;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::StickTable;
use crate::metrics::{Metrics, SharedMetrics};
use crate::pool::{self, Pools};
use crate::store::{RedisRules, Rules, Store, StoreError};

/// Clients told in one command: a millisecond of the server's time at most.
const TOLD_MAX: usize = 256;
/// Entries read in one command.
const READ_MAX: usize = 1_024;
/// Exchanges for one pool before it is another one's turn: enough for a whole table of the usual size when a balancer begins.
const EXCHANGES_MAX: usize = 128;
/// The place before the first entry.
const BEGINNING: &str = "0-0";

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared.lua")));

/// What the script answers: its clock in milliseconds; entries by number, each a client and its server.
type Answer = (u64, Vec<(String, (String, String))>);

/// Shares the tables of `pools` by the `rules` in force, until those who change them are gone.
pub(crate) async fn keep(pools: Arc<RwLock<Arc<Pools>>>, mut rules: Rules, metrics: Arc<Metrics>) {
    loop {
        let current = rules.borrow_and_update().clone();
        let sharing = async {
            if let Some(rules) = current {
                share(&pools, rules, &metrics).await
            } else {
                metrics.shared_sticks.forget();
                pending().await
            }
        };
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return },
            never = sharing => match never {},
        }
    }
}

async fn share(
    pools: &RwLock<Arc<Pools>>,
    rules: Arc<RedisRules>,
    metrics: &Metrics,
) -> Infallible {
    let mut ticks = interval(rules.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut link = Link { store: Store::new(rules), metrics: None, reachable: true };
    // How far each has been read. A table that is new is read from the beginning.
    let mut read: Vec<(Arc<StickTable>, String)> = Vec::new();
    loop {
        ticks.tick().await;
        let pools = Arc::clone(&pools.read().unwrap_or_else(PoisonError::into_inner));
        let shared =
            pools.values().filter_map(|pool| Some((pool.name(), pool.shared_stick_table()?)));
        let before = std::mem::take(&mut read);
        for (pool, table) in shared {
            let known = before.iter().find(|(known, _)| Arc::ptr_eq(known, &table));
            let mut last = known.map_or_else(|| BEGINNING.to_owned(), |(_, last)| last.clone());
            link.metrics.get_or_insert_with(|| metrics.shared_sticks.handles());
            for _ in 0..EXCHANGES_MAX {
                if !link.exchange(pool, &table, &mut last).await {
                    break;
                }
            }
            read.push((table, last));
        }
        if read.is_empty() && link.metrics.take().is_some() {
            metrics.shared_sticks.forget();
        }
        if !link.reachable {
            read.clear();
        }
    }
}

/// The way to Redis, and how it is.
struct Link {
    store: Store,
    /// Once there is something to share.
    metrics: Option<SharedMetrics>,
    reachable: bool,
}

impl Link {
    /// Tells and reads once; whether there is more of either.
    async fn exchange(&mut self, pool: &str, table: &StickTable, last: &mut String) -> bool {
        let told = table.take_untold(TOLD_MAX);
        let rules = table.rules();
        let mut script = SCRIPT.prepare_invoke();
        // In braces, so that a proxy for a cluster finds one place for it.
        script.key(format!("{{{}}}:stick:{pool}", self.store.rules().prefix));
        script.arg(table.ttl()).arg(rules.entries_max).arg(READ_MAX).arg(&*last);
        for (subject, server) in &told {
            script.arg(format!("{subject:016x}")).arg(format!("{server:016x}"));
        }
        let begun = Instant::now();
        match self.store.run::<Answer>(&script).await {
            Ok((clock, entries)) => {
                let now = table.time(pool::now());
                for (number, (subject, server)) in &entries {
                    if let Some((subject, server, left)) =
                        read_entry(number, subject, server, clock, rules.ttl)
                    {
                        table.learn(subject, server, left, now);
                    }
                }
                let more = told.len() == TOLD_MAX || entries.len() == READ_MAX;
                if let Some((number, _)) = entries.into_iter().next_back() {
                    *last = number;
                }
                if !std::mem::replace(&mut self.reachable, true) {
                    tracing::info!("stick tables are shared again");
                }
                // Last, so that whoever sees the figure finds the rest done.
                self.note(|metrics| metrics.succeeded(begun.elapsed()));
                more
            }
            Err(error) => {
                table.tell_later(told.iter().map(|(subject, _)| *subject));
                if let StoreError::Resting = error {
                    // Counted with the failure it rests after.
                    self.note(|metrics| metrics.dropped(told.len()));
                    return false;
                }
                self.note(|metrics| metrics.failed(told.len()));
                if std::mem::replace(&mut self.reachable, false) {
                    let error = holdfast_telemetry::errors::Chain(&error).to_string();
                    tracing::warn!(error, "stick tables are kept by this balancer alone");
                }
                false
            }
        }
    }

    fn note(&self, note: impl FnOnce(&SharedMetrics)) {
        if let Some(metrics) = &self.metrics {
            note(metrics);
        }
    }
}

/// What an entry says: a client, its server, and how long that still holds at `clock`; `None` if no longer, or if it is not ours.
fn read_entry(
    number: &str,
    subject: &str,
    server: &str,
    clock: u64,
    ttl: Duration,
) -> Option<(u64, u64, Duration)> {
    let (added, _) = number.split_once('-')?;
    let age = Duration::from_millis(clock.saturating_sub(added.parse().ok()?));
    let left = ttl.checked_sub(age).filter(|left| !left.is_zero())?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some((hex(subject)?, hex(server)?, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_for_what_its_age_leaves() {
        let ttl = Duration::from_secs(10);
        let read = |number, clock| read_entry(number, "00ff", "0a", clock, ttl);
        assert_eq!(read("5000-0", 6_000), Some((255, 10, Duration::from_secs(9))));
        assert_eq!(read("5000-7", 4_000), Some((255, 10, ttl)), "a clock that was set back");
        assert_eq!(read("5000-0", 15_000), None);
        for (number, subject, server) in
            [("5000", "1", "1"), ("x-0", "1", "1"), ("5000-0", "g", "1"), ("5000-0", "1", "")]
        {
            assert_eq!(read_entry(number, subject, server, 5_000, ttl), None);
        }
    }
}
