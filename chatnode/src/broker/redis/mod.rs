//! The broker over Redis: streams for history, pub/sub for fan-out, hashes for presence.
//!
//! In the order of a call: `route` picks a `shard`, `names` the keys, a `pipeline` sends the `scripts` and waits for the replicas,
//! `follow` hears what happens. `discovery` finds the primary, `link` keeps a connection to it, `tails` and `repair` see to it that a
//! promotion loses nothing.

mod confirmation;
mod connection;
mod discovery;
mod follow;
mod link;
mod names;
mod pipeline;
mod records;
mod repair;
mod resp;
mod route;
mod scripts;
mod shard;
mod tails;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::pipeline::{Stored, Work};
use self::resp::Value;
use self::route::Route;
use self::scripts::Script;
use self::shard::{Common, Lane, Shard};
use self::tails::Tails;
use crate::broker::{
    Allowance, Audience, Broker, BrokerError, Key, MemberCounts, Members, PRESENCE_TTL, Pending,
    PublishOptions, Published, Range, Rate, Record, Records, Window, Write,
};
use crate::config::{self, Servers};
use crate::metrics::Metrics;
use crate::namespaces::META_TTL;
use crate::stream::{Page, Publication};

/// Names tried to find one that lives on each server; a few more than the servers would do.
const PROBE_NAMES_MAX: usize = 1000;

/// The broker.
pub struct RedisBroker {
    shards: Vec<Shard>,
}

impl RedisBroker {
    /// Starts the broker's tasks on `tasks`; they end with `shutdown`.
    pub fn start(
        settings: Box<config::Redis>,
        node: &str,
        audience: Arc<dyn Audience>,
        metrics: &Metrics,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let common = Common {
            settings: settings.into(),
            node: node.to_owned(),
            audience,
            tails: Arc::new(Tails::new(Instant::now())),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        };
        let Servers::Shards(primaries) = common.settings.servers.clone();
        let count = primaries.len();
        let shards = primaries.into_iter().enumerate();
        let shards = shards.map(|(index, primary)| {
            Shard::start(&common, primary, Route { index, count }, shutdown)
        });
        Self { shards: shards.collect() }
    }

    /// The shard that what has this name lives on.
    fn shard(&self, name: &str) -> &Shard {
        &self.shards[route::index(name, self.shards.len())]
    }

    fn tell(&self, channel: &str, kind: char, content: &[u8]) -> Pending<()> {
        let message = scripts::message(kind, content);
        let work = Work::Command(vec![PUBLISH, names::events(channel), message]);
        self.shard(channel).request(Lane::Direct, work, None, done)
    }

    fn ask<T: Send + 'static>(
        &self,
        name: &str,
        script: Script,
        keys: Vec<String>,
        arguments: Vec<Bytes>,
        read: impl FnOnce(&Value) -> Result<T, BrokerError> + Send + 'static,
    ) -> Pending<T> {
        let work = Work::Script { script, keys, arguments };
        self.shard(name).request(Lane::Direct, work, None, read)
    }

    fn command<T: Send + 'static>(
        &self,
        name: &str,
        words: Vec<Bytes>,
        read: impl FnOnce(&Value) -> Result<T, BrokerError> + Send + 'static,
    ) -> Pending<T> {
        self.shard(name).request(Lane::Direct, Work::Command(words), None, read)
    }
}

const PUBLISH: Bytes = Bytes::from_static(b"PUBLISH");

#[expect(clippy::unnecessary_wraps, reason = "one of the readers of replies")]
fn done(_reply: &Value) -> Result<(), BrokerError> {
    Ok(())
}

/// One of a record's keys.
fn part(key: Key<'_>, index: usize) -> Bytes {
    names::record(key).swap_remove(index).into()
}

/// A new stream's epoch.
fn fresh_epoch() -> Bytes {
    Bytes::from(format!("{:08x}", fastrand::u32(..)))
}

fn millis(duration: Duration) -> Bytes {
    // Redis refuses a time to live of 0.
    Bytes::from(duration.as_millis().max(1).to_string())
}

fn text(value: &(impl ToString + ?Sized)) -> Bytes {
    Bytes::from(value.to_string())
}

impl Broker for RedisBroker {
    fn publish(
        &self,
        channel: &str,
        mut publication: Publication,
        options: PublishOptions,
    ) -> Pending<Published> {
        options.identify(&mut publication);
        let PublishOptions { retention, idempotency, version } = options;
        let once = idempotency.as_ref().map_or(Duration::ZERO, |once| once.ttl);
        let body = scripts::body(&publication, retention, once);
        let remembered = idempotency.map(|once| names::remembered(channel, &once.key));
        let events = names::events(channel);
        if retention.size == 0 {
            // What is not kept cannot be confirmed by a replica, and must not wait for one.
            let Some(remembered) = remembered else {
                let message = scripts::message('p', &[b"0 - - - ", &body[..]].concat());
                return self.command(channel, vec![PUBLISH, events, message], |_| {
                    Ok(Published { offset: 0, epoch: "".into(), suppressed: false })
                });
            };
            let arguments = vec![PUBLISH, events, body, millis(once)];
            let keys = vec![remembered];
            return self.ask(channel, Script::TellOnce, keys, arguments, scripts::published);
        }
        let (number, epoch) = version.map_or_else(Default::default, |version| {
            (text(&version.number), Bytes::from(String::from(version.epoch)))
        });
        let arguments = vec![
            fresh_epoch(),
            millis(retention.meta_ttl),
            text(&retention.size),
            millis(retention.ttl),
            PUBLISH,
            events,
            body.clone(),
            millis(once),
            number,
            epoch,
        ];
        let mut keys = names::stream(channel);
        keys.extend(remembered);
        let work = Work::Script { script: Script::Publish, keys, arguments };
        let stored = Some(Stored { channel: channel.into(), body });
        self.shard(channel).request(Lane::Confirmed, work, stored, scripts::published)
    }

    fn join(&self, channel: &str, info: &str) -> Pending<()> {
        self.tell(channel, 'j', info.as_bytes())
    }

    fn leave(&self, channel: &str, info: &str) -> Pending<()> {
        self.tell(channel, 'l', info.as_bytes())
    }

    fn signal(&self, channel: &str, message: Bytes) -> Pending<()> {
        self.tell(channel, 's', &message)
    }

    fn read(&self, channel: &str, range: Range) -> Pending<Page> {
        let arguments = vec![
            fresh_epoch(),
            millis(META_TTL),
            text(&range.limit),
            range.since.map_or_else(|| Bytes::from_static(b"-"), |since| text(&since)),
            Bytes::from_static(if range.reverse { b"1" } else { b"0" }),
        ];
        self.ask(channel, Script::Read, names::stream(channel), arguments, scripts::page)
    }

    fn remove_history(&self, channel: &str) -> Pending<()> {
        let log = names::stream(channel).swap_remove(1);
        let work = Work::Command(vec![Bytes::from_static(b"UNLINK"), log.into()]);
        self.shard(channel).request(Lane::Confirmed, work, None, done)
    }

    fn add_member(&self, channel: &str, client: &str, user: &str, info: &str) -> Pending<()> {
        let arguments = vec![text(client), text(user), text(info), millis(PRESENCE_TTL)];
        self.ask(channel, Script::AddMember, names::members(channel), arguments, done)
    }

    fn remove_member(&self, channel: &str, client: &str) -> Pending<()> {
        self.ask(channel, Script::RemoveMember, names::members(channel), vec![text(client)], done)
    }

    fn members(&self, channel: &str) -> Pending<Members> {
        self.ask(channel, Script::Members, names::members(channel), Vec::new(), scripts::members)
    }

    fn member_counts(&self, channel: &str) -> Pending<MemberCounts> {
        let keys = names::members(channel);
        self.ask(channel, Script::MemberCounts, keys, Vec::new(), scripts::counts)
    }

    fn take(&self, key: &str, rate: Rate, cost: u32) -> Pending<Allowance> {
        let arguments = vec![text(&rate.burst), text(&rate.every.as_micros()), text(&cost)];
        self.ask(key, Script::Take, vec![names::rate(key)], arguments, scripts::allowance)
    }

    fn follow(&self, channel: &str) -> Pending<()> {
        self.shard(channel).follow(channel)
    }

    fn unfollow(&self, channel: &str) {
        self.shard(channel).unfollow(channel);
    }

    fn probe_channels(&self, prefix: &str) -> Vec<String> {
        let mut found = vec![None; self.shards.len()];
        for name in (0..PROBE_NAMES_MAX).map(|number| format!("{prefix}-{number}")) {
            found[route::index(&name, self.shards.len())].get_or_insert(name);
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found.into_iter().flatten().collect()
    }

    fn reconnect(&self, channel: &str) {
        self.shard(channel).reconnect();
    }
}

impl Records for RedisBroker {
    fn write(&self, key: Key<'_>, write: Write) -> Pending<bool> {
        let Write { conditions, changes, ttl } = write;
        let mut arguments = vec![ttl.map_or(Bytes::from_static(b"0"), millis)];
        arguments.push(text(&conditions.len()));
        arguments.extend(conditions.into_iter().flat_map(records::condition));
        arguments.extend(changes.into_iter().flat_map(records::change));
        let work = Work::Script { script: Script::Write, keys: names::record(key), arguments };
        let read = |reply: &Value| Ok(reply.number() == Some(1));
        self.shard(key.id).request(Lane::Confirmed, work, None, read)
    }

    fn fields(&self, key: Key<'_>, names: &[&str]) -> Pending<Vec<Option<Bytes>>> {
        if names.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let mut command = vec![Bytes::from_static(b"HMGET"), part(key, 0)];
        command.extend(names.iter().map(|name| text(*name)));
        self.command(key.id, command, scripts::fields)
    }

    fn record(&self, key: Key<'_>) -> Pending<Record> {
        let command = vec![Bytes::from_static(b"HGETALL"), part(key, 0)];
        self.command(key.id, command, scripts::record)
    }

    fn ranked(&self, key: Key<'_>, window: Window) -> Pending<Vec<(String, i64)>> {
        if window.limit == 0 {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let last = u64::from(window.offset) + u64::from(window.limit) - 1;
        let mut command =
            vec![Bytes::from_static(b"ZRANGE"), part(key, 1), text(&window.offset), text(&last)];
        if window.highest_first {
            command.push(Bytes::from_static(b"REV"));
        }
        command.push(Bytes::from_static(b"WITHSCORES"));
        self.command(key.id, command, scripts::ranked)
    }
}
