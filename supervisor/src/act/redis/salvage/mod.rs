//! What a former primary wrote that nobody else has, saved before it forgets it.
//!
//! A primary that was cut off goes on taking writes until it is told. When it comes back it becomes a replica, and with that throws away
//! everything past the point where its successor left the common history. Its replication backlog still holds those commands: they are
//! read from it as a replica would read them, while new writes to it are paused, and kept in a file in the protocol's own form, which
//! `redis-cli --pipe` understands too. What happens to them is the operator's decision ([`replay`]); writing them by ourselves could
//! undo what clients wrote since.
//!
//! Limits: the process must live, and its backlog (`repl-backlog-size`) must reach back to the fork; a stream in another database than
//! the first begins with no `SELECT` of its own.

mod orders;
mod replay;
mod store;
mod units;

use std::path::PathBuf;
use std::time::Duration;

use holdfast_psync::resp::encode_command;
use holdfast_psync::{CommandStream, Endpoint, Resumed, SyncOptions};
use tokio::time::{Instant, timeout_at};

use crate::cluster::Address;
use crate::plan::failover::Fork;

pub use replay::ReplayReport;
pub use store::{Manifest, Replayed, Store, StoreError};

/// Folder below that of the state file.
pub(super) const FOLDER: &str = "salvage";

/// Longest time a former primary is kept from becoming a replica: 5,000 commands take about 50 ms, the default backlog of 1 MiB less.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Largest file: four times a generous backlog of 64 MiB.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Whose commands are saved.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Name of the primary.
    pub redis: String,
    /// The epoch of the change that made the server a former primary.
    pub epoch: u64,
    /// The former primary.
    pub server: Address,
}

impl Origin {
    /// The name of the salvage: a plain file name.
    fn id(&self) -> String {
        let server = self.server.to_string().replace([':', '[', ']', '/'], "-");
        format!("{}-{}-{server}", self.redis, self.epoch)
    }
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Under which it is listed, shown and replayed.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// Commands in it, pings and changes of database left out of the count.
    pub commands: u64,
    /// Bytes of the stream it covers.
    pub bytes: u64,
}

/// Why nothing, or not everything, could be saved.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The server does not have it any more.
    #[error("its backlog does not reach back to offset {offset}")]
    Gone {
        /// The fork.
        offset: u64,
    },
    /// The stream broke.
    #[error("cannot read its command stream")]
    Stream(#[source] holdfast_psync::Error),
    /// It took too long.
    #[error("read {read} of {wanted} bytes within {} ms", LIMIT.as_millis())]
    Late {
        /// Bytes read.
        read: u64,
        /// Bytes asked for.
        wanted: u64,
    },
    /// It is too much.
    #[error("{0} bytes are more than is kept ({BYTES_MAX})")]
    TooMuch(u64),
    /// The disk refused.
    #[error("cannot keep them")]
    Keep(#[source] StoreError),
    /// The task that writes it was lost.
    #[error("the task that keeps them has ended")]
    Task,
}

/// Reads what the server at `endpoint` has after `fork` up to `offset` and keeps it.
///
/// # Errors
/// See [`SalvageError`]; nothing is kept then.
#[tracing::instrument(name = "redis salvage", skip_all)]
pub async fn salvage(
    endpoint: &Endpoint,
    fork: &Fork,
    offset: u64,
    store: &Store,
    origin: Origin,
) -> Result<Salvaged, SalvageError> {
    let wanted = offset.saturating_sub(fork.offset);
    if wanted > BYTES_MAX {
        return Err(SalvageError::TooMuch(wanted));
    }
    let deadline = Instant::now() + LIMIT;
    let options = SyncOptions { stall_timeout: LIMIT, ..SyncOptions::default() };
    let resumed = CommandStream::resume(endpoint, &options, &fork.replid, fork.offset);
    let late = |read| SalvageError::Late { read, wanted };
    let resumed = timeout_at(deadline, resumed).await.map_err(|_| late(0))?;
    let Resumed::Continued(mut stream) = resumed.map_err(SalvageError::Stream)? else {
        return Err(SalvageError::Gone { offset: fork.offset });
    };
    let mut content = Vec::new();
    let mut commands = 0;
    while stream.offset() < offset {
        let read = stream.offset() - fork.offset;
        let next = timeout_at(deadline, stream.next()).await.map_err(|_| late(read))?;
        let command = next.map_err(SalvageError::Stream)?;
        // The server's own chatter with its replicas; to another server it means nothing.
        if command.is("PING") || command.is("REPLCONF") {
            continue;
        }
        commands += u64::from(!command.is("SELECT"));
        content.extend(encode_command(&command.arguments));
    }
    let bytes = stream.offset() - fork.offset;
    let manifest = Manifest {
        id: origin.id(),
        redis: origin.redis,
        epoch: origin.epoch,
        server: origin.server,
        fork: fork.clone(),
        at: chrono::Utc::now(),
        commands,
        bytes,
        replay: None,
    };
    let (id, path) = (manifest.id.clone(), store.commands_path(&manifest.id));
    let store = store.clone();
    let kept = tokio::task::spawn_blocking(move || store.keep(&manifest, &content)).await;
    kept.map_err(|_| SalvageError::Task)?.map_err(SalvageError::Keep)?;
    Ok(Salvaged { id, path, commands, bytes })
}
