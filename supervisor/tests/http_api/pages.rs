//! Pages for people, and figures about the supervisor itself.

use std::io::Write as _;
use std::process::{Command, Stdio};

use holdfast_supervisor::cluster::ServersStatus;
use holdfast_supervisor::record::{Draft, Kind, Severity};
use serde_json::json;

use crate::kit::{Server, alert_event, firing, node};

#[tokio::test]
async fn pages_show_the_cluster_and_escape_what_they_show() {
    let server = Server::start().await;
    let page = server.page("/").await;
    assert!(page.contains("<h1>All is well</h1>"), "{page}");
    assert!(page.contains("http-equiv=\"refresh\" content=\"2\""), "{page}");

    let evil = "<script>alert(1)</script>";
    let nodes = vec![node("chatnode-1", Some(evil)), node("chatnode-2", None)];
    server.servers.send_replace(ServersStatus { nodes, balancer: None });
    server.alerts.send_replace(vec![firing()]);
    server.append(alert_event("chatnode-1"));
    let draft = Draft::new(Kind::ActionWithheld, Severity::Warning, "chatnode-1", evil);
    server.append(draft.despite(evil).detail(json!({ "evil": evil })));
    for path in ["/", "/incidents/1", "/incidents/%3Cscript%3E", "/runbooks/%3Cscript%3E"] {
        let page = server.page(path).await;
        assert!(page.starts_with("<!doctype html>"), "{path}: {page}");
        assert!(!page.contains("<script"), "{path}: {page}");
    }
    let page = server.page("/").await;
    for text in ["<h1>Degraded</h1>", "&lt;script&gt;", "chatnode-2", "NodeDown is firing"] {
        assert!(page.contains(text), "{text} in {page}");
    }
    let page = server.page("/incidents/1").await;
    assert!(page.contains("up is 0 for 3 s") && page.contains("<b>Open</b>"), "{page}");
    let runbook = server.page("/runbooks/NodeDown").await;
    assert!(runbook.contains("<h1>NodeDown</h1>"), "{runbook}");
    let response = server.get("/").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(server.get("/assets/style.css").await.headers()["content-type"], "text/css");
    assert_eq!(server.get("/incidents/99").await.status(), 404);
}

#[tokio::test]
async fn metrics_and_health_are_served_beside_the_rest() {
    let server = Server::start().await;
    server.append(alert_event("chatnode-1"));
    let text = server.page("/metrics").await;
    assert!(text.contains("supervisor_incidents_open 1"), "{text}");
    assert!(text.contains("supervisor_journal_events_total{kind=\"alert_firing\"} 1"), "{text}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[checked.stderr, checked.stdout].concat()).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
    assert_eq!(server.page("/health/live").await, "ok");
    assert_eq!(server.json("/health/ready").await.0, 200);
}
