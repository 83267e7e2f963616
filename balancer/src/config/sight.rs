//! Settings of what is told of single requests: access log and spans.

use std::path::PathBuf;

use serde::Deserialize;

use super::Checker;

/// Of what went well; errors are always written. A busy site writes a few lines a second, and rare kinds are still seen within the hour.
const SAMPLE: f64 = 0.01;
/// Rotated by size, so that a flood of errors fills no disk: with the files kept half a gigabyte.
const MAX_BYTES: u64 = 100 * 1_024 * 1_024;
const FILES: usize = 4;
const FILES_MAX: usize = 100;
/// Below it a file holds a few hundred lines only.
const MAX_BYTES_MIN: u64 = 65_536;
/// Spans are ten times a log line.
const TRACE_SAMPLE: f64 = 0.001;
/// Stands for the standard output in `to`.
const STDOUT: &str = "stdout";

/// The table `[access_log]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessLogFile {
    to: String,
    #[serde(default = "sample")]
    sample: f64,
    #[serde(default)]
    query: bool,
    #[serde(default = "max_bytes")]
    max_bytes: u64,
    #[serde(default = "files")]
    files: usize,
}

/// The table `[traces]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TracesFile {
    endpoint: String,
    #[serde(default = "trace_sample")]
    sample: f64,
}

fn sample() -> f64 {
    SAMPLE
}
fn max_bytes() -> u64 {
    MAX_BYTES
}
fn files() -> usize {
    FILES
}
fn trace_sample() -> f64 {
    TRACE_SAMPLE
}

/// Where lines about requests go, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogConfig {
    /// `None` is the standard output.
    pub file: Option<PathBuf>,
    /// Share of what went well that is written, 0 to 1.
    pub sample: f64,
    /// Whether what follows the question mark is written; tokens travel there.
    pub query: bool,
    /// A longer file is put aside.
    pub bytes_max: u64,
    /// Files put aside that are kept.
    pub files: usize,
}

/// Where spans go, and of which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// URL of the collector (OTLP/HTTP).
    pub endpoint: String,
    /// Share of the requests that come without a trace, 0 to 1; one that comes with a trace has been decided on.
    pub sample: f64,
}

impl Checker<'_> {
    pub(super) fn access_log(&mut self, written: AccessLogFile) -> AccessLogConfig {
        self.share("access_log.sample".to_owned(), written.sample);
        let bytes = written.max_bytes;
        self.require("access_log.max_bytes", bytes >= MAX_BYTES_MIN, || {
            format!("expected at least {MAX_BYTES_MIN}, found {bytes}")
        });
        let files = written.files;
        self.require("access_log.files", files <= FILES_MAX, || {
            format!("expected at most {FILES_MAX}, found {files}")
        });
        let is_file = written.to.starts_with('/');
        self.require("access_log.to", is_file || written.to == STDOUT, || {
            format!("expected {STDOUT:?} or an absolute path, found {:?}", written.to)
        });
        AccessLogConfig {
            file: is_file.then(|| written.to.into()),
            sample: written.sample,
            query: written.query,
            bytes_max: bytes,
            files,
        }
    }

    pub(super) fn traces(&mut self, written: TracesFile) -> TracesConfig {
        self.share("traces.sample".to_owned(), written.sample);
        // Who one is would not be sent from there, and would show in the log of a collector that is away.
        let is_url = written.endpoint.parse::<http::Uri>().is_ok_and(|url| {
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        self.require("traces.endpoint", is_url, || {
            let expected = "expected a URL without user and password, such as";
            format!("{expected} \"http://collector:4318\", found {:?}", written.endpoint)
        });
        TracesConfig { endpoint: written.endpoint, sample: written.sample }
    }
}
