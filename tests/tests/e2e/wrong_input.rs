//! What is wrong is said with file, line and key, with the right exit code, and nothing is half started.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::process::{self, Process, binary};
use holdfast_tests::wait;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);

/// A folder with a supervisor's settings that are in order.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "secret\n").unwrap();
        fs::write(dir.path().join("rules.yml"), "groups: []\n").unwrap();
        let folder = Self(dir);
        folder.write("holdfast.toml", SETTINGS);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn check(&self) -> (Option<i32>, String) {
        let config = self.path("holdfast.toml");
        let (status, output) =
            process::run(&binary("holdfast"), &["check-config", config.to_str().unwrap()]).await;
        (status.code(), output)
    }
}

const SETTINGS: &str = r#"[supervisor]
listen = "127.0.0.1:0"
token_file = "token"
state_dir = "state"

[rules]
files = ["rules.yml"]

[[node]]
name = "chatnode-1"
metrics = "127.0.0.1:1"

[balancer]
admin = "127.0.0.1:1"
token_file = "token"
pool = "chat"
"#;

#[tokio::test]
async fn settings_in_order_are_accepted() {
    let (code, output) = Folder::new().check().await;
    assert_eq!(code, Some(0), "{output}");
}

#[tokio::test]
async fn every_fault_in_the_settings_is_named() {
    let folder = Folder::new();
    let wrong = SETTINGS.replace("pool =", "poool =");
    folder.write("holdfast.toml", &wrong);
    let (code, output) = folder.check().await;
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("holdfast.toml:16: balancer.poool: unknown field `poool`"), "{output}");

    let wrong = SETTINGS.replace("127.0.0.1:0", "nowhere").replace("chatnode-1", "chat node");
    folder.write("holdfast.toml", &wrong);
    let (code, output) = folder.check().await;
    assert_eq!(code, Some(2), "{output}");
    for fault in ["holdfast.toml:2: supervisor.listen: ", "holdfast.toml:10: node[0].name: "] {
        assert!(output.contains(fault), "{fault} is not in {output}");
    }
}

#[tokio::test]
async fn a_bad_rule_file_is_named_with_line_and_key() {
    let folder = Folder::new();
    folder.write(
        "rules.yml",
        "groups:\n  - name: a\n    rules:\n      - alert: Broken\n        expr: up ==\n        for: soon\n",
    );
    let (code, output) = folder.check().await;
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("rules.yml:5: ") && output.contains("expr"), "{output}");
    assert!(output.contains("rules.yml:6: ") && output.contains("for"), "{output}");

    // The daemon refuses it too, before it listens anywhere.
    let config = folder.path("holdfast.toml");
    let args = ["supervise", "--config", config.to_str().unwrap()];
    let (status, output) = process::run(&binary("holdfast"), &args).await;
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(!output.contains("listening"), "{output}");
}

#[tokio::test]
async fn a_missing_rule_file_is_named() {
    let folder = Folder::new();
    fs::remove_file(folder.path("rules.yml")).unwrap();
    let (code, output) = folder.check().await;
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("rules.yml") && output.contains("rules.files"), "{output}");
}

#[tokio::test]
async fn an_occupied_port_is_named_and_nothing_is_started() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    folder.write("holdfast.toml", &SETTINGS.replace("127.0.0.1:0", &address));
    let config = folder.path("holdfast.toml");
    let args = ["supervise", "--config", config.to_str().unwrap()];
    let (status, output) = process::run(&binary("holdfast"), &args).await;
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("supervisor.listen") && output.contains(&address), "{output}");
    assert!(!folder.path("state").exists(), "something was begun");

    let state = folder.path("up");
    let ports = folder.path("up.toml");
    fs::write(&ports, format!("[ports]\nchat = {}\n", taken.local_addr().unwrap().port())).unwrap();
    let args = ["up", "--state-dir", state.to_str().unwrap(), "--config", ports.to_str().unwrap()];
    let (status, output) = process::run(&binary("holdfast"), &args).await;
    assert!(!status.success(), "{output}");
    assert!(output.contains(&taken.local_addr().unwrap().port().to_string()), "{output}");
}

#[tokio::test]
async fn unreachable_targets_do_not_keep_it_from_starting_and_are_shown() {
    let folder = Folder::new();
    let config = folder.path("holdfast.toml");
    let args = ["supervise", "--config", config.to_str().unwrap()];
    let mut supervisor = Process::start(&binary("holdfast"), &args, &folder.path("log"));
    let url = wait::until("the address", SOON, async || {
        let output = supervisor.output();
        let line = output.lines().find_map(|line| line.strip_prefix("listening http "));
        line.map(|address| format!("http://{address}")).ok_or_else(|| output.clone())
    })
    .await;
    let client = process::http_client();
    wait::until("the targets to be shown as down", SOON, async || {
        let response = client.get(format!("{url}/operator/v1/status")).send().await;
        let text = response.map_err(|error| error.to_string())?.text().await.unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let servers = &status["servers"];
        let down = servers["nodes"][0]["up"] == false && servers["balancer"]["up"] == false;
        if down && status["health"] != "ok" { Ok(()) } else { Err(text) }
    })
    .await;
    supervisor.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(supervisor.wait(SOON).await.code(), Some(0), "{}", supervisor.output());
}

#[tokio::test]
async fn the_other_programs_refuse_bad_settings_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    for (program, text) in [
        ("holdfast-balancer", "[admin]\nlisten = \"127.0.0.1:0\"\ntoken_flie = \"x\"\n"),
        ("holdfast-chatnode", "[node]\nname = \"a\"\nlissten = \"127.0.0.1:0\"\n"),
    ] {
        let file = dir.path().join(format!("{program}.toml"));
        fs::write(&file, text).unwrap();
        let (status, output) = run_with(program, &file).await;
        assert_eq!(status, Some(2), "{program}: {output}");
        assert!(output.contains(&format!("{program}.toml:3: ")), "{program}: {output}");
        assert!(!output.contains("listening"), "{program}: {output}");
    }
}

async fn run_with(program: &str, config: &Path) -> (Option<i32>, String) {
    let args = ["--config", config.to_str().unwrap()];
    let (status, output) = process::run(&binary(program), &args).await;
    (status.code(), output)
}
