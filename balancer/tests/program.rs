//! The binary: exit codes, what it prints, signals.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A folder with a token and settings.
fn write(settings: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "t").unwrap();
    let file = dir.path().join("balancer.toml");
    let token = dir.path().join("token");
    std::fs::write(&file, settings.replace("TOKEN", token.to_str().unwrap())).unwrap();
    (dir, file)
}

const SETTINGS: &str = r#"
[admin]
listen = "127.0.0.1:0"
token_file = "TOKEN"
[[listener]]
name = "chat"
listen = "127.0.0.1:0"
pool = "chat"
[[pool]]
name = "chat"
[[pool.server]]
name = "a"
address = "127.0.0.1:9"
"#;

/// Ends with the thread of the test that started it, or when it is dropped.
struct Program(Child);

impl Program {
    fn start(file: &Path, arguments: &[&str]) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_holdfast-balancer")])
            .arg("--config")
            .arg(file)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Exit code, and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Most have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn bad_settings_end_it_with_2_before_anything_is_bound() {
    for arguments in [&[][..], &["--check-config"]] {
        let wrong = SETTINGS.replace("pool = \"chat\"", "pool = \"chta\"").replace(":9\"", "\"");
        let (_dir, file) = write(&wrong);
        let (code, said) = Program::start(&file, arguments).end();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("balancer.toml:8: listener[0].pool: there is no pool"), "{said}");
        assert!(said.contains("pool[0].server[0].address: expected host:port"), "{said}");
    }
}

#[test]
fn a_complaint_tells_no_password() {
    let wrong = SETTINGS.replace("127.0.0.1:9\"", "http://user:hunter2@127.0.0.1:9\"");
    let (_dir, file) = write(&wrong);
    let (code, said) = Program::start(&file, &[]).end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("found \"http://<redacted>@127.0.0.1:9\""), "{said}");
}

#[test]
fn right_settings_pass_the_check() {
    let (_dir, file) = write(SETTINGS);
    assert_eq!(Program::start(&file, &["--check-config"]).end(), (Some(0), String::new()));
}

#[test]
fn an_occupied_address_ends_it_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = "name = \"chat\"\nlisten = \"127.0.0.1:0\"";
    let (_dir, file) =
        write(&SETTINGS.replace(listen, &format!("name = \"chat\"\nlisten = \"{address}\"")));
    let (code, said) = Program::start(&file, &[]).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("listener[0].listen: bind {address}: ")), "{said}");
}

#[test]
fn it_announces_its_addresses_and_ends_on_a_signal_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (_dir, file) = write(SETTINGS);
        let mut program = Program::start(&file, &[]);
        let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("listening admin 127.0.0.1:"));
        assert!(lines.next().unwrap().unwrap().starts_with("listening listener:chat 127.0.0.1:"));
        // A reload is no end.
        program.signal(Signal::SIGHUP);
        program.signal(signal);
        let (code, said) = program.end();
        assert_eq!(code, Some(0), "{signal}: {said}");
        assert!(!said.contains("\"level\":\"ERROR\""), "{said}");
    }
}

#[test]
fn top_shows_a_running_balancer_by_its_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("balancer.sock");
    let unix = format!("[admin.unix]\npath = \"{}\"\n[[listener]]", socket.display());
    let (_dir, file) = write(&SETTINGS.replacen("[[listener]]", &unix, 1));
    let mut program = Program::start(&file, &[]);
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    // It announces its listeners once the operator API answers.
    lines
        .find(|line| line.as_ref().unwrap().starts_with("listening listener:chat"))
        .unwrap()
        .unwrap();
    let top = |file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-balancer"));
        command
            .args(["top", "--once", "--interval", "50ms", "--config"])
            .arg(file)
            .output()
            .unwrap()
    };
    let output = top(&file);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = text.lines().find(|line| line.trim_start().starts_with("a ")).unwrap();
    assert!(server.contains("ready") && server.contains("100/100"), "{text}");
    assert!(text.contains("POOL chat") && text.contains("127.0.0.1:"), "{text}");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().0, Some(0));
    let output = top(&file);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ask the balancer at") && said.contains("balancer.sock"), "{said}");
}
