//! Putting faults into processes on this host, and taking them out again.
//!
//! A process is found by its pid file, and struck only if `/proc` says that it is the program that is meant: a pid file outlives its
//! process, and its number may belong to anything by then. What was struck is remembered with its start time, so that undoing never
//! reaches a stranger either. Rejected: finding processes by name or port, which strikes the neighbour's on a shared host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Why a fault could not be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The pid file cannot be read.
    #[error("read the pid file {}", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pid file does not hold a pid.
    #[error("the pid file {} holds no process id", path.display())]
    NotAPid {
        /// The file.
        path: PathBuf,
    },
    /// No such process runs.
    #[error("process {pid} of the pid file {} is not running", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
        /// The number in it.
        pid: i32,
    },
    /// The pid belongs to another program by now.
    #[error("process {pid} of the pid file {} is {found:?}, not {program}", path.display())]
    AnotherProgram {
        /// The file.
        path: PathBuf,
        /// The number in it.
        pid: i32,
        /// What was expected.
        program: String,
        /// What it is.
        found: String,
    },
    /// The signal was refused.
    #[error("send {signal} to {program} (process {pid})")]
    Signal {
        /// Which signal.
        signal: Signal,
        /// What it was meant for.
        program: String,
        /// Its number.
        pid: i32,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// A running process; two with the same number at different times are different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// Clock ticks since boot.
    started: u64,
    program: String,
}

impl Process {
    /// The process of `pid_file`, if it is `program`.
    ///
    /// # Errors
    /// There is no such file or process, or it is something else.
    pub fn find(pid_file: &Path, program: &str) -> Result<Self, FaultError> {
        let path = || pid_file.to_owned();
        let text = fs::read_to_string(pid_file)
            .map_err(|source| FaultError::PidFile { path: path(), source })?;
        // 0 and negative numbers mean groups of processes to kill(2), and 1 is init.
        let pid = text.trim().parse().ok().filter(|pid: &i32| *pid > 1);
        let pid = pid.ok_or_else(|| FaultError::NotAPid { path: path() })?;
        let gone = || FaultError::Gone { path: path(), pid };
        let started = started(pid).ok_or_else(gone)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| gone())?;
        let found = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let found = String::from_utf8_lossy(found).into_owned();
        if !is_program(&found, program) {
            let program = program.to_owned();
            return Err(FaultError::AnotherProgram { path: path(), pid, program, found });
        }
        Ok(Self { pid, started, program: program.to_owned() })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_running(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    fn send(&self, signal: Signal) -> Result<(), FaultError> {
        let (program, pid) = (self.program.clone(), self.pid);
        kill(Pid::from_raw(pid), signal).map_err(|source| FaultError::Signal {
            signal,
            program,
            pid,
            source,
        })
    }
}

/// When a process started, in clock ticks since boot; `None` if there is none or only its remains.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, and may itself hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // Field 22 of proc(5); the state is field 3.
    fields.nth(18)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

/// Whether `argv0` names `program`: as a path, or as a title that goes on after a space (`redis-server 127.0.0.1:6379`).
fn is_program(argv0: &str, program: &str) -> bool {
    let ends = argv0.match_indices(' ').map(|(end, _)| end).chain([argv0.len()]);
    ends.into_iter().any(|end| argv0[..end].rsplit('/').next() == Some(program))
}

/// A fault to put into a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It dies at once (SIGKILL), as in a crash. Whoever supervises it starts it again; that is part of what is rehearsed.
    Kill {
        /// Where its number is.
        pid_file: PathBuf,
        /// What it must be.
        program: String,
    },
    /// It hangs (SIGSTOP) until the fault is undone.
    Pause {
        /// Where its number is.
        pid_file: PathBuf,
        /// What it must be.
        program: String,
    },
}

impl Fault {
    /// Puts it in.
    ///
    /// # Errors
    /// The process was not found, is something else, or cannot be signalled.
    pub fn inject(&self) -> Result<Injected, FaultError> {
        let (pid_file, program, signal) = match self {
            Self::Kill { pid_file, program } => (pid_file, program, Signal::SIGKILL),
            Self::Pause { pid_file, program } => (pid_file, program, Signal::SIGSTOP),
        };
        let process = Process::find(pid_file, program)?;
        process.send(signal)?;
        let is_paused = signal == Signal::SIGSTOP;
        Ok(Injected { process, pid_file: pid_file.clone(), is_paused })
    }
}

/// A fault that is in. Undone when dropped, so that a drill that ends in any way leaves nothing behind.
#[derive(Debug)]
pub struct Injected {
    process: Process,
    pid_file: PathBuf,
    is_paused: bool,
}

impl Injected {
    /// What was struck.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether another process of the same program has taken its place.
    pub fn is_replaced(&self) -> bool {
        !self.process.is_running()
            && Process::find(&self.pid_file, &self.process.program)
                .is_ok_and(|now| now != self.process)
    }

    /// Takes it out. Does nothing the second time, and nothing if the process is gone.
    ///
    /// # Errors
    /// The process cannot be signalled.
    pub fn undo(&mut self) -> Result<(), FaultError> {
        if self.is_paused && self.process.is_running() {
            self.process.send(Signal::SIGCONT)?;
        }
        self.is_paused = false;
        Ok(())
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            let error = holdfast_telemetry::errors::Chain(&error);
            tracing::error!(%error, "fault not undone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    /// A real process that dies with the test.
    struct Sleep {
        child: Child,
        pid_file: tempfile::NamedTempFile,
    }

    impl Sleep {
        fn start() -> Self {
            let mut command = Command::new("setpriv");
            let child = command.args(["--pdeathsig", "KILL", "sleep", "600"]).spawn().unwrap();
            let pid_file = tempfile::NamedTempFile::new().unwrap();
            let sleep = Self { child, pid_file };
            sleep.note();
            // setpriv becomes sleep.
            wait("sleep to start", || Process::find(sleep.path(), "sleep").is_ok());
            sleep
        }

        fn note(&self) {
            fs::write(&self.pid_file, format!("{}\n", self.child.id())).unwrap();
        }

        fn path(&self) -> &Path {
            self.pid_file.path()
        }

        fn state(&self) -> String {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
            stat.rsplit_once(") ").unwrap().1[..1].to_owned()
        }
    }

    impl Drop for Sleep {
        fn drop(&mut self) {
            // Most tests have killed it already.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "real processes change in real time")]
    fn wait(what: &str, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(10), "waited too long for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_killed_process_is_gone_and_then_replaced() {
        let mut sleep = Sleep::start();
        let (pid_file, program) = (sleep.path().to_owned(), "sleep".to_owned());
        let mut injected = Fault::Kill { pid_file, program }.inject().unwrap();
        wait("the kill", || !injected.process().is_running());
        assert!(!injected.is_replaced());
        sleep.child.wait().unwrap();
        let error = Process::find(sleep.path(), "sleep").unwrap_err();
        assert!(error.to_string().ends_with("is not running"), "{error}");

        let next = Sleep::start();
        fs::copy(next.path(), sleep.path()).unwrap();
        assert!(injected.is_replaced());
        injected.undo().unwrap();
        assert!(Process::find(next.path(), "sleep").unwrap().is_running());
    }

    #[test]
    fn a_paused_process_goes_on_once_it_is_undone_or_forgotten() {
        let sleep = Sleep::start();
        let fault = Fault::Pause { pid_file: sleep.path().to_owned(), program: "sleep".to_owned() };
        let mut injected = fault.inject().unwrap();
        wait("the pause", || sleep.state() == "T");
        injected.undo().unwrap();
        injected.undo().unwrap();
        wait("the end of the pause", || sleep.state() == "S");
        drop(fault.inject().unwrap());
        wait("the end of the second pause", || sleep.state() == "S");
    }

    #[test]
    fn another_program_is_never_struck() {
        let sleep = Sleep::start();
        let fault =
            Fault::Kill { pid_file: sleep.path().to_owned(), program: "redis-server".to_owned() };
        let error = fault.inject().unwrap_err();
        assert!(error.to_string().ends_with("is \"sleep\", not redis-server"), "{error}");
        wait("sleep to go on sleeping", || sleep.state() == "S");
        for text in ["", "0", "-1", "1", "redis"] {
            fs::write(sleep.path(), text).unwrap();
            assert!(matches!(fault.inject(), Err(FaultError::NotAPid { .. })), "{text:?}");
        }
        let nowhere = Fault::Kill { pid_file: "/nowhere/redis.pid".into(), program: String::new() };
        assert_eq!(
            nowhere.inject().unwrap_err().to_string(),
            "read the pid file /nowhere/redis.pid"
        );
    }

    #[test]
    fn programs_are_known_by_path_and_by_title() {
        for (argv0, is_it) in [
            ("redis-server", true),
            ("/usr/bin/redis-server 127.0.0.1:6379", true),
            ("redis-server unixsocket:/run/redis.sock", true),
            ("/my programs/redis-server *:6379", true),
            ("redis-server-old", false),
            ("vi /etc/redis-server/x", false),
            ("", false),
        ] {
            assert_eq!(is_program(argv0, "redis-server"), is_it, "{argv0}");
        }
    }
}
