//! The canary: a synthetic chat user that goes through the balancer like everybody else, all the time.
//!
//! One connection sends numbered messages, another receives them. What they see is the truth about the service: availability (share
//! of acknowledged messages), delivery time, and loss (acknowledged, but neither delivered nor in the channel's history). SLOs, the
//! headline of the status page and the RTO and RPO of drills come from here.
//!
//! Sending does not wait for answers: an unanswered message costs its own time-out and delays none of those after it. Rejected:
//! one connection for both directions, because a node that answers its own clients but is cut off from Redis would look well.

mod log;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{Gauge, Histogram, IntCounter, IntCounterVec, Registry, metrics};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::chat_client::{ChatClient, ChatError, Event, History, Options, State, mint};
use crate::cluster::CanaryStatus;
use crate::config::Canary as Settings;
use crate::record::{Draft, Kind, Severity, Sink};
use log::Log;
pub use log::WindowReport;

/// Messages without an answer at once; more are counted as failed without being sent.
const IN_FLIGHT_MAX: usize = 256;
/// A message acknowledged this long ago and not delivered is looked for in the history. Longer than a reconnect with recovery takes.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(5);
/// Messages read back from the history when one is missing.
const HISTORY_MAX: usize = 1_000;
/// Failures in a row that make the service count as lost: one may be a node that has just died.
const FAILURES_MAX: u64 = 3;
/// Longest wait between two attempts to connect; the canary should be back when the service is.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// First wait between two attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Lifetime of its connection tokens; each connection makes a new one.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// Cause under which the journal keeps a lost service.
const CAUSE: &str = "canary";

struct Metrics {
    messages: IntCounterVec,
    availability: Gauge,
    roundtrip: Histogram,
    delivery: Histogram,
    lookups_failed: IntCounter,
}

impl Metrics {
    fn register(registry: &Registry) -> Self {
        // Around the objective of one second, fine below it.
        let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        let messages = metrics::counter_vec(
            registry,
            "supervisor_canary_messages_total",
            "Canary messages by what became of them",
            &["result"],
        );
        for result in ["acked", "failed", "lost"] {
            messages.with_label_values(&[result]);
        }
        Self {
            messages,
            availability: metrics::float_gauge(
                registry,
                "supervisor_canary_availability_ratio",
                "Share of canary messages acknowledged in the last minute",
            ),
            roundtrip: metrics::histogram(
                registry,
                "supervisor_canary_roundtrip_seconds",
                "From sending a canary message to its acknowledgement",
                &buckets,
            ),
            delivery: metrics::histogram(
                registry,
                "supervisor_canary_delivery_seconds",
                "From sending a canary message to its delivery on another connection",
                &buckets,
            ),
            lookups_failed: metrics::counter(
                registry,
                "supervisor_canary_lookups_failed_total",
                "Attempts to look for missing messages in the history that did not work",
            ),
        }
    }
}

/// Asks the canary what it saw; clones ask the same one.
#[derive(Clone)]
pub struct CanaryHandle {
    log: Arc<Mutex<Log>>,
}

impl CanaryHandle {
    /// What happened between `from` and `to`.
    pub fn window(&self, from: Instant, to: Instant) -> WindowReport {
        lock(&self.log).window(from, to)
    }
}

impl std::fmt::Debug for CanaryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CanaryHandle").finish_non_exhaustive()
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    // A panic while holding it leaves numbers behind, not broken invariants.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The canary task.
pub struct Canary {
    settings: Settings,
    /// Tells its messages from those of an earlier run, which may still be in the history.
    run: String,
    log: Arc<Mutex<Log>>,
    metrics: Metrics,
    status: watch::Sender<CanaryStatus>,
    error: Arc<Mutex<Option<String>>>,
    /// Whether the journal was told that the service is lost.
    is_lost: bool,
    sink: Sink,
}

impl Canary {
    /// A canary, a handle to ask it, and where it publishes what it sees.
    pub fn new(
        settings: Settings,
        registry: &Registry,
        sink: Sink,
    ) -> (Self, CanaryHandle, watch::Receiver<CanaryStatus>) {
        let (status, receiver) = watch::channel(CanaryStatus {
            ok: None,
            error: None,
            availability_ratio: None,
            ack_seconds: None,
            delivery_seconds: None,
            sent: 0,
            acked: 0,
            lost: 0,
        });
        let log = Arc::new(Mutex::new(Log::default()));
        let canary = Self {
            settings,
            run: uuid::Uuid::new_v4().to_string(),
            log: Arc::clone(&log),
            metrics: Metrics::register(registry),
            status,
            error: Arc::default(),
            is_lost: false,
            sink,
        };
        (canary, CanaryHandle { log }, receiver)
    }

    fn options(&self) -> Options {
        let secret = self.settings.hmac_secret.clone();
        let tokens = Arc::new(move || mint(&secret, "holdfast-canary", TOKEN_LIFETIME));
        Options {
            backoff_min: BACKOFF_MIN,
            backoff_max: BACKOFF_MAX,
            connect_timeout: self.settings.timeout,
            call_timeout: self.settings.timeout,
            ..Options::new(&self.settings.url, tokens)
        }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut publisher, _) = ChatClient::start(self.options());
        let (mut receiver, mut events) = ChatClient::start(self.options());
        let mut tasks = JoinSet::new();
        tasks.spawn(stay_subscribed(receiver.clone(), self.settings.channel.clone()));
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut send = tokio::time::interval(self.settings.interval);
        // After a pause of our own process the missed messages are not sent in a burst.
        send.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = tokio::time::interval(Duration::from_secs(1));
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (answers, mut answered) = mpsc::channel(IN_FLIGHT_MAX);
        let (found, mut lookups) = mpsc::channel(1);
        let mut is_looking = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = send.tick() => self.send(&publisher, &in_flight, &answers, &mut tasks),
                Some((number, result)) = answered.recv() => self.answer(number, result),
                Some(event) = events.recv() => self.event(&event),
                Some(result) = lookups.recv() => {
                    is_looking = false;
                    self.looked_up(result);
                }
                Some(_) = tasks.join_next() => {}
                _ = report.tick() => {
                    if has_ended(&publisher) {
                        (publisher, _) = ChatClient::start(self.options());
                    }
                    if has_ended(&receiver) {
                        (receiver, events) = ChatClient::start(self.options());
                        tasks.spawn(stay_subscribed(receiver.clone(), self.settings.channel.clone()));
                    }
                    let missing = lock(&self.log).missing(Instant::now(), DELIVERY_PATIENCE);
                    if !missing.is_empty() && !is_looking {
                        is_looking = true;
                        let (client, channel) = (publisher.clone(), self.settings.channel.clone());
                        let found = found.clone();
                        tasks.spawn(async move {
                            let history = client.whole_history(&channel, HISTORY_MAX).await;
                            // The loop is gone only when the canary ends.
                            let _ended = found.send((missing, history)).await;
                        });
                    }
                    self.publish();
                }
            }
        }
        publisher.close().await;
        receiver.close().await;
    }

    fn send(
        &mut self,
        publisher: &ChatClient,
        in_flight: &Arc<Semaphore>,
        answers: &mpsc::Sender<(u64, Result<(), String>)>,
        tasks: &mut JoinSet<()>,
    ) {
        let number = lock(&self.log).send(Instant::now());
        let Ok(permit) = Arc::clone(in_flight).try_acquire_owned() else {
            self.answer(number, Err(format!("{IN_FLIGHT_MAX} messages wait for an answer")));
            return;
        };
        let (client, channel, answers) =
            (publisher.clone(), self.settings.channel.clone(), answers.clone());
        let data = json!({"run": self.run, "number": number});
        tasks.spawn(async move {
            let result = client.publish(&channel, data).await;
            drop(permit);
            let result = result.map_err(|error| Chain(&error).to_string());
            // The loop is gone only when the canary ends.
            let _ended = answers.send((number, result)).await;
        });
    }

    fn answer(&mut self, number: u64, result: Result<(), String>) {
        let mut log = lock(&self.log);
        match result {
            Ok(()) => {
                self.metrics.messages.with_label_values(&["acked"]).inc();
                if let Some(took) = log.acked(number, Instant::now()) {
                    self.metrics.roundtrip.observe(took.as_secs_f64());
                }
                drop(log);
                *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.found();
            }
            Err(error) => {
                self.metrics.messages.with_label_values(&["failed"]).inc();
                log.failed(number);
                let failures = log.failures_in_a_row;
                drop(log);
                self.lost(failures, &error);
                *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    }

    fn lost(&mut self, failures: u64, error: &str) {
        if failures < FAILURES_MAX || self.is_lost {
            return;
        }
        self.is_lost = true;
        tracing::warn!(error, "canary lost the service");
        let text = format!("{failures} messages in a row were not acknowledged: {error}");
        (self.sink)(Draft::new(Kind::Canary, Severity::Critical, "canary", text).opens(CAUSE));
        self.publish();
    }

    fn found(&mut self) {
        if self.is_lost {
            self.is_lost = false;
            tracing::info!("canary found the service again");
            let text = "messages are acknowledged again";
            (self.sink)(Draft::new(Kind::Canary, Severity::Info, "canary", text).closes(CAUSE));
            self.publish();
        }
    }

    fn event(&self, event: &Event) {
        if let Event::Publication(publication) = event
            && let Some(number) = self.number_of(&publication.data)
            && let Some(took) = lock(&self.log).delivered(number, Instant::now())
        {
            self.metrics.delivery.observe(took.as_secs_f64());
        }
    }

    fn number_of(&self, data: &Value) -> Option<u64> {
        let is_ours = data.get("run").and_then(Value::as_str) == Some(&self.run);
        data.get("number").and_then(Value::as_u64).filter(|_| is_ours)
    }

    fn looked_up(&self, (missing, history): (Vec<u64>, Result<History, ChatError>)) {
        let Ok(history) = history else {
            self.metrics.lookups_failed.inc();
            return;
        };
        let found: Vec<_> =
            history.publications.iter().filter_map(|item| self.number_of(&item.data)).collect();
        let mut log = lock(&self.log);
        for number in missing {
            let is_there = found.contains(&number);
            log.looked_up(number, is_there);
            if !is_there {
                self.metrics.messages.with_label_values(&["lost"]).inc();
                tracing::warn!(number, "an acknowledged canary message is lost");
            }
        }
    }

    fn publish(&self) {
        let log = lock(&self.log);
        let recent = log.recent(Instant::now());
        self.metrics.availability.set(recent.availability_ratio.unwrap_or(f64::NAN));
        self.status.send_replace(CanaryStatus {
            ok: log.is_ok(),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            availability_ratio: recent.availability_ratio,
            ack_seconds: recent.ack_seconds,
            delivery_seconds: recent.delivery_seconds,
            sent: log.sent,
            acked: log.acked,
            lost: log.lost,
        });
    }
}

/// Subscribes, and tries again until it works; afterwards the client keeps the subscription by itself.
async fn stay_subscribed(client: ChatClient, channel: String) {
    while let Err(error) = client.subscribe(&channel, None).await {
        if matches!(error, ChatError::Ended(_)) {
            return;
        }
        tokio::time::sleep(BACKOFF_MAX).await;
    }
}

/// Whether a node told the client never to come back, as with a token it does not accept. A user would give up; the canary has to see
/// the day the node's settings are repaired.
fn has_ended(client: &ChatClient) -> bool {
    matches!(*client.state().borrow(), State::Ended { .. })
}

#[cfg(test)]
mod tests;
