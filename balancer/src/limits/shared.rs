//! Limits that several balancers keep together.
//!
//! A request is let pass or refused here, by what this balancer knows, at once. What was let pass is added up and told to Redis a few
//! times a second, many clients in one command; the answer says how empty their common buckets are, and the local ones are emptied
//! as far. So no request ever waits for Redis, and between two exchanges each balancer may let its own share too many pass, which then
//! counts against the client. Asking Redis for each request was rejected: it adds its latency, and its failures, to every one.
//!
//! When Redis cannot be reached, the local limits hold alone, or, if that is wanted, nothing that they bound is let pass.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Script;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::LimitRules;
use super::protection::{Bucket, Limits, Subject, Tables};
use super::rate::Rate;
use crate::metrics::{Metrics, SharedMetrics};
use crate::store::{OnFailure, RedisRules, Rules, Store, StoreError};

/// Buckets in one command: a millisecond of the server's time at most.
const BATCH_MAX: usize = 256;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared.lua")));

/// What was let pass and is to be told.
struct Report {
    key: String,
    subject: Subject,
    rate: Rate,
    count: u32,
}

impl Report {
    /// What was let pass since the last one; `None` if nothing, or if the limit is no more.
    fn take(
        prefix: &str,
        listener: &str,
        subject: Subject,
        rules: &LimitRules,
        tables: &Tables,
    ) -> Option<Self> {
        let rate = match subject {
            Subject::Client(_) => rules.request_rate?,
            Subject::Token(_) => rules.token.as_ref()?.rate,
        };
        let take = |bucket: &mut Bucket| std::mem::take(&mut bucket.unshared);
        let count = tables.requests_of(subject, take).filter(|count| *count > 0)?;
        // In braces, so that a proxy for a cluster finds one place for all keys.
        let key = match subject {
            Subject::Client(number) => format!("{{{prefix}}}:{listener}:client:{number:032x}"),
            Subject::Token(number) => format!("{{{prefix}}}:{listener}:token:{number:016x}"),
        };
        Some(Self { key, subject, rate, count })
    }

    /// Empties the local bucket as far as the common one is.
    fn settle(&self, tables: &Tables, left: Duration, now: u64) {
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        // What was let pass meanwhile is not in it yet.
        tables.requests_of(self.subject, |bucket| {
            let unshared = u64::from(bucket.unshared).saturating_mul(self.rate.interval());
            bucket.full = bucket.full.max(now.saturating_add(left).saturating_add(unshared));
        });
    }
}

/// Tells Redis what was let pass, and here what others have, by the `rules` in force, until those who change them are gone.
pub(crate) async fn keep(limits: Arc<Limits>, mut rules: Rules, metrics: Arc<Metrics>) {
    loop {
        let current = rules.borrow_and_update().clone();
        limits.reachable.begin(current.as_deref());
        let sharing = async {
            if let Some(rules) = current {
                share(&limits, rules, metrics.shared_limits.handles()).await
            } else {
                metrics.shared_limits.forget();
                pending().await
            }
        };
        // What was taken for an exchange under the old rules is not told any more; it counts here all the same.
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return },
            never = sharing => match never {},
        }
    }
}

async fn share(limits: &Limits, rules: Arc<RedisRules>, metrics: SharedMetrics) -> Infallible {
    let mut ticks = interval(rules.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut store = Store::new(rules);
    loop {
        ticks.tick().await;
        for (listener, rules, tables) in limits.shared() {
            let subjects = tables.take_unshared();
            for subjects in subjects.chunks(BATCH_MAX) {
                let prefix = &store.rules().prefix;
                let take =
                    |subject: &Subject| Report::take(prefix, &listener, *subject, &rules, &tables);
                let reports: Vec<_> = subjects.iter().filter_map(take).collect();
                if !reports.is_empty() {
                    exchange(limits, &mut store, Some(&tables), &reports, &metrics).await;
                }
            }
        }
        if !limits.reachable.get() {
            // With nothing let pass there would be nothing to tell, and so no end of the outage.
            exchange(limits, &mut store, None, &[], &metrics).await;
        }
    }
}

async fn exchange(
    limits: &Limits,
    store: &mut Store,
    tables: Option<&Tables>,
    reports: &[Report],
    metrics: &SharedMetrics,
) {
    let mut script = SCRIPT.prepare_invoke();
    for report in reports {
        let micros = |nanos: u64| nanos / 1_000;
        let used = report.rate.interval().saturating_mul(u64::from(report.count));
        script.key(&report.key).arg(micros(used)).arg(micros(report.rate.depth()));
    }
    let begun = Instant::now();
    match store.run::<Vec<u64>>(&script).await {
        Ok(left) => {
            let took = begun.elapsed();
            limits.reachable.set(true);
            let now = limits.clock.now();
            for (report, left) in reports.iter().zip(left) {
                if let Some(tables) = tables {
                    report.settle(tables, Duration::from_micros(left), now);
                }
            }
            // Last, so that whoever sees the figure finds the rest done.
            metrics.succeeded(took);
        }
        // Counted with the failure it rests after.
        Err(StoreError::Resting) => metrics.dropped(reports.len()),
        Err(error) => {
            metrics.failed(reports.len());
            if limits.reachable.set(false) {
                let error = holdfast_telemetry::errors::Chain(&error).to_string();
                tracing::warn!(error, "shared limits are kept by this balancer alone");
            }
        }
    }
}

/// Whether Redis answered last time, and what that means.
#[derive(Debug)]
pub(crate) struct Reachable {
    answers: AtomicBool,
    /// Whether nothing passes shared limits while it does not.
    strict: AtomicBool,
}

impl Default for Reachable {
    fn default() -> Self {
        Self { answers: AtomicBool::new(true), strict: AtomicBool::new(false) }
    }
}

impl Reachable {
    fn get(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// Whether what is under shared limits may pass.
    pub(crate) fn lets_pass(&self) -> bool {
        self.get() || !self.strict.load(Ordering::Relaxed)
    }

    /// Other rules are in force: nothing speaks against the Redis they name yet.
    fn begin(&self, rules: Option<&RedisRules>) {
        self.answers.store(true, Ordering::Relaxed);
        let strict = rules.is_some_and(|rules| rules.on_failure == OnFailure::Refuse);
        self.strict.store(strict, Ordering::Relaxed);
    }

    /// Whether that is news.
    fn set(&self, reachable: bool) -> bool {
        let before = self.answers.swap(reachable, Ordering::Relaxed);
        if reachable && !before {
            tracing::info!("limits are shared again");
        }
        before != reachable
    }
}
