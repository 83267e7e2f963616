//! Figures of what is sent elsewhere.

use holdfast_telemetry::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, metrics};

/// Figures of remote write.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(super) sent: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) failures: IntCounterVec,
    pub(super) gaps: IntCounterVec,
    pub(super) last_success: IntGaugeVec,
    dropped: IntCounterVec,
    segments: IntCounter,
    spool_bytes: IntGauge,
}

impl Metrics {
    /// Registers them, at 0 for each destination.
    pub(crate) fn register<'d>(
        registry: &Registry,
        destinations: impl Iterator<Item = &'d str>,
    ) -> Self {
        let counter = |name, help| metrics::counter_vec(registry, name, help, &["destination"]);
        let own = Self {
            sent: counter(
                "supervisor_remote_write_samples_total",
                "Samples that a destination has accepted",
            ),
            refused: counter(
                "supervisor_remote_write_samples_refused_total",
                "Samples that a destination has refused for good, and that are not sent again",
            ),
            failures: counter(
                "supervisor_remote_write_failures_total",
                "Requests that failed and are tried again",
            ),
            gaps: counter(
                "supervisor_remote_write_gaps_total",
                "Stretches of the queue that a destination missed, as they were dropped or damaged",
            ),
            last_success: metrics::gauge_vec(
                registry,
                "supervisor_remote_write_last_success_timestamp_seconds",
                "When a destination last accepted a request or had nothing left to get",
                &["destination"],
            ),
            dropped: metrics::counter_vec(
                registry,
                "supervisor_remote_write_samples_dropped_total",
                "Samples that never came into the queue, by what was full",
                &["cause"],
            ),
            segments: metrics::counter(
                registry,
                "supervisor_remote_write_segments_dropped_total",
                "Segments of the queue that were dropped because it grew too long",
            ),
            spool_bytes: metrics::gauge(
                registry,
                "supervisor_remote_write_queue_bytes",
                "Bytes of the queue on disk",
            ),
        };
        for name in destinations {
            for counters in [&own.sent, &own.refused, &own.failures, &own.gaps] {
                counters.with_label_values(&[name]);
            }
        }
        for cause in ["memory", "disk"] {
            own.dropped.with_label_values(&[cause]);
        }
        own
    }

    pub(super) fn dropped(&self, cause: &str, samples: usize) {
        self.dropped.with_label_values(&[cause]).inc_by(samples as u64);
    }

    pub(super) fn segments_dropped(&self, segments: usize) {
        self.segments.inc_by(segments as u64);
    }

    pub(super) fn set_spool_bytes(&self, bytes: u64) {
        self.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
