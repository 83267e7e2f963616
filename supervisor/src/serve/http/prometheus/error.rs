//! Answers in Prometheus' words and shape, the bad ones and the good ones.

use std::fmt::Write as _;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_promql::EvalError;
use serde_json::{Value, json};

/// An error as Prometheus words it.
#[derive(Debug)]
pub(super) struct ApiError {
    kind: &'static str,
    text: String,
}

impl ApiError {
    pub(super) fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new("bad_data", text)
    }

    pub(super) fn parameter(name: &str, text: impl std::fmt::Display) -> Self {
        Self::bad(format!("invalid parameter {name:?}: {text}"))
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
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
            "timeout" | "canceled" | "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            "not_found" => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = json!({ "status": "error", "errorType": self.kind, "error": self.text });
        (status, axum::Json(body)).into_response()
    }
}

/// A good answer.
pub(super) fn data(data: &Value) -> Response {
    text(&data.to_string(), &[], &[])
}

/// A good answer around JSON that is text already, with what is to be said about it.
pub(super) fn text(data: &str, warnings: &[String], infos: &[String]) -> Response {
    let mut body = format!("{{\"status\":\"success\",\"data\":{data}");
    for (name, list) in [("warnings", warnings), ("infos", infos)] {
        if !list.is_empty() {
            write!(body, ",\"{name}\":{}", json!(list)).expect("writing to a string cannot fail");
        }
    }
    body.push('}');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A list, cut at `limit`; then a warning says so, as in Prometheus.
pub(super) fn listed(mut list: Vec<Value>, limit: usize) -> Response {
    if list.len() <= limit {
        return data(&Value::Array(list));
    }
    list.truncate(limit);
    text(&Value::Array(list).to_string(), &[TRUNCATED.to_owned()], &[])
}

/// Prometheus' words for a list that was cut.
pub(super) const TRUNCATED: &str = "results truncated due to limit";
