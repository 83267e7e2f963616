//! Log lines to stderr, one per event, and spans to a collector where one is named.
//!
//! The level given is that of our own code. Libraries are held at `info` (`debug` when `trace` is asked for): their debug output
//! repeats every request several times and may name what we keep out of logs.

use std::fmt;
use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::traces::Traces;
pub use crate::traces::TracesError;

/// Targets of our own code begin with this: every crate here is named so.
const OWN_TARGETS: &str = "holdfast";

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line, for machines.
    #[default]
    Json,
    /// One line of text, coloured on a terminal.
    Text,
}

/// The least important lines written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A person must act.
    Error,
    /// Degraded, handled.
    Warn,
    /// A state changed.
    #[default]
    Info,
    /// Each decision with its reasons.
    Debug,
    /// Each message.
    Trace,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Logging was set up before in this process.
    #[error("set up logging")]
    AlreadySet(#[source] TryInitError),
    /// The endpoint for traces is unusable.
    #[error("set up traces")]
    Traces(#[source] TracesError),
}

/// Keeps traces flowing; dropping it sends the last ones. Keep it until the program ends.
#[derive(Debug)]
#[must_use = "dropping the guard ends the export of traces"]
pub struct Guard {
    _traces: Option<Traces>,
}

/// Sends log lines to stderr and, where an endpoint is given, spans to it by OTLP/HTTP. An empty endpoint counts as none.
///
/// # Errors
/// Logging is already set up in this process, or the endpoint is not a URL.
pub fn init(
    level: Level,
    format: Format,
    otlp_endpoint: Option<&str>,
    program: &'static str,
) -> Result<Guard, Error> {
    let traces = otlp_endpoint
        .filter(|endpoint| !endpoint.is_empty())
        .map(|endpoint| Traces::new(endpoint, program))
        .transpose()
        .map_err(Error::Traces)?;
    // Only our own spans: those of the HTTP client that sends spans would beget more of themselves.
    let spans = traces.as_ref().map(|traces| {
        let own = Targets::new().with_target(OWN_TARGETS, level.filter());
        tracing_opentelemetry::layer().with_tracer(traces.tracer()).with_filter(own)
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(line_filter(level)))
        .with(spans)
        .try_init()
        .map_err(Error::AlreadySet)?;
    Ok(Guard { _traces: traces })
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

fn line_filter(level: Level) -> Targets {
    let libraries = match level {
        Level::Trace => LevelFilter::DEBUG,
        Level::Debug => LevelFilter::INFO,
        Level::Info | Level::Warn | Level::Error => level.filter(),
    };
    Targets::new().with_default(libraries).with_target(OWN_TARGETS, level.filter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_held_back() {
        let enabled = |level: Level, target: &str, event: tracing::Level| {
            line_filter(level).would_enable(target, &event)
        };
        assert!(enabled(Level::Debug, "holdfast_balancer::pool", tracing::Level::DEBUG));
        assert!(!enabled(Level::Debug, "hyper::client", tracing::Level::DEBUG));
        assert!(enabled(Level::Info, "hyper::client", tracing::Level::INFO));
        assert!(!enabled(Level::Warn, "hyper::client", tracing::Level::INFO));
        assert!(!enabled(Level::Trace, "hyper::client", tracing::Level::TRACE));
    }

    #[test]
    fn settings_are_lower_case_words() {
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            let written = format!("\"{level}\"");
            assert_eq!(serde_json::to_string(&level).unwrap(), written);
            assert_eq!(serde_json::from_str::<Level>(&written).unwrap(), level);
        }
        assert_eq!(serde_json::from_str::<Format>("\"text\"").unwrap(), Format::Text);
        assert!(serde_json::from_str::<Format>("\"Text\"").is_err());
        assert_eq!((Level::default(), Format::default()), (Level::Info, Format::Json));
    }
}
