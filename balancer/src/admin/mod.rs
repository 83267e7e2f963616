//! The operator API: who may ask, and which function answers.
//!
//! Everything under `/api/v1` needs the bearer token; `/metrics` and `/health/*` do not, as scrapers and probes carry none. A change may
//! name an epoch, by which a supervisor that has been replaced is refused.

mod pools;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use holdfast_settings::Secret;
use holdfast_telemetry::Registry;
use holdfast_telemetry::health::Readiness;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::control::{Balancer, ReloadError, StaleEpoch};

/// The largest body there is a use for is a few hundred bytes.
const BODY_BYTES_MAX: usize = 16 * 1_024;
const EPOCH: &str = "x-holdfast-epoch";

/// An error as the API tells it: a status and `{"error": text}`.
#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    text: String,
    faults: Vec<String>,
}

impl ApiError {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), faults: Vec::new() }
    }
}

impl From<StaleEpoch> for ApiError {
    fn from(stale: StaleEpoch) -> Self {
        Self::new(StatusCode::CONFLICT, stale.to_string())
    }
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> Self {
        let text = error.to_string();
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, text, faults: error.faults }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.text });
        if !self.faults.is_empty() {
            body["faults"] = json!(self.faults);
        }
        (self.status, Json(body)).into_response()
    }
}

/// Everything the admin listener answers.
pub(crate) fn router(
    balancer: Arc<Balancer>,
    token: Secret,
    registry: Registry,
    readiness: Readiness,
) -> Router {
    let api = Router::new()
        .route("/pools", get(pools::list))
        .route("/pools/{pool}", get(pools::show))
        .route("/pools/{pool}/servers", post(pools::add))
        .route("/pools/{pool}/servers/{server}", patch(pools::change).delete(pools::remove))
        .route("/reload", post(reload))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(Arc::new(token), authenticate))
        .with_state(balancer);
    Router::new().nest("/api/v1", api).merge(holdfast_telemetry::http::router(registry, readiness))
}

/// Lets only those pass who know the token.
async fn authenticate(State(token): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    // In constant time, so that the token cannot be guessed letter by letter.
    let known = given.is_some_and(|given| given.as_bytes().ct_eq(token.expose().as_bytes()).into());
    if known {
        return next.run(request).await;
    }
    let error =
        ApiError::new(StatusCode::UNAUTHORIZED, "expected the header Authorization: Bearer TOKEN");
    ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
}

/// `POST /reload`
async fn reload(
    State(balancer): State<Arc<Balancer>>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, ApiError> {
    drop(balancer.enter(epoch(&headers)?)?);
    let changed = balancer.reload().await?;
    Ok(Json(json!({ "changed": changed })))
}

/// The epoch a change is made under, if it names one.
fn epoch(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(EPOCH) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("expected a number in the header {EPOCH}"))
    })
}
