//! Prometheus' HTTP query API over the embedded store, so that Grafana reads the supervisor as it would a Prometheus server.
//!
//! Paths, parameters, the shape of answers and of errors are those of Prometheus; parameters it ignores are ignored. Queries run on
//! blocking threads, few at once and each against a deadline, so that a dashboard cannot starve the loops that keep the cluster alive.

mod input;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::{DateTime, Utc};
use holdfast_promql::{
    Answer, EvalError, Expression, Interruption, Options, format_number, format_value,
};
use holdfast_series::{Labels, Matcher, Store, is_label_name, is_stale};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use self::input::Input;
use super::Handle;
use crate::cluster::{AlertState, AlertStatus};

/// Longest a query may take; `timeout` may ask for less. Grafana gives up after 30 s by default.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);

/// Series or values listed at most, so that a listing stays a few megabytes.
const LIST_MAX: usize = 10_000;

/// How old the last `up` of a target may be for it to be listed.
const TARGET_AGE_MS: i64 = 5 * 60 * 1000;

/// The version of Prometheus whose answers these are; Grafana picks its features by it.
const PROMETHEUS_VERSION: &str = "3.0.0";

pub(super) fn routes() -> Router<Handle> {
    let api = Router::new()
        .route("/query", get(query).post(query))
        .route("/query_range", get(query_range).post(query_range))
        .route("/query_exemplars", get(no_list).post(no_list))
        .route("/labels", get(labels).post(labels))
        .route("/label/{name}/values", get(label_values))
        .route("/series", get(series).post(series))
        .route("/rules", get(rules))
        .route("/alerts", get(alerts))
        .route("/targets", get(targets))
        .route("/metadata", get(async || data(&json!({}))))
        .route("/status/buildinfo", get(build_info));
    Router::new()
        .nest("/api/v1", api)
        .route("/-/healthy", get(async || "Holdfast is healthy.\n"))
        .route("/-/ready", get(ready))
}

/// An error in Prometheus' words and shape.
#[derive(Debug)]
struct ApiError {
    kind: &'static str,
    text: String,
}

impl ApiError {
    fn bad(text: impl Into<String>) -> Self {
        Self { kind: "bad_data", text: text.into() }
    }

    fn parameter(name: &str, text: impl std::fmt::Display) -> Self {
        Self::bad(format!("invalid parameter {name:?}: {text}"))
    }
}

impl From<EvalError> for ApiError {
    fn from(error: EvalError) -> Self {
        Self { kind: error.api_type(), text: error.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            "bad_data" => StatusCode::BAD_REQUEST,
            "execution" => StatusCode::UNPROCESSABLE_ENTITY,
            "timeout" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.text });
        (status, axum::Json(body)).into_response()
    }
}

fn data(data: &serde_json::Value) -> Response {
    text(&data.to_string())
}

/// A good answer around JSON that is already text.
fn text(data: &str) -> Response {
    let body = format!("{{\"status\":\"success\",\"data\":{data}}}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

async fn query(State(shared): State<Handle>, input: Input) -> Result<Response, ApiError> {
    let expression = expression(&input)?;
    let at = input.time("time")?.unwrap_or_else(now_ms);
    evaluate(&shared, &input, move |store, options| {
        holdfast_promql::instant(store, &expression, at, options)
    })
    .await
}

async fn query_range(State(shared): State<Handle>, input: Input) -> Result<Response, ApiError> {
    let expression = expression(&input)?;
    let start = input.required_time("start")?;
    let end = input.required_time("end")?;
    let step = input.step()?;
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    evaluate(&shared, &input, move |store, options| {
        holdfast_promql::range(store, &expression, start, end, step, options)
    })
    .await
}

fn expression(input: &Input) -> Result<Expression, ApiError> {
    let text = input.get("query").unwrap_or_default();
    Expression::parse(text).map_err(|error| ApiError::parameter("query", error))
}

/// Runs a query on a blocking thread when it is its turn, against its deadline.
async fn evaluate(
    shared: &Handle,
    input: &Input,
    run: impl FnOnce(&Store, &Options<'_>) -> Result<Answer, EvalError> + Send + 'static,
) -> Result<Response, ApiError> {
    let patience = input.timeout()?.map_or(TIMEOUT_MAX, |asked| asked.min(TIMEOUT_MAX));
    let deadline = Instant::now() + patience;
    let turn = timeout_at(deadline, Arc::clone(&shared.queries).acquire_owned()).await;
    let Ok(Ok(permit)) = turn else { return Err(EvalError::TimedOut.into()) };
    let store = Arc::clone(&shared.api.store);
    let task = tokio::task::spawn_blocking(move || {
        let is_late = || (Instant::now() >= deadline).then_some(Interruption::TimedOut);
        let options = Options { interrupted: Some(&is_late), ..Options::default() };
        let result = run(&store, &options).map(|answer| format_value(&answer.value));
        drop(permit);
        result
    });
    match task.await {
        Ok(result) => Ok(text(&result?)),
        Err(_) => Err(ApiError { kind: "internal", text: "the query engine failed".to_owned() }),
    }
}

/// The matchers of each `match[]`; one that matches everything if there is none and none is needed.
fn selectors(input: &Input) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let parse = |text: &str| {
        let fail = |text: String| ApiError::parameter("match[]", text);
        let expression = Expression::parse(text).map_err(|error| fail(error.to_string()))?;
        let matchers = expression.as_matchers();
        matchers.map(<[Matcher]>::to_vec).ok_or_else(|| fail("expected a selector".to_owned()))
    };
    input.all("match[]").map(parse).collect()
}

async fn series(State(shared): State<Handle>, input: Input) -> Result<Response, ApiError> {
    let selectors = selectors(&input)?;
    if selectors.is_empty() {
        return Err(ApiError::bad("no match[] parameter provided"));
    }
    let found: BTreeSet<Labels> =
        selectors.iter().flat_map(|matchers| shared.api.store.series(matchers)).collect();
    let list: Vec<_> = found.iter().take(input.limit(LIST_MAX)?).map(label_map).collect();
    Ok(data(&json!(list)))
}

fn label_map(labels: &Labels) -> serde_json::Map<String, serde_json::Value> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

async fn labels(State(shared): State<Handle>, input: Input) -> Result<Response, ApiError> {
    listed(&input, |matchers| shared.api.store.label_names(matchers))
}

async fn label_values(
    State(shared): State<Handle>,
    Path(name): Path<String>,
    input: Input,
) -> Result<Response, ApiError> {
    if !is_label_name(&name) {
        return Err(ApiError::bad(format!("invalid label name: {name:?}")));
    }
    listed(&input, |matchers| shared.api.store.label_values(&name, matchers))
}

/// What `find` gives for each `match[]`, or for everything, once each and sorted.
fn listed(
    input: &Input,
    find: impl Fn(&[Matcher]) -> BTreeSet<Arc<str>>,
) -> Result<Response, ApiError> {
    let selectors = selectors(input)?;
    let found = if selectors.is_empty() {
        find(&[])
    } else {
        selectors.iter().flat_map(|matchers| find(matchers)).collect()
    };
    let list: Vec<&str> = found.iter().take(input.limit(LIST_MAX)?).map(AsRef::as_ref).collect();
    Ok(data(&json!(list)))
}

async fn rules(State(shared): State<Handle>) -> Response {
    let rules = shared.api.sources.rules.borrow().clone();
    if rules.is_null() { data(&json!({ "groups": [] })) } else { data(&rules) }
}

async fn alerts(State(shared): State<Handle>) -> Response {
    let alerts = shared.api.sources.alerts.borrow().clone();
    let shown = alerts.iter().filter(|alert| alert.state != AlertState::Resolved);
    let list: Vec<_> = shown.map(alert_json).collect();
    data(&json!({ "alerts": list }))
}

/// An alert in the shape of Prometheus' API.
pub(crate) fn alert_json(alert: &AlertStatus) -> serde_json::Value {
    json!({
        "labels": alert.labels,
        "annotations": alert.annotations,
        "state": alert.state,
        "activeAt": alert.active_at,
        "value": format_number(alert.value),
    })
}

/// Scrape targets as the store knows them: by their newest `up`.
async fn targets(State(shared): State<Handle>) -> Response {
    let (store, now) = (&shared.api.store, now_ms());
    let newest = |metric: &str| {
        store.select_latest(&[Matcher::equal("__name__", metric)], now - TARGET_AGE_MS, now)
    };
    let seconds = newest("scrape_duration_seconds");
    let target = |series: &holdfast_series::SeriesData| {
        let sample = series.samples.last().filter(|sample| !is_stale(sample.value))?;
        let labels = series.labels.without_name();
        let duration = seconds.iter().find(|other| other.labels.without_name() == labels);
        let duration = duration.and_then(|other| other.samples.last()).map(|sample| sample.value);
        let last = DateTime::from_timestamp_millis(sample.timestamp_ms);
        Some(json!({
            "discoveredLabels": {},
            "labels": label_map(&labels),
            "scrapePool": labels.value("job"),
            "health": if sample.value > 0.0 { "up" } else { "down" },
            "lastScrape": last,
            "lastScrapeDuration": duration,
        }))
    };
    let active: Vec<_> = newest("up").iter().filter_map(target).collect();
    data(&json!({ "activeTargets": active, "droppedTargets": [] }))
}

async fn no_list() -> Response {
    data(&json!([]))
}

async fn build_info() -> Response {
    data(&json!({
        "version": PROMETHEUS_VERSION,
        "revision": concat!("holdfast-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    }))
}

async fn ready(State(shared): State<Handle>) -> Response {
    if shared.api.readiness.is_ready() {
        "Holdfast is ready.\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable\n").into_response()
    }
}
