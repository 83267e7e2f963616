//! `holdfast up` with the real programs beside it: what it generates, what it restarts, what it refuses. Whole-cluster behaviour is tested
//! from the outside in the workspace's end-to-end tests.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// `up` is ready within seconds; the machine may be compiling beside it.
const READY_WITHIN: Duration = Duration::from_mins(2);
const SOON: Duration = Duration::from_mins(1);

fn holdfast() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_holdfast"))
}

/// A program of the workspace beside `holdfast`.
fn beside(name: &str) -> PathBuf {
    let path = holdfast().with_file_name(name);
    assert!(path.exists(), "{} is not there: run `make dev` first", path.display());
    path
}

#[expect(clippy::disallowed_methods, reason = "real programs need real time")]
fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => assert!(begun.elapsed() < deadline, "waited too long for {what}: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A running `holdfast up`; it ends with the test, and everything it started ends with it.
struct Up {
    child: Child,
    dir: TempDir,
}

impl Up {
    fn start(args: &[&str]) -> Self {
        beside("holdfast-chatnode");
        beside("holdfast-balancer");
        let dir = tempfile::tempdir().unwrap();
        let log = fs::File::create(dir.path().join("up.log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(holdfast())
            .args(["up", "--ports", "free", "--state-dir", "state"])
            .args(args)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut up = Self { child, dir };
        until("holdfast up", READY_WITHIN, || {
            assert!(up.child.try_wait().unwrap().is_none(), "it ended: {}", up.log());
            if up.path("state/latest").exists() { Ok(()) } else { Err(up.log()) }
        });
        up
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    fn pid(&self, program: &str) -> Result<u32, String> {
        let path = self.path("state/latest/pids").join(format!("{program}.pid"));
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| text)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its children die with it, by the kernel's hand.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn run(program: &Path, args: &[&str], dir: &Path) -> (Option<i32>, String) {
    let output: Output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env_remove("HOLDFAST_SERVER")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_small_cluster_has_good_settings_and_restarts_what_crashes() {
    let up = Up::start(&["--nodes", "1", "--replicas", "1"]);
    for (program, file) in [
        (holdfast(), "holdfast.toml"),
        (beside("holdfast-chatnode"), "chatnode-1.toml"),
        (beside("holdfast-balancer"), "balancer.toml"),
    ] {
        let config = up.path("state/latest/etc").join(file);
        let config = config.to_str().unwrap();
        let args: &[&str] = match file {
            "holdfast.toml" => &["supervise", "--config", config, "--check-config"],
            _ => &["--config", config, "--check-config"],
        };
        let (code, output) = run(&program, args, up.dir.path());
        assert_eq!(code, Some(0), "{file}: {output}");
    }
    let secret = fs::metadata(up.path("state/latest/secrets/chat.secret")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&secret.permissions()) & 0o777, 0o600);

    for program in ["chatnode-1", "supervisor"] {
        let before = up.pid(program).unwrap();
        let killed = Command::new("kill").args(["-9", &before.to_string()]).status().unwrap();
        assert!(killed.success());
        until("the restart", SOON, || match up.pid(program) {
            Ok(pid) if pid != before => Ok(()),
            other => Err(format!("{other:?}\n{}", up.log())),
        });
        let line = format!("{program} was killed by SIGKILL; starting it again in ");
        assert!(up.log().contains(&line), "{}", up.log());
    }
    // The log of events goes on with the new supervisor.
    until("the new supervisor's events", SOON, || {
        let log = up.log();
        if log.matches("supervisor started").count() == 2 { Ok(()) } else { Err(log) }
    });
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(dir.path().join("up.toml"), format!("[ports]\nredis = {port}\n")).unwrap();
    fs::write(dir.path().join("bad.toml"), "nodes = 2\nnods = 3\n").unwrap();
    for (args, code, words) in [
        (&["--config", "up.toml"][..], 1, format!("{port} (redis-1): ")),
        (&["--config", "bad.toml"][..], 2, "bad.toml:2: nods: unknown field".to_owned()),
        (&["--nodes", "0"][..], 2, "nodes: expected 1 to 20, found 0".to_owned()),
        (&["--exit-after", "soon"][..], 2, "is not a duration".to_owned()),
    ] {
        let all = [&["up"][..], args].concat();
        let (found, output) = run(&holdfast(), &all, dir.path());
        assert_eq!(found, Some(code), "{output}");
        assert!(output.contains(&words), "{words:?} is not in {output}");
    }
    assert!(!dir.path().join(".holdfast").exists(), "something was begun");
}

#[test]
fn missing_programs_are_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(holdfast())
        .arg("up")
        .current_dir(&dir)
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("redis-server is not installed: apt-get install redis-server"), "{text}");

    // Alone in a folder it does not find its siblings.
    let alone = dir.path().join("holdfast");
    // By a process of its own: were the file open for writing here, a child that another test starts could have it open a moment longer,
    // and the kernel runs no file that is open for writing.
    assert!(Command::new("cp").arg(holdfast()).arg(&alone).status().unwrap().success());
    let (code, text) = run(&alone, &["up"], dir.path());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("holdfast-balancer is not beside holdfast in "), "{text}");
}

#[test]
fn commands_say_which_supervisor_they_miss() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let output = Command::new(holdfast())
        .arg("status")
        .current_dir(&dir)
        .env("HOME", home)
        .env_remove("HOLDFAST_SERVER")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(".holdfast/latest/client.toml"), "{text}");
    let (code, text) = run(&holdfast(), &["status", "--server", "http://127.0.0.1:1"], dir.path());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot reach the supervisor at http://127.0.0.1:1: "), "{text}");
    let (code, text) =
        run(&holdfast(), &["drain", "a", "--server", "http://127.0.0.1:1"], dir.path());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--token-file"), "{text}");
}

#[test]
fn the_help_names_every_command_and_the_exit_codes() {
    let (code, help) = run(&holdfast(), &["--help"], Path::new("/"));
    assert_eq!(code, Some(0));
    for word in [
        "up",
        "supervise",
        "status",
        "events",
        "incidents",
        "drain",
        "weight",
        "ready",
        "failover",
        "backup",
        "restore",
        "drill",
        "check-config",
        "token",
        "chat",
        "HOLDFAST_SERVER",
        "Exit codes:",
    ] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
    let (code, text) =
        run(&holdfast(), &["token", "--user", "ann", "--secret-file", "/nowhere"], Path::new("/"));
    assert_eq!(code, Some(2));
    assert!(text.contains("/nowhere"), "{text}");
}
