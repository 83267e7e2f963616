//! Everything that runs to one primary: a pipeline for what replicas confirm, one for everything else, and the follower.
//!
//! Three connections, so that none of their delays reaches another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::confirmation::Confirmation;
use super::discovery::Discovery;
use super::follow::{Follower, Interest};
use super::link::Link;
use super::pipeline::{Part, Pipeline, QUEUE_MAX, Request, Stored, Work};
use super::repair::Repair;
use super::resp::Value;
use super::route::Route;
use super::tails::Tails;
use crate::broker::{Audience, BrokerError, Pending};
use crate::config;
use crate::metrics::Metrics;

/// What every shard of a broker is given.
pub(super) struct Common {
    pub(super) settings: Arc<config::Redis>,
    pub(super) node: String,
    pub(super) audience: Arc<dyn Audience>,
    pub(super) tails: Arc<Tails>,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
}

/// Which of a shard's pipelines does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Replicas confirm it.
    Confirmed,
    /// What is not kept, or only read.
    Direct,
}

/// One primary and what runs to it.
pub(super) struct Shard {
    confirmed: mpsc::Sender<Request>,
    direct: mpsc::Sender<Request>,
    interest: Arc<Interest>,
    reset: watch::Sender<u64>,
    command_timeout: Duration,
}

impl Shard {
    /// Starts the shard's tasks; they end with `shutdown`.
    pub(super) fn start(
        common: &Common,
        primary: config::Primary,
        route: Route,
        shutdown: &CancellationToken,
    ) -> Self {
        let Common { settings, node, audience, tails, metrics, tasks } = common;
        let (discovery, whereabouts) = Discovery::new(primary, settings.sentinel_access.clone());
        tasks.spawn(discovery.run(shutdown.clone()));
        let (reset, resets) = watch::channel(0);
        let link = |purpose| {
            let (settings, whereabouts) = (Arc::clone(settings), whereabouts.clone());
            Link::new(purpose, node, settings, whereabouts, resets.clone(), metrics.clone())
        };
        let pipeline = |purpose, confirmation, part| {
            let (sender, requests) = mpsc::channel(QUEUE_MAX);
            let (link, tails) = (link(purpose), Arc::clone(tails));
            let reply_timeout = settings.command_timeout;
            let reads_shared = metrics.broker.reads_shared.clone();
            let pipeline =
                Pipeline { link, requests, confirmation, reply_timeout, part, tails, reads_shared };
            tasks.spawn(pipeline.run(shutdown.clone()));
            sender
        };
        let (at_least, follows) = (settings.confirm_replicas, settings.confirm_all_healthy);
        let confirmation = (at_least > 0 || follows)
            .then(|| Confirmation::new(at_least, follows, settings.confirm_timeout));
        let (tails, metrics) = (Arc::clone(tails), metrics.clone());
        let repair = Box::new(Repair { tails, route, metrics, again_at: None });
        let (repaired, seen) = watch::channel(String::new());
        let confirmed = pipeline("publish", confirmation, Part::Repairs(repair, repaired));
        let direct = pipeline("ask", None, Part::Waits(seen));
        let interest = Arc::new(Interest::default());
        let follower = Follower {
            link: link("follow"),
            interest: Arc::clone(&interest),
            audience: Arc::clone(audience),
            tails: Arc::clone(&common.tails),
            write_timeout: settings.command_timeout,
            metrics: common.metrics.clone(),
        };
        tasks.spawn(follower.run(shutdown.clone()));
        let command_timeout = settings.command_timeout;
        Self { confirmed, direct, interest, reset, command_timeout }
    }

    /// Queues work; the future is of its outcome.
    pub(super) fn request<T: Send + 'static>(
        &self,
        lane: Lane,
        work: Work,
        stored: Option<Stored>,
        read: impl FnOnce(&Value) -> Result<T, BrokerError> + Send + 'static,
    ) -> Pending<T> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.command_timeout;
        let queue = if lane == Lane::Confirmed { &self.confirmed } else { &self.direct };
        let queued = queue.try_send(Request { work, stored, deadline, reply, sharers: Vec::new() });
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

    /// As [`crate::broker::Broker::follow`].
    pub(super) fn follow(&self, channel: &str) -> Pending<()> {
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

    /// As [`crate::broker::Broker::unfollow`].
    pub(super) fn unfollow(&self, channel: &str) {
        self.interest.forget(channel);
    }

    /// Gives up all connections and makes new ones.
    pub(super) fn reconnect(&self) {
        self.reset.send_modify(|count| *count += 1);
    }
}
