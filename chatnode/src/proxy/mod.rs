//! Back ends that are asked what clients may do, over HTTP.
//!
//! The questions are those of Centrifugo's proxies, so that a back end written for it works here. Each back end has a time-out, a bound
//! on questions under way and a [circuit breaker](Breaker). When one cannot be asked, clients are told to try again: an answer that never came is
//! neither yes nor no.

mod breaker;
mod messages;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_settings::Secret;
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::metrics::{counter_vec, gauge_vec, histogram};
use holdfast_telemetry::{Histogram, IntCounterVec, IntGaugeVec, Registry};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::warn;

use crate::access::{Denial, Origin};
use crate::protocol::ErrorCode;
pub use breaker::{Breaker, Limits};
use messages::Envelope;
pub use messages::{
    ConnectAnswer, PublishAnswer, Question, RefreshAnswer, RpcAnswer, SubscribeAnswer,
};

/// Questions to one back end under way at once. After a node's death thousands of clients connect within a second; what is above this
/// waits in the clients, which come again.
const QUESTIONS_MAX: usize = 512;

/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Settings of one back end.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What namespaces and `[access]` call it.
    pub name: String,
    /// Where questions are posted.
    pub url: String,
    /// How long it may take.
    pub timeout: Duration,
    /// Headers of the client's request that it is shown; lower case.
    pub headers: Vec<String>,
    /// Sent as bearer token, so that it knows who asks.
    pub token: Option<Secret>,
    /// When it is left alone.
    pub limits: Limits,
}

/// All back ends.
pub struct Proxies {
    by_name: HashMap<String, Backend>,
    http: reqwest::Client,
    metrics: Metrics,
}

struct Backend {
    settings: Settings,
    breaker: Mutex<Breaker>,
    room: Semaphore,
}

struct Metrics {
    questions: IntCounterVec,
    open: IntGaugeVec,
    seconds: Histogram,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the answer has not the expected form")]
    Form(#[source] serde_json::Error),
    #[error("the answer has neither result nor error nor disconnect")]
    Empty,
}

impl Proxies {
    /// For these back ends.
    pub fn new(settings: Vec<Settings>, http: reqwest::Client, registry: &Registry) -> Self {
        let metrics = Metrics {
            questions: counter_vec(
                registry,
                "chatnode_proxy_questions_total",
                "Questions to back ends, by result; shed: not asked, because it is left alone or busy",
                &["proxy", "result"],
            ),
            open: gauge_vec(
                registry,
                "chatnode_proxy_open",
                "1 while the back end is left alone after failures",
                &["proxy"],
            ),
            seconds: histogram(
                registry,
                "chatnode_proxy_seconds",
                "Time back ends take to answer",
                &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5],
            ),
        };
        let backends = settings.into_iter().map(|settings| {
            for result in ["ok", "failed", "shed"] {
                metrics.questions.with_label_values(&[settings.name.as_str(), result]);
            }
            metrics.open.with_label_values(&[&settings.name]);
            let breaker = Mutex::new(Breaker::new(settings.limits));
            let name = settings.name.clone();
            (name, Backend { settings, breaker, room: Semaphore::new(QUESTIONS_MAX) })
        });
        Self { by_name: backends.collect(), http, metrics }
    }

    /// Asks the back end `name` on behalf of a client that came with `origin`.
    ///
    /// # Errors
    /// What it refuses with; a temporary error if it cannot be asked.
    pub async fn ask<T: DeserializeOwned>(
        self: &Arc<Self>,
        name: &str,
        origin: &Origin,
        question: &Question<'_>,
    ) -> Result<T, Denial> {
        let Some(backend) = self.by_name.get(name) else {
            // The settings were checked; a reload took it away.
            return Err(ErrorCode::INTERNAL.into());
        };
        let room = backend.room.try_acquire();
        let asks = room.is_ok() && backend.breaker().may_ask(Instant::now().into_std());
        if !asks {
            self.metrics.questions.with_label_values(&[name, "shed"]).inc();
            return Err(ErrorCode::INTERNAL.into());
        }
        let started = Instant::now();
        let answer = self.post(&backend.settings, origin, question).await;
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        let answer = answer.and_then(|answer| {
            let envelope: Envelope<T> = serde_json::from_slice(&answer).map_err(Failure::Form)?;
            Ok(match envelope {
                Envelope { disconnect: Some(close), .. } => {
                    Err(Denial::Close { code: close.code, reason: close.reason.into() })
                }
                Envelope { error: Some(error), .. } => Err(Denial::Error {
                    code: error.code,
                    message: error.message.into(),
                    temporary: error.temporary,
                }),
                Envelope { result, .. } => Ok(result.ok_or(Failure::Empty)?),
            })
        });
        self.settle(backend, &answer);
        answer.unwrap_or_else(|_| Err(ErrorCode::INTERNAL.into()))
    }

    /// Counts the outcome and tells the breaker.
    fn settle<T>(&self, backend: &Backend, answer: &Result<T, Failure>) {
        let name = backend.settings.name.as_str();
        let mut breaker = backend.breaker();
        let was_open = breaker.is_open();
        let result = if answer.is_ok() {
            breaker.handle_success();
            "ok"
        } else {
            breaker.handle_failure(Instant::now().into_std());
            "failed"
        };
        self.metrics.questions.with_label_values(&[name, result]).inc();
        let is_open = breaker.is_open();
        drop(breaker);
        self.metrics.open.with_label_values(&[name]).set(i64::from(is_open));
        if let (Err(error), true, false) = (answer, is_open, was_open) {
            warn!(proxy = name, error = %Chain(error), "back end fails and is left alone for a while");
        }
    }

    async fn post(
        &self,
        settings: &Settings,
        origin: &Origin,
        question: &Question<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let body = serde_json::to_vec(question).map_err(Failure::Form)?;
        let mut request = self
            .http
            .post(&settings.url)
            .timeout(settings.timeout)
            .headers(passed(&settings.headers, origin))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(token) = &settings.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.and_then(reqwest::Response::error_for_status);
        let mut response = response.map_err(|error| Failure::Request(error.without_url()))?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Failure::Request)? {
            if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Failure::TooLarge);
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer)
    }
}

impl Backend {
    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The headers of the client's request that may be shown.
fn passed(names: &[String], origin: &Origin) -> HeaderMap {
    let shown = origin.headers.iter().filter(|(name, _)| names.iter().any(|n| **n == **name));
    let parsed = shown.filter_map(|(name, value)| {
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
    });
    parsed.collect()
}

/// A payload from an answer.
///
/// # Errors
/// It is not base64 where it should be: a mistake of the back end.
pub fn payload(
    json: Option<Box<serde_json::value::RawValue>>,
    base64: Option<String>,
) -> Result<Option<Bytes>, Denial> {
    crate::tokens::either(json, base64).map_err(|_| ErrorCode::INTERNAL.into())
}
