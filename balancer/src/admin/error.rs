//! How the operator API says no.

use axum::Json;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_telemetry::errors::Chain;
use serde_json::json;

use crate::control::{Refused, ReloadError};
use crate::handover::UpgradeError;

/// The longest of what the framework says by itself is a line.
const REFUSAL_BYTES_MAX: usize = 4_096;

/// An error as the API tells it: a status and `{"error": text}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    text: String,
    faults: Vec<String>,
    /// The version there is, where another was expected.
    version: Option<HeaderValue>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), faults: Vec::new(), version: None }
    }

    /// What was sent is well formed, and means nothing that can be done.
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }

    /// There is no such thing.
    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// What there is stands in the way.
    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::StaleEpoch { .. } => Self::new(StatusCode::CONFLICT, text),
            Refused::TakenOver => Self::new(StatusCode::SERVICE_UNAVAILABLE, text),
            Refused::OtherVersion { current } => Self {
                // Of characters that a header may have.
                version: current.parse().ok(),
                ..Self::new(StatusCode::PRECONDITION_FAILED, text)
            },
        }
    }
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> Self {
        let text = error.to_string();
        Self { faults: error.faults, ..Self::invalid(text) }
    }
}

impl From<UpgradeError> for ApiError {
    fn from(error: UpgradeError) -> Self {
        let refused = Self::invalid(format!("{}; this process serves on", Chain(&error)));
        match error {
            UpgradeError::Refused { reasons } => Self { faults: reasons, ..refused },
            _ => refused,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.text });
        if !self.faults.is_empty() {
            body["faults"] = json!(self.faults);
        }
        let mut response = (self.status, Json(body)).into_response();
        if let Some(version) = self.version {
            response.headers_mut().insert(header::ETAG, version);
        }
        response
    }
}

/// What the framework refuses by itself (a path that names no number, a body that is too long) in the form of our own answers.
pub(super) async fn in_form(response: Response) -> Response {
    let status = response.status();
    let is_ours =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    // What is longer is none of it.
    let text = to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let mut answer = ApiError::new(status, String::from_utf8_lossy(&text)).into_response();
    for (name, value) in &parts.headers {
        if !answer.headers().contains_key(name) && *name != header::CONTENT_LENGTH {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}
