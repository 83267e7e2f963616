//! Where streams, presence and fan-out between nodes live, as the rest of the node sees it.
//!
//! Every call queues its work at once and returns a future of the outcome, so that calls made one after another take effect in that
//! order whatever happens to their futures. What comes in from other nodes goes to an [`Audience`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::value::RawValue;

use crate::stream::{Lineage, Page, Publication};

pub mod redis;

/// Outcome of a broker call, to come.
pub type Pending<T> = BoxFuture<'static, Result<T, BrokerError>>;

/// Why a broker call failed.
#[derive(Debug, thiserror::Error)]
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
    /// How long they are kept.
    pub ttl: Duration,
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
}

/// Who is in a channel: connection id → finished `ClientInfo` document.
pub type Members = BTreeMap<String, Box<RawValue>>;

/// The shared part of a cluster of nodes.
pub trait Broker: Send + Sync + 'static {
    /// Stores a publication and tells all nodes. Ready once as many replicas as configured have it, if it is kept at all.
    fn publish(&self, channel: &str, publication: Publication, retention: Retention)
    -> Pending<()>;
    /// Tells all nodes that a client came.
    fn join(&self, channel: &str, info: &str) -> Pending<()>;
    /// Tells all nodes that a client left.
    fn leave(&self, channel: &str, info: &str) -> Pending<()>;
    /// Reads a stream; one that does not exist yet begins by being read.
    fn read(&self, channel: &str, range: Range) -> Pending<Page>;
    /// Adds a client to the channel's members, or keeps it there, for the presence TTL.
    fn add_member(&self, channel: &str, client: &str, info: &str) -> Pending<()>;
    /// Takes a client off the channel's members.
    fn remove_member(&self, channel: &str, client: &str) -> Pending<()>;
    /// The channel's members.
    fn members(&self, channel: &str) -> Pending<Members>;
    /// From when the future is ready until [`Broker::unfollow`], what happens in the channel goes to the audience.
    fn follow(&self, channel: &str) -> Pending<()>;
    /// Ends [`Broker::follow`].
    fn unfollow(&self, channel: &str);
}

/// Takes what happens in followed channels. Calls must return quickly: all channels wait for them.
pub trait Audience: Send + Sync + 'static {
    /// A publication; `lineage` is `None` if the channel keeps no history.
    fn publication(&self, channel: &str, publication: &Publication, lineage: Option<Arc<Lineage>>);
    /// A client came.
    fn join(&self, channel: &str, info: &str);
    /// A client left.
    fn leave(&self, channel: &str, info: &str);
    /// Following was interrupted and goes on: something may have been missed in any channel.
    fn interrupted(&self);
}
