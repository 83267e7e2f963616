//! What a former primary wrote that nobody else has, saved before it forgets it.
//!
//! A primary that was cut off goes on taking writes until it is told. When it comes back it becomes a replica, and with that throws away
//! everything past the point where its successor left the common history. Its replication backlog still holds those commands: they are
//! read from it as a replica would read them, while new writes to it are paused, and kept in a file in the protocol's own form, so that
//! `redis-cli --pipe` replays it. What happens to them is the operator's decision; writing them by ourselves could undo what clients
//! wrote since.
//!
//! Limits: the process must live, and its backlog (`repl-backlog-size`) must reach back to the fork; a stream in another database than
//! the first begins with no `SELECT` of its own.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_psync::resp::encode_command;
use holdfast_psync::{CommandStream, Endpoint, Resumed, SyncOptions};
use tokio::time::{Instant, timeout_at};

use crate::plan::failover::Fork;

/// Folder below that of the state file.
pub(super) const FOLDER: &str = "salvage";

/// Longest time a former primary is kept from becoming a replica: 5,000 commands take about 50 ms, the default backlog of 1 MiB less.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Largest file: four times a generous backlog of 64 MiB.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files kept; the oldest go first.
const FILES_MAX: usize = 20;

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
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
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Reads what the server at `endpoint` has after `fork` up to `offset` and keeps it as `<folder>/<label>.resp`.
///
/// # Errors
/// See [`SalvageError`]; no file is left behind then.
#[tracing::instrument(name = "redis salvage", skip_all)]
pub async fn salvage(
    endpoint: &Endpoint,
    fork: &Fork,
    offset: u64,
    folder: &Path,
    label: &str,
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
    let path = folder.join(format!("{label}.resp"));
    let written = {
        let (folder, path) = (folder.to_owned(), path.clone());
        tokio::task::spawn_blocking(move || keep(&folder, &path, &content))
    };
    let fail = |source| SalvageError::Write { path: path.clone(), source };
    written.await.map_err(|error| fail(io::Error::other(error)))?.map_err(fail)?;
    Ok(Salvaged { path, commands, bytes: stream.offset() - fork.offset })
}

/// All or nothing, readable by us alone: it is what users wrote.
fn keep(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()?;
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is_ours = entry.path().extension().is_some_and(|extension| extension == "resp");
            Some((entry.metadata().ok()?.modified().ok()?, entry.path())).filter(|_| is_ours)
        })
        .collect();
    files.sort();
    for (_, old) in files.iter().rev().skip(FILES_MAX) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}
