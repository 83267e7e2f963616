//! `[scrape]`: how targets are scraped, and targets of the operator's own.

use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use super::scrape_job::{self, ScrapeJob};

/// The reaction time people expect of "seconds".
const INTERVAL: Duration = Duration::from_secs(1);
/// Under the interval, so that scrapes of one target never overlap.
const TIMEOUT: Duration = Duration::from_millis(800);

/// Scraping.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Whether anything is scraped over the network; what this process knows by itself is stored in any case.
    pub enabled: bool,
    /// Time between two scrapes of a target.
    pub interval: Duration,
    /// A scrape that takes longer has failed; at most `interval`.
    pub timeout: Duration,
    /// A larger exposition is refused.
    pub body_bytes_max: usize,
    /// Targets of the operator's own.
    pub jobs: Vec<Arc<ScrapeJob>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub(super) enabled: bool,
    #[serde(with = "duration")]
    pub(super) interval: Duration,
    #[serde(with = "duration")]
    pub(super) timeout: Duration,
    pub(super) body_bytes_max: usize,
    pub(super) job: Vec<scrape_job::Written>,
}

impl Default for Written {
    fn default() -> Self {
        // 4 MiB: a chat node exposes some tens of KiB.
        Self {
            enabled: true,
            interval: INTERVAL,
            timeout: TIMEOUT,
            body_bytes_max: 4 * 1024 * 1024,
            job: Vec::new(),
        }
    }
}

impl Checker<'_> {
    pub(super) fn scrape(&mut self, written: Written) -> Scrape {
        let millis = written.interval.as_millis();
        self.require(
            (100..=60_000).contains(&millis),
            "scrape.interval",
            "expected 100ms to 1m; staleness and alert windows count on regular samples",
        );
        self.require(
            !written.timeout.is_zero() && written.timeout <= written.interval,
            "scrape.timeout",
            "expected more than 0 and at most scrape.interval",
        );
        self.require(
            written.body_bytes_max >= 1024,
            "scrape.body_bytes_max",
            "expected at least 1024",
        );
        self.require(
            written.enabled || written.job.is_empty(),
            "scrape.job",
            "expected no jobs where scrape.enabled is false: nothing would scrape them",
        );
        let mut scrape = Scrape {
            enabled: written.enabled,
            interval: written.interval,
            timeout: written.timeout,
            body_bytes_max: written.body_bytes_max,
            jobs: Vec::new(),
        };
        scrape.jobs = self.scrape_jobs(written.job, &scrape);
        scrape
    }
}
