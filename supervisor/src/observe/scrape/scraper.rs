//! Scrapes one target.

use std::sync::Arc;
use std::time::Duration;

use holdfast_series::{ScrapeCache, ScrapeReport, ScrapeSummary, Store};
use holdfast_telemetry::errors::Chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::{Exposition, fetch};
use super::schedule::Schedule;
use super::{Facts, NodeFacts, ScrapeMetrics, Target, TargetState, Targets};

/// Scrapes one target until told to stop.
pub struct Scraper {
    target: Target,
    store: Arc<Store>,
    metrics: ScrapeMetrics,
    facts: Facts,
    targets: Targets,
}

/// What a scraper remembers from one scrape to the next.
struct Memory {
    id: u64,
    cache: ScrapeCache,
    cpu: Option<(i64, f64)>,
    was_up: Option<bool>,
}

impl Scraper {
    /// A scraper for `target`.
    pub fn new(
        target: Target,
        store: Arc<Store>,
        metrics: ScrapeMetrics,
        facts: Facts,
        targets: Targets,
    ) -> Self {
        for result in ["ok", "failed"] {
            metrics.scrapes.with_label_values(&[target.job.as_str(), result]);
        }
        Self { target, store, metrics, facts, targets }
    }

    /// Runs until `gone`, which ends the target's series, or until `shutdown`, which does not: after a restart they go on.
    pub async fn run(self, gone: CancellationToken, shutdown: CancellationToken) {
        let Target { labels, plan, .. } = &self.target;
        let mut memory = Memory {
            id: self.targets.add(&self.target),
            cache: ScrapeCache::with_options(labels, Arc::clone(&plan.options)),
            cpu: None,
            was_up: None,
        };
        let schedule = Schedule::new(&labels.to_string(), plan.interval);
        let mut slot_ms = schedule.next(now_ms());
        loop {
            let now_ms = now_ms();
            let wait = Duration::from_millis(u64::try_from(slot_ms - now_ms).unwrap_or(0));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = gone.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
            self.scrape(&mut memory, schedule, slot_ms).await;
            slot_ms = schedule.after(slot_ms, self::now_ms());
        }
        let now_ms = now_ms();
        self.store.mark_stale(&mut memory.cache, now_ms);
        self.store.end_report(&mut memory.cache, now_ms);
        self.targets.remove(memory.id);
    }

    async fn scrape(&self, memory: &mut Memory, schedule: Schedule, slot_ms: i64) {
        let begun_ms = now_ms();
        let ts_ms = schedule.timestamp(slot_ms, begun_ms);
        let begun = Instant::now();
        let fetched = fetch(&self.target.source, &self.target.plan).await;
        let duration = begun.elapsed();
        let outcome = fetched.and_then(|body| {
            let appended = match &body {
                Exposition::Text(text, format) => {
                    self.store.append_scrape(&mut memory.cache, text, *format, ts_ms)
                }
                Exposition::Protobuf(body) => {
                    self.store.append_protobuf(&mut memory.cache, body, ts_ms)
                }
            };
            let summary = appended.map_err(|error| Chain(&error).to_string())?;
            self.metrics.rejected.inc_by(summary.rejected as u64);
            Ok((body, summary))
        });
        if outcome.is_err() {
            self.store.mark_stale(&mut memory.cache, ts_ms);
        }
        let summary = outcome.as_ref().map(|(_, summary)| *summary).unwrap_or_default();
        let (up, duration_seconds) = (outcome.is_ok(), duration.as_secs_f64());
        let report = ScrapeReport { up, duration_seconds, summary };
        self.store.append_report(&mut memory.cache, &report, ts_ms);
        let error = outcome.as_ref().err().cloned();
        self.report(error.as_deref(), &mut memory.was_up);
        self.publish(&outcome, duration_seconds, ts_ms, &mut memory.cpu);
        self.targets.update(memory.id, |health| {
            health.state = if up { TargetState::Up } else { TargetState::Down };
            health.error = error;
            health.last_scrape_ms = Some(begun_ms);
            health.last_duration = duration;
            health.samples = summary.samples;
        });
    }

    /// Counts every scrape and logs changes.
    fn report(&self, error: Option<&str>, was_up: &mut Option<bool>) {
        let Target { job, labels, .. } = &self.target;
        let result = if error.is_none() { "ok" } else { "failed" };
        self.metrics.scrapes.with_label_values(&[job.as_str(), result]).inc();
        if *was_up != Some(error.is_none()) {
            let instance = labels.value("instance");
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
        outcome: &Result<(Exposition, ScrapeSummary), String>,
        seconds: f64,
        ts_ms: i64,
        cpu: &mut Option<(i64, f64)>,
    ) {
        let Some(node) = &self.target.node else { return };
        let at = Instant::now().into();
        let facts = match outcome {
            Ok((Exposition::Text(body, _), _)) => NodeFacts::read(body, seconds, ts_ms, at, cpu),
            // Nodes are asked for text, so this is somebody else's answer.
            Ok((Exposition::Protobuf(_), _)) => NodeFacts::read("", seconds, ts_ms, at, cpu),
            Err(error) => {
                *cpu = None;
                NodeFacts::failed(error, seconds)
            }
        };
        self.facts.send_modify(|all| {
            all.insert(node.clone(), facts);
        });
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
