//! What the supervisor answers over HTTP, all on one listener.
//!
//! - `/`, `/incidents/{id}`, `/events/{id}`, `/runbooks/{name}`, `/targets`, `/cardinality`: pages for people (`page`); server-rendered,
//!   no script, so that they work in any browser on the worst day
//! - `/operator/v1/…`: the operator API for the command line and other programs (`operator`)
//! - `/api/v1/…`: Prometheus' query API for Grafana (`prometheus`)
//! - `/metrics`, `/health/live`, `/health/ready`: as every program
//!
//! Reading is open to whoever reaches the listener, as with Prometheus' own pages; every change needs the bearer token. Handlers hold
//! no state of their own: they read the `watch` channels of the running parts and the journal, and hand commands to [`Control`].

mod forward;
mod group;
mod operator;
mod page;
mod prometheus;
mod redis;
mod reply;
mod runbooks;
mod status;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use holdfast_series::Store;
use holdfast_settings::Secret;
use holdfast_telemetry::Registry;
use holdfast_telemetry::health::Readiness;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::cluster::{
    AlertStatus, BackupStatus, CanaryStatus, DrillStatus, RedisStatus, ServersStatus,
};
use crate::control::Control;
use crate::record::Journal;

pub use prometheus::MetricsInfo;
pub(crate) use prometheus::alert_json;
pub use status::{Parts, assemble};

/// Largest request body: commands are a few hundred bytes, a query of Grafana's a few thousand.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Event streams open at once.
const STREAMS_MAX: usize = 64;

/// Queries evaluated at once; more wait, for as long as a query may take. Leaves the other cores to what keeps the cluster alive.
const QUERIES_MAX: usize = 2;

/// Lists the backups as the operator API shows them; called on a blocking thread. The error is a sentence.
pub type BackupList = Arc<dyn Fn() -> Result<serde_json::Value, String> + Send + Sync>;

/// What the running parts publish. A part that is not configured is `None`.
#[derive(Debug, Clone)]
pub struct StatusSources {
    /// Nodes and balancer.
    pub servers: watch::Receiver<ServersStatus>,
    /// Each Redis in the order of the settings.
    pub redis: Vec<watch::Receiver<RedisStatus>>,
    /// The canary.
    pub canary: Option<watch::Receiver<CanaryStatus>>,
    /// Backups.
    pub backup: Option<watch::Receiver<BackupStatus>>,
    /// Drills.
    pub drill: Option<watch::Receiver<DrillStatus>>,
    /// Pending, firing and lately resolved alerts.
    pub alerts: watch::Receiver<Vec<AlertStatus>>,
    /// The rule groups as Prometheus' `/api/v1/rules` has them under `data`.
    pub rules: watch::Receiver<serde_json::Value>,
    /// Scrape targets.
    pub targets: crate::observe::scrape::Targets,
}

/// Everything the handlers need.
#[derive(Clone)]
pub struct ApiState {
    /// What is shown.
    pub sources: StatusSources,
    /// What happened.
    pub journal: Arc<Journal>,
    /// Where commands go.
    pub control: Control,
    /// Needed for every change.
    pub token: Secret,
    /// What queries are answered from.
    pub store: Arc<Store>,
    /// What the metrics engine tells about itself.
    pub metrics: MetricsInfo,
    /// The supervisor's name.
    pub name: String,
    /// Whether it only watches.
    pub observe_only: bool,
    /// Shown at `/metrics`.
    pub registry: Registry,
    /// Shown at `/health/ready`.
    pub readiness: Readiness,
    /// Lists the backups, if any are taken.
    pub backups: Option<BackupList>,
    /// Where drills leave `<run>.json`.
    pub report_dir: PathBuf,
    /// The group this supervisor is of.
    pub group: crate::group::Group,
    /// Ends the streams, which would otherwise keep the server from ending.
    pub shutdown: CancellationToken,
}

/// What the handlers share.
struct Shared {
    api: ApiState,
    streams: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    /// For what the leader is to do; `None` if there is no TLS provider.
    forward: Option<reqwest::Client>,
    figures: prometheus::QueryFigures,
}

type Handle = Arc<Shared>;

/// All routes. Whoever serves them gives each request a `ConnectInfo<SocketAddr>`, by which the journal names who gave a command.
pub fn router(api: ApiState) -> Router {
    let telemetry = holdfast_telemetry::http::router(api.registry.clone(), api.readiness.clone());
    let figures = prometheus::QueryFigures::register(&api.registry, api.metrics.slow_query);
    let shared = Arc::new(Shared {
        api,
        figures,
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        queries: Arc::new(Semaphore::new(QUERIES_MAX)),
        forward: forward::client()
            .inspect_err(
                |error| tracing::error!(%error, "requests cannot be passed on to the leader"),
            )
            .ok(),
    });
    let pass_on = axum::middleware::from_fn_with_state(Arc::clone(&shared), forward::to_leader);
    Router::new()
        .merge(page::routes())
        .merge(operator::routes().layer(pass_on))
        .merge(prometheus::routes(&shared))
        .fallback(reply::no_such_path)
        .method_not_allowed_fallback(reply::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
        .merge(telemetry)
}

impl Shared {
    /// What the parts say now.
    fn status(&self) -> crate::cluster::Status {
        let sources = &self.api.sources;
        let parts = Parts {
            name: self.api.name.clone(),
            observe_only: self.api.observe_only,
            group: self.api.group.brief(),
            servers: sources.servers.borrow().clone(),
            redis: sources.redis.iter().map(|part| part.borrow().clone()).collect(),
            canary: sources.canary.as_ref().map(|part| part.borrow().clone()),
            backup: sources.backup.as_ref().map(|part| part.borrow().clone()),
            drill: sources.drill.as_ref().map(|part| part.borrow().clone()),
            alerts: sources.alerts.borrow().clone(),
        };
        assemble(parts, chrono::Utc::now())
    }

    /// Reads the journal on a thread that may wait for the disk.
    async fn journal<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Journal) -> T + Send + 'static,
    ) -> T {
        let journal = Arc::clone(&self.api.journal);
        let task = tokio::task::spawn_blocking(move || read(&journal));
        task.await.expect("reading the journal does not panic, and blocking tasks are not aborted")
    }
}
