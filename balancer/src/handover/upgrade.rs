//! The old process's part: starts the new one, hands over, waits for its word.

use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use holdfast_settings::duration;
use tokio::task::spawn_blocking;

use super::wire::{self, Answer};
use super::{FORMAT, Manifest, State};

/// What a process that has stopped to listen may still have said is there already.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    #[error("the new process cannot serve")]
    Refused {
        /// As it has put them, one per line.
        reasons: Vec<String>,
    },
    #[error("the new process has ended before it served ({0})")]
    Ended(ExitStatus),
    #[error("the new process did not serve within {}", duration::format(*.0))]
    Late(Duration),
    #[error("this process was asked to end meanwhile")]
    GivenUp,
}

/// A process that has taken over.
#[derive(Debug)]
pub(crate) struct TakenOver {
    pub(crate) process: u32,
    /// The line to it.
    pub(crate) line: UnixStream,
}

/// Starts `program` and hands `sockets` over, each with its purpose. Returns once the new process serves.
///
/// # Cancel safety
/// Dropped before that, it ends the new process.
pub(crate) async fn upgrade(
    program: Program,
    sockets: Vec<(String, OwnedFd)>,
    state: State,
    limit: Duration,
) -> Result<TakenOver, UpgradeError> {
    let (ours, theirs) = UnixStream::pair().map_err(UpgradeError::Send)?;
    let mut hold = Hold(Some(ours.try_clone().map_err(UpgradeError::Send)?));
    let purposes = sockets.iter().map(|(purpose, _)| purpose.clone()).collect();
    let manifest = Manifest { format: FORMAT, sockets: purposes, state };
    let work = move || {
        let sockets: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        start(&program, (&ours, theirs), &manifest, &sockets, limit)
    };
    // A panic has been reported by itself.
    let done = spawn_blocking(work).await;
    let process = done.map_err(|error| UpgradeError::Send(io::Error::other(error)))??;
    let line = hold.0.take().expect("nobody else takes it");
    Ok(TakenOver { process, line })
}

/// The line to the new process; cut when it is dropped, so that nobody waits at its end any more.
struct Hold(Option<UnixStream>);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(line) = &self.0 {
            // Cut already is as good.
            let _ = line.shutdown(Shutdown::Both);
        }
    }
}

fn start(
    program: &Program,
    (ours, theirs): (&UnixStream, UnixStream),
    manifest: &Manifest,
    sockets: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<u32, UpgradeError> {
    let mut command = Command::new(&program.file);
    let started = command.args(&program.arguments).stdin(OwnedFd::from(theirs)).spawn();
    // Only the new process shall hold the other end, so that its end is heard of.
    drop(command);
    let file = || program.file.clone();
    let mut child = started.map_err(|source| UpgradeError::Start { file: file(), source })?;
    let error = match hand_over(ours, manifest, sockets, limit) {
        Ok(Answer::Ready) => return Ok(child.id()),
        Ok(Answer::Refused(reasons)) => {
            Some(UpgradeError::Refused { reasons: reasons.lines().map(str::to_owned).collect() })
        }
        Err(error) if is_late(&error) => Some(UpgradeError::Late(limit)),
        // Its end says more.
        Err(_) => None,
    };
    // It may have ended by itself.
    let _ = child.kill();
    let status = child.wait().map_err(UpgradeError::Send)?;
    tracing::warn!(process = child.id(), %status, "the process that was to take over has ended");
    Err(error.unwrap_or(UpgradeError::Ended(status)))
}

fn hand_over(
    stream: &UnixStream,
    manifest: &Manifest,
    sockets: &[BorrowedFd<'_>],
    limit: Duration,
) -> io::Result<Answer> {
    match wire::send(stream, manifest, sockets) {
        Ok(()) => wire::await_answer(stream, limit),
        // Whoever refuses at once does not read to the end.
        Err(error) => wire::await_answer(stream, LAST_WORDS).or(Err(error)),
    }
}

/// Whether a time-out of a socket has passed.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
