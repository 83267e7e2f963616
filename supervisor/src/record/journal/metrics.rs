//! The journal's figures.

use holdfast_telemetry::prometheus::core::Collector;
use holdfast_telemetry::prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::record::event::Kind;

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) events: IntCounterVec,
    pub(super) write_failures: IntCounter,
    pub(super) read_failures: IntCounter,
    pub(super) dropped: IntCounter,
    pub(super) open: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        const VALID: &str = "metric names are valid";
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect(VALID);
        let events = Opts::new("supervisor_journal_events_total", "Events recorded by kind");
        let events = IntCounterVec::new(events, &["kind"]).expect(VALID);
        for kind in Kind::ALL {
            events.with_label_values(&[kind.name()]);
        }
        Self {
            events,
            write_failures: counter(
                "supervisor_journal_write_failures_total",
                "Attempts to write the journal to disk that failed",
            ),
            read_failures: counter(
                "supervisor_journal_read_failures_total",
                "Reads of the journal that failed and rows that could not be read",
            ),
            dropped: counter(
                "supervisor_journal_events_dropped_total",
                "Events lost because the disk refused them for too long",
            ),
            open: IntGauge::new("supervisor_incidents_open", "Incidents that are open")
                .expect(VALID),
        }
    }

    /// Shows them in `registry`.
    pub(super) fn register(&self, registry: &Registry) {
        let figures: [Box<dyn Collector>; 5] = [
            Box::new(self.events.clone()),
            Box::new(self.write_failures.clone()),
            Box::new(self.read_failures.clone()),
            Box::new(self.dropped.clone()),
            Box::new(self.open.clone()),
        ];
        for figure in figures {
            registry.register(figure).expect("the journal is registered once");
        }
    }
}
