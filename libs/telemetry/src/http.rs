//! The three paths every program answers on its admin listener: `/metrics`, `/health/live`, `/health/ready`.
//!
//! Live means the process answers at all: restart it otherwise. Ready means it may be given work: route elsewhere otherwise. They
//! differ on purpose; a program that lost its Redis must be routed around, not restarted.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::Registry;
use serde::Serialize;

use crate::health::Readiness;
use crate::metrics;

/// Content type of the Prometheus text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Body of `/health/ready`.
#[derive(Serialize)]
struct ReadinessBody {
    ready: bool,
    unmet: Vec<UnmetBody>,
}

#[derive(Serialize)]
struct UnmetBody {
    condition: &'static str,
    reason: String,
}

/// `GET /metrics`, `GET /health/live` (200 `ok`), `GET /health/ready` (200 or 503, JSON with the conditions not met).
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    let metrics = Router::new().route("/metrics", get(metrics_text)).with_state(registry);
    let ready = Router::new().route("/health/ready", get(ready)).with_state(readiness);
    Router::new().route("/health/live", get(async || "ok")).merge(metrics).merge(ready)
}

async fn metrics_text(State(registry): State<Registry>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics::encode(&registry)).into_response()
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    // Decided on the list alone, so that status and body cannot disagree.
    let unmet: Vec<_> = readiness
        .unmet()
        .into_iter()
        .map(|(condition, reason)| UnmetBody { condition, reason })
        .collect();
    let ready = unmet.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadinessBody { ready, unmet })).into_response()
}
