//! Requests that a remote Prometheus answers in our place, when it is the one that has the series.
//!
//! The request goes on as it came, and so does the answer, errors and warnings included: whatever the remote can do, works here.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use holdfast_telemetry::errors::Chain;

use super::error::ApiError;
use crate::serve::http::{BODY_BYTES_MAX, Handle};

/// Forwards if there is a remote, and answers here if not.
pub(super) async fn forward(
    State(shared): State<Handle>,
    request: Request,
    next: Next,
) -> Response {
    let Some(remote) = shared.api.metrics.remote.clone() else { return next.run(request).await };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return ApiError::bad(format!("the body is longer than {BODY_BYTES_MAX} bytes"))
            .into_response();
    };
    // The router has cut off what it was nested under.
    let path =
        parts.extensions.get::<axum::extract::OriginalUri>().map_or(&parts.uri, |uri| &uri.0);
    let path = path.path_and_query().map_or("/", |path| path.as_str());
    let kind = parts.headers.get(header::CONTENT_TYPE).cloned();
    match remote.forward(parts.method, path, kind, body).await {
        Ok(answer) => {
            let kind = answer.kind.map(|kind| [(header::CONTENT_TYPE, kind)]);
            (answer.status, kind, Body::from(answer.body)).into_response()
        }
        Err(error) => ApiError::new("unavailable", Chain(&error).to_string()).into_response(),
    }
}
