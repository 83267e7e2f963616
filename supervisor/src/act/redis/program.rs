//! A program run on an operator's behalf: no shell, an environment of its own, a time-out, a bounded output, and nothing left running.
//!
//! It gets a process group of its own. When it ends, or its time is up, whatever is left of the group is killed, so that a program that
//! forks and hangs cannot pile up processes from failover to failover. One that wants to leave something behind on purpose takes it out
//! of the group (`setsid`, `systemd-run`).

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// Where programs called by others are looked for. Ours is not handed down, so that a hook runs the same however we were started.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Output kept, standard output and standard error together. A journal entry is not a log.
const OUTPUT_BYTES_MAX: usize = 4096;

/// What was written before the end is read in this time; what a process outside the group still holds open is not waited for.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal of somebody else's.
    Killed,
    /// Its time was up.
    TimedOut,
    /// It never began.
    NotStarted(String),
}

impl Ending {
    /// In words that follow the program's name.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Exited(code) => format!("exited with {code}"),
            Self::Killed => "was killed".to_owned(),
            Self::TimedOut => "did not end in time and was killed".to_owned(),
            Self::NotStarted(error) => format!("could not be started: {error}"),
        }
    }
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) took: Duration,
    /// The beginning of what it wrote, without control characters but line ends.
    pub(super) output: String,
}

/// Runs a command, which is not empty, for at most `limit`.
///
/// # Cancel safety
/// When dropped, the program is killed; its children may live on.
pub(super) async fn run(
    command: &[String],
    environment: &[(&'static str, String)],
    limit: Duration,
) -> Ended {
    let began = Instant::now();
    let mut process = Command::new(&command[0]);
    process
        .args(&command[1..])
        .env_clear()
        .env("PATH", PATH)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) => {
            let ending = Ending::NotStarted(error.to_string());
            return Ended { ending, took: began.elapsed(), output: String::new() };
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let reading = futures_util::future::join(
        keep(child.stdout.take(), Arc::clone(&kept)),
        keep(child.stderr.take(), Arc::clone(&kept)),
    );
    tokio::pin!(reading);
    let waited = timeout(limit, async {
        let mut is_read = false;
        loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut reading, if !is_read => is_read = true,
            }
        }
        .map(|status| (status, is_read))
    })
    .await;
    if let Some(group) = group {
        // An error says that nobody is left. Process ids are given out in a circle of millions: this one is not another's yet.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let (ending, is_read) = match waited {
        Ok(Ok((status, is_read))) => {
            (status.code().map_or(Ending::Killed, Ending::Exited), is_read)
        }
        Ok(Err(error)) => (Ending::NotStarted(error.to_string()), true),
        Err(_) => (Ending::TimedOut, false),
    };
    let took = began.elapsed();
    if ending == Ending::TimedOut {
        // Reaped here; it was killed just now.
        let _ = timeout(LAST_WORDS, child.wait()).await;
    }
    if !is_read {
        // What is not read in time is not kept.
        let _ = timeout(LAST_WORDS, reading).await;
    }
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    Ended { ending, took, output: printable(&kept) }
}

/// Keeps the beginning and reads on, so that the program is not held up.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn code_output_and_environment_are_those_of_the_program() {
        let environment = [("HOLDFAST_REDIS_NAME", "main".to_owned())];
        let script = "echo \"$HOLDFAST_REDIS_NAME $HOME\"; printf 'no\\001t\\n' >&2; exit 3";
        let ended = run(&shell(script), &environment, LONG).await;
        assert_eq!(ended.ending, Ending::Exited(3));
        let mut lines: Vec<_> = ended.output.lines().map(str::trim_end).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["main", "not"]);
    }

    #[tokio::test]
    async fn output_without_end_is_cut_and_does_not_block() {
        let ended = run(&shell("yes | head -c 300000; exit 0"), &[], LONG).await;
        assert_eq!(ended.ending, Ending::Exited(0));
        assert!(ended.output.len() <= OUTPUT_BYTES_MAX);
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let ended = run(&["/nowhere/hook".to_owned()], &[], LONG).await;
        assert!(ended.ending.words().contains("No such file"), "{ended:?}");
    }

    /// Waits until no process has `mark` among its arguments.
    async fn gone(mark: &str) -> bool {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            let found = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                arguments.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
            });
            if !found {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        // Nobody else sleeps for just this long.
        let mark = format!("98{}.25", std::process::id());
        let script = format!("echo begun; sleep {mark} & sleep {mark}");
        let ended = run(&shell(&script), &[], Duration::from_millis(500)).await;
        assert_eq!(ended.ending, Ending::TimedOut);
        assert!(gone(&mark).await, "a child lives on");
    }

    #[tokio::test]
    async fn a_child_left_behind_neither_delays_the_end_nor_lives_on() {
        let mark = format!("97{}.25", std::process::id());
        let ended = run(&shell(&format!("sleep {mark} & echo done")), &[], LONG).await;
        assert_eq!((ended.ending, ended.output.as_str()), (Ending::Exited(0), "done"));
        assert!(gone(&mark).await, "the child lives on");
    }
}
