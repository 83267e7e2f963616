//! `[metrics]`: the embedded store.

use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;

/// A week: the same hour of the same day before, for comparison.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// 1 GiB: a week of 1 s samples of a small cluster, and nothing that fills a disk unnoticed.
const DISK_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Less could not hold the blocks of an hour of a small cluster.
const DISK_BYTES_LEAST: u64 = 16 * 1024 * 1024;
/// Longer than a sender's retries after a short outage, short enough for memory to hold it.
const OUT_OF_ORDER_WINDOW: Duration = Duration::from_mins(5);
/// Memory holds the window uncompacted.
const OUT_OF_ORDER_WINDOW_MAX: Duration = Duration::from_hours(1);

/// The embedded store.
#[derive(Debug, Clone, Copy)]
pub struct Metrics {
    /// Samples older than this are dropped.
    pub retention: Duration,
    /// The oldest blocks go when all of them together are larger.
    pub disk_bytes_max: u64,
    /// How much older than the newest of its series a sample may be.
    pub out_of_order_window: Duration,
    /// New series above this are refused and counted.
    pub series_max: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    #[serde(with = "duration")]
    pub(super) retention: Duration,
    pub(super) disk_bytes_max: u64,
    #[serde(with = "duration")]
    pub(super) out_of_order_window: Duration,
    pub(super) series_max: usize,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            retention: RETENTION,
            disk_bytes_max: DISK_BYTES_MAX,
            out_of_order_window: OUT_OF_ORDER_WINDOW,
            // About ten times what thirty nodes expose.
            series_max: 50_000,
        }
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
        self.require(
            written.disk_bytes_max >= DISK_BYTES_LEAST,
            "metrics.disk_bytes_max",
            format!("expected at least {DISK_BYTES_LEAST}"),
        );
        self.require(
            written.out_of_order_window <= OUT_OF_ORDER_WINDOW_MAX,
            "metrics.out_of_order_window",
            format!("expected at most {OUT_OF_ORDER_WINDOW_MAX:?}; memory holds the window"),
        );
        Metrics {
            retention: written.retention,
            disk_bytes_max: written.disk_bytes_max,
            out_of_order_window: written.out_of_order_window,
            series_max: written.series_max,
        }
    }
}
