//! The operator API: what there is, and how one comes in.
//!
//! Everything under `/api/v1` asks who it is ([`access`]); `/metrics` and `/health/*` do not, as scrapers and probes cannot tell. Each
//! topic declares its paths beside their handlers ([`api`]); a change goes through [`operator`], which holds it to epoch and version and
//! writes it down.

mod access;
mod api;
mod bans;
pub(crate) mod doors;
mod error;
mod faults;
mod journal;
mod operator;
mod pools;
mod sessions;
mod settings;
pub(crate) mod stats;
mod sticks;
pub(crate) mod upgrade;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use holdfast_telemetry::Registry;
use holdfast_telemetry::health::Readiness;
use serde::de::DeserializeOwned;

use crate::control::Balancer;
use api::Route;
pub(crate) use error::ApiError;

/// Every path of the API, topic by topic.
fn routes() -> Vec<Route> {
    let mut routes = pools::routes();
    routes.extend(sticks::routes());
    routes.extend(bans::routes());
    routes.extend(faults::routes());
    routes.extend(settings::routes());
    routes.extend(upgrade::routes());
    routes.extend(journal::routes());
    routes.extend(sessions::routes());
    routes.extend(stats::routes());
    routes
}

/// Everything the admin listener answers.
pub(crate) fn router(balancer: Arc<Balancer>, registry: Registry, readiness: Readiness) -> Router {
    let routes = routes();
    let document = Arc::new(api::document(&routes));
    let describe = async move || Json((*document).clone());
    let api = api::router(routes)
        .route("/openapi.json", get(describe))
        .fallback(async || ApiError::not_found("there is no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(from_fn_with_state(Arc::clone(&balancer), attest))
        .layer(from_fn_with_state(Arc::clone(&balancer), access::authenticate))
        .layer(map_response(error::in_form))
        .with_state(Arc::clone(&balancer));
    let page = stats::page_router(balancer);
    let open = holdfast_telemetry::http::router(registry, readiness);
    Router::new().nest(api::PREFIX, api).merge(page).merge(open)
}

/// Says which version an answer shows; that of a change only once it is written down.
async fn attest(State(balancer): State<Arc<Balancer>>, request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET;
    // What is read was so at this version or at a later one: whoever acts on it is refused rather than obeyed by mistake.
    let seen = reads.then(|| balancer.version());
    let mut response = next.run(request).await;
    if !reads {
        balancer.recorder().flushed().await;
    }
    let version = seen.unwrap_or_else(|| balancer.version());
    if let Ok(version) = HeaderValue::try_from(version) {
        response.headers_mut().entry(header::ETAG).or_insert(version);
    }
    response
}

/// Reads a JSON body; one that is no JSON is the caller's mistake in form, one of another shape in content.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // A list would be taken for the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "expected a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let status = if error.inner().is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        let at = error.path().to_string();
        let error = error.into_inner();
        let at_root = at == ".";
        ApiError::new(status, if at_root { error.to_string() } else { format!("{at}: {error}") })
    })?;
    json.end().map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(value)
}

/// Reads what stands after the question mark.
fn read_query<T>(
    query: Result<axum::extract::Query<T>, axum::extract::rejection::QueryRejection>,
) -> Result<T, ApiError> {
    let bad = |error: axum::extract::rejection::QueryRejection| {
        ApiError::new(StatusCode::BAD_REQUEST, error.body_text())
    };
    query.map(|query| query.0).map_err(bad)
}
