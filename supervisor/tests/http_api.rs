//! The HTTP server as its users meet it: on a real socket, with hand-made parts behind it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_series::{Labels, Store, StoreConfig};
use holdfast_settings::Secret;
use holdfast_supervisor::cluster::{
    Address, AlertState, AlertStatus, CircuitState, DrillStatus, NodeStatus, ServerState,
    ServerStatus, ServersStatus,
};
use holdfast_supervisor::control::{
    BackupProgress, BackupReport, Control, ControlError, DrillCommand, Failover, FailoverReport,
    Reload, SetServer, TakeBackup,
};
use holdfast_supervisor::record::{Draft, Journal, Kind, Retention, Severity};
use holdfast_supervisor::serve::http::{ApiState, StatusSources, router};
use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::metrics;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "correct-horse";
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port; ends with the test's runtime.
struct Server {
    base: String,
    client: Client,
    journal: Arc<Journal>,
    store: Arc<Store>,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
    commands: Commands,
    // The sending ends, kept so that the receivers stay alive.
    servers: watch::Sender<ServersStatus>,
    alerts: watch::Sender<Vec<AlertStatus>>,
    _rules: watch::Sender<Value>,
    drill: watch::Sender<DrillStatus>,
}

struct Commands {
    servers: mpsc::Receiver<SetServer>,
    redis: mpsc::Receiver<Failover>,
    backup: mpsc::Receiver<TakeBackup>,
    drills: mpsc::Receiver<DrillCommand>,
    reload: mpsc::Receiver<Reload>,
}

fn node(name: &str, error: Option<&str>) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        metrics: Address::new("127.0.0.1", 9811),
        up: Some(error.is_none()),
        error: error.map(str::to_owned),
        cpu_cores: Some(0.25),
        memory_bytes: Some(5e7),
        connections: Some(12.0),
        scrape_seconds: Some(0.002),
        server: Some(server(name)),
        circuit: CircuitState::Closed,
        circuit_reason: None,
    }
}

fn server(name: &str) -> ServerStatus {
    ServerStatus {
        name: name.to_owned(),
        address: "127.0.0.1:8001".to_owned(),
        state: ServerState::Ready,
        weight: 100,
        health: "up".to_owned(),
        usable: true,
        active_connections: 3,
    }
}

fn firing() -> AlertStatus {
    let labels = [("alertname", "NodeDown"), ("severity", "critical"), ("server", "chatnode-1")];
    AlertStatus {
        name: "NodeDown".to_owned(),
        state: AlertState::Firing,
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        annotations: BTreeMap::from([("summary".to_owned(), "chatnode-1 is down".to_owned())]),
        active_at: Utc::now(),
        fired_at: Some(Utc::now()),
        resolved_at: None,
        value: 0.0,
    }
}

impl Server {
    async fn start() -> Self {
        // Another test of this process may have installed it already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let journal =
            Journal::open(&dir.path().join("journal.redb"), Retention::default()).unwrap();
        let journal = Arc::new(journal);
        let store = StoreConfig {
            retention: Duration::from_hours(1),
            series_max: 100,
            ..StoreConfig::default()
        };
        let store = Arc::new(Store::new(store));
        let nodes = vec![node("chatnode-1", None), node("chatnode-2", None)];
        let (servers, servers_now) = watch::channel(ServersStatus { nodes, balancer: None });
        let (alerts, alerts_now) = watch::channel(Vec::new());
        let (rules, rules_now) = watch::channel(json!({ "groups": [{ "name": "nodes" }] }));
        let drill_status = DrillStatus {
            run: None,
            scenario: None,
            phase: None,
            verdict: None,
            finished_at: None,
            next: None,
        };
        let (drill, drill_now) = watch::channel(drill_status);
        let (set_server, servers_commands) = mpsc::channel(1);
        let (failover, redis_commands) = mpsc::channel(1);
        let (backup, backup_commands) = mpsc::channel(1);
        let (drills, drill_commands) = mpsc::channel(1);
        let (reload, reload_commands) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let registry = metrics::registry("supervisor", "0");
        journal.register(&registry);
        let state = ApiState {
            sources: StatusSources {
                servers: servers_now,
                redis: None,
                canary: None,
                backup: None,
                drill: Some(drill_now),
                alerts: alerts_now,
                rules: rules_now,
            },
            journal: Arc::clone(&journal),
            control: Control {
                servers: Some(set_server),
                redis: Some(failover),
                backup: Some(backup),
                drills: Some(drills),
                reload: Some(reload),
            },
            token: Secret::new(TOKEN),
            store: Arc::clone(&store),
            name: "supervisor-1".to_owned(),
            observe_only: false,
            registry,
            readiness: Readiness::new(),
            backups: Some(Arc::new(|| Ok(json!([{ "id": "b1" }])))),
            report_dir: dir.path().join("drills"),
            shutdown: shutdown.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = router(state).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        let commands = Commands {
            servers: servers_commands,
            redis: redis_commands,
            backup: backup_commands,
            drills: drill_commands,
            reload: reload_commands,
        };
        Self {
            base,
            client,
            journal,
            store,
            shutdown,
            dir,
            commands,
            servers,
            alerts,
            _rules: rules,
            drill,
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        body(self.get(path).await).await
    }

    async fn page(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    /// A change with the right token.
    async fn post(&self, path: &str, text: &str) -> (u16, Value) {
        body(self.send(path, text).await).await
    }

    async fn send(&self, path: &str, text: &str) -> Response {
        let request = self.client.request(Method::POST, format!("{}{path}", self.base));
        request.bearer_auth(TOKEN).body(text.to_owned()).send().await.unwrap()
    }

    fn append(&self, draft: Draft) -> u64 {
        self.journal.append(draft, Utc::now()).id
    }
}

async fn body(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn alert_event(subject: &str) -> Draft {
    Draft::new(Kind::AlertFiring, Severity::Critical, subject, "NodeDown is firing")
        .opens("NodeDown")
        .because("up is 0 for 3 s")
}

#[tokio::test]
async fn changes_need_the_token_and_reads_do_not() {
    let server = Server::start().await;
    let changes = [
        "/operator/v1/servers/chatnode-1",
        "/operator/v1/redis/failover",
        "/operator/v1/backups",
        "/operator/v1/drills/chatnode-crash",
        "/operator/v1/drills/abort",
        "/-/reload",
    ];
    for path in changes {
        let request = || server.client.post(format!("{}{path}", server.base));
        let (status, answer) = body(request().send().await.unwrap()).await;
        assert_eq!(status, 401, "{path}");
        assert!(answer["error"].as_str().unwrap().contains("Authorization"), "{answer}");
        let response = request().bearer_auth("wrong").body("no json").send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(body(response).await, (401, json!({ "error": "the token is wrong" })), "{path}");
    }
    for path in ["/operator/v1/status", "/operator/v1/events", "/operator/v1/backups", "/metrics"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_what_is_wrong() {
    let server = Server::start().await;
    let path = "/operator/v1/servers/chatnode-1";
    let cases = [
        ("{", 400, "the body is not JSON"),
        ("", 422, "give `state`, `weight` or both"),
        (
            r#"{"wieght":1}"#,
            422,
            "unknown field `wieght`, expected one of `state`, `weight`, `force`",
        ),
        (r#"{"state":"up"}"#, 422, "unknown variant `up`, expected one of `ready`, `drain`"),
        (r#"{"weight":257}"#, 422, "expected 0 to 256"),
        (r#"{"weight":-1}"#, 422, "invalid value"),
    ];
    for (text, status, expected) in cases {
        let (found, answer) = server.post(path, text).await;
        assert_eq!(found, status, "{text}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(expected), "{text}: {answer}");
    }
    let (status, answer) = server.post("/operator/v1/redis/failover", r#"{"target":"x"}"#).await;
    assert_eq!(status, 422);
    assert!(answer["error"].as_str().unwrap().contains("expected host:port"), "{answer}");
    let (status, _) = server.post(path, &format!("\"{}\"", "x".repeat(70_000))).await;
    assert_eq!(status, 413);
    let (status, answer) = server.json("/operator/v1/events?sincE_id=1").await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("unknown field `sincE_id`"), "{answer}");
    for path in ["/operator/v1/events/x", "/operator/v1/drills/runs/..%2F..%2Fjournal"] {
        assert_eq!(server.get(path).await.status(), 400, "{path}");
    }
    for path in
        ["/operator/v1/events/9", "/operator/v1/incidents/9", "/operator/v1/drills/runs/x", "/x"]
    {
        let (status, answer) = server.json(path).await;
        assert_eq!(status, 404, "{path}");
        assert!(answer["error"].is_string(), "{path}: {answer}");
    }
    let response = server.client.delete(format!("{}{path}", server.base)).send().await.unwrap();
    assert_eq!(body(response).await.0, 405);
}

#[tokio::test]
async fn status_events_and_incidents_are_read() {
    let server = Server::start().await;
    let id = server.append(alert_event("chatnode-1"));
    server.append(Draft::new(Kind::Circuit, Severity::Warning, "chatnode-1", "opened"));
    server.append(Draft::new(Kind::Reload, Severity::Info, "settings", "read again"));
    let nodes = vec![node("chatnode-1", Some("connection refused")), node("chatnode-2", None)];
    server.servers.send_replace(ServersStatus { nodes, balancer: None });

    let (_, status) = server.json("/operator/v1/status").await;
    assert_eq!((&status["health"], &status["name"]), (&json!("degraded"), &json!("supervisor-1")));
    assert_eq!(status["problems"], json!(["chatnode-1 does not answer: connection refused"]));

    let ids = |list: &Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect()
    };
    let (_, events) = server.json("/operator/v1/events?severity_min=warning&limit=5").await;
    assert_eq!(ids(&events["events"]), [1, 2]);
    let (_, events) =
        server.json("/operator/v1/events?since_id=1&subject=settings&kind=reload").await;
    assert_eq!(ids(&events["events"]), [3]);
    let (_, event) = server.json(&format!("/operator/v1/events/{id}")).await;
    assert_eq!(event["reasons"][0], json!({ "favours": true, "text": "up is 0 for 3 s" }));

    let (_, incidents) = server.json("/operator/v1/incidents?open=true").await;
    assert_eq!(incidents["incidents"][0]["subject"], "chatnode-1");
    let (_, incident) = server.json("/operator/v1/incidents/1").await;
    assert_eq!(incident["causes"], json!(["NodeDown"]));
    assert_eq!(ids(&incident["timeline"]), [1, 2]);
}

/// Messages of an event stream, as they come.
struct Messages {
    response: Response,
    text: String,
}

impl Messages {
    async fn next(&mut self) -> Value {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let data = message.lines().find_map(|line| line.strip_prefix("data: "));
                let value = data.map(|data| serde_json::from_str(data).unwrap());
                self.text = String::from(rest);
                if let Some(value) = value {
                    return value;
                }
                continue;
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_delivers_the_backlog_then_each_event_once() {
    let server = Server::start().await;
    for _ in 0..3 {
        server.append(alert_event("chatnode-1"));
    }
    let response = server.get("/operator/v1/events/stream?since_id=1").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut all = Messages { response, text: String::new() };
    let response = server.get("/operator/v1/events/stream?subject=settings").await;
    let mut filtered = Messages { response, text: String::new() };
    for id in 2..=3 {
        assert_eq!(all.next().await["id"], id);
    }
    // More than a slow listener's buffer holds, so that it must catch up from the journal.
    for _ in 4..=2100 {
        server.append(Draft::new(Kind::Circuit, Severity::Info, "chatnode-2", "opened"));
    }
    server.append(Draft::new(Kind::Reload, Severity::Info, "settings", "read again"));
    for id in 4..=2101 {
        assert_eq!(all.next().await["id"], id);
    }
    assert_eq!(filtered.next().await["id"], 2101);
    server.shutdown.cancel();
    assert_eq!(all.response.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn commands_reach_their_part_and_bring_its_answer_back() {
    let mut server = Server::start().await;
    let (client, base) = (server.client.clone(), server.base.clone());
    let drain = client
        .post(format!("{base}/operator/v1/servers/chatnode-1"))
        .bearer_auth(TOKEN)
        .body(r#"{"state":"drain","force":true}"#)
        .send();
    let part = async {
        let command = server.commands.servers.recv().await.unwrap();
        assert_eq!((command.server.as_str(), command.weight), ("chatnode-1", None));
        assert_eq!((command.state, command.force), (Some(ServerState::Drain), true));
        assert_eq!(command.by, "operator at 127.0.0.1");
        let after = ServerStatus { state: ServerState::Drain, ..self::server("chatnode-1") };
        command.reply.send(Ok(after)).unwrap();
    };
    let (response, ()) = tokio::join!(drain, part);
    let (status, answer) = body(response.unwrap()).await;
    assert_eq!((status, &answer["state"]), (200, &json!("drain")));

    let errors = [
        (ControlError::NotFound("no server x".into()), 404),
        (ControlError::Refused("guard".into()), 409),
        (ControlError::Busy("busy".into()), 503),
        (ControlError::Failed("broken".into()), 500),
    ];
    for (error, expected) in errors {
        let text = error.to_string();
        let request = client.post(format!("{base}/operator/v1/redis/failover")).bearer_auth(TOKEN);
        let part = async {
            let command = server.commands.redis.recv().await.unwrap();
            assert_eq!(command.target, None);
            command.reply.send(Err::<FailoverReport, _>(error)).unwrap();
        };
        let (response, ()) = tokio::join!(request.send(), part);
        assert_eq!(body(response.unwrap()).await, (expected, json!({ "error": text })));
    }

    let request =
        client.post(format!("{base}/operator/v1/drills/chatnode-crash")).bearer_auth(TOKEN);
    let part = async {
        match server.commands.drills.recv().await.unwrap() {
            DrillCommand::Start(start) => {
                assert_eq!(start.scenario, "chatnode-crash");
                start.reply.send(Ok("run-1".to_owned())).unwrap();
            }
            DrillCommand::Abort { .. } => panic!("expected a start"),
        }
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (202, json!({ "run": "run-1" })));

    let request = client.post(format!("{base}/operator/v1/drills/abort")).bearer_auth(TOKEN);
    let part = async {
        match server.commands.drills.recv().await.unwrap() {
            DrillCommand::Abort { reply, .. } => reply.send(Ok(())).unwrap(),
            DrillCommand::Start(_) => panic!("expected an abort"),
        }
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(response.unwrap().status(), 200);

    let request = client.post(format!("{base}/-/reload")).bearer_auth(TOKEN);
    let part = async {
        let command = server.commands.reload.recv().await.unwrap();
        command.reply.send(Ok(vec!["3 rules".to_owned()])).unwrap();
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (200, json!({ "changed": ["3 rules"] })));
}

#[tokio::test]
async fn a_backup_streams_its_progress_and_ends_with_its_result() {
    let mut server = Server::start().await;
    let path = format!("{}/operator/v1/backups", server.base);
    let request = server.client.post(&path).bearer_auth(TOKEN);
    let part = async {
        let command = server.commands.backup.recv().await.unwrap();
        let progress = command.progress.unwrap();
        for done_bytes in [0, 10] {
            let step =
                BackupProgress { phase: "snapshot".to_owned(), done_bytes, total_bytes: Some(10) };
            progress.send(step).await.unwrap();
        }
        let report = BackupReport {
            id: "b2".to_owned(),
            source: Address::new("127.0.0.1", 6380),
            offset: 7,
            keys: 1,
            raw_bytes: 10,
            stored_bytes: 5,
            verified: true,
            seconds: 0.1,
        };
        command.reply.send(Ok(report)).unwrap();
    };
    let (response, ()) = tokio::join!(request.send(), part);
    let response = response.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0]["progress"]["phase"], "snapshot");
    assert_eq!(lines[2]["result"]["id"], "b2");

    let request = server.client.post(&path).bearer_auth(TOKEN);
    let part = async {
        let command = server.commands.backup.recv().await.unwrap();
        command.reply.send(Err(ControlError::Busy("one is running".to_owned()))).unwrap();
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (503, json!({ "error": "one is running" })));
    let (_, listed) = server.json("/operator/v1/backups").await;
    assert_eq!(listed, json!({ "backups": [{ "id": "b1" }] }));
}

#[tokio::test]
async fn a_drill_shows_its_progress_then_its_report() {
    let server = Server::start().await;
    server.drill.send_modify(|drill| {
        drill.run = Some("run-1".to_owned());
        drill.phase = Some("fault".to_owned());
    });
    let (status, answer) = server.json("/operator/v1/drills/runs/run-1").await;
    assert_eq!((status, &answer["phase"]), (200, &json!("fault")));
    let reports = server.dir.path().join("drills");
    std::fs::create_dir(&reports).unwrap();
    std::fs::write(reports.join("run-1.json"), r#"{"verdict":"pass"}"#).unwrap();
    let answer = server.json("/operator/v1/drills/runs/run-1").await;
    assert_eq!(answer, (200, json!({ "verdict": "pass" })));
}

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
async fn grafana_reads_it_as_it_would_a_prometheus() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    for (node, value) in [("chatnode-1", 1.0), ("chatnode-2", 0.0)] {
        let labels = [("__name__", "up"), ("job", "chatnode"), ("server", node)];
        for second in 0..10 {
            let labels = Labels::from_pairs(labels);
            server.store.append(&labels, now - 10_000 + second * 1000, value).unwrap();
        }
    }
    let (status, answer) = server.json("/api/v1/query?query=sum(up)").await;
    assert_eq!((status, &answer["status"]), (200, &json!("success")), "{answer}");
    assert_eq!(answer["data"]["result"][0]["value"][1], "1");

    let form = [
        ("query", "up{server=\"chatnode-1\"}".to_owned()),
        ("start", format!("{}", (now - 9000) as f64 / 1000.0)),
        ("end", format!("{}", now as f64 / 1000.0)),
        ("step", "1s".to_owned()),
    ];
    let request = server.client.post(format!("{}/api/v1/query_range", server.base)).form(&form);
    let (status, answer) = body(request.send().await.unwrap()).await;
    assert_eq!((status, &answer["data"]["resultType"]), (200, &json!("matrix")), "{answer}");
    assert_eq!(answer["data"]["result"][0]["values"].as_array().unwrap().len(), 10);

    let list = async |path: &str| server.json(path).await.1["data"].clone();
    assert_eq!(list("/api/v1/labels").await, json!(["__name__", "job", "server"]));
    let names = json!(["chatnode-1", "chatnode-2"]);
    assert_eq!(list("/api/v1/label/server/values?match[]=up").await, names);
    assert_eq!(list("/api/v1/series?match[]=up").await.as_array().unwrap().len(), 2);
    assert_eq!(list("/api/v1/rules").await["groups"][0]["name"], "nodes");
    assert_eq!(list("/api/v1/metadata").await, json!({}));
    assert!(list("/api/v1/status/buildinfo").await["version"].is_string());
    server.alerts.send_replace(vec![firing()]);
    let alerts = list("/api/v1/alerts").await;
    assert_eq!(alerts["alerts"][0]["state"], "firing");
    let active = alerts["alerts"][0]["activeAt"].as_str().unwrap();
    assert!(DateTime::parse_from_rfc3339(active).is_ok());
    let targets = list("/api/v1/targets").await;
    let health = |index: usize| targets["activeTargets"][index]["health"].clone();
    assert_eq!([health(0), health(1)], ["up", "down"]);
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }

    let wrong = [
        ("/api/v1/query?query=sum(", 400, "bad_data", "invalid parameter \"query\""),
        ("/api/v1/query", 400, "bad_data", "query"),
        (
            "/api/v1/query?query=up&time=x",
            400,
            "bad_data",
            "cannot parse \"x\" to a valid timestamp",
        ),
        ("/api/v1/query_range?query=up&start=0&end=20000&step=1", 400, "bad_data", "11,000 points"),
        ("/api/v1/query_range?query=up&start=9&end=5&step=1", 400, "bad_data", "end timestamp"),
        ("/api/v1/query_range?query=up&start=0&end=5&step=0", 400, "bad_data", "zero or negative"),
        ("/api/v1/series", 400, "bad_data", "no match[] parameter"),
        ("/api/v1/series?match[]=1", 400, "bad_data", "expected a selector"),
        ("/api/v1/query?query=up%20%2B%20on()%20up", 422, "execution", "many-to-many"),
        ("/api/v1/query?query=up&timeout=0", 503, "timeout", "timed out"),
    ];
    for (path, status, kind, text) in wrong {
        let (found, answer) = server.json(path).await;
        assert_eq!((found, &answer["errorType"]), (status, &json!(kind)), "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(text), "{path}: {answer}");
    }
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
