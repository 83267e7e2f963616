//! Tracing spans to an OpenTelemetry collector over OTLP/HTTP (protobuf).
//!
//! Spans are queued and sent by a thread of their own with a blocking HTTP client, so a slow or dead collector never holds up the
//! program: the queue is bounded and drops spans when full. That client must be neither built nor dropped where async code runs,
//! hence the helper threads here.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

pub use opentelemetry::KeyValue;
use opentelemetry::trace::{
    Span as _, SpanBuilder, Status, TraceContextExt as _, TracerProvider as _,
};
use opentelemetry::{Context, global};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// Path of OTLP/HTTP for traces, added where the setting names only the collector.
const TRACES_PATH: &str = "/v1/traces";
/// Under this name spans are counted as ours.
pub(crate) const TRACER: &str = "holdfast";
/// One export; spans are worth less than a stuck thread.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last spans when the program ends: below the usual 10 s a service manager grants, above one slow export to a live collector.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("set up the OpenTelemetry exporter for {endpoint}")]
pub struct TracesError {
    endpoint: String,
    source: opentelemetry_otlp::ExporterBuildError,
}

/// The export of spans; flushed and ended on drop.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    pub(crate) fn new(endpoint: &str, program: &'static str) -> Result<Self, TracesError> {
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(program))
            .with_batch_exporter(exporter(endpoint)?)
            .build();
        // For [`record`]; the last export that was set up gets them.
        global::set_tracer_provider(provider.clone());
        Ok(Self { provider })
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer(TRACER)
    }
}

/// A span of something that is over. Whoever measured it tells its times, so that a trace and a report of the same thing cannot differ.
#[derive(Debug, Clone)]
pub struct FinishedSpan {
    /// What it was.
    pub name: Cow<'static, str>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Facts about it.
    pub attributes: Vec<KeyValue>,
    /// Why it did not succeed, if so.
    pub error: Option<String>,
}

/// Queues a trace: a span, and the spans below it. Returns the trace's identifier in 32 hexadecimal digits; `None` if no traces are
/// exported.
pub fn record(
    whole: FinishedSpan,
    parts: impl IntoIterator<Item = FinishedSpan>,
) -> Option<String> {
    let tracer = global::tracer(TRACER);
    let nothing = Context::new();
    let (root, root_end) = begin(whole, &tracer, &nothing);
    let identity = root.span_context().clone();
    if !identity.is_valid() {
        return None;
    }
    let parent = nothing.with_span(root);
    for part in parts {
        let (mut span, end) = begin(part, &tracer, &parent);
        span.end_with_timestamp(end);
    }
    parent.span().end_with_timestamp(root_end);
    Some(identity.trace_id().to_string())
}

/// Begins a span as it began, and says when it ended.
fn begin(
    finished: FinishedSpan,
    tracer: &global::BoxedTracer,
    parent: &Context,
) -> (global::BoxedSpan, SystemTime) {
    let FinishedSpan { name, began, took, attributes, error } = finished;
    let builder = SpanBuilder::from_name(name).with_start_time(began).with_attributes(attributes);
    let mut span = builder.start_with_context(tracer, parent);
    if let Some(error) = error {
        span.set_status(Status::error(error));
    }
    (span, began + took)
}

impl Drop for Traces {
    fn drop(&mut self) {
        let provider = self.provider.clone();
        flush_apart(move || {
            // The program ends: there is nobody left to tell that the collector did not take the last spans.
            let _ = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
        });
    }
}

/// What sends spans to the collector at `endpoint`.
pub(crate) fn exporter(endpoint: &str) -> Result<SpanExporter, TracesError> {
    // Where the HTTP client speaks TLS it needs a provider; an error only says that the program has chosen one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = traces_url(endpoint);
    SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url.clone())
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| TracesError { endpoint: url, source })
}

/// What `program` is called where spans are kept.
pub(crate) fn resource(program: &'static str) -> Resource {
    Resource::builder().with_service_name(program).build()
}

/// Does `flush` where no async code runs, and waits for it.
pub(crate) fn flush_apart(flush: impl FnOnce() + Send + 'static) {
    // Without a thread to spare the last spans are lost, and nothing else.
    let _ = std::thread::Builder::new().spawn(flush).map(std::thread::JoinHandle::join);
}

fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_once() {
        for endpoint in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(traces_url(endpoint), "http://c:4318/v1/traces");
        }
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_refused() {
        let error = Traces::new("no url", "supervisor").unwrap_err();
        assert!(error.to_string().contains("no url"), "{error}");
    }
}
