//! Figures of the access log.

use holdfast_telemetry::metrics::counter;
use holdfast_telemetry::{IntCounter, Registry};

/// Lines about requests.
#[derive(Debug)]
pub(crate) struct SightMetrics {
    /// Written.
    pub(crate) lines: IntCounter,
    /// Not written, because the disk or whoever reads was too slow.
    pub(crate) dropped: IntCounter,
    /// Times a write failed.
    pub(crate) failures: IntCounter,
}

impl SightMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            lines: counter(r, "balancer_access_log_lines_total", "Lines of the access log written"),
            dropped: counter(
                r,
                "balancer_access_log_dropped_total",
                "Lines of the access log that could not be written in time",
            ),
            failures: counter(
                r,
                "balancer_access_log_write_failures_total",
                "Times the access log could not be written",
            ),
        }
    }
}
