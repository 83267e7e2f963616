//! Redis failover carried out: the controller's loop, the steps of a failover and of a planned switchover.
//!
//! [`RedisController`] looks at all servers whenever one of them has news, lets [`crate::plan::failover`] decide, and does what was
//! decided: step by step, each bounded in time, each recorded with its duration. Steps go over the connections that are open anyway
//! (`observe::redis`), so nothing waits for a handshake.

mod agree;
mod agreement;
mod commands;
mod controller;
mod detach;
mod explain;
mod fence;
mod hooks;
mod metrics;
mod orders;
mod program;
mod repair;
mod rolling;
mod run;
mod salvage;
mod sentinel;
mod switchover;
mod sync;
mod tell;

use std::time::Duration;

use crate::cluster::RedisStatus;
use crate::judge::redis::ServerView;

pub use controller::{Handles, RedisController};
pub use metrics::Families;
pub use salvage::{
    Manifest, Origin, ReplayReport, Replayed, SalvageError, Salvaged, Store as SalvageStore,
    StoreError, salvage,
};

/// Everything the Sentinel-compatible endpoint shows of one primary and its replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// The status everybody sees.
    pub status: RedisStatus,
    /// Each server in detail, in the order of the settings.
    pub views: Vec<ServerView>,
    /// Silence counts after this long.
    pub hang_after: Duration,
    /// The primary is being replaced while it is well: clients may use it until they are sent away.
    pub is_planned: bool,
}

/// A message for those who subscribed at the Sentinel-compatible endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelEvent {
    /// `+switch-master`, `+sdown`, …
    pub channel: &'static str,
    /// As Redis Sentinel words it.
    pub payload: String,
}
