//! Keeps a JSON Web Key Set up to date, from a URL or a file.
//!
//! Read at the start, then at a fixed pace, and at once when a token names a key that is not there: that is how issuers rotate. Whoever
//! finds a key missing waits for the one read under way and not for a read of its own, and after a read there is a pause before the
//! next, so that tokens with made-up key ids cost the issuer nothing. While the issuer is away the last good set holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::metrics::{counter_vec, gauge};
use holdfast_telemetry::{IntCounterVec, IntGauge, Registry};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{KeySet, KeySetError, SharedKeySet};

/// How long the issuer may take. A client that connects meanwhile waits, and SDKs give a command 5 s.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest set read: 64 RSA keys of 4,096 bits with certificates fit.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// Shortest time between two reads.
const PAUSE: Duration = Duration::from_secs(5);

/// Where the set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Fetched by HTTP GET.
    Url(String),
    /// Read.
    File(PathBuf),
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Why a set could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read the key set")]
    File(#[source] std::io::Error),
    /// The issuer did not answer as expected.
    #[error("cannot fetch the key set")]
    Fetch(#[source] reqwest::Error),
    /// It is larger than this node reads.
    #[error("the key set is larger than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no key set.
    #[error("cannot use the key set")]
    Content(#[source] KeySetError),
}

/// The set and how it is renewed.
pub struct Jwks {
    location: Location,
    http: reqwest::Client,
    keys: Arc<SharedKeySet>,
    /// When the last read ended, and whether it succeeded. Held during a read: one at a time.
    last: Mutex<Option<(Instant, bool)>>,
    reads: IntCounterVec,
    held: IntGauge,
}

/// Whether the set is as new as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It was read after the question was asked.
    Fresh,
    /// It could not be read, or not so soon after the last time.
    Unknown,
}

impl Jwks {
    /// A set that is empty until it is read.
    pub fn new(location: Location, http: reqwest::Client, registry: &Registry) -> Self {
        let reads = counter_vec(
            registry,
            "chatnode_jwks_reads_total",
            "Attempts to read the JSON Web Key Set, by result",
            &["result"],
        );
        for result in ["ok", "failed"] {
            reads.with_label_values(&[result]);
        }
        let held = gauge(registry, "chatnode_jwks_keys", "Keys of the JSON Web Key Set in use");
        Self { location, http, keys: Arc::default(), last: Mutex::default(), reads, held }
    }

    /// What it holds.
    pub fn keys(&self) -> &Arc<SharedKeySet> {
        &self.keys
    }

    /// Reads the set every `refresh` until `shutdown`.
    pub async fn run(self: Arc<Self>, refresh: Duration, shutdown: CancellationToken) {
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let mut last = self.last.lock().await;
            // After a failure, or without any, again after a pause.
            if last.is_none_or(|(at, ok)| !ok || at.elapsed() >= refresh) {
                self.read(&mut last).await;
            }
        }
    }

    /// Reads the set again because it lacks a key.
    pub async fn renew(&self) -> Freshness {
        let asked_at = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((at, ok)) = *last {
            if ok && at >= asked_at {
                return Freshness::Fresh;
            }
            if at.elapsed() < PAUSE {
                return Freshness::Unknown;
            }
        }
        self.read(&mut last).await;
        match *last {
            Some((_, true)) => Freshness::Fresh,
            _ => Freshness::Unknown,
        }
    }

    async fn read(&self, last: &mut Option<(Instant, bool)>) {
        let result = self
            .document()
            .await
            .and_then(|document| KeySet::parse(&document).map_err(ReadError::Content));
        let was_good = last.is_none_or(|(_, ok)| ok);
        *last = Some((Instant::now(), result.is_ok()));
        match result {
            Ok(set) => {
                self.reads.with_label_values(&["ok"]).inc();
                let (before, now) = (self.keys.get().len(), set.len());
                self.held.set(i64::try_from(now).unwrap_or(i64::MAX));
                self.keys.replace(set);
                if before != now || !was_good {
                    info!(keys = now, location = %self.location, "key set was read");
                }
            }
            Err(error) => {
                self.reads.with_label_values(&["failed"]).inc();
                if was_good {
                    warn!(error = %Chain(&error), location = %self.location, "key set cannot be read, the last one holds");
                }
            }
        }
    }

    async fn document(&self) -> Result<Vec<u8>, ReadError> {
        match &self.location {
            Location::File(path) => {
                let document = tokio::fs::read(path).await.map_err(ReadError::File)?;
                if document.len() > DOCUMENT_BYTES_MAX {
                    return Err(ReadError::TooLarge);
                }
                Ok(document)
            }
            Location::Url(url) => {
                let request = self.http.get(url).timeout(READ_TIMEOUT).send().await;
                let mut response = request
                    .and_then(reqwest::Response::error_for_status)
                    .map_err(|error| ReadError::Fetch(error.without_url()))?;
                let mut document = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(ReadError::Fetch)? {
                    if document.len() + chunk.len() > DOCUMENT_BYTES_MAX {
                        return Err(ReadError::TooLarge);
                    }
                    document.extend_from_slice(&chunk);
                }
                Ok(document)
            }
        }
    }
}
