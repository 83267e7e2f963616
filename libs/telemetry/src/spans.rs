//! Spans whose identity was settled before they ended.
//!
//! A proxy tells the server it asks which span is the parent of the server's own, long before it knows how the request ends. The SDK's
//! tracers draw identities themselves, so such spans go past them, straight to the exporter's queue; that is bounded, and drops spans when
//! full.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};

use crate::traces::{self, TRACER, TracesError};

/// Where spans are sent; the last ones are sent when it is dropped.
#[derive(Debug)]
pub struct Spans {
    processor: Option<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

/// A request that somebody was served, or part of one, which is over.
#[derive(Debug, Clone)]
pub struct ServedSpan {
    /// What it was.
    pub name: &'static str,
    /// The trace it belongs to.
    pub trace: u128,
    /// Its own identity.
    pub span: u64,
    /// The span of the one who asked; 0 if it is not known.
    pub parent: u64,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Facts about it.
    pub attributes: Vec<KeyValue>,
    /// Why it did not succeed, if so.
    pub error: Option<String>,
}

impl Spans {
    /// Sends to `endpoint` by OTLP/HTTP in the name of `program`.
    ///
    /// # Errors
    /// The endpoint is not a URL.
    pub fn new(endpoint: &str, program: &'static str) -> Result<Self, TracesError> {
        // On a thread of its own: the blocking client must not be made where async code runs.
        let endpoint = endpoint.to_owned();
        let make = move || {
            let exporter = traces::exporter(&endpoint)?;
            let mut processor = BatchSpanProcessor::builder(exporter).build();
            processor.set_resource(&traces::resource(program));
            Ok(processor)
        };
        let outcome = std::thread::spawn(make).join();
        let processor = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Self {
            processor: Some(processor),
            scope: InstrumentationScope::builder(TRACER).build(),
        })
    }

    /// Queues a span.
    pub fn send(&self, span: ServedSpan) {
        let Some(processor) = &self.processor else { return };
        let context = SpanContext::new(
            TraceId::from(span.trace),
            SpanId::from(span.span),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        processor.on_end(SpanData {
            span_context: context,
            parent_span_id: SpanId::from(span.parent),
            parent_span_is_remote: span.parent != 0,
            span_kind: SpanKind::Server,
            name: span.name.into(),
            start_time: span.began,
            end_time: span.began + span.took,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        let Some(processor) = self.processor.take() else { return };
        traces::flush_apart(move || {
            // The program ends: there is nobody left to tell that the collector did not take the last spans.
            let _ = processor.shutdown_with_timeout(traces::SHUTDOWN_TIMEOUT);
        });
    }
}
