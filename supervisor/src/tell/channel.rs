//! One way to reach somebody: a bounded queue and a task that delivers from it, with retries.
//!
//! A failure that may pass (no connection, busy) is tried again after a pause that doubles; one that will not (refused address, wrong
//! token) is given up at once. Meanwhile messages queue; when the queue is full the newest is dropped, for the oldest are the first signs
//! of what went wrong. A channel that fails has an incident in the journal until it delivers again.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use holdfast_telemetry::errors::Chain;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Metrics;
use super::message::Message;
use super::receipt::Parcel;
use crate::record::{Draft, Journal, Kind, Severity};

/// Messages waiting for one channel: an hour of a very bad day, at a few kilobytes each.
const QUEUE_MAX: usize = 64;

/// Pause after the first failed attempt; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Cause of the incident of a channel that fails.
const CAUSE: &str = "not delivered";

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Undelivered {
    pub(super) cause: Box<dyn Error + Send + Sync>,
    /// Whether another attempt may do better.
    pub(super) may_pass: bool,
}

/// The result of one attempt.
pub(super) type Attempt<'a> = Pin<Box<dyn Future<Output = Result<(), Undelivered>> + Send + 'a>>;

/// What carries a message away.
pub(super) trait Carrier: Send + Sync {
    /// One attempt may take this long.
    fn timeout(&self) -> Duration;

    /// Attempts after the first.
    fn retries_max(&self) -> u32;

    /// One attempt. Cut off by its timeout, so it must be safe to drop.
    fn deliver<'a>(&'a self, message: &'a Message) -> Attempt<'a>;
}

/// The notifier's end.
#[derive(Debug)]
pub(super) struct Channel {
    kind: &'static str,
    name: String,
    queue: mpsc::Sender<Parcel>,
    journal: Arc<Journal>,
    metrics: Metrics,
}

/// The delivering end.
pub(super) struct Worker {
    kind: &'static str,
    name: String,
    queue: mpsc::Receiver<Parcel>,
    carrier: Box<dyn Carrier>,
    journal: Arc<Journal>,
    metrics: Metrics,
    is_failing: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs_f64())]
struct TimedOut(Duration);

/// A channel of `kind` (the metrics' label) with a `name` for people, which tells webhooks apart and holds no secret.
pub(super) fn new(
    kind: &'static str,
    name: String,
    carrier: Box<dyn Carrier>,
    journal: &Arc<Journal>,
    metrics: &Metrics,
) -> (Channel, Worker) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let channel = Channel {
        kind,
        name: name.clone(),
        queue: sender,
        journal: Arc::clone(journal),
        metrics: metrics.clone(),
    };
    let journal = Arc::clone(journal);
    let metrics = metrics.clone();
    (channel, Worker { kind, name, queue, carrier, journal, metrics, is_failing: false })
}

fn subject(name: &str) -> String {
    format!("notify/{name}")
}

impl Channel {
    /// The metrics' label.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Queues a message, or drops it if the queue is full. Never waits.
    pub(super) fn send(&self, parcel: Parcel) {
        let Err(error) = self.queue.try_send(parcel) else { return };
        let message = error.into_inner().message;
        self.metrics.count(self.kind, "dropped");
        let text = format!(
            "Not told by {}: {} ({}), because {QUEUE_MAX} messages wait already",
            self.name,
            message.name,
            message.status()
        );
        let kind = Kind::NotificationFailed;
        let draft = Draft::new(kind, Severity::Warning, subject(&self.name), text);
        self.journal.append(draft, Utc::now());
    }
}

impl Worker {
    /// Delivers until the notifier's end is gone and the queue is empty.
    pub(super) async fn run(mut self) {
        while let Some(parcel) = self.queue.recv().await {
            let result = self.deliver(&parcel.message).await;
            if result.is_ok() {
                parcel.receipt.delivered();
            }
            self.record(&parcel.message, result);
        }
    }

    async fn deliver(&self, message: &Message) -> Result<u32, Undelivered> {
        let mut pause = PAUSE_MIN;
        let mut attempt = 1;
        loop {
            let limit = self.carrier.timeout();
            let result = timeout(limit, self.carrier.deliver(message)).await;
            let result = result.unwrap_or_else(|_| {
                Err(Undelivered { cause: Box::new(TimedOut(limit)), may_pass: true })
            });
            match result {
                Ok(()) => return Ok(attempt),
                Err(error) if !error.may_pass || attempt > self.carrier.retries_max() => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(channel = self.name, attempt, error = %Chain(&*error.cause),
                        "message not delivered, trying again");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            attempt += 1;
        }
    }

    fn record(&mut self, message: &Message, result: Result<u32, Undelivered>) {
        let (rule, status) = (&message.name, message.status());
        match result {
            Ok(attempts) => {
                self.metrics.count(self.kind, "sent");
                tracing::info!(channel = self.name, alert = rule, status, attempts, "alert told");
                if std::mem::take(&mut self.is_failing) {
                    let text = format!("Messages are delivered by {} again", self.name);
                    let draft =
                        Draft::new(Kind::ActionTaken, Severity::Info, subject(&self.name), text);
                    self.journal.append(draft.closes(CAUSE), Utc::now());
                }
            }
            Err(error) => {
                self.metrics.count(self.kind, "failed");
                self.is_failing = true;
                let cause = Chain(&*error.cause).to_string();
                tracing::warn!(
                    channel = self.name,
                    alert = rule,
                    status,
                    error = cause,
                    "alert not told"
                );
                let text = format!("Not told by {}: {rule} ({status}): {cause}", self.name);
                let kind = Kind::NotificationFailed;
                let draft = Draft::new(kind, Severity::Warning, subject(&self.name), text);
                self.journal.append(draft.opens(CAUSE), Utc::now());
            }
        }
    }
}
