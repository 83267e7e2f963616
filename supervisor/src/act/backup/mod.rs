//! Backups of Redis that are proven to restore.
//!
//! A backup is a snapshot taken over the replication protocol from a replica (the primary is left alone), compressed, cut into parts
//! and stored with a manifest. It counts once it has been loaded into a scratch server and every database had the keys it should have.
//! Verification and restore are one path: we act as a primary, and the server loads with its own code what a replica would get.
//!
//! ```text
//! <dir>/<cluster>/<replication id>/base/<offset>/part-000.zst …   one zstd stream, cut every 16 MiB: `cat part-*.zst | zstd -d` is an RDB file
//!                                                manifest.json    written last, into a folder that gets its name after that
//!                                                verify/<time>.json
//! ```
//!
//! Nothing here reads a clock for its decisions: `now` is an argument. Rejected: `redis-cli --rdb` and copies of `dump.rdb` (no
//! offset, no proof), deduplication between snapshots (1 % of changed keys make half of the chunks new).
//!
//! - [`take`], [`verify`], [`restore`]: the three things done with backups
//! - [`BackupStore`]: list, find, prune

mod error;
mod load;
mod manifest;
mod parts;
mod restore;
mod scratch;
mod source;
mod store;
mod take;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::BackupError;
pub use manifest::{DatabaseKeys, Manifest, Part, Role, Source, Verification};
pub use restore::{RestoreOptions, Restored, restore};
pub use store::{Backup, BackupStore, Listing, Pruned};
pub use take::take;
pub use verify::verify;

/// Where a part ends: small enough for any object store, and to send again after a failure.
const PART_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longest silence of a server during a transfer: the time after which Redis itself gives a replica up.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest loading of a snapshot by a server. Redis loads about 200 MB/s, so this is several hundred gigabytes.
const LOAD_TIMEOUT: Duration = Duration::from_mins(30);

/// How backups are taken and verified.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// zstd level, 1 to 19.
    pub compression_level: i32,
    /// Program used for the scratch server.
    pub redis_server: PathBuf,
    /// Verify each backup when it has been taken.
    pub verify: bool,
    /// Take an empty data set for what it is, though the backup before it had keys.
    pub accept_empty: bool,
    /// Size of a part as stored, bytes.
    pub part_bytes_max: u64,
    /// Longest silence of a server during a transfer.
    pub stall_timeout: Duration,
    /// Longest loading of a snapshot by a server.
    pub load_timeout: Duration,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            compression_level: 1,
            redis_server: PathBuf::from("redis-server"),
            verify: true,
            accept_empty: false,
            part_bytes_max: PART_BYTES_MAX,
            stall_timeout: STALL_TIMEOUT,
            load_timeout: LOAD_TIMEOUT,
        }
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking for a server and waiting for it to begin.
    Connect,
    /// Receiving and storing the snapshot.
    Snapshot,
    /// Reading the stored parts back.
    Verify,
    /// Sending the snapshot to a server, which loads it.
    Load,
}

impl Phase {
    /// Its name, for people and scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Snapshot => "snapshot",
            Self::Verify => "verify",
            Self::Load => "load",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of the uncompressed snapshot done in this phase.
    pub bytes: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// Hears the progress; called often, from several threads, and must not block.
type Reporter = Arc<dyn Fn(Progress) + Send + Sync>;
