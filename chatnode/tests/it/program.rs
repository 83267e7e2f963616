//! The program as operators and scripts see it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use crate::kit::{free_port, settings};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_holdfast-chatnode")]);
    command.args(arguments);
    command
}

fn run(text: impl Fn(&str) -> String, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chatnode.toml");
    std::fs::write(&file, text(&settings(dir.path(), "address = \"127.0.0.1:1\"", ""))).unwrap();
    program(&["--config", file.to_str().unwrap()]).args(arguments).output().unwrap()
}

#[test]
fn settings_are_checked_before_anything_is_bound() {
    let good = run(str::to_owned, &["--check-config"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let bad = run(
        |text| {
            text.replace("127.0.0.1:0", "nowhere").replace("join_leave = true", "join_leaf = true")
        },
        &[],
    );
    assert_eq!(bad.status.code(), Some(2));
    let text = String::from_utf8(bad.stderr).unwrap();
    assert!(text.contains("chatnode.toml:") && text.contains("join_leaf"), "{text}");
    assert!(bad.stdout.is_empty());
    let bad = run(|text| text.replace("127.0.0.1:0", "nowhere"), &[]);
    let text = String::from_utf8(bad.stderr).unwrap();
    assert!(text.contains("node.listen") && text.contains("node.admin_listen"), "{text}");
    let missing = program(&["--config", "absent.toml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn an_occupied_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(|text| text.replacen("127.0.0.1:0", &address, 1), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("node.listen") && text.contains(&address), "{text}");
}

#[test]
fn it_says_where_it_listens_and_ends_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chatnode.toml");
    let redis = format!("address = \"127.0.0.1:{}\"", free_port());
    std::fs::write(&file, settings(dir.path(), &redis, "")).unwrap();
    let mut command = program(&["--config", file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert!(line().starts_with("listening client 127.0.0.1:"));
    assert!(line().starts_with("listening admin 127.0.0.1:"));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
