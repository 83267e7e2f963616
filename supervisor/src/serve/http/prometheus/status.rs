//! What rules and alerts there are, and what this server is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use holdfast_promql::format_number;
use holdfast_telemetry::Registry;
use serde_json::{Value, json};

use super::error::{ApiError, data};
use super::input::Input;
use super::query::TIMEOUT_MAX;
use crate::cluster::{AlertState, AlertStatus};
use crate::serve::http::{Handle, QUERIES_MAX};

/// The version of Prometheus whose answers these are; Grafana picks its features by it.
const PROMETHEUS_VERSION: &str = "3.0.0";

/// Entries of each list of `status/tsdb`.
const LARGEST: usize = 10;

pub(super) async fn rules(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let described = shared.api.sources.rules.borrow().clone();
    let groups = described["groups"].as_array().cloned().unwrap_or_default();
    let kind = match input.get("type").map(str::to_lowercase).as_deref() {
        None => None,
        Some("alert") => Some("alerting"),
        Some("record") => Some("recording"),
        Some(other) => {
            return Err(ApiError::bad(format!("not supported value {other:?}")));
        }
    };
    let is_wanted = |name: &str, value: &Value| {
        let mut wanted = input.all(name).peekable();
        wanted.peek().is_none() || wanted.any(|wanted| value == wanted)
    };
    let without_alerts = input.flag("exclude_alerts")?;
    let mut shown = Vec::new();
    for mut group in groups {
        if !is_wanted("rule_group[]", &group["name"]) || !is_wanted("file[]", &group["file"]) {
            continue;
        }
        if let Some(rules) = group["rules"].as_array_mut() {
            rules.retain(|rule| {
                kind.is_none_or(|kind| rule["type"] == kind)
                    && is_wanted("rule_name[]", &rule["name"])
            });
            if rules.is_empty() {
                continue;
            }
            for rule in rules.iter_mut().filter(|_| without_alerts) {
                rule.as_object_mut().map(|rule| rule.remove("alerts"));
            }
        }
        shown.push(group);
    }
    Ok(data(&json!({ "groups": shown })))
}

pub(super) async fn alerts(State(shared): State<Handle>) -> Response {
    let alerts = shared.api.sources.alerts.borrow().clone();
    let shown = alerts.iter().filter(|alert| alert.state != AlertState::Resolved);
    let list: Vec<_> = shown.map(alert_json).collect();
    data(&json!({ "alerts": list }))
}

/// An alert in the shape of Prometheus' API.
pub(crate) fn alert_json(alert: &AlertStatus) -> Value {
    json!({
        "labels": alert.labels,
        "annotations": alert.annotations,
        "state": alert.state,
        "activeAt": alert.active_at,
        "value": format_number(alert.value),
    })
}

/// None: notifications go out by mail and webhook.
pub(super) async fn alertmanagers() -> Response {
    data(&json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] }))
}

pub(super) async fn build_info() -> Response {
    data(&json!({
        "version": PROMETHEUS_VERSION,
        "revision": concat!("holdfast-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

pub(super) async fn config(State(shared): State<Handle>) -> Response {
    data(&json!({ "yaml": shared.api.metrics.config_yaml }))
}

pub(super) async fn flags(State(shared): State<Handle>) -> Response {
    data(&json!({
        "query.lookback-delta": "5m",
        "query.max-concurrency": QUERIES_MAX.to_string(),
        "query.timeout": format!("{}s", TIMEOUT_MAX.as_secs()),
        "storage.tsdb.retention.time": shared.api.metrics.retention,
        "web.enable-admin-api": "false",
        "web.enable-lifecycle": "true",
        "web.enable-remote-write-receiver": "true",
    }))
}

pub(super) async fn runtime_info(State(shared): State<Handle>) -> Response {
    let metrics = &shared.api.metrics;
    let folder = std::env::current_dir().unwrap_or_default();
    let figure = |name: &str| own_figure(&shared.api.registry, name);
    #[expect(clippy::cast_possible_truncation, reason = "seconds since the epoch")]
    let reloaded_at = figure("supervisor_config_last_reload_timestamp_seconds")
        .and_then(|seconds| DateTime::from_timestamp(seconds as i64, 0));
    // Tasks and worker threads are what comes closest to what Go calls these.
    let tasks = tokio::runtime::Handle::current().metrics();
    data(&json!({
        "startTime": metrics.started_at,
        "CWD": folder,
        "hostname": shared.api.name,
        "serverTime": Utc::now(),
        "reloadConfigSuccess": figure("supervisor_config_last_reload_successful") == Some(1.0),
        "lastConfigTime": reloaded_at.unwrap_or(metrics.started_at),
        "corruptionCount": figure("supervisor_store_damaged_total").unwrap_or_default(),
        "goroutineCount": tasks.num_alive_tasks(),
        "GOMAXPROCS": tasks.num_workers(),
        // Settings of Go's runtime, which is not here; clients expect the keys.
        "GOGC": "",
        "GODEBUG": "",
        "timeSeriesCount": shared.api.store.series_count(),
        "storageRetention": metrics.retention,
    }))
}

/// The value of one of our own metrics that has no labels.
fn own_figure(registry: &Registry, name: &str) -> Option<f64> {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name)?;
    let metric = family.get_metric().first()?;
    Some(metric.get_gauge().get_value() + metric.get_counter().get_value())
}

/// The log is read before the address answers.
pub(super) async fn wal_replay() -> Response {
    data(&json!({ "min": 0, "max": 0, "current": 0 }))
}

pub(super) async fn tsdb(State(shared): State<Handle>, input: Input) -> Result<Response, ApiError> {
    let limit = input.limit(10_000)?;
    let store = std::sync::Arc::clone(&shared.api.store);
    let limit = if limit == 10_000 { LARGEST } else { limit };
    let counted = tokio::task::spawn_blocking(move || store.cardinality(limit)).await;
    let counted = counted.map_err(|_| ApiError::new("internal", "the store failed"))?;
    let (oldest, newest) = counted.span_ms.unwrap_or_default();
    let list = |counts: &[holdfast_series::Count]| -> Vec<Value> {
        counts.iter().map(|count| json!({ "name": count.name, "value": count.value })).collect()
    };
    Ok(data(&json!({
        "headStats": {
            "numSeries": counted.series,
            "numLabelPairs": counted.label_pairs,
            "chunkCount": 0,
            "minTime": oldest,
            "maxTime": newest,
        },
        "seriesCountByMetricName": list(&counted.series_by_metric),
        "labelValueCountByLabelName": list(&counted.values_by_label),
        "memoryInBytesByLabelName": list(&counted.bytes_by_label),
        "seriesCountByLabelValuePair": list(&counted.series_by_pair),
    })))
}

pub(super) async fn ready(State(shared): State<Handle>) -> Response {
    if shared.api.readiness.is_ready() {
        "Holdfast is ready.\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable\n").into_response()
    }
}
