//! Scraping: every target's exposition into the store, once per interval.
//!
//! One task per target, started at a phase of its own so that targets do not burst together. A scrape counts as a whole: with a fault
//! in the text, a time-out or a refused connection, `up` is 0 and the target's series end with a staleness marker, so that "no data" is
//! never mistaken for the last value. `up`, `scrape_duration_seconds` and `scrape_samples_scraped` are written as Prometheus writes them.
//!
//! Besides the store, chat nodes' few figures for the status page ([`NodeFacts`]) are taken from the same text, which spares the page
//! a query per figure.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use holdfast_series::{Labels, ScrapeCache, Store, text};
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{IntCounter, IntCounterVec, Registry, metrics};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::Scrape;

/// Figures of all scrapes.
#[derive(Debug, Clone)]
pub struct ScrapeMetrics {
    scrapes: IntCounterVec,
    rejected: IntCounter,
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

/// Reads an exposition that needs no network of its own.
pub type Read = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Where a target's exposition comes from.
#[derive(Clone)]
pub enum Source {
    /// `GET` of this URL.
    Http(String),
    /// Put together in this process: our own registry, or figures from a connection that is open anyway.
    Read(Read),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => write!(f, "Http({url})"),
            Self::Read(_) => write!(f, "Read"),
        }
    }
}

/// Something to scrape.
#[derive(Debug, Clone)]
pub struct Target {
    /// `job` label.
    pub job: &'static str,
    /// `instance` label, `host:port`.
    pub instance: String,
    /// Further labels, such as `server`.
    pub labels: Vec<(&'static str, String)>,
    /// Where its exposition comes from.
    pub source: Source,
    /// The chat node whose facts are in it.
    pub node: Option<String>,
}

impl Target {
    fn labels(&self) -> Labels {
        let own = [("job", self.job), ("instance", self.instance.as_str())];
        let more = self.labels.iter().map(|(name, value)| (*name, value.as_str()));
        Labels::from_pairs(own.into_iter().chain(more))
    }
}

/// What the status page shows of a chat node. Unknown is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// Result of the last scrape.
    pub up: Option<bool>,
    /// Why it failed.
    pub error: Option<String>,
    /// CPU used between the last two scrapes, cores.
    pub cpu_cores: Option<f64>,
    /// Resident memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Client connections.
    pub connections: Option<f64>,
    /// How long the scrape took, seconds.
    pub scrape_seconds: Option<f64>,
}

/// Facts by node name, published after every scrape of a node.
pub type Facts = watch::Sender<HashMap<String, NodeFacts>>;

/// Scrapes one target until told to stop.
pub struct Scraper {
    target: Target,
    settings: Scrape,
    client: reqwest::Client,
    store: Arc<Store>,
    metrics: ScrapeMetrics,
    facts: Facts,
}

impl Scraper {
    /// A scraper for `target`.
    pub fn new(
        target: Target,
        settings: Scrape,
        client: reqwest::Client,
        store: Arc<Store>,
        metrics: ScrapeMetrics,
        facts: Facts,
    ) -> Self {
        for result in ["ok", "failed"] {
            metrics.scrapes.with_label_values(&[target.job, result]);
        }
        Self { target, settings, client, store, metrics, facts }
    }

    /// Runs until `shutdown`.
    ///
    /// # Panics
    /// Never: three lines of our own are well-formed.
    pub async fn run(self, shutdown: CancellationToken) {
        let labels = self.target.labels();
        let mut cache = ScrapeCache::new(&labels);
        let mut own = ScrapeCache::new(&labels);
        let mut cpu = None;
        let mut was_up = None;
        let start = Instant::now() + phase(&self.target.instance, self.settings.interval);
        let mut tick = tokio::time::interval_at(start, self.settings.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let now_ms = chrono::Utc::now().timestamp_millis();
            let begun = Instant::now();
            let result = self.fetch().await;
            let seconds = begun.elapsed().as_secs_f64();
            let outcome = result.and_then(|body| {
                let summary = self
                    .store
                    .append_scrape(&mut cache, &body, text::Format::Prometheus, now_ms)
                    .map_err(|error| Chain(&error).to_string())?;
                self.metrics.rejected.inc_by(summary.rejected as u64);
                Ok((body, summary.samples))
            });
            if outcome.is_err() {
                self.store.mark_stale(&mut cache, now_ms);
            }
            let (up, samples) = outcome.as_ref().map_or((0, 0), |(_, samples)| (1, *samples));
            let figures = format!(
                "up {up}\nscrape_duration_seconds {seconds}\nscrape_samples_scraped {samples}\n"
            );
            self.store
                .append_scrape(&mut own, &figures, text::Format::Prometheus, now_ms)
                .expect("three well-formed lines are a well-formed exposition");
            self.report(outcome.as_ref().err(), &mut was_up);
            self.publish(outcome.map(|(body, _)| body), seconds, now_ms, &mut cpu);
        }
    }

    /// The exposition, within time and size.
    async fn fetch(&self) -> Result<String, String> {
        let url = match &self.target.source {
            Source::Read(read) => return read(),
            Source::Http(url) => url,
        };
        let fetch = async {
            let mut response = self.client.get(url).send().await.map_err(describe)?;
            if !response.status().is_success() {
                return Err(format!("server answered {}", response.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(describe)? {
                if body.len() + chunk.len() > self.settings.body_bytes_max {
                    return Err(format!("more than {} bytes", self.settings.body_bytes_max));
                }
                body.extend_from_slice(&chunk);
            }
            String::from_utf8(body).map_err(|_| "not UTF-8".to_owned())
        };
        tokio::time::timeout(self.settings.timeout, fetch)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.settings.timeout)))
    }

    /// Counts every scrape and logs changes.
    fn report(&self, error: Option<&String>, was_up: &mut Option<bool>) {
        let result = if error.is_none() { "ok" } else { "failed" };
        self.metrics.scrapes.with_label_values(&[self.target.job, result]).inc();
        if *was_up != Some(error.is_none()) {
            let Target { job, instance, .. } = &self.target;
            if let Some(error) = error {
                tracing::warn!(job, instance, error, "target down");
            } else {
                tracing::info!(job, instance, "target up");
            }
        }
        *was_up = Some(error.is_none());
    }

    fn publish(
        &self,
        body: Result<String, String>,
        seconds: f64,
        now_ms: i64,
        cpu: &mut Option<(i64, f64)>,
    ) {
        let Some(node) = &self.target.node else { return };
        let facts = match body {
            Ok(body) => {
                let before = *cpu;
                let used = value_of(&body, "process_cpu_seconds_total");
                *cpu = used.map(|used| (now_ms, used));
                NodeFacts {
                    up: Some(true),
                    error: None,
                    cpu_cores: before.zip(*cpu).and_then(cores),
                    memory_bytes: value_of(&body, "process_resident_memory_bytes"),
                    connections: value_of(&body, "chatnode_connections"),
                    scrape_seconds: Some(seconds),
                }
            }
            Err(error) => {
                *cpu = None;
                let scrape_seconds = Some(seconds);
                NodeFacts {
                    up: Some(false),
                    error: Some(error),
                    scrape_seconds,
                    ..Default::default()
                }
            }
        };
        self.facts.send_modify(|all| {
            all.insert(node.clone(), facts);
        });
    }
}

/// CPU use in cores between two readings of the CPU clock; `None` after a restart of the process.
fn cores((before, after): ((i64, f64), (i64, f64))) -> Option<f64> {
    let seconds = (after.0 - before.0) as f64 / 1e3;
    (seconds > 0.0 && after.1 >= before.1).then(|| (after.1 - before.1) / seconds)
}

/// The value of a metric without labels.
fn value_of(body: &str, name: &str) -> Option<f64> {
    let line = body
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '\t'])))?;
    text::parse(line, text::Format::Prometheus).next()?.ok().map(|sample| sample.value)
}

/// Where in the interval a target is scraped: spread by name, the same in every run.
fn phase(instance: &str, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    interval.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

/// An HTTP error in the words that matter: the innermost cause, without the URL (the target is named beside it).
fn describe(error: reqwest::Error) -> String {
    Chain(&error.without_url()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_exposition() {
        let body = "# HELP x y\nprocess_cpu_seconds_total 1.5\nprocess_cpu_seconds_total_x 9\n";
        assert_eq!(value_of(body, "process_cpu_seconds_total"), Some(1.5));
        assert_eq!(value_of(body, "chatnode_connections"), None);
    }

    #[test]
    fn cpu_use_needs_two_readings_of_one_process() {
        assert_eq!(cores(((1_000, 1.0), (3_000, 2.0))), Some(0.5));
        assert_eq!(cores(((1_000, 1.0), (3_000, 0.2))), None, "restarted");
        assert_eq!(cores(((1_000, 1.0), (1_000, 1.0))), None);
    }

    #[test]
    fn phases_stay_within_the_interval() {
        for name in ["a:1", "b:2", "c:3"] {
            assert!(phase(name, Duration::from_secs(1)) < Duration::from_secs(1));
        }
    }
}
