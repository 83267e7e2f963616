//! One destination of remote write: takes bodies from the spool, one after the other, until each is accepted or refused for good.
//!
//! In order and one at a time, so that no receiver sees samples of a series out of order. What fails by the network, with 429 or with 5xx
//! is tried again, after a wait that doubles up to a bound, with jitter so that many senders do not come back together; what is refused
//! with another 4xx will be refused again, so it is dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use holdfast_telemetry::errors::Chain;
use reqwest::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::{ClientError, Endpoint};
use super::collect::Collector;
use super::metrics::Metrics;
use super::spool::{Cursor, Read, Spool};
use super::wire::{self, WriteRequest};
use crate::observe::relabel::{self, Rule};

/// The first wait after a failure, and the longest; Prometheus' own figures.
const WAIT_MIN: Duration = Duration::from_millis(30);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest that a destination's `Retry-After` is obeyed.
const WAIT_ASKED_MAX: Duration = Duration::from_mins(1);

/// A destination.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its name in metrics and logs, and of its place in the queue.
    pub name: String,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// Changes labels, and leaves out series that it should not get.
    pub relabel: Vec<Rule>,
}

/// Sends to one destination.
pub(crate) struct RemoteSender {
    destination: Destination,
    client: Client,
    spool: Arc<Spool>,
    written: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    cursor: Cursor,
    /// Where this destination is, for whoever deletes old segments.
    place: watch::Sender<Cursor>,
}

/// What became of a body.
enum Sent {
    Accepted,
    /// For good.
    Refused,
    /// To be tried again, not before this time.
    Later(Option<Duration>),
}

impl RemoteSender {
    /// A sender that goes on where it was before a restart.
    ///
    /// # Errors
    /// If the destination's TLS settings cannot be used.
    pub(crate) fn new(
        destination: Destination,
        collector: &Collector,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        let (spool, written) = collector.reader();
        let client = destination.endpoint.client()?;
        let cursor = spool.saved(&destination.name);
        let place = watch::Sender::new(cursor);
        Ok(Self { destination, client, spool, written, metrics, cursor, place })
    }

    /// Where this destination is.
    pub(crate) fn place(&self) -> watch::Receiver<Cursor> {
        self.place.subscribe()
    }

    /// Sends until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut wait = WAIT_MIN;
        loop {
            let (spool, cursor) = (Arc::clone(&self.spool), self.cursor);
            let read = tokio::task::spawn_blocking(move || spool.read(cursor)).await;
            let read = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            let pause = match read {
                Ok(Read::Record(record)) => {
                    let Some(body) = relabelled(record.body, &self.destination.relabel) else {
                        // Nothing in it is for this destination.
                        self.go_to(record.next);
                        continue;
                    };
                    let sent = tokio::select! {
                        () = shutdown.cancelled() => return,
                        sent = self.send(body) => sent,
                    };
                    match sent {
                        Sent::Later(asked) => {
                            self.count(&self.metrics.failures, 1);
                            let jitter = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
                            wait = (wait * 2).min(WAIT_MAX);
                            Some(asked.unwrap_or(jitter))
                        }
                        Sent::Accepted | Sent::Refused => {
                            let counted = match sent {
                                Sent::Accepted => &self.metrics.sent,
                                _ => &self.metrics.refused,
                            };
                            self.count(counted, record.samples.into());
                            self.go_to(record.next);
                            wait = WAIT_MIN;
                            None
                        }
                    }
                }
                Ok(Read::Gap(next)) => {
                    self.count(&self.metrics.gaps, 1);
                    tracing::warn!(
                        destination = self.destination.name,
                        "a part of the queue is missing or damaged and was left out"
                    );
                    self.go_to(next);
                    None
                }
                Ok(Read::Empty(_)) => {
                    self.succeeded();
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        changed = self.written.changed() => if changed.is_err() { return },
                    }
                    None
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the queue of samples cannot be read");
                    Some(WAIT_MAX)
                }
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    fn count(&self, counters: &holdfast_telemetry::IntCounterVec, by: u64) {
        counters.with_label_values(&[&self.destination.name]).inc_by(by);
    }

    fn succeeded(&self) {
        let now = chrono::Utc::now().timestamp();
        self.metrics.last_success.with_label_values(&[&self.destination.name]).set(now);
    }

    fn go_to(&mut self, next: Cursor) {
        self.cursor = next;
        self.succeeded();
        if let Err(error) = self.spool.save(&self.destination.name, next) {
            // Then a restart sends again what was accepted already.
            tracing::warn!(error = %Chain(&error), "a place in the queue could not be saved");
        }
        self.place.send_replace(next);
    }

    async fn send(&self, body: Vec<u8>) -> Sent {
        let request = self.client.post(&self.destination.endpoint.url);
        let request = self.destination.endpoint.authorize(request);
        let request = request
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .header("user-agent", concat!("holdfast/", env!("CARGO_PKG_VERSION")));
        let name = &self.destination.name;
        let response = match request.body(body).send().await {
            Ok(response) => response,
            Err(error) => {
                let error = error.without_url();
                tracing::debug!(destination = name, error = %Chain(&error), "samples not sent");
                return Sent::Later(None);
            }
        };
        let status = response.status();
        if status.is_success() {
            return Sent::Accepted;
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            let asked = response.headers().get(RETRY_AFTER);
            let seconds = asked.and_then(|value| value.to_str().ok()?.parse().ok());
            tracing::debug!(destination = name, %status, "samples not accepted yet");
            return Sent::Later(seconds.map(|s| Duration::from_secs(s).min(WAIT_ASKED_MAX)));
        }
        let text = response.text().await.unwrap_or_default();
        let text: String = text.chars().take(300).collect();
        tracing::warn!(destination = name, %status, text, "samples refused");
        Sent::Refused
    }
}

/// A body with the labels that a destination wants; `None` if nothing is left of it.
fn relabelled(body: Vec<u8>, rules: &[Rule]) -> Option<Vec<u8>> {
    if rules.is_empty() {
        return Some(body);
    }
    // Bodies come from the spool, which has checked their sums.
    let mut request = WriteRequest::from_body(&body).ok()?;
    request.timeseries.retain_mut(|series| {
        let labels = relabel::apply(rules, wire::to_labels(&series.labels));
        let kept = labels.filter(|labels| !labels.is_empty());
        kept.map(|labels| series.labels = wire::from_labels(&labels)).is_some()
    });
    (!request.timeseries.is_empty()).then(|| request.to_body())
}

/// Deletes what all destinations are through with, whenever one of them goes on.
pub(crate) async fn release(
    spool: Arc<Spool>,
    places: Vec<watch::Receiver<Cursor>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(10));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let cursors: Vec<Cursor> = places.iter().map(|place| *place.borrow()).collect();
        if let Err(error) = spool.release(&cursors) {
            tracing::warn!(error = %Chain(&error), "sent samples could not be deleted");
        }
    }
}
