//! A server on a free port with hand-made parts behind it, and what tests ask of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use holdfast_series::{Labels, Store, StoreConfig};
use holdfast_settings::Secret;
use holdfast_supervisor::cluster::{
    Address, AlertState, AlertStatus, CircuitState, DrillStatus, NodeStatus, ServerState,
    ServerStatus, ServersStatus,
};
use holdfast_supervisor::control::{
    Control, DrillCommand, RedisCommand, Reload, SetServer, TakeBackup,
};
use holdfast_supervisor::group::{Group, Settings};
use holdfast_supervisor::observe::scrape::Targets;
use holdfast_supervisor::record::{Draft, Journal, Kind, Retention, Severity};
use holdfast_supervisor::remote::prometheus::Prometheus;
use holdfast_supervisor::serve::http::{ApiState, MetricsInfo, StatusSources, router};
use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::metrics;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "correct-horse";
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a free port; ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) journal: Arc<Journal>,
    pub(crate) store: Arc<Store>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) commands: Commands,
    // The sending ends, kept so that the receivers stay alive.
    pub(crate) servers: watch::Sender<ServersStatus>,
    pub(crate) alerts: watch::Sender<Vec<AlertStatus>>,
    _rules: watch::Sender<Value>,
    pub(crate) drill: watch::Sender<DrillStatus>,
}

pub(crate) struct Commands {
    pub(crate) servers: mpsc::Receiver<SetServer>,
    pub(crate) redis: mpsc::Receiver<RedisCommand>,
    pub(crate) backup: mpsc::Receiver<TakeBackup>,
    pub(crate) drills: mpsc::Receiver<DrillCommand>,
    pub(crate) reload: mpsc::Receiver<Reload>,
}

/// Rule groups as the rule loop describes them.
fn groups() -> Value {
    let alert = json!({ "type": "alerting", "name": "NodeDown", "state": "firing", "alerts": [1] });
    let record = json!({ "type": "recording", "name": "job:up:sum" });
    json!({ "groups": [
        { "name": "nodes", "file": "nodes.yml", "rules": [alert] },
        { "name": "sums", "file": "sums.yml", "rules": [record] },
    ] })
}

pub(crate) fn node(name: &str, error: Option<&str>) -> NodeStatus {
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

pub(crate) fn server(name: &str) -> ServerStatus {
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

pub(crate) fn firing() -> AlertStatus {
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
    pub(crate) async fn start() -> Self {
        Self::with_remote(None).await
    }

    /// With a remote Prometheus that answers for series.
    pub(crate) async fn with_remote(remote: Option<Arc<Prometheus>>) -> Self {
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
        let (rules, rules_now) = watch::channel(groups());
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
        let settings = Settings::alone(dir.path().to_owned(), "supervisor-1");
        let (group, keeper) = Group::open(settings, &registry, Arc::new(|_| {})).unwrap();
        tokio::spawn(keeper.run(None, shutdown.clone()));
        let state = ApiState {
            sources: StatusSources {
                servers: servers_now,
                redis: Vec::new(),
                canary: None,
                backup: None,
                drill: Some(drill_now),
                alerts: alerts_now,
                rules: rules_now,
                targets: Targets::default(),
            },
            journal: Arc::clone(&journal),
            control: Control {
                servers: Some(set_server),
                redis: BTreeMap::from([("main".to_owned(), failover)]),
                backup: Some(backup),
                drills: Some(drills),
                reload: Some(reload),
            },
            token: Secret::new(TOKEN),
            store: Arc::clone(&store),
            metrics: MetricsInfo {
                config_yaml: "global: {}\n".to_owned(),
                retention: "3600s".to_owned(),
                external_labels: Labels::from_pairs([("cluster", "eu")]),
                slow_query: Duration::ZERO,
                started_at: Utc::now(),
                remote,
            },
            name: "supervisor-1".to_owned(),
            observe_only: false,
            registry,
            readiness: Readiness::new(),
            backups: Some(Arc::new(|| Ok(json!([{ "id": "b1" }])))),
            report_dir: dir.path().join("drills"),
            group,
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

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> (u16, Value) {
        body(self.get(path).await).await
    }

    pub(crate) async fn page(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    /// A change with the right token.
    pub(crate) async fn post(&self, path: &str, text: &str) -> (u16, Value) {
        body(self.send(path, text).await).await
    }

    pub(crate) async fn send(&self, path: &str, text: &str) -> Response {
        let request = self.client.request(Method::POST, format!("{}{path}", self.base));
        request.bearer_auth(TOKEN).body(text.to_owned()).send().await.unwrap()
    }

    pub(crate) fn append(&self, draft: Draft) -> u64 {
        self.journal.append(draft, Utc::now()).id
    }
}

pub(crate) async fn body(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub(crate) fn alert_event(subject: &str) -> Draft {
    Draft::new(Kind::AlertFiring, Severity::Critical, subject, "NodeDown is firing")
        .opens("NodeDown")
        .because("up is 0 for 3 s")
}
