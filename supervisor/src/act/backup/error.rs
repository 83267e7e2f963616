//! Why a backup, a verification or a restore did not succeed.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_psync::rdb::RdbError;
use holdfast_psync::{Address, ServeError};

/// See the variants.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The backup folder, or a file in it, could not be used: permissions, full disk, …
    #[error("cannot {action} {}", path.display())]
    Storage {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The snapshot could not be stored.
    #[error("cannot store the snapshot in {}", path.display())]
    Write {
        /// The backup's folder.
        path: PathBuf,
        /// The cause, with the file.
        #[source]
        source: io::Error,
    },
    /// Another backup or clean-up works in the folder.
    #[error("another backup is running in {}", .0.display())]
    Busy(PathBuf),
    /// There is no such backup.
    #[error("there is no backup {id} in {}", dir.display())]
    NotFound {
        /// What was asked for.
        id: String,
        /// Where.
        dir: PathBuf,
    },
    /// A manifest cannot be understood.
    #[error("the manifest {} is damaged: {detail}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// No server could give a snapshot.
    #[error("no server could be backed up: {0}")]
    NoSource(String),
    /// A server failed while it gave its snapshot.
    #[error("the backup from {address} failed")]
    Source {
        /// The server.
        address: Address,
        /// The cause.
        #[source]
        source: holdfast_psync::Error,
    },
    /// A server sent something that is no whole RDB file.
    #[error("{address} sent a damaged snapshot")]
    Payload {
        /// The server.
        address: Address,
        /// The cause.
        #[source]
        source: RdbError,
    },
    /// What is stored is not what was stored.
    #[error("backup {id} is damaged")]
    Damaged {
        /// The backup.
        id: String,
        /// The cause.
        #[source]
        source: RdbError,
    },
    /// What is stored is a whole snapshot, but not the one in the manifest.
    #[error("backup {id} is damaged: {detail}")]
    Mismatch {
        /// The backup.
        id: String,
        /// Where they differ.
        detail: String,
    },
    /// The scratch server did not come up.
    #[error("cannot run the scratch server {}: {detail}", program.display())]
    Scratch {
        /// The program.
        program: PathBuf,
        /// What it said.
        detail: String,
    },
    /// A restore was refused to protect what is there.
    #[error("refusing to restore into {address}: {reason}")]
    Refused {
        /// The target.
        address: Address,
        /// What is in the way, and what to do.
        reason: String,
    },
    /// A command to the target of a restore failed.
    #[error("cannot prepare {address} for the snapshot")]
    Target {
        /// The target.
        address: Address,
        /// The cause.
        #[source]
        source: holdfast_psync::Error,
    },
    /// We cannot listen for the target.
    #[error("cannot listen on {address} for the server that loads the snapshot")]
    Listen {
        /// Our address.
        address: std::net::IpAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The target did not get the whole snapshot.
    #[error("{address} did not get the whole snapshot")]
    Serve {
        /// The target.
        address: Address,
        /// The cause.
        #[source]
        source: ServeError,
    },
    /// The target got the snapshot and did not load it.
    #[error("{address} did not load the snapshot: {detail}")]
    NotLoaded {
        /// The target.
        address: Address,
        /// What is known of it.
        detail: String,
    },
    /// The target has other keys than the snapshot.
    #[error("{address} loaded other keys than are in the backup: {detail}")]
    Keys {
        /// The target.
        address: Address,
        /// Where they differ.
        detail: String,
    },
    /// A restore failed, and then the target could not be given its role back.
    #[error("restore failed, and {address} could not be made {role} again ({second})")]
    RoleLost {
        /// The target.
        address: Address,
        /// What it was.
        role: String,
        /// Why it could not be made that again.
        second: String,
        /// Why the restore failed.
        #[source]
        source: Box<Self>,
    },
    /// A worker thread of ours ended without a result.
    #[error("internal error: a worker thread panicked during the {0}")]
    Worker(&'static str),
}

impl BackupError {
    /// For `map_err` on file operations.
    pub(super) fn storage(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Storage { action, path, source }
    }
}

/// Runs blocking work on its own thread; `what` names it should it panic.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BackupError::Worker(what))?
}

/// An error with its causes in one line, where it becomes a part of a longer text.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    holdfast_telemetry::errors::Chain(error).to_string()
}
