//! The broker over Redis: streams for history, pub/sub for fan-out, hashes for presence.
//!
//! Three connections, so that none of their delays reaches another: publishing (each batch waits for the replicas), everything else
//! that is asked, and following. All run to the same primary, which `discovery` finds.

mod connection;
mod discovery;
mod follow;
mod link;
mod pipeline;
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
use crate::broker::{Audience, Broker, BrokerError, Members, Pending, Range, Retention};
use crate::config;
use crate::metrics::Metrics;
use crate::namespaces::META_TTL;
use crate::stream::{Page, Publication};

/// How long a member stays without being refreshed: what a node's death costs. Connections refresh theirs every 27 s, so one refresh
/// may be lost.
const PRESENCE_TTL: Duration = Duration::from_mins(1);

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

    /// Gives up all connections and makes new ones: for when they look alive and are not.
    pub fn reconnect(&self) {
        self.reset.send_modify(|count| *count += 1);
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

    fn tell(&self, channel: &str, kind: char, info: &str) -> Pending<()> {
        let (channel, message) = (format!("{PREFIX}{channel}"), format!("{kind} {info}"));
        self.request(&self.asking, Work::Tell { channel, message }, done)
    }

    fn ask<T: Send + 'static>(
        &self,
        script: Script,
        keys: [String; 2],
        arguments: Vec<Bytes>,
        read: impl FnOnce(&Value) -> Result<T, BrokerError> + Send + 'static,
    ) -> Pending<T> {
        self.request(&self.asking, Work::Script { script, keys: keys.into(), arguments }, read)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of the readers of replies")]
fn done(_reply: &Value) -> Result<(), BrokerError> {
    Ok(())
}

fn stream_keys(channel: &str) -> [String; 2] {
    [format!("holdfast:{{{channel}}}:meta"), format!("holdfast:{{{channel}}}:log")]
}

fn member_keys(channel: &str) -> [String; 2] {
    [format!("holdfast:{{{channel}}}:members"), format!("holdfast:{{{channel}}}:expiry")]
}

/// A new stream's epoch.
fn fresh_epoch() -> Bytes {
    Bytes::from(format!("{:08x}", fastrand::u32(..)))
}

fn millis(duration: Duration) -> Bytes {
    Bytes::from(duration.as_millis().to_string())
}

fn text(value: &(impl ToString + ?Sized)) -> Bytes {
    Bytes::from(value.to_string())
}

impl Broker for RedisBroker {
    fn publish(
        &self,
        channel: &str,
        publication: Publication,
        retention: Retention,
    ) -> Pending<()> {
        let Publication { data, info, time_ms, .. } = publication;
        let arguments = vec![
            fresh_epoch(),
            millis(META_TTL),
            text(&retention.size),
            millis(retention.ttl),
            Bytes::from(format!("{PREFIX}{channel}")),
            Bytes::from(String::from(data)),
            Bytes::from(info.map(String::from).unwrap_or_default()),
            text(&time_ms),
        ];
        let keys = stream_keys(channel).into();
        let work = Work::Script { script: Script::Publish, keys, arguments };
        // What is not kept cannot be confirmed by a replica, and must not wait for one.
        let queue = if retention.size > 0 { &self.publishing } else { &self.asking };
        self.request(queue, work, done)
    }

    fn join(&self, channel: &str, info: &str) -> Pending<()> {
        self.tell(channel, 'j', info)
    }

    fn leave(&self, channel: &str, info: &str) -> Pending<()> {
        self.tell(channel, 'l', info)
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

    fn add_member(&self, channel: &str, client: &str, info: &str) -> Pending<()> {
        let arguments = vec![text(client), text(info), millis(PRESENCE_TTL)];
        self.ask(Script::AddMember, member_keys(channel), arguments, done)
    }

    fn remove_member(&self, channel: &str, client: &str) -> Pending<()> {
        self.ask(Script::RemoveMember, member_keys(channel), vec![text(client)], done)
    }

    fn members(&self, channel: &str) -> Pending<Members> {
        self.ask(Script::Members, member_keys(channel), Vec::new(), scripts::members)
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
}
