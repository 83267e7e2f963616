//! What is told of single requests: a line in the access log, a span for the collector.
//!
//! A worker notes what happens to a request in a [`Draft`] that exists only while one of the two is switched on; when the request is over
//! the draft becomes a line, a span, both or nothing. Lines leave the worker in batches, so that the thread that writes them is woken a few
//! times a second and not per request, and everything on the way is bounded: what does not fit is dropped and counted, never waited for.
//! Neither ever holds a token or what people say: no fields but a few named ones, and no query unless the settings ask for it.

mod draft;
mod lines;

use std::io;
use std::sync::Arc;

use chrono::Utc;
use holdfast_telemetry::spans::{ServedSpan, Spans};
use holdfast_telemetry::traces::KeyValue;
use tokio::time::Instant;

use crate::config::Config;
use crate::metrics::{Close, SightMetrics};
use crate::proxy::session::Session;
pub(crate) use draft::Draft;
use draft::Span;
use lines::Lines;
pub(crate) use lines::flush;

/// From this status on a response is an error whatever the share of lines.
const ERROR_STATUS: u16 = 500;

/// What listens to requests; there is none where nobody wants to know.
#[derive(Debug)]
pub(crate) struct Sight {
    lines: Option<Arc<Lines>>,
    /// Share of the lines about what went well.
    sample: f64,
    query: bool,
    spans: Option<Spans>,
    /// Share of the requests that come without a trace.
    trace_sample: f64,
}

impl Sight {
    /// As the settings want it; `None` if they want nothing.
    pub(crate) fn start(
        config: &Config,
        metrics: &Arc<SightMetrics>,
    ) -> io::Result<Option<Arc<Self>>> {
        let log = config.access_log.as_ref();
        let traces = config.traces.as_ref();
        if log.is_none() && traces.is_none() {
            return Ok(None);
        }
        let lines = log.map(|log| Lines::start(log, Arc::clone(metrics))).transpose()?;
        let spans = traces.map(|traces| Spans::new(&traces.endpoint, "balancer"));
        Ok(Some(Arc::new(Self {
            lines: lines.map(Arc::new),
            sample: log.map_or(0.0, |log| log.sample),
            query: log.is_some_and(|log| log.query),
            spans: spans.transpose().map_err(io::Error::other)?,
            trace_sample: traces.map_or(0.0, |traces| traces.sample),
        })))
    }

    /// Opens the log's file anew, because somebody has moved it away.
    pub(crate) fn reopen(&self) {
        if let Some(lines) = &self.lines {
            lines.reopen();
        }
    }

    /// Whether a request that comes without a trace gets one.
    fn begins_trace(&self) -> bool {
        self.spans.is_some() && fastrand::f64() < self.trace_sample
    }

    /// Tells what `draft` has become, at the end of it.
    pub(crate) fn tell(&self, mut draft: Box<Draft>, session: &Session, close: Option<Close>) {
        draft.line.end(session, draft.begun.elapsed(), close);
        if let (Some(spans), Some(span)) = (&self.spans, &draft.span) {
            spans.send(served(&draft, span));
        }
        let Some(lines) = &self.lines else { return };
        let failed = draft.line.is_error();
        if failed || self.sample >= 1.0 || fastrand::f64() < self.sample {
            lines.push(draft.line);
        }
    }

    /// Tells of a TLS handshake that `began` then and ended well or with `error`.
    pub(crate) fn tell_handshake(&self, session: &Session, began: Instant, error: Option<String>) {
        if !self.begins_trace() {
            return;
        }
        let Some(spans) = &self.spans else { return };
        let took = began.elapsed();
        let began = Utc::now() - chrono::Duration::from_std(took).unwrap_or_default();
        spans.send(ServedSpan {
            name: "tls handshake",
            trace: fastrand::u128(1..),
            span: fastrand::u64(1..),
            parent: 0,
            began: began.into(),
            took,
            attributes: vec![
                KeyValue::new("holdfast.listener", session.listener_name().to_string()),
                KeyValue::new("network.peer.address", session.peer().ip().to_string()),
            ],
            error,
        });
    }
}

/// The span of a request, in the words of OpenTelemetry's conventions for HTTP servers.
fn served(draft: &Draft, span: &Span) -> ServedSpan {
    let line = &draft.line;
    let text = |key: &'static str, value: &str| KeyValue::new(key, value.to_owned());
    let mut attributes = vec![
        text("holdfast.listener", &line.listener),
        text("client.address", &line.client.to_string()),
        KeyValue::new("holdfast.attempts", i64::from(line.attempts)),
    ];
    let texts = [
        ("http.request.method", line.method.as_deref()),
        ("server.address", line.host.as_deref()),
        ("url.path", line.path.as_deref().map(|path| path.split('?').next().unwrap_or(path))),
        ("holdfast.pool", line.pool.as_deref()),
        ("holdfast.server", line.server.as_deref()),
    ];
    attributes.extend(texts.into_iter().filter_map(|(key, value)| Some(text(key, value?))));
    let seconds = [
        ("holdfast.connect_seconds", line.connect_seconds),
        ("holdfast.first_byte_seconds", line.first_byte_seconds),
    ];
    attributes
        .extend(seconds.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?))));
    if let Some(status) = line.status {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    let error = line.is_error().then(|| line.close.unwrap_or("error").to_owned());
    ServedSpan {
        name: line.protocol,
        trace: span.trace,
        span: span.id,
        parent: span.parent,
        began: line.time.into(),
        took: draft.took(),
        attributes,
        error,
    }
}
