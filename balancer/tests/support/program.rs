//! The program itself as a process, and whatever it starts in its place.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{DEADLINE, Response, TOKEN, request, until};

/// The program, in a process group that ends with this process, however it ends, and with it whatever the program starts.
pub(crate) struct Program {
    group: Child,
    /// The process that serves.
    pub(crate) process: Pid,
    /// Its operator API.
    pub(crate) admin: SocketAddr,
    lines: Receiver<String>,
    dir: TempDir,
}

/// How it is started.
#[derive(Default)]
pub(crate) struct Start {
    /// Below the usual keys of `[admin]`.
    pub(crate) settings: String,
    /// Beside the usual environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Given to it as a service manager does.
    pub(crate) socket: Option<TcpListener>,
    /// Where everything of it stands.
    pub(crate) dir: Option<TempDir>,
}

impl Program {
    /// Starts it with these settings below the usual keys of `[admin]`.
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_as(Start { settings: settings.to_owned(), ..Start::default() })
    }

    pub(crate) fn start_as(start: Start) -> Self {
        let dir = start.dir.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("token"), TOKEN).unwrap();
        std::fs::write(path("balancer.toml"), super::text(&dir, &start.settings)).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_holdfast-balancer"), path("program"))
            .unwrap();
        // A socket comes as stderr, and goes to where a service manager puts it.
        let (given, stderr) = match start.socket {
            Some(socket) => {
                ("export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&2", OwnedFd::from(socket))
            }
            None => ("exec \"$@\"", File::open("/dev/null").unwrap().into()),
        };
        // Whoever holds its standard input is the one it lives for.
        let script = format!(
            "sh -c '{given} 2>>\"$LOG\"' sh \"$@\" </dev/null & echo \"process $!\"; \
             cat >/dev/null; kill -KILL 0"
        );
        let mut group = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(path("program"))
            .arg("--config")
            .arg(path("balancer.toml"))
            .env("LOG", path("log"))
            .envs(start.environment)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let (say, lines) = channel();
        let output = BufReader::new(group.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Nobody may be interested any more.
                let _ = say.send(line);
            }
        });
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut program = Self { group, process: Pid::from_raw(1), admin, lines, dir };
        program.process = Pid::from_raw(program.said("process ").parse().unwrap());
        program.admin = program.said("listening admin ").parse().unwrap();
        program
    }

    /// What it says after `prefix`.
    pub(crate) fn said(&self, prefix: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("no {prefix}; its log: {}", self.log()));
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    /// Where listener `l` is, from what it says when it starts.
    pub(crate) fn listener(&self) -> SocketAddr {
        self.said("listening listener:l ").parse().unwrap()
    }

    /// Something of it in the file system.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything it and its like have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Writes other settings, which a reload or another program will find.
    pub(crate) fn write(&self, settings: &str) {
        std::fs::write(self.path("balancer.toml"), super::text(&self.dir, settings)).unwrap();
    }

    /// Puts a script in the place of the program's file, or the program itself.
    pub(crate) fn replace_by(&self, script: Option<&str>) {
        let fresh = self.path("fresh");
        if let Some(script) = script {
            // By another process: a file that one of ours has open for writing, by a fork at the wrong moment, could not be started.
            let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 700 \"$1\"";
            let mut command = Command::new("sh");
            let written = command.args(["-c", write, "sh"]).arg(&fresh).arg(script).status();
            assert!(written.unwrap().success());
        } else {
            let program = env!("CARGO_BIN_EXE_holdfast-balancer");
            std::os::unix::fs::symlink(program, &fresh).unwrap();
        }
        std::fs::rename(fresh, self.path("program")).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.process, signal).unwrap();
    }

    /// The processes this one has started and not seen the end of.
    pub(crate) fn children(&self) -> Vec<Pid> {
        // Each thread has its own.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process)).unwrap();
        let children = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
        let all = children.collect::<String>();
        all.split_whitespace().map(|text| Pid::from_raw(text.parse().unwrap())).collect()
    }

    /// Asks the operator API.
    pub(crate) async fn api(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> (u16, serde_json::Value) {
        let response = api(self.admin, method, path, body).await;
        (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
    }

    /// A server of the pool `p`, as the operator API shows it.
    pub(crate) async fn server(&self, name: &str) -> serde_json::Value {
        let (_, pool) = self.api("GET", "/pools/p", "").await;
        let servers = pool["servers"].as_array().cloned().unwrap_or_default();
        servers.into_iter().find(|server| server["name"] == name).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.group.stdin.take());
        // It has killed its group and itself.
        let _ = self.group.wait();
    }
}

/// Asks an operator API.
pub(crate) async fn api(admin: SocketAddr, method: &str, path: &str, body: &str) -> Response {
    let token = format!("Bearer {TOKEN}");
    let path = format!("/api/v1{path}");
    request(admin, method, &path, &[("Authorization", &token)], body.as_bytes()).await
}

/// Waits until a process has ended, whether or not anybody has taken note of it.
pub(crate) async fn wait_ended(process: Pid) {
    until(&format!("the end of {process}"), async || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The state stands behind the name, which is in brackets.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if state.is_empty() || state.starts_with('Z') { Ok(()) } else { Err(stat) }
    })
    .await;
}
