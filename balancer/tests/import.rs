//! Settings of nginx and HAProxy that those programs accept, as ours.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_balancer::import::{Format, Imported, import};

const NGINX: &str = include_str!("import/chat.nginx.conf");
const HAPROXY: &str = include_str!("import/chat.haproxy.cfg");

fn run(program: &str, arguments: &[&str]) -> Output {
    // Daemons are not on everybody's path.
    let path = format!("{}:/usr/sbin", env!("PATH"));
    Command::new(program).args(arguments).env("PATH", path).output().unwrap()
}

fn balancer(arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_holdfast-balancer"), arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Writes `text` into `dir`.
fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

/// Imports a file and holds draft and notes against what is written down beside it.
fn golden(file: &Path, name: &str) {
    let beside = |kind: &str| {
        let file = format!("{}/tests/import/{name}.{kind}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(file).unwrap()
    };
    let (expected, notes) = (beside("toml"), beside("notes"));
    let output = balancer(&["import", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let draft = text(&output.stdout);
    assert_eq!(draft, expected, "the draft:\n{draft}");
    let said = text(&output.stderr).replace(&format!("{}:", file.display()), "");
    assert_eq!(said, notes, "the notes:\n{said}");
    let strict = balancer(&["import", "--strict", file.to_str().unwrap()]);
    assert_eq!(strict.status.code(), Some(3));
    // The draft runs as it is, but for the token that only the operator has.
    let dir = tempfile::tempdir().unwrap();
    let token = write(dir.path(), "token", "secret");
    let draft = draft.replace("/etc/holdfast/balancer.token", token.to_str().unwrap());
    let settings = write(dir.path(), "balancer.toml", &draft);
    let check = balancer(&["--config", settings.to_str().unwrap(), "--check-config"]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
}

#[test]
fn settings_that_nginx_takes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "mime.types", "types { text/html html; }\n");
    let file = write(dir.path(), "chat.conf", NGINX);
    let pid = format!("pid {}/pid;", dir.path().display());
    let test = run("nginx", &["-t", "-q", "-c", file.to_str().unwrap(), "-g", &pid]);
    assert!(test.status.success(), "{}", text(&test.stderr));
    golden(&file, "chat.nginx");
}

#[test]
fn settings_that_haproxy_takes() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "chat.cfg", HAPROXY);
    let test = run("haproxy", &["-c", "-q", "-f", file.to_str().unwrap()]);
    assert!(test.status.success(), "{}", text(&test.stderr));
    golden(&file, "chat.haproxy");
}

fn notes(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(ToString::to_string).collect()
}

#[test]
fn connections_of_nginx_that_are_no_requests() {
    let text = "stream {\n  upstream mqtt {\n    hash $remote_addr;\n    server 10.0.0.31:1883;\n\
                \x20   server 10.0.0.32:1883 down;\n  }\n  server {\n    listen 127.0.0.1:8883;\n\
                \x20   proxy_connect_timeout 500ms;\n    proxy_pass mqtt;\n    proxy_protocol on;\n  }\n}\n";
    let imported = import(text, Format::Nginx).unwrap();
    assert_eq!(notes(&imported), Vec::<String>::new());
    for line in [
        "mode = \"tcp\"",
        "algorithm = \"source_hash\"",
        "connect_timeout = \"500ms\"",
        "send_proxy_protocol = \"v1\"",
        "weight = 0",
    ] {
        assert!(imported.toml.contains(line), "{line} in {}", imported.toml);
    }
}

#[test]
fn what_is_no_settings_file_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content, said) in [
        ("a.conf", "http {\n  server {\n", "a.conf:2: the file ends in the middle of a directive"),
        ("b.txt", "hello\n", "b.txt:1: neither nginx nor HAProxy"),
    ] {
        let file = write(dir.path(), name, content);
        let output = balancer(&["import", file.to_str().unwrap()]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(said), "{error}");
    }
    let output = balancer(&["import", "/does/not/exist"]);
    assert!(text(&output.stderr).starts_with("read /does/not/exist: "), "{output:?}");
}
