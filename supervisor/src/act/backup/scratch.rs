//! A Redis server of our own, for one verification: no port, no disk, gone afterwards whatever happens.
//!
//! It listens on a socket in a private folder only. It is started through `setpriv --pdeathsig`, so that it dies with us even when we
//! are killed; the signal comes when the *thread* that started it ends, so a thread of its own keeps it. It makes itself the first
//! victim should memory run out, and gives way to everything else on the processor.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_psync::{Address, Connection, Endpoint};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::error::BackupError;

/// An empty server is up in some 10 ms; a busy machine may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(20);

/// How often the keeper looks whether the server has ended by itself.
const KEEPER_POLL: Duration = Duration::from_millis(50);

/// End of the server's log shown when it fails.
const LOG_LINES: usize = 5;

const SOCKET: &str = "redis.sock";
const LOG: &str = "log";

/// What makes it harmless: nothing is read from or written to disk, and what it loads goes from the socket into memory.
const SETTINGS: [&str; 20] = [
    "--port",
    "0",
    "--save",
    "",
    "--appendonly",
    "no",
    "--repl-diskless-load",
    "on-empty-db",
    "--enable-debug-command",
    "local",
    "--oom-score-adj",
    "absolute",
    "--oom-score-adj-values",
    "1000 1000 1000",
    "--unixsocketperm",
    "700",
    "--databases",
    "16384",
    "--maxmemory",
    "0",
];

/// A running scratch server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Scratch {
    socket: PathBuf,
    exited: Arc<OnceLock<String>>,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Scratch {
    /// Starts `program` and waits until it answers.
    pub(super) async fn start(program: &Path) -> Result<Self, BackupError> {
        let failed = |detail: String| BackupError::Scratch { program: program.to_owned(), detail };
        let dir = tempfile::Builder::new()
            .prefix("holdfast-scratch-")
            .tempdir()
            .map_err(|error| failed(format!("no temporary folder: {error}")))?;
        let socket = dir.path().join(SOCKET);
        let exited = Arc::new(OnceLock::new());
        let (stop, stopped) = mpsc::channel();
        let keeper = std::thread::Builder::new().name("scratch-redis".to_owned()).spawn({
            let (program, exited) = (program.to_owned(), Arc::clone(&exited));
            move || {
                // Nobody else sets it.
                exited.set(keep(&program, &dir, &stopped)).ok();
            }
        });
        let keeper = keeper.map_err(|error| failed(format!("no thread: {error}")))?;
        let scratch = Self { socket, exited, stop: Some(stop), keeper: Some(keeper) };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(reason) = scratch.exited.get() {
                return Err(failed(reason.clone()));
            }
            if let Ok(mut connection) = Connection::open(&scratch.endpoint()).await
                && connection.command(&["PING"]).await.is_ok()
            {
                return Ok(scratch);
            }
            if Instant::now() > deadline {
                return Err(failed(format!("no answer within {} s", START_TIMEOUT.as_secs())));
            }
            sleep(START_POLL).await;
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::new(Address::Unix(self.socket.clone()))
    }

    /// Why it ended, if it did so by itself.
    pub(super) fn exited(&self) -> Option<&str> {
        self.exited.get().map(String::as_str)
    }

    /// Ends it and waits until it is gone, its folder too.
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has dropped its folder, and its end has killed the server.
            tokio::task::spawn_blocking(move || keeper.join().ok()).await.ok();
        }
    }
}

/// Runs the server in `dir` until it is to stop; says how it ended.
fn keep(program: &Path, dir: &TempDir, stopped: &mpsc::Receiver<()>) -> String {
    let log = dir.path().join(LOG);
    let start = || {
        let output = File::create(&log)?;
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nice", "-n", "10"])
            .arg(program)
            .args(SETTINGS)
            .arg("--dir")
            .arg(dir.path())
            .arg("--unixsocket")
            .arg(dir.path().join(SOCKET))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
    };
    let mut child = match start() {
        Ok(child) => child,
        Err(error) => return format!("cannot start it through setpriv (util-linux): {error}"),
    };
    let status = loop {
        if stopped.recv_timeout(KEEPER_POLL) != Err(mpsc::RecvTimeoutError::Timeout) {
            // Told to stop, or nobody is left who could. It may have ended by itself just now, which is as good.
            child.kill().ok();
            break child.wait().map_or_else(|error| error.to_string(), |end| end.to_string());
        }
        if let Ok(Some(status)) = child.try_wait() {
            break status.to_string();
        }
    };
    let output = std::fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    let lines: Vec<_> = output.lines().rev().take(LOG_LINES).collect();
    let lines: Vec<_> = lines.into_iter().rev().map(str::trim).collect();
    format!("{status}; its last words: {}", lines.join(" / "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scratch_server_comes_and_goes() {
        let scratch = Scratch::start(Path::new("redis-server")).await.unwrap();
        let mut connection = Connection::open(&scratch.endpoint()).await.unwrap();
        assert!(connection.command(&["DEBUG", "DIGEST"]).await.is_ok());
        let socket = scratch.socket.clone();
        scratch.stop().await;
        assert!(!socket.parent().unwrap().exists());
        assert!(connection.command(&["PING"]).await.is_err());
    }

    #[tokio::test]
    async fn a_program_that_does_not_run_is_named_with_what_it_said() {
        for (program, said) in
            [("/bin/false", "exit status: 1"), ("/no/such/redis", "No such file")]
        {
            let error = Scratch::start(Path::new(program)).await.unwrap_err().to_string();
            assert!(error.contains(program) && error.contains(said), "{error}");
        }
    }
}
