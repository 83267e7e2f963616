//! Tracing spans to an OpenTelemetry collector over OTLP/HTTP (protobuf).
//!
//! Spans are queued and sent by a thread of their own with a blocking HTTP client, so a slow or dead collector never holds up the
//! program: the queue is bounded and drops spans when full. That client must be neither built nor dropped where async code runs,
//! hence the helper threads here.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// Path of OTLP/HTTP for traces, added where the setting names only the collector.
const TRACES_PATH: &str = "/v1/traces";
/// One export; spans are worth less than a stuck thread.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last spans when the program ends: below the usual 10 s a service manager grants, above one slow export to a live collector.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

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
        // Where the HTTP client speaks TLS it needs a provider; an error only says that the program has chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = traces_url(endpoint);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url.clone())
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|source| TracesError { endpoint: url, source })?;
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name(program).build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Self { provider })
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("holdfast")
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let provider = self.provider.clone();
        let flush = move || {
            // The program ends: there is nobody left to tell that the collector did not take the last spans.
            let _ = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
        };
        // Without a thread to spare the last spans are lost, and nothing else.
        let _ = std::thread::Builder::new().spawn(flush).map(std::thread::JoinHandle::join);
    }
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
