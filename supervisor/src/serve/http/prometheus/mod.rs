//! Prometheus' HTTP API, so that Grafana, promtool and other Prometheus servers take the supervisor for one of theirs.
//!
//! Paths, parameters, the shape of answers and of errors are those of Prometheus; parameters it ignores are ignored. Queries run on
//! blocking threads, few at once and each against a deadline, so that a dashboard cannot starve the loops that keep the cluster alive.
//! With a remote Prometheus behind us, what asks for series is forwarded to it; rules, alerts and status are ours either way.
//!
//! Not there: deleting series, snapshots, chunks as answers of remote read, notifications of the web interface.

mod error;
mod federate;
mod figures;
mod forward;
mod input;
mod list;
mod query;
mod read;
mod status;
mod targets;
mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use holdfast_series::Labels;
use serde_json::json;
use tower_http::compression::CompressionLayer;

use self::error::data;
use super::Handle;
use crate::remote::prometheus::Prometheus;

pub(super) use figures::QueryFigures;
pub(crate) use status::alert_json;

/// What the metrics engine tells about itself, and the remote that may stand in for it.
#[derive(Debug, Clone)]
pub struct MetricsInfo {
    /// The settings as Prometheus would write them.
    pub config_yaml: String,
    /// How long samples are kept, as a duration of Prometheus'.
    pub retention: String,
    /// Labels of our series outside.
    pub external_labels: Labels,
    /// A query that takes longer is logged.
    pub slow_query: Duration,
    /// When this process started.
    pub started_at: DateTime<Utc>,
    /// Answers for series instead of the store.
    pub remote: Option<Arc<Prometheus>>,
}

pub(super) fn routes(shared: &Handle) -> Router<Handle> {
    let series = Router::new()
        .route("/query", get(query::instant).post(query::instant))
        .route("/query_range", get(query::range).post(query::range))
        .route("/query_exemplars", get(query::exemplars).post(query::exemplars))
        .route("/labels", get(list::labels).post(list::labels))
        .route("/label/{name}/values", get(list::label_values))
        .route("/series", get(list::series).post(list::series))
        .route("/metadata", get(list::metadata))
        .route("/read", post(read::read))
        .route("/scrape_pools", get(targets::scrape_pools))
        .route("/targets", get(targets::targets))
        .route("/targets/metadata", get(targets::metadata))
        .route("/status/tsdb", get(status::tsdb));
    let federate = Router::new().route("/federate", get(federate::federate));
    let forward = || from_fn_with_state(Arc::clone(shared), forward::forward);
    let api = series
        .layer(forward())
        .route("/format_query", get(query::format).post(query::format))
        .route("/parse_query", get(query::parse).post(query::parse))
        .route("/rules", get(status::rules))
        .route("/alerts", get(status::alerts))
        .route("/alertmanagers", get(status::alertmanagers))
        .route("/status/buildinfo", get(status::build_info))
        .route("/status/config", get(status::config))
        .route("/status/flags", get(status::flags))
        .route("/status/runtimeinfo", get(status::runtime_info))
        .route("/status/walreplay", get(status::wal_replay))
        .route("/notifications", get(async || data(&json!([]))))
        .route("/write", write::remote_write_route())
        .route("/import/prometheus", write::import_route());
    Router::new()
        .nest("/api/v1", api)
        .merge(federate.layer(forward()))
        .layer(CompressionLayer::new())
        .route("/-/healthy", get(async || "Holdfast is healthy.\n"))
        .route("/-/ready", get(status::ready))
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}
