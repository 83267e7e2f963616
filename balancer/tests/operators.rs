//! Who may change what at run time, on which condition, and what is written down of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::SocketAddr;
use std::path::Path;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use support::{Balancer, DEADLINE, TOKEN, Upstream, request, settings, until};
use tokio::time::timeout;

/// The bearer token of the first operator.
fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

/// The version a response names.
fn tag(head: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix("etag: "));
    line.unwrap_or_else(|| panic!("no ETag in {head}")).to_owned()
}

async fn read_tag(balancer: &Balancer) -> String {
    let token = bearer();
    let headers = [("Authorization", token.as_str())];
    tag(&request(balancer.admin, "GET", "/api/v1/pools", &headers, b"").await.head)
}

#[tokio::test]
async fn a_change_is_made_only_to_the_version_that_was_seen() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let (path, token) = ("/api/v1/pools/p/servers/a", bearer());
    let change = async |tag: &str, body: &str| {
        let headers = [("Authorization", token.as_str()), ("If-Match", tag)];
        request(balancer.admin, "PATCH", path, &headers, body.as_bytes()).await
    };
    let seen = read_tag(&balancer).await;
    assert_eq!(read_tag(&balancer).await, seen, "reading changes nothing");
    let first = change(&seen, r#"{"weight":1}"#).await;
    let now = tag(&first.head);
    assert_eq!((first.status, now == seen), (200, false));
    let second = change(&seen, r#"{"weight":2}"#).await;
    assert_eq!((second.status, tag(&second.head)), (412, now.clone()), "{}", second.text());
    assert_eq!(balancer.server("a").await["weight"], 1);
    for tags in [format!("\"other\", {now}"), "*".to_owned()] {
        assert_eq!(change(&tags, r#"{"weight":3}"#).await.status, 200, "{tags}");
    }
    // An empty change is none.
    let before = read_tag(&balancer).await;
    assert_eq!(change("*", "{}").await.status, 200);
    assert_eq!(read_tag(&balancer).await, before);
    assert_eq!(change(&format!("W/{before}"), r#"{"weight":4}"#).await.status, 412);
}

#[tokio::test]
async fn the_journal_tells_who_changed_what() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = settings("", &[("a", a.address)]);
    let balancer = Balancer::start(&text).await;
    let new = format!(r#"{{"name":"b","address":"{}"}}"#, b.address);
    assert_eq!(balancer.api("POST", "/pools/p/servers", &new).await.0, 201);
    let change = r#"{"state":"drain","reason":"new kernel"}"#;
    assert_eq!(balancer.api("PATCH", "/pools/p/servers/a", change).await.0, 200);
    assert_eq!(balancer.api("DELETE", "/pools/p/servers/b", "").await.0, 204);
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    let (status, journal) = balancer.api("GET", "/journal?limit=3", "").await;
    assert_eq!(status, 200);
    let entries = journal["entries"].as_array().unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["settings reloaded", "server removed", "server changed"]);
    let change = &entries[2];
    assert_eq!((&change["who"], &change["target"]), (&json!("admin"), &json!("pools/p/servers/a")));
    assert_eq!(
        (&change["old"]["state"], &change["old"]["reason"]),
        (&json!("ready"), &Value::Null)
    );
    assert_eq!(change["new"]["reason"], "new kernel");
    assert!(change["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{change}");
    assert_eq!(balancer.api("GET", "/journal?limit=many", "").await.0, 400);
    until("the changes to be counted", async || {
        let count = balancer.metric("balancer_changes_total").await;
        if (count - 4.0).abs() < 0.1 { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test]
async fn settings_are_shown_and_tried() {
    let a = Upstream::start("a");
    let text = settings("", &[("a", a.address)]);
    let balancer = Balancer::start(&text).await;
    let (_, config) = balancer.api("GET", "/config", "").await;
    assert!(config["settings"].as_str().unwrap().ends_with(&text), "{config}");
    assert_eq!(config["file_differs"], false);
    let written = std::fs::read_to_string(balancer.file()).unwrap();
    assert_eq!(
        balancer.api("POST", "/config/validate", &written).await,
        (200, json!({"valid": true}))
    );
    let bad = written.replace("name = \"p\"", "name = \"q\"");
    let (status, answer) = balancer.api("POST", "/config/validate", &bad).await;
    assert_eq!(status, 422);
    let fault = answer["faults"][0].as_str().unwrap();
    assert!(fault.contains("balancer.toml:") && fault.contains("listener[0].pool"), "{answer}");
    balancer.write(&settings("algorithm = \"random_two\"", &[("a", a.address)]));
    let (_, config) = balancer.api("GET", "/config", "").await;
    assert_eq!(config["file_differs"], true);
}

#[tokio::test]
async fn a_password_in_a_url_is_told_to_nobody() {
    let a = Upstream::start("a");
    let good = settings("", &[("a", a.address)]);
    // Not asked for anything: only a remark.
    let balancer = Balancer::start(&format!("# was redis://user:hunter2@host/0\n{good}")).await;
    let (_, config) = balancer.api("GET", "/config", "").await;
    let shown = config["settings"].as_str().unwrap();
    assert!(shown.contains("# was redis://<redacted>@host/0\n"), "{shown}");
    assert_eq!(config["file_differs"], false, "what is left out is no difference");
    for (table, key) in [
        ("[redis]\naddress = \"redis://user:hunter2@host:6379\"\n", "redis.address"),
        ("[redis]\naddress = \"user:hunter2@host:6379\"\n", "redis.address"),
        ("[traces]\nendpoint = \"http://user:hunter2@host\"\n", "traces.endpoint"),
        ("[drain]\nperiod = \"http://user:hunter2@host\"\n", "drain.period"),
    ] {
        let text = format!("{table}{}", good.replacen("[drain]\nperiod = \"1s\"\n", "", 1));
        balancer.write(&text);
        let written = std::fs::read_to_string(balancer.file()).unwrap();
        for (path, body) in [("/reload", ""), ("/config/validate", &*written)] {
            let (status, answer) = balancer.api("POST", path, body).await;
            assert_eq!(status, 422, "{answer}");
            let said = answer["faults"][0].as_str().unwrap();
            assert!(said.contains(key) && said.contains("<redacted>@host"), "{said}");
            assert!(!answer.to_string().contains("hunter2"), "{answer}");
        }
    }
}

#[tokio::test]
async fn the_limit_of_a_server_is_set_and_lifted() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = kept(dir.path(), &[("a", a.address)]) + "max_connections = 5\n";
    let balancer = Balancer::start(&text).await;
    let path = "/pools/p/servers/a";
    assert_eq!(balancer.server("a").await["max_connections"], 5);
    let (status, answer) = balancer.api("PATCH", path, r#"{"max_connections":3}"#).await;
    assert_eq!((status, &answer["max_connections"]), (200, &json!(3)), "{answer}");
    for wrong in ["0", "-1", "\"3\"", "4294967296"] {
        let body = format!(r#"{{"max_connections":{wrong}}}"#);
        assert_eq!(balancer.api("PATCH", path, &body).await.0, 422, "{wrong}");
    }
    let new = format!(r#"{{"name":"b","address":"{}","max_connections":7}}"#, b.address);
    assert_eq!(balancer.api("POST", "/pools/p/servers", &new).await.0, 201);
    balancer.end().await;

    let balancer = Balancer::start(&text).await;
    assert_eq!(balancer.server("a").await["max_connections"], 3);
    assert_eq!(balancer.server("b").await["max_connections"], 7);
    let (_, journal) = balancer.api("GET", "/journal", "").await;
    let change = &journal["entries"][1];
    let of = |when: &str| change[when]["max_connections"].clone();
    assert_eq!((of("old"), of("new")), (json!(5), json!(3)), "{journal}");
    let (status, answer) = balancer.api("PATCH", path, r#"{"max_connections":null}"#).await;
    assert_eq!((status, &answer["max_connections"]), (200, &json!(5)), "{answer}");
    assert_eq!(answer["weight"], 100, "what is not mentioned stays");
}

#[tokio::test]
async fn the_document_describes_every_path() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let (status, document) = balancer.api("GET", "/openapi.json", "").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 5, "{paths:?}");
    // What it describes is there: whoever comes without a name is told so, and not that there is no such path.
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let path = path.replace(['{', '}'], "");
            let method = method.to_uppercase();
            let (status, _) = balancer.api_with(&method, &path, &[], "").await;
            assert_eq!(status, 401, "{method} {path}");
            assert!(operation["summary"].is_string() && operation["responses"].is_object());
            assert!(operation["x-role"].is_string(), "{method} {path}");
        }
    }
    // What the framework refuses by itself has the same form.
    let long = "x".repeat(100_000);
    for (method, path, body, expected) in [
        ("DELETE", "/sessions/many", "", 400),
        ("PATCH", "/pools/p/servers/a", &*long, 413),
        ("PUT", "/pools", "", 405),
        ("GET", "/nothing", "", 404),
    ] {
        let (status, answer) = balancer.api(method, path, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {answer}");
    }
    // Every reference leads somewhere.
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.push(reference.clone());
            }
            fields.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

/// Settings under which changes come back, in `dir`.
fn kept(dir: &Path, servers: &[(&str, SocketAddr)]) -> String {
    let dir = dir.display();
    format!("state_dir = \"{dir}\"\nkeep_changes = true\n{}", settings("", servers))
}

#[tokio::test]
async fn changes_come_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (Upstream::start("a"), Upstream::start("b"), Upstream::start("c"));
    let text = kept(dir.path(), &[("a", a.address), ("c", c.address)]);
    let balancer = Balancer::start(&text).await;
    let drain = r#"{"state":"drain","weight":20,"reason":"new kernel"}"#;
    assert_eq!(balancer.api("PATCH", "/pools/p/servers/a", drain).await.0, 200);
    let new = format!(r#"{{"name":"b","address":"{}","weight":30}}"#, b.address);
    assert_eq!(balancer.api("POST", "/pools/p/servers", &new).await.0, 201);
    assert_eq!(balancer.api("DELETE", "/pools/p/servers/c", "").await.0, 204);
    balancer.end().await;

    let balancer = Balancer::start(&text).await;
    let server = balancer.server("a").await;
    assert_eq!((&server["state"], &server["weight"]), (&json!("drain"), &json!(20)), "{server}");
    assert_eq!(server["reason"], "new kernel");
    assert_eq!(balancer.server("b").await["weight"], 30);
    assert_eq!(balancer.server("c").await, Value::Null);
    assert!(balancer.metric("balancer_kept_changes_restored").await > 0.5);
    let (_, journal) = balancer.api("GET", "/journal", "").await;
    assert_eq!(journal["entries"].as_array().unwrap().len(), 3, "{journal}");
    // What the settings name is there again once they are read.
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    assert_eq!(balancer.server("c").await["name"], "c");
    balancer.end().await;

    let file = dir.path().join("changes.json");
    std::fs::write(&file, "{ half a file").unwrap();
    let balancer = Balancer::start(&text).await;
    assert_eq!(balancer.server("a").await["state"], "ready");
    assert!(balancer.metric("balancer_kept_changes_restored").await < 0.5);
    assert!(dir.path().join("changes.json.bad").exists() && !file.exists());
}

#[tokio::test]
async fn a_full_disk_holds_up_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let a = Upstream::start("a");
    let balancer = Balancer::start(&kept(dir.path(), &[("a", a.address)])).await;
    let change = |weight: u8| format!(r#"{{"weight":{weight}}}"#);
    assert_eq!(balancer.api("PATCH", "/pools/p/servers/a", &change(7)).await.0, 200);
    assert_eq!(balancer.server("a").await["weight"], 7);
    let writable = async |wanted: bool| {
        until("the disk's state to be seen", async || {
            let writable = balancer.metric("balancer_journal_writable").await;
            if (writable > 0.5) == wanted { Ok(()) } else { Err(writable) }
        })
        .await;
    };
    writable(false).await;
    // What waits is written once there is room.
    std::fs::remove_file(&file).unwrap();
    writable(true).await;
    let journal = std::fs::read_to_string(&file).unwrap();
    assert!(journal.contains("\"weight\":7"), "{journal}");
}

#[tokio::test]
async fn long_journals_are_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let a = Upstream::start("a");
    let text = kept(dir.path(), &[("a", a.address)]);
    let text = format!("journal_max_bytes = 4096\njournal_files = 2\n{text}");
    let balancer = Balancer::start(&text).await;
    for n in 0..80 {
        let change = format!(r#"{{"weight":{n}}}"#);
        assert_eq!(balancer.api("PATCH", "/pools/p/servers/a", &change).await.0, 200);
    }
    let path = |name: &str| dir.path().join(name);
    assert!(path("journal.jsonl.1").exists() && path("journal.jsonl.2").exists());
    assert!(!path("journal.jsonl.3").exists());
    let (_, journal) = balancer.api("GET", "/journal?limit=1000", "").await;
    assert_eq!(journal["entries"].as_array().unwrap().len(), 80);
}

#[tokio::test]
async fn clients_are_listed_and_told_to_leave() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut first, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let (mut second, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let path = "/sessions?server=a&kind=websocket";
    let ids = until("both to be listed", async || {
        let (_, list) = balancer.api("GET", path, "").await;
        let sessions = list["sessions"].as_array().cloned().unwrap_or_default();
        let ids: Vec<_> = sessions.iter().filter_map(|session| session["id"].as_u64()).collect();
        if ids.len() == 2 { Ok(ids) } else { Err(list) }
    })
    .await;
    let (status, error) = balancer.api("DELETE", "/sessions", "").await;
    assert_eq!(status, 422, "{error}");
    assert_eq!(balancer.api("GET", "/sessions?client=nobody", "").await.0, 422);
    assert_eq!(balancer.api("DELETE", "/sessions/18446744073709551615", "").await.0, 404);
    let (status, told) = balancer.api("DELETE", "/sessions?pool=p&limit=0", "").await;
    assert_eq!((status, &told["told"]), (200, &json!(0)));
    assert_eq!(balancer.api("DELETE", &format!("/sessions/{}", ids[0]), "").await.0, 204);
    let (status, told) = balancer.api("DELETE", "/sessions?pool=p", "").await;
    assert_eq!((status, &told["told"]), (200, &json!(1)));
    for socket in [&mut first, &mut second] {
        let ended = async { while let Some(Ok(_)) = socket.next().await {} };
        timeout(DEADLINE, ended).await.unwrap();
    }
    let (_, journal) = balancer.api("GET", "/journal?limit=2", "").await;
    assert_eq!(journal["entries"][0]["action"], "sessions closed");
}
