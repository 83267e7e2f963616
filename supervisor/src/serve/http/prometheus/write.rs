//! Samples that come from elsewhere: remote write 1.0, and text with timestamps.
//!
//! Both need the operator's token, as they change what rules see. A request is taken as far as it goes: what cannot be stored (too old, a
//! second value for an instant, one series too many) is counted in the answer, with status 400, so that a sender does not try it again
//! for ever, as Prometheus' senders do with 5xx.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use holdfast_series::{
    AppendError, HistogramSample, Label, Labels, Metadata, MetricKind, Sample, Store,
    is_label_name, is_metric_name, text,
};
use tower_http::decompression::RequestDecompressionLayer;

use super::error::ApiError;
use super::now_ms;
use crate::remote::wire::{self, WriteRequest};
use crate::serve::http::Handle;
use crate::serve::http::reply::Operator;

/// Largest body. Remote write sends some hundred KiB; an import is cut into pieces by whoever sends it.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) fn remote_write_route() -> MethodRouter<Handle> {
    post(remote_write).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

pub(super) fn import_route() -> MethodRouter<Handle> {
    // The limit holds for what comes out of the decompression.
    post(import)
        .layer::<_, std::convert::Infallible>(RequestDecompressionLayer::new())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// What a request brought.
#[derive(Default)]
struct Outcome {
    refused: usize,
    first: Option<String>,
    busy: bool,
}

impl Outcome {
    fn refuse(&mut self, labels: &Labels, error: &AppendError) {
        self.busy |= matches!(error, AppendError::Busy);
        self.refused += 1;
        self.first.get_or_insert_with(|| format!("{labels}: {error}"));
    }

    fn answer(self) -> Response {
        let Some(first) = self.first else { return StatusCode::NO_CONTENT.into_response() };
        let text = format!("{} samples were not stored, the first: {first}\n", self.refused);
        // What was stored already is no fault when it comes again.
        let status =
            if self.busy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        (status, text).into_response()
    }
}

async fn remote_write(
    State(shared): State<Handle>,
    _operator: Operator,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    let refuse = |status: StatusCode, text: String| (status, text + "\n").into_response();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or("application/x-protobuf");
    if !kind.starts_with("application/x-protobuf") || kind.contains("write.v2") {
        let text = format!("expected application/x-protobuf of remote write 1.0, found {kind}");
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let store = Arc::clone(&shared.api.store);
    let task = tokio::task::spawn_blocking(move || {
        WriteRequest::from_body(&body).map(|request| store_request(&store, &request))
    });
    match task.await {
        Ok(Ok(outcome)) => Ok(outcome.answer()),
        Ok(Err(error)) => Err(refuse(StatusCode::BAD_REQUEST, error.to_string())),
        Err(_) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "the store failed".to_owned())),
    }
}

fn store_request(store: &Store, request: &WriteRequest) -> Outcome {
    let mut outcome = Outcome::default();
    let mut exemplars = Vec::new();
    let mut appender = store.appender();
    for series in &request.timeseries {
        let labels = wire::to_labels(&series.labels);
        let named = labels.iter().all(|(name, _)| is_label_name(name));
        if !named || !is_metric_name(labels.metric_name()) {
            outcome.refused += series.samples.len() + series.histograms.len();
            outcome.first.get_or_insert_with(|| format!("{labels}: invalid name"));
            continue;
        }
        let mut reference = match appender.series(&labels) {
            Ok((reference, _)) => reference,
            Err(error) => {
                outcome.refuse(&labels, &error);
                continue;
            }
        };
        for sample in &series.samples {
            if let Err(error) = appender.push(&mut reference, Sample::from(*sample)) {
                outcome.refuse(&labels, &error);
            }
        }
        for histogram in &series.histograms {
            let HistogramSample { timestamp_ms, histogram } = histogram.into();
            if let Err(error) = appender.push_histogram(&mut reference, timestamp_ms, histogram) {
                outcome.refuse(&labels, &error);
            }
        }
        exemplars.extend(series.exemplars.iter().map(|exemplar| (labels.clone(), exemplar.into())));
    }
    drop(appender);
    for (labels, exemplar) in exemplars {
        store.append_exemplar(&labels, exemplar);
    }
    for metadata in &request.metadata {
        let about = Metadata {
            kind: MetricKind::from_name(metadata.kind_name()),
            help: metadata.help.as_str().into(),
            unit: metadata.unit.as_str().into(),
        };
        store.set_metadata(&metadata.metric_family_name, &about);
    }
    outcome
}

async fn import(
    State(shared): State<Handle>,
    _operator: Operator,
    headers: HeaderMap,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
    body: String,
) -> Result<Response, ApiError> {
    let parameters: Vec<(String, String)> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let mut extra = Vec::new();
    let mut at_ms = now_ms();
    for (name, value) in &parameters {
        match name.as_str() {
            "extra_label" => {
                let pair = value.split_once('=').filter(|(name, _)| is_label_name(name));
                let (name, value) = pair.ok_or_else(|| {
                    ApiError::parameter(name, format!("expected name=value, found {value:?}"))
                })?;
                extra.push(Label::new(name, value));
            }
            "timestamp" => {
                at_ms = value.parse().map_err(|_| {
                    ApiError::parameter(name, format!("expected milliseconds, found {value:?}"))
                })?;
            }
            other => return Err(ApiError::bad(format!("parameter {other:?} is not known"))),
        }
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = text::Format::of_content_type(kind.unwrap_or_default());
    let store = Arc::clone(&shared.api.store);
    let task =
        tokio::task::spawn_blocking(move || store_text(&store, &body, format, &extra, at_ms));
    let result = task.await.map_err(|_| ApiError::new("internal", "the store failed"))?;
    result.map(Outcome::answer).map_err(|error| ApiError::bad(error.to_string()))
}

/// Stores a text; nothing of it if there is a fault in it.
fn store_text(
    store: &Store,
    body: &str,
    format: text::Format,
    extra: &[Label],
    at_ms: i64,
) -> Result<Outcome, text::ParseError> {
    let mut samples = Vec::new();
    for sample in text::parse(body, format) {
        let sample = sample?;
        let mut labels: Vec<Label> =
            sample.labels()?.into_iter().map(|(name, value)| Label::new(name, &*value)).collect();
        labels.extend(extra.iter().cloned());
        let timestamp_ms = sample.timestamp_ms.unwrap_or(at_ms);
        samples.push((Labels::from_labels(labels), Sample { timestamp_ms, value: sample.value }));
    }
    // By series and time, as the store likes it best.
    samples.sort_by(|(a, x), (b, y)| (a, x.timestamp_ms).cmp(&(b, y.timestamp_ms)));
    let mut outcome = Outcome::default();
    let mut importer = store.importer();
    let mut known: Option<(Labels, holdfast_series::SeriesRef)> = None;
    for (labels, sample) in samples {
        let mut reference = match known.take() {
            Some((of, reference)) if of == labels => reference,
            _ => match importer.series(&labels) {
                Ok((reference, _)) => reference,
                Err(error) => {
                    outcome.refuse(&labels, &error);
                    continue;
                }
            },
        };
        if let Err(error) = importer.push(&mut reference, sample) {
            outcome.refuse(&labels, &error);
        }
        known = Some((labels, reference));
    }
    Ok(outcome)
}
