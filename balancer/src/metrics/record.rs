//! Figures of what operators change.

use holdfast_telemetry::metrics::{counter, gauge};
use holdfast_telemetry::{IntCounter, IntGauge, Registry};

/// Journal and kept changes.
#[derive(Debug)]
pub(crate) struct RecordMetrics {
    /// Changes made, by operators or by the balancer for them.
    pub(crate) changes: IntCounter,
    /// Times the disk did not take them.
    pub(crate) failures: IntCounter,
    /// Changes that are in no file and never will be.
    pub(crate) lost: IntCounter,
    /// 1 while the disk takes them.
    pub(crate) writable: IntGauge,
    /// 1 if what was kept came back at the start, or nothing was to come back.
    pub(crate) restored: IntGauge,
}

impl RecordMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            changes: counter(r, "balancer_changes_total", "Changes made at run time"),
            failures: counter(
                r,
                "balancer_journal_write_failures_total",
                "Times the journal of changes could not be written",
            ),
            lost: counter(
                r,
                "balancer_journal_lost_entries_total",
                "Changes that could not be written down in time and are in no file",
            ),
            writable: gauge(
                r,
                "balancer_journal_writable",
                "Whether changes could be written down the last time",
            ),
            restored: gauge(
                r,
                "balancer_kept_changes_restored",
                "Whether the changes kept from the last run came back, or there were none",
            ),
        }
    }
}
