//! The broker over Redis: streams for history, pub/sub for fan-out, hashes for presence.
//!
//! Three connections, so that none of their delays reaches another: publishing (each batch waits for the replicas), everything else
//! that is asked, and following. All run to the same primary, which `discovery` finds.

mod connection;
mod discovery;
mod follow;
mod link;
mod pipeline;
mod records;
mod resp;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::discovery::Discovery;
use self::follow::{Follower, Interest, PREFIX};
use self::link::Link;
use self::pipeline::{Confirmation, Pipeline, QUEUE_MAX, Request, Work};
use self::resp::Value;
use self::scripts::Script;
use crate::broker::{
    Allowance, Audience, Broker, BrokerError, Key, MemberCounts, Members, PRESENCE_TTL, Pending,
    PublishOptions, Published, Range, Rate, Record, Records, Window, Write,
};
use crate::config;
use crate::metrics::Metrics;
use crate::namespaces::META_TTL;
use crate::stream::{Page, Publication};

/// The broker.
pub struct RedisBroker {
    publishing: mpsc::Sender<Request>,
    asking: mpsc::Sender<Request>,
    interest: Arc<Interest>,
    reset: watch::Sender<u64>,
    command_timeout: Duration,
}

impl RedisBroker {
    /// Starts the broker's tasks on `tasks`; they end with `shutdown`.
    pub fn start(
        settings: config::Redis,
        node: &str,
        audience: Arc<dyn Audience>,
        metrics: &Metrics,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let settings = Arc::new(settings);
        let (discovery, whereabouts) = Discovery::new(settings.primary.clone());
        tasks.spawn(discovery.run(shutdown.clone()));
        let (reset, resets) = watch::channel(0);
        let link = |purpose| {
            let (settings, whereabouts) = (Arc::clone(&settings), whereabouts.clone());
            Link::new(purpose, node, settings, whereabouts, resets.clone(), metrics.clone())
        };
        let pipeline = |purpose, confirmation| {
            let (sender, requests) = mpsc::channel(QUEUE_MAX);
            let reply_timeout = settings.command_timeout;
            let pipeline = Pipeline { link: link(purpose), requests, confirmation, reply_timeout };
            tasks.spawn(pipeline.run(shutdown.clone()));
            sender
        };
        let confirmation = (settings.confirm_replicas > 0).then_some(Confirmation {
            replicas: settings.confirm_replicas,
            timeout: settings.confirm_timeout,
        });
        let publishing = pipeline("publish", confirmation);
        let asking = pipeline("ask", None);
        let interest = Arc::new(Interest::default());
        let follower = Follower {
            link: link("follow"),
            interest: Arc::clone(&interest),
            audience,
            write_timeout: settings.command_timeout,
            metrics: metrics.clone(),
        };
        tasks.spawn(follower.run(shutdown.clone()));
        let command_timeout = settings.command_timeout;
        Self { publishing, asking, interest, reset, command_timeout }
    }

    fn request<T: Send + 'static>(
        &self,
        queue: &mpsc::Sender<Request>,
        work: Work,
        read: impl FnOnce(&Value) -> Result<T, BrokerError> + Send + 'static,
    ) -> Pending<T> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.command_timeout;
        let queued = queue.try_send(Request { work, deadline, reply });
        Box::pin(async move {
            if let Err(error) = queued {
                return Err(match error {
                    mpsc::error::TrySendError::Full(_) => BrokerError::Overloaded,
                    mpsc::error::TrySendError::Closed(_) => BrokerError::Unavailable,
                });
            }
            // A request that is dropped was under way when its connection failed.
            read(&answer.await.map_err(|_| BrokerError::Interrupted)??)
        })
    }

    fn tell(&self, channel: &str, kind: char, content: &[u8]) -> Pending<()> {
        let work = Work::Command(vec![
            Bytes::from_static(b"PUBLISH"),
            event_channel(channel).into(),
            scripts::message(kind, content),
        ]);
        self.request(&self.asking, work, done)
    }

    fn ask<T: Send + 'static>(
        &self,
        script: Script,
        keys: Vec<String>,
        arguments: Vec<Bytes>,
        read: impl FnOnce(&Value) -> Result<T, BrokerError> + Send + 'static,
    ) -> Pending<T> {
        self.request(&self.asking, Work::Script { script, keys, arguments }, read)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of the readers of replies")]
fn done(_reply: &Value) -> Result<(), BrokerError> {
    Ok(())
}

/// Where what happens in a channel is told.
fn event_channel(channel: &str) -> String {
    format!("{PREFIX}{channel}")
}

fn stream_keys(channel: &str) -> Vec<String> {
    ["meta", "log"].map(|part| format!("holdfast:{{{channel}}}:{part}")).into()
}

fn member_keys(channel: &str) -> Vec<String> {
    ["members", "expiry", "users"].map(|part| format!("holdfast:{{{channel}}}:{part}")).into()
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
        let PublishOptions { retention, idempotency, version } = options;
        if let Some(once) = &idempotency {
            publication.id = Bytes::from(once.key.to_string());
        } else if publication.id.is_empty() {
            publication.id = Bytes::from(format!("{:016x}", fastrand::u64(..)));
        }
        let body = scripts::body(&publication, retention);
        let remembered =
            idempotency.as_ref().map(|o| format!("holdfast:{{{channel}}}:id:{}", o.key));
        let remember_ms = idempotency.map_or_else(Bytes::new, |once| millis(once.ttl));
        let (command, events) = (Bytes::from_static(b"PUBLISH"), event_channel(channel).into());
        if retention.size == 0 {
            // What is not kept cannot be confirmed by a replica, and must not wait for one.
            let Some(remembered) = remembered else {
                let message = scripts::message('p', &[b"0 - - - ", &body[..]].concat());
                let work = Work::Command(vec![command, events, message]);
                return self.request(&self.asking, work, |_| {
                    Ok(Published { offset: 0, epoch: "".into(), suppressed: false })
                });
            };
            let arguments = vec![command, events, body, remember_ms];
            return self.ask(Script::TellOnce, vec![remembered], arguments, scripts::published);
        }
        let (number, epoch) = version.map_or_else(Default::default, |version| {
            (text(&version.number), Bytes::from(String::from(version.epoch)))
        });
        let arguments = vec![
            fresh_epoch(),
            millis(retention.meta_ttl),
            text(&retention.size),
            millis(retention.ttl),
            command,
            events,
            body,
            remember_ms,
            number,
            epoch,
        ];
        let mut keys = stream_keys(channel);
        keys.extend(remembered);
        let work = Work::Script { script: Script::Publish, keys, arguments };
        self.request(&self.publishing, work, scripts::published)
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
        self.ask(Script::Read, stream_keys(channel), arguments, scripts::page)
    }

    fn remove_history(&self, channel: &str) -> Pending<()> {
        let [_, log] = <[String; 2]>::try_from(stream_keys(channel)).unwrap_or_default();
        let work = Work::Command(vec![Bytes::from_static(b"UNLINK"), log.into()]);
        self.request(&self.publishing, work, done)
    }

    fn add_member(&self, channel: &str, client: &str, user: &str, info: &str) -> Pending<()> {
        let arguments = vec![text(client), text(user), text(info), millis(PRESENCE_TTL)];
        self.ask(Script::AddMember, member_keys(channel), arguments, done)
    }

    fn remove_member(&self, channel: &str, client: &str) -> Pending<()> {
        self.ask(Script::RemoveMember, member_keys(channel), vec![text(client)], done)
    }

    fn members(&self, channel: &str) -> Pending<Members> {
        self.ask(Script::Members, member_keys(channel), Vec::new(), scripts::members)
    }

    fn member_counts(&self, channel: &str) -> Pending<MemberCounts> {
        self.ask(Script::MemberCounts, member_keys(channel), Vec::new(), scripts::counts)
    }

    fn take(&self, key: &str, rate: Rate, cost: u32) -> Pending<Allowance> {
        let arguments = vec![text(&rate.burst), text(&rate.every.as_micros()), text(&cost)];
        let keys = vec![format!("holdfast:rate:{{{key}}}")];
        self.ask(Script::Take, keys, arguments, scripts::allowance)
    }

    fn follow(&self, channel: &str) -> Pending<()> {
        let followed = self.interest.want(channel);
        let limit = self.command_timeout;
        Box::pin(async move {
            match timeout(limit, followed).await {
                Ok(Ok(())) => Ok(()),
                // Forgotten meanwhile, or no connection in time.
                Ok(Err(_)) | Err(_) => Err(BrokerError::Unavailable),
            }
        })
    }

    fn unfollow(&self, channel: &str) {
        self.interest.forget(channel);
    }

    fn probe_channels(&self, prefix: &str) -> Vec<String> {
        vec![prefix.to_owned()]
    }

    fn reconnect(&self, _channel: &str) {
        self.reset.send_modify(|count| *count += 1);
    }
}

impl Records for RedisBroker {
    fn write(&self, key: Key<'_>, write: Write) -> Pending<bool> {
        let Write { conditions, changes, ttl } = write;
        let mut arguments = vec![ttl.map_or(Bytes::from_static(b"0"), millis)];
        arguments.push(text(&conditions.len()));
        arguments.extend(conditions.into_iter().flat_map(records::condition));
        arguments.extend(changes.into_iter().flat_map(records::change));
        let work = Work::Script { script: Script::Write, keys: records::keys(key), arguments };
        self.request(&self.publishing, work, |reply| Ok(reply.number() == Some(1)))
    }

    fn fields(&self, key: Key<'_>, names: &[&str]) -> Pending<Vec<Option<Bytes>>> {
        if names.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let mut command = vec![Bytes::from_static(b"HMGET"), records::fields_key(key)];
        command.extend(names.iter().map(|name| text(*name)));
        self.request(&self.asking, Work::Command(command), scripts::fields)
    }

    fn record(&self, key: Key<'_>) -> Pending<Record> {
        let command = vec![Bytes::from_static(b"HGETALL"), records::fields_key(key)];
        self.request(&self.asking, Work::Command(command), scripts::record)
    }

    fn ranked(&self, key: Key<'_>, window: Window) -> Pending<Vec<(String, i64)>> {
        if window.limit == 0 {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let last = u64::from(window.offset) + u64::from(window.limit) - 1;
        let mut command = vec![
            Bytes::from_static(b"ZRANGE"),
            records::members_key(key),
            text(&window.offset),
            text(&last),
        ];
        if window.highest_first {
            command.push(Bytes::from_static(b"REV"));
        }
        command.push(Bytes::from_static(b"WITHSCORES"));
        self.request(&self.asking, Work::Command(command), scripts::ranked)
    }
}
