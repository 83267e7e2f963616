//! Remote read: another Prometheus asks for our samples and evaluates by itself.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_telemetry::errors::Chain;
use prost::Message as _;

use super::error::ApiError;
use super::query::TIMEOUT_MAX;
use crate::remote::read::ReadRequest;
use crate::remote::wire;
use crate::serve::http::Handle;

pub(super) async fn read(State(shared): State<Handle>, body: Bytes) -> Response {
    let turn = Arc::clone(&shared.queries).acquire_owned();
    let Ok(Ok(permit)) = tokio::time::timeout(TIMEOUT_MAX, turn).await else {
        return ApiError::new("unavailable", "too many queries wait").into_response();
    };
    let (store, external) =
        (Arc::clone(&shared.api.store), shared.api.metrics.external_labels.clone());
    let task = tokio::task::spawn_blocking(move || {
        let answer = ReadRequest::from_body(&body).and_then(|request| {
            let response = request.answer(&store, &external)?;
            Ok(wire::pack(&response.encode_to_vec()))
        });
        drop(permit);
        answer
    });
    match task.await {
        Ok(Ok(packed)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/x-protobuf"),
                (header::CONTENT_ENCODING, "snappy"),
            ];
            (headers, packed).into_response()
        }
        Ok(Err(error)) => {
            (StatusCode::BAD_REQUEST, Chain(&error).to_string() + "\n").into_response()
        }
        Err(_) => ApiError::new("internal", "the store failed").into_response(),
    }
}
