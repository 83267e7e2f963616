//! What is told of single requests: lines of the access log, spans.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};
use support::http2::{Client, get};
use support::{Balancer, Upstream, raw, request, settings, until};
use tokio_tungstenite::tungstenite::Message;

/// Settings whose access log is `file`.
fn logged(file: &Path, more: &str, servers: &[(&str, std::net::SocketAddr)]) -> String {
    let file = file.display();
    format!("[access_log]\nto = \"{file}\"\n{more}\n{}", settings("", servers))
}

/// The lines of a log so far.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The first line that `matches`, once it is there.
async fn line(file: &Path, matches: impl Fn(&Value) -> bool) -> Value {
    until("a line of the access log", async || {
        let lines = lines(file);
        lines.iter().find(|line| matches(line)).cloned().ok_or(lines)
    })
    .await
}

#[tokio::test]
async fn a_request_is_one_line_without_what_is_secret() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let balancer = Balancer::start(&logged(&file, "sample = 1.0", &[("a", a.address)])).await;
    let address = balancer.address("l");
    let headers = [("Authorization", "Bearer chat-token"), ("X-Request-Id", "r-1")];
    request(address, "POST", "/rooms/7?token=chat-token", &headers, b"hello friend").await;
    let line = line(&file, |line| line["path"] == "/rooms/7").await;
    for (key, value) in [
        ("method", json!("POST")),
        ("host", json!("test")),
        ("status", json!(200)),
        ("protocol", json!("http")),
        ("listener", json!("l")),
        ("pool", json!("p")),
        ("server", json!("a")),
        ("attempts", json!(1)),
        ("client", json!("127.0.0.1")),
        ("own_answer", json!(false)),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line["first_byte_seconds"].as_f64().unwrap() > 0.0, "{line}");
    assert!(line["total_seconds"].as_f64() >= line["connect_seconds"].as_f64(), "{line}");
    assert!(line["received_bytes"].as_u64().unwrap() >= 12, "{line}");
    assert!(line["sent_bytes"].as_u64().unwrap() > 0, "{line}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("chat-token") && !text.contains("hello"), "{text}");
}

#[tokio::test]
async fn a_request_in_http2_is_a_line_that_says_so() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let text = logged(&file, "sample = 1.0", &[("a", a.address)]);
    let text = text.replacen("pool = \"p\"", "pool = \"p\"\nhttp2 = true", 1);
    let balancer = Balancer::start(&text).await;
    let client = Client::connect(balancer.address("l")).await;
    let (response, _) = client.ask(get("/rooms/8").body(()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let line = line(&file, |line| line["path"] == "/rooms/8").await;
    assert_eq!((&line["protocol"], &line["status"]), (&json!("http2"), &json!(200)), "{line}");
    balancer.end().await;
}

#[tokio::test]
async fn a_websocket_is_one_line_at_its_end() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let text = logged(&file, "sample = 1.0\nquery = true", &[("a", a.address)]);
    let balancer = Balancer::start(&text).await;
    let url = format!("ws://{}/ws?room=7", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(Message::text("x".repeat(5_000))).await.unwrap();
    // Its name, and the echo.
    for _ in 0..2 {
        socket.next().await.unwrap().unwrap();
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    let line = line(&file, |line| line["protocol"] == "websocket").await;
    assert_eq!((&line["status"], &line["path"]), (&json!(101), &json!("/ws?room=7")), "{line}");
    assert!(line["received_bytes"].as_u64().unwrap() > 5_000, "{line}");
    assert!(line["sent_bytes"].as_u64().unwrap() > 5_000, "{line}");
    assert!(line["close"].is_string(), "{line}");
}

#[tokio::test]
async fn errors_are_written_whatever_the_share() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let balancer = Balancer::start(&logged(&file, "sample = 0.0", &[("a", a.address)])).await;
    let address = balancer.address("l");
    assert_eq!(request(address, "GET", "/fine", &[], b"").await.status, 200);
    raw(address, b"nonsense\r\n\r\n").await;
    let drain = r#"{"state":"maintenance"}"#;
    assert_eq!(balancer.api("PATCH", "/pools/p/servers/a", drain).await.0, 200);
    assert_eq!(request(address, "GET", "/nobody", &[], b"").await.status, 503);
    let refused = line(&file, |line| line["status"] == 400).await;
    assert_eq!((&refused["own_answer"], &refused["path"]), (&json!(true), &Value::Null));
    let nobody = line(&file, |line| line["path"] == "/nobody").await;
    assert_eq!((&nobody["status"], &nobody["server"]), (&json!(503), &Value::Null), "{nobody}");
    assert!(lines(&file).iter().all(|line| line["path"] != "/fine"));
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_anew() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let (file, moved) = (dir.path().join("access.log"), dir.path().join("moved.log"));
    let balancer = Balancer::start(&logged(&file, "sample = 1.0", &[("a", a.address)])).await;
    let address = balancer.address("l");
    request(address, "GET", "/before", &[], b"").await;
    line(&file, |line| line["path"] == "/before").await;
    std::fs::rename(&file, &moved).unwrap();
    raise(Signal::SIGUSR1).unwrap();
    until("a new file", async || {
        request(address, "GET", "/after", &[], b"").await;
        if lines(&file).is_empty() { Err(()) } else { Ok(()) }
    })
    .await;
    assert!(lines(&moved).iter().any(|line| line["path"] == "/before"));
}

/// A collector that keeps what it is sent.
async fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let keep = async |State(seen): State<Arc<Mutex<Vec<u8>>>>, body: Bytes| {
        seen.lock().unwrap().extend_from_slice(&body);
    };
    let router = Router::new().route("/v1/traces", post(keep)).with_state(Arc::clone(&seen));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    (endpoint, seen)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_span_between_the_clients_and_the_servers() {
    let a = Upstream::start("a");
    let (endpoint, seen) = collector().await;
    let text = settings("", &[("a", a.address)]);
    let traces = format!("[traces]\nendpoint = \"{endpoint}\"\nsample = 1.0\n{text}");
    let balancer = Balancer::start(&traces).await;
    let address = balancer.address("l");
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let given = format!("00-{trace}-{parent}-01");
    let told = async |traceparent: &[(&str, &str)]| {
        let response = request(address, "GET", "/", traceparent, b"").await;
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        body["headers"]["traceparent"].as_str().unwrap_or_default().to_owned()
    };
    let passed = told(&[("traceparent", given.as_str())]).await;
    let parts: Vec<_> = passed.split('-').collect();
    assert_eq!((parts[1], parts[3]), (trace, "01"), "{passed}");
    assert_ne!(parts[2], parent, "the server's parent is the balancer's span");
    let (begun, unsampled) = (told(&[]).await, given.replace("-01", "-00"));
    let own: Vec<_> = begun.split('-').collect();
    assert_eq!(own.len(), 4, "{begun}");
    assert_eq!(told(&[("traceparent", unsampled.as_str())]).await, unsampled);
    let wanted: Vec<Vec<u8>> = [trace, parts[2], parent, own[1], own[2]].map(bytes).into();
    until("the spans at the collector", async || {
        let seen = seen.lock().unwrap();
        let has = |wanted: &Vec<u8>| seen.windows(wanted.len()).any(|window| window == wanted);
        if wanted.iter().all(has) { Ok(()) } else { Err(seen.len()) }
    })
    .await;
}
