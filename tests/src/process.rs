//! Programs that die with the test, even when the test is killed.
//!
//! A program is started through `setpriv --pdeathsig KILL`: the kernel kills it when the thread that started it ends, and a test's
//! thread lives as long as the test. Dropping the handle kills it too.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait;

/// A running program with its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `program` with `args`; standard output and standard error go to `output`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(program: &Path, args: &[&str], output: &Path) -> Self {
        let file = File::create(output).expect("the test's own folder is writable");
        let errors = file.try_clone().expect("a file handle can be doubled");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        Self { child, output: output.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far.
    pub fn output(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.output) {
            // A partial character at the end of a growing file is no reason to fail.
            let mut bytes = Vec::new();
            if file.read_to_end(&mut bytes).is_ok() {
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        text
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    /// If the system does not know the child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Waits for it to end.
    ///
    /// # Panics
    /// If it has not ended by the deadline; with its output.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let output = self.output.clone();
        wait::until("a program to end", deadline, async || {
            self.ended().ok_or_else(|| std::fs::read_to_string(&output).unwrap_or_default())
        })
        .await
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        signal_pid(self.pid(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sends a signal to a process the test's cluster started.
///
/// # Panics
/// If there is no such process.
pub fn signal_pid(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    nix::sys::signal::kill(pid, signal)
        .unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command's name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// Runs a program to its end and returns its status and all it printed.
///
/// # Panics
/// If it cannot be started.
pub async fn run(program: &Path, args: &[&str]) -> (ExitStatus, String) {
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|error| panic!("run {}: {error}", program.display()));
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status, text)
}

/// A binary of this workspace, from the folder the tests were built into.
///
/// # Panics
/// If it was not built: `cargo build --workspace --bins` comes first.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program knows its file");
    let folder = test.ancestors().nth(2).expect("target/debug/deps/test");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not there: run `make dev` first", path.display());
    path
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A loopback address that nobody else gets while this process lives.
///
/// # Panics
/// If the machine has no free port left.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, holdfast_ports::take().expect("a free port")).into()
}

/// An HTTP client that goes straight to loopback, whatever proxy the environment names.
///
/// # Panics
/// If TLS cannot be set up.
pub fn http_client() -> reqwest::Client {
    // Another test of the same process may have been first, which is as good.
    let _first = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client with a TLS provider")
}
