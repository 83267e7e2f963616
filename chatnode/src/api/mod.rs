//! The server API: what an operator's back end may do, as Centrifugo's HTTP API defines it.
//!
//! `POST /api/<method>` with a JSON body and a key. Answers are 200 with `{"result": …}` or `{"error": …}`, so that a caller tells a
//! refused request from a broken connection; who would rather have statuses asks for them by header. Keys are known by their SHA-256
//! only: whoever reads the settings cannot call.

mod control;
mod keys;
mod locals;
mod methods;
mod openapi;
mod orders;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_telemetry::metrics::counter_vec;
use holdfast_telemetry::{IntCounterVec, Registry};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::{Denial, Revocations};
use crate::broker::Broker;
use crate::namespaces::Namespaces;
use crate::protocol::ErrorCode;
pub use control::{CHANNELS_MAX, Control, NodeInfo, Order, Whom};
pub use keys::{Keys, NotAHash};
pub use locals::Locals;
use methods::Method;

/// Largest request: a broadcast of a large message to many channels.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Errors as statuses, for callers that ask for it with this header.
const ERROR_MODE: &str = "x-centrifugo-error-mode";

/// What the API is built from.
#[derive(Clone)]
pub struct Parts {
    /// Where publications go.
    pub broker: Arc<dyn Broker>,
    /// Rules of channels.
    pub namespaces: Namespaces,
    /// Reaches connections on all nodes.
    pub control: Control,
    /// Tokens taken back.
    pub revocations: Revocations,
}

/// The API of a node.
struct Api {
    parts: Parts,
    keys: Keys,
    requests: IntCounterVec,
}

/// An error as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    code: u32,
    message: std::borrow::Cow<'static, str>,
}

impl ApiError {
    pub(crate) const BAD_REQUEST: Self =
        Self { code: 107, message: std::borrow::Cow::Borrowed("bad request") };

    /// A bad request, and what is bad about it.
    fn bad(what: &str) -> Self {
        Self { code: 107, message: format!("bad request: {what}").into() }
    }

    fn document(&self) -> String {
        serde_json::json!({"code": self.code, "message": self.message}).to_string()
    }

    fn status(&self) -> StatusCode {
        match self.code {
            102 | 104 => StatusCode::NOT_FOUND,
            107 | 108 => StatusCode::BAD_REQUEST,
            112 => StatusCode::RANGE_NOT_SATISFIABLE,
            113 => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(error: ErrorCode) -> Self {
        Self { code: error.code, message: error.message.into() }
    }
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Error { code, message, .. } => Self { code, message },
            Denial::Close { code, reason } => Self { code: code.into(), message: reason },
        }
    }
}

impl From<crate::broker::BrokerError> for ApiError {
    fn from(_: crate::broker::BrokerError) -> Self {
        // The cause is counted where the connection to Redis is kept.
        ErrorCode::INTERNAL.into()
    }
}

/// The routes of the API.
pub fn router(parts: Parts, keys: Keys, registry: &Registry) -> Router {
    let requests = counter_vec(
        registry,
        "chatnode_api_requests_total",
        "Requests to the server API, by method and result",
        &["method", "result"],
    );
    for method in Method::NAMES {
        for result in ["ok", "error"] {
            requests.with_label_values(&[method, result]);
        }
    }
    let api = Arc::new(Api { parts, keys, requests });
    Router::new()
        .route("/api/{method}", post(call))
        .route("/api/openapi.json", get(openapi::document))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

#[derive(Deserialize)]
struct KeyInQuery {
    api_key: Option<String>,
}

async fn call(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(query): Query<KeyInQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let key = text(header::HeaderName::from_static("x-api-key"))
        .or_else(|| text(header::AUTHORIZATION)?.strip_prefix("apikey "))
        .or(query.api_key.as_deref());
    if !key.is_some_and(|key| api.keys.have(key)) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let body = if body.is_empty() { &b"{}"[..] } else { &body };
    let Ok(parameters) = serde_json::from_slice::<&RawValue>(body) else {
        return (StatusCode::BAD_REQUEST, "expected a JSON document\n").into_response();
    };
    let (label, done) = match Method::named(&name) {
        Some(method) => (method.name(), methods::run(&api.parts, method, parameters).await),
        None => ("unknown", Err(ErrorCode::METHOD_NOT_FOUND.into())),
    };
    let result = if done.is_ok() { "ok" } else { "error" };
    if label != "unknown" {
        api.requests.with_label_values(&[label, result]).inc();
    }
    let by_status = headers.get(ERROR_MODE).is_some_and(|mode| mode == "transport");
    let (status, document) = match done {
        Ok(result) => (StatusCode::OK, format!("{{\"result\":{result}}}")),
        Err(error) if by_status => (error.status(), error.document()),
        Err(error) => (StatusCode::OK, format!("{{\"error\":{}}}", error.document())),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], document).into_response()
}
