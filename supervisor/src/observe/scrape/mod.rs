//! Scraping: every target's exposition into the store, once per interval.
//!
//! One task per target ([`Scraper`]), at a phase of its own so that targets do not burst together. A scrape counts as a whole: with a
//! fault in the text, a time-out, a limit passed or a refused connection, `up` is 0 and the target's series end with a staleness marker,
//! so that "no data" is never mistaken for the last value. What is stored about the scrapes has Prometheus' names.
//!
//! The cluster's own parts are targets from the start; further ones come from jobs of the operator ([`Manager`]), with the semantics of
//! Prometheus' `scrape_config`: static or read from files, relabelled, with limits, TLS and login. What changes at a reload or in a file
//! starts and stops single targets; the others go on undisturbed.
//!
//! Besides the store, chat nodes' few figures for the status page ([`NodeFacts`]) are taken from the same text, which spares the page
//! a query per figure.

mod discover;
mod dns;
mod facts;
mod fetch;
mod manager;
mod schedule;
mod scraper;
mod target;

use holdfast_telemetry::{IntCounter, IntCounterVec, Registry, metrics};

pub use facts::{Facts, NodeFacts, RedisWord};
pub use fetch::{Login, Tls};
pub use manager::{Manager, Parts};
pub use scraper::Scraper;
pub use target::{DroppedTarget, Plan, Read, Source, Target, TargetHealth, TargetState, Targets};

/// Figures of all scrapes.
#[derive(Debug, Clone)]
pub struct ScrapeMetrics {
    pub(super) scrapes: IntCounterVec,
    pub(super) rejected: IntCounter,
}

impl ScrapeMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Self {
        Self {
            scrapes: metrics::counter_vec(
                registry,
                "supervisor_scrapes_total",
                "Scrapes by job and result",
                &["job", "result"],
            ),
            rejected: metrics::counter(
                registry,
                "supervisor_scrape_samples_rejected_total",
                "Samples refused by the store: too many series, out of order or double",
            ),
        }
    }
}
