//! Where streams, presence, records and fan-out between nodes live, as the rest of the node sees it.
//!
//! Every call queues its work at once and returns a future of the outcome, so that calls made one after another take effect in that
//! order whatever happens to their futures. What comes in from other nodes goes to an [`Audience`].
//!
//! Two implementations, held to the same conformance suite: [`redis`] for a cluster of nodes, [`memory`] for a single one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;

use crate::namespaces::META_TTL;
use crate::stream::{Lineage, Page, Publication};

pub mod bus;
pub mod memory;
mod metrics;
pub mod records;
pub mod redis;

pub use metrics::BrokerMetrics;
pub use records::{Change, Condition, Key, Record, Records, Window, Write};

/// Outcome of a broker call, to come.
pub type Pending<T> = BoxFuture<'static, Result<T, BrokerError>>;

/// How long a member stays without being refreshed: what a node's death costs. Connections refresh theirs every 27 s, so one refresh
/// may be lost.
pub const PRESENCE_TTL: Duration = Duration::from_mins(1);

/// Why a broker call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// There was no primary in time; nothing was done.
    #[error("no primary answered in time")]
    Unavailable,
    /// More work is waiting than is kept; nothing was done.
    #[error("too much work is waiting for Redis")]
    Overloaded,
    /// The connection failed with the command under way; it may have been done.
    #[error("the connection failed with the command under way")]
    Interrupted,
    /// It was done on the primary, but fewer replicas than asked for have it.
    #[error("{replicas} replicas have it, {wanted} were asked for")]
    Unconfirmed {
        /// Replicas that answered.
        replicas: i64,
        /// Replicas asked for.
        wanted: u32,
    },
    /// Redis refused the command.
    #[error("Redis refused the command: {0}")]
    Refused(String),
    /// The reply has not the expected form.
    #[error("unexpected reply")]
    Unexpected,
}

/// What is kept of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Publications kept; 0: none, and no positions either.
    pub size: u32,
    /// How long they are kept after the latest one.
    pub ttl: Duration,
    /// How long the stream's epoch and top are kept after its last use.
    pub meta_ttl: Duration,
}

impl Default for Retention {
    /// Nothing is kept.
    fn default() -> Self {
        Self { size: 0, ttl: Duration::ZERO, meta_ttl: META_TTL }
    }
}

/// A publish with the same key in the same channel within `ttl` has the result of the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Chosen by the publisher.
    pub key: Box<str>,
    /// How long it is remembered.
    pub ttl: Duration,
}

/// State that is published as a whole: what is not newer than the latest is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Grows with each change; exact up to 2^53.
    pub number: u64,
    /// Another epoch makes any number newer.
    pub epoch: Box<str>,
}

/// How a publication is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// How it is kept.
    pub retention: Retention,
    /// Publish it once only.
    pub idempotency: Option<Idempotency>,
    /// Publish it only if it is newer; needs history.
    pub version: Option<Version>,
}

impl PublishOptions {
    /// Gives `publication` the id that it is known by: the idempotency key, its own, or a new one.
    fn identify(&self, publication: &mut Publication) {
        if let Some(once) = &self.idempotency {
            publication.id = Bytes::from(once.key.to_string());
        } else if publication.id.is_empty() {
            publication.id = Bytes::from(format!("{:016x}", fastrand::u64(..)));
        }
    }
}

/// Where a publication went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its offset; 0 without history, or if an older version was left out.
    pub offset: u64,
    /// Epoch of the stream as clients see it; empty without history.
    pub epoch: Arc<str>,
    /// It had been published before, or was not newer, and was not published again.
    pub suppressed: bool,
}

/// Which part of a stream to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Exclusive start.
    pub since: Option<u64>,
    /// Most publications read; 0: only the stream's state.
    pub limit: usize,
    /// Newest first.
    pub reverse: bool,
}

impl Range {
    /// Only the state.
    pub const STATE: Self = Self { since: None, limit: 0, reverse: false };
    /// The state and the latest publication, for channels in cache mode.
    pub const LATEST: Self = Self { since: None, limit: 1, reverse: true };
}

/// Who is in a channel: connection id → finished `ClientInfo` document.
pub type Members = BTreeMap<String, Box<RawValue>>;

/// How many are in a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Connections.
    pub clients: usize,
    /// Different users.
    pub users: usize,
}

/// How often something may be done, all nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Times in a row after a pause.
    pub burst: u32,
    /// On average one per this time.
    pub every: Duration,
}

/// Whether something may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// It may, and is counted.
    pub allowed: bool,
    /// If not: after how long it would be.
    pub retry_after: Duration,
}

/// The shared part of a cluster of nodes.
pub trait Broker: Records {
    /// Stores a publication and tells all nodes. Ready once as many replicas as configured have it, if it is kept at all.
    ///
    /// The offset is the broker's to give. An id is made up if there is none.
    fn publish(
        &self,
        channel: &str,
        publication: Publication,
        options: PublishOptions,
    ) -> Pending<Published>;
    /// Tells all nodes that a client came.
    fn join(&self, channel: &str, info: &str) -> Pending<()>;
    /// Tells all nodes that a client left.
    fn leave(&self, channel: &str, info: &str) -> Pending<()>;
    /// A message of the nodes' own to those of them that follow `channel`; not kept.
    fn signal(&self, channel: &str, message: Bytes) -> Pending<()>;
    /// Reads a stream; one that does not exist yet begins by being read.
    fn read(&self, channel: &str, range: Range) -> Pending<Page>;
    /// Forgets the publications of a stream; its positions go on.
    fn remove_history(&self, channel: &str) -> Pending<()>;
    /// Adds a client to the channel's members, or keeps it there, for [`PRESENCE_TTL`].
    fn add_member(&self, channel: &str, client: &str, user: &str, info: &str) -> Pending<()>;
    /// Takes a client off the channel's members.
    fn remove_member(&self, channel: &str, client: &str) -> Pending<()>;
    /// The channel's members.
    fn members(&self, channel: &str) -> Pending<Members>;
    /// How many they are; costs the same for any number.
    fn member_counts(&self, channel: &str) -> Pending<MemberCounts>;
    /// Counts `cost` against the rate of `key`, if that is within it. By the generic cell rate algorithm, which needs one number per
    /// key and lets nobody save up more than the burst.
    fn take(&self, key: &str, rate: Rate, cost: u32) -> Pending<Allowance>;
    /// From when the future is ready until [`Broker::unfollow`], what happens in the channel goes to the audience.
    fn follow(&self, channel: &str) -> Pending<()>;
    /// Ends [`Broker::follow`].
    fn unfollow(&self, channel: &str);
    /// Channels that start with `prefix` and together pass through every server in use, for probing.
    fn probe_channels(&self, prefix: &str) -> Vec<String>;
    /// Gives up the connections that `channel` uses and makes new ones: for when they look alive and are not.
    fn reconnect(&self, channel: &str);
}

/// Takes what happens in followed channels. Calls must return quickly: all channels wait for them.
pub trait Audience: Send + Sync + 'static {
    /// A publication; `lineage` is `None` if the channel keeps no history.
    fn publication(&self, channel: &str, publication: &Publication, lineage: Option<Arc<Lineage>>);
    /// A client came.
    fn join(&self, channel: &str, info: &str);
    /// A client left.
    fn leave(&self, channel: &str, info: &str);
    /// A message of another node, or of this one.
    fn signal(&self, channel: &str, message: &Bytes);
    /// Following was interrupted and goes on: something may have been missed in any channel.
    fn interrupted(&self);
}
