//! `[metrics]`: the embedded store.

use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;

/// Two hours of 1 s samples of a small cluster fit in a few MiB.
const RETENTION: Duration = Duration::from_hours(2);

/// The embedded store.
#[derive(Debug, Clone, Copy)]
pub struct Metrics {
    /// Samples older than this are dropped.
    pub retention: Duration,
    /// New series above this are refused and counted.
    pub series_max: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    #[serde(with = "duration")]
    pub(super) retention: Duration,
    pub(super) series_max: usize,
}

impl Default for Written {
    fn default() -> Self {
        // About ten times what thirty nodes expose.
        Self { retention: RETENTION, series_max: 50_000 }
    }
}

impl Checker<'_> {
    pub(super) fn metrics(&mut self, written: &Written) -> Metrics {
        self.require(
            written.retention.as_secs() >= 600,
            "metrics.retention",
            "expected at least 10m; rules look back further than that",
        );
        self.require(written.series_max >= 100, "metrics.series_max", "expected at least 100");
        Metrics { retention: written.retention, series_max: written.series_max }
    }
}
