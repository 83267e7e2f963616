//! The old process's part: starts the new one, hands over, waits for its word.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{FORMAT, Manifest, State, wire};

/// How this program is started once more.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where its file was when it was started; by now there may be a newer one.
    pub file: PathBuf,
    /// What it is told, beside its standard input.
    pub arguments: Vec<OsString>,
}

/// Why the old process serves on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("there is no program to start")]
    NoProgram,
    #[error("start {}", file.display())]
    Start {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("hand over to the new process")]
    Send(#[source] io::Error),
    #[error("the new process does not serve")]
    NotReady(#[source] io::Error),
}

/// Starts `program` and hands `sockets` over, each with its purpose. Returns the new process once it serves; blocks meanwhile.
pub(crate) fn upgrade(
    program: &Program,
    sockets: &[(String, OwnedFd)],
    state: State,
    limit: Duration,
) -> Result<u32, UpgradeError> {
    let (ours, theirs) = UnixStream::pair().map_err(UpgradeError::Send)?;
    let started =
        Command::new(&program.file).args(&program.arguments).stdin(OwnedFd::from(theirs)).spawn();
    let file = || program.file.clone();
    let mut child = started.map_err(|source| UpgradeError::Start { file: file(), source })?;
    let handed = hand_over(&ours, sockets, state, limit);
    if handed.is_err() {
        // It may have ended by itself, which is why.
        let _ = child.kill();
        if let Ok(status) = child.wait() {
            tracing::warn!(%status, "the new process has ended");
        }
    }
    handed.map(|()| child.id())
}

fn hand_over(
    stream: &UnixStream,
    sockets: &[(String, OwnedFd)],
    state: State,
    limit: Duration,
) -> Result<(), UpgradeError> {
    let purposes = sockets.iter().map(|(purpose, _)| purpose.clone()).collect();
    let manifest = Manifest { format: FORMAT, sockets: purposes, state };
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    wire::send(stream, &manifest, &sockets).map_err(UpgradeError::Send)?;
    wire::await_ready(stream, limit).map_err(UpgradeError::NotReady)
}
