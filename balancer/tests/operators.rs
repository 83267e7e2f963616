//! Who may change what at run time, on which condition, and what is written down of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use serde_json::{Value, json};
use support::{Balancer, TOKEN, Upstream, request, settings, until};

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
