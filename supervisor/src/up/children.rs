//! The programs of the local cluster: started, watched, started again, stopped.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::folder::Run;
use super::{UpError, show};

/// The wait before a restart doubles up to this while a program keeps ending, or up to the configured wait if that is longer.
const RESTART_AFTER_MAX: Duration = Duration::from_secs(30);

/// A program that ran for this many times the wait has recovered; the next restart is a quick one again. A minute by default.
const STABLE_WAITS: u32 = 15;

/// A program that has not ended this long after SIGTERM is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Time between two looks at whether a program is ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lines of a program's output shown when it does not come up.
const LOG_LINES: usize = 15;
const LOG_BYTES: usize = 16 * 1024;

/// When a program is stopped: the supervisor before it can take the rest of the stop for a disaster, Redis when nobody writes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Supervisor,
    Balancer,
    Nodes,
    Redis,
}

const STAGES: [Stage; 4] = [Stage::Supervisor, Stage::Balancer, Stage::Nodes, Stage::Redis];

/// How a program is run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    name: String,
    stage: Stage,
    command: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
}

impl Program {
    pub(super) fn new<'a>(
        run: &Run,
        name: &str,
        stage: Stage,
        command: &Path,
        arguments: impl IntoIterator<Item = &'a OsStr>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            stage,
            command: command.to_owned(),
            arguments: arguments.into_iter().map(OsStr::to_owned).collect(),
            folder: run.folder().to_owned(),
            log: run.log(name),
            pid_file: run.pid_file(name),
        }
    }

    /// Starts it. The kernel kills it when the thread that calls this ends.
    fn spawn(&self) -> std::io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let errors = log.try_clone()?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.command)
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C in the terminal is for us alone; we stop them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        let written = self.pid_file.with_extension("tmp");
        std::fs::write(&written, format!("{pid}\n"))?;
        std::fs::rename(&written, &self.pid_file)?;
        Ok(child)
    }

    /// The end of its output.
    fn last_lines(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(LOG_BYTES)..];
        let text = String::from_utf8_lossy(tail);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
        shown.iter().flat_map(|line| ["\n  | ", line]).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Running(u32),
    Ended(String),
}

/// A program that is kept running.
struct Kept {
    program: Program,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All programs of the cluster. Dropping it kills them.
pub(super) struct Children {
    kept: Vec<Kept>,
    news: mpsc::Sender<String>,
    restart: watch::Sender<bool>,
    /// Wait before a program that ended is started again.
    restart_after: Duration,
}

impl Drop for Children {
    fn drop(&mut self) {
        // A dropped task drops its child, which is killed.
        for kept in &self.kept {
            kept.task.abort();
        }
    }
}

impl Children {
    pub(super) fn new(news: mpsc::Sender<String>, restart_after: Duration) -> Self {
        Self { kept: Vec::new(), news, restart: watch::Sender::new(false), restart_after }
    }

    /// Starts a program and keeps it running, from [`Children::restart_from_now_on`] on.
    pub(super) fn start(&mut self, program: Program) -> Result<(), UpError> {
        let child = program.spawn().map_err(|error| {
            UpError::NotReady(format!("{} cannot be started: {error}", program.name))
        })?;
        let (sender, state) = watch::channel(State::Running(child.id().unwrap_or_default()));
        let stop = CancellationToken::new();
        let keeper = Keeper {
            program: program.clone(),
            state: sender,
            stop: stop.clone(),
            restart: self.restart.subscribe(),
            restart_after: self.restart_after,
            news: self.news.clone(),
        };
        let task = tokio::spawn(keeper.run(child));
        self.kept.push(Kept { program, state, stop, task });
        Ok(())
    }

    /// Waits until `ready` says so; the program's own words if it does not by the deadline or one of the programs ends.
    pub(super) async fn wait_for(
        &self,
        name: &str,
        deadline: Instant,
        mut ready: impl AsyncFnMut() -> Result<(), String>,
    ) -> Result<(), UpError> {
        loop {
            let Err(reason) = ready().await else { return Ok(()) };
            for kept in &self.kept {
                if let State::Ended(how) = &*kept.state.borrow() {
                    let (name, log) = (&kept.program.name, kept.program.last_lines());
                    return Err(UpError::NotReady(format!("{name} did not come up: {how}{log}")));
                }
            }
            if Instant::now() >= deadline {
                let kept = self.kept.iter().find(|kept| kept.program.name == name);
                let log = kept.map(|kept| kept.program.last_lines()).unwrap_or_default();
                return Err(UpError::NotReady(format!(
                    "{name} is not ready in time: {reason}{log}"
                )));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Everything is up: from now on a program that ends is started again.
    pub(super) fn restart_from_now_on(&self) {
        self.restart.send_replace(true);
    }

    /// The process id of a program that runs.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        let kept = self.kept.iter().find(|kept| kept.program.name == name)?;
        match *kept.state.borrow() {
            State::Running(pid) => Some(pid),
            State::Ended(_) => None,
        }
    }

    /// Stops everything, stage by stage; nothing is left afterwards.
    pub(super) async fn stop(&mut self) {
        for stage in STAGES {
            let (now, later) = std::mem::take(&mut self.kept)
                .into_iter()
                .partition(|kept| kept.program.stage == stage);
            self.kept = later;
            let now: Vec<Kept> = now;
            for kept in &now {
                kept.stop.cancel();
            }
            for kept in now {
                // A keeper that panicked has dropped its child, which is killed by that.
                let _panicked = kept.task.await;
            }
        }
    }
}

/// The task that keeps one program running.
struct Keeper {
    program: Program,
    state: watch::Sender<State>,
    stop: CancellationToken,
    restart: watch::Receiver<bool>,
    restart_after: Duration,
    news: mpsc::Sender<String>,
}

impl Keeper {
    async fn run(mut self, first: Child) {
        let mut child = Some(first);
        let mut pause = self.restart_after;
        loop {
            let begun = Instant::now();
            let how = match child.take().map_or_else(|| self.program.spawn(), Ok) {
                Ok(mut child) => {
                    self.state.send_replace(State::Running(child.id().unwrap_or_default()));
                    tokio::select! {
                        status = child.wait() => status.map_or_else(|e| e.to_string(), describe),
                        () = self.stop.cancelled() => return self.end(child).await,
                    }
                }
                Err(error) => format!("cannot be started: {error}"),
            };
            self.forget_pid();
            self.state.send_replace(State::Ended(how.clone()));
            if begun.elapsed() >= self.restart_after * STABLE_WAITS {
                pause = self.restart_after;
            }
            let name = &self.program.name;
            let again = async {
                // An error means that the cluster is being dropped, and this task with it.
                let _dropped = self.restart.wait_for(|restart| *restart).await.is_err();
                show::say(
                    &self.news,
                    format!("{name} {how}; starting it again in {} s", pause.as_secs_f64()),
                );
                sleep(pause).await;
            };
            tokio::select! {
                () = again => {}
                () = self.stop.cancelled() => return,
            }
            show::say(&self.news, format!("{} is started again", self.program.name));
            pause = (pause * 2).min(RESTART_AFTER_MAX.max(self.restart_after));
        }
    }

    async fn end(&self, mut child: Child) {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            // It may have ended in this very moment.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
            // A program that was stopped by SIGSTOP hears of it only when it goes on.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        if timeout(STOP_WITHIN, child.wait()).await.is_err() {
            let seconds = STOP_WITHIN.as_secs();
            show::say(
                &self.news,
                format!("{} did not end within {seconds} s; killed", self.program.name),
            );
            // Waits for it, too; an error means that it has ended.
            let _ended = child.kill().await;
        }
        self.forget_pid();
    }

    fn forget_pid(&self) {
        // Without the file nobody takes the number for this program, even when the kernel gives it to another.
        let _absent = std::fs::remove_file(&self.program.pid_file);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal().and_then(|signal| Signal::try_from(signal).ok())) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}
