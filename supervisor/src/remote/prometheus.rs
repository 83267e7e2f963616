//! A remote Prometheus (or whatever speaks its API: Mimir, Thanos, `VictoriaMetrics`) that has the series in place of the embedded store.
//!
//! Whole expressions are sent to it, and its answers are taken as they are. Fetching what the selectors match and evaluating here was
//! rejected: who runs a remote has more series than fit here, and a rule that sums ten thousand of them would move all their samples
//! over the network every second in place of one number.
//!
//! Silence of the remote is an error like any other: rules fail, their alerts stay as they are, nothing is done on what is not known,
//! and an alert says so ([`crate::supervise`] keeps the rules about the supervisor itself on its own store).

use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use bytes::{Bytes, BytesMut};
use holdfast_promql::{EvalError, QueryError, Series, Value, VectorSample};
use holdfast_series::{Labels, Sample};
use reqwest::Client;
use serde::Deserialize;

use super::client::{ClientError, Endpoint};

/// Largest answer: a dashboard's panel is some hundred KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A remote Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    client: Client,
    endpoint: Endpoint,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Forwarded {
    /// Its status.
    pub status: StatusCode,
    /// Its content type.
    pub kind: Option<HeaderValue>,
    /// What it says.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It was not reached, or took too long.
    #[error("ask Prometheus at {url}")]
    Request {
        /// Where.
        url: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is too long.
    #[error("Prometheus at {url} sent more than {ANSWER_BYTES_MAX} bytes")]
    TooLong {
        /// Where.
        url: String,
    },
    /// The answer is not one of Prometheus'.
    #[error("Prometheus at {url} answered {status}: {text}")]
    Answer {
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
}

#[derive(Deserialize)]
struct Reply {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default, rename = "errorType")]
    kind: String,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Scalar(Point),
    String((f64, String)),
    Vector(Vec<VectorEntry>),
    Matrix(Vec<MatrixEntry>),
}

type Point = (f64, String);

#[derive(Deserialize)]
struct VectorEntry {
    metric: std::collections::BTreeMap<String, String>,
    value: Option<Point>,
}

#[derive(Deserialize)]
struct MatrixEntry {
    metric: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<Point>,
}

impl Prometheus {
    /// A client for `endpoint`, whose URL is where the server's own pages begin.
    ///
    /// # Errors
    /// If its TLS settings cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        Ok(Self { client: endpoint.client()?, endpoint })
    }

    /// Sends a request on and brings its answer back.
    ///
    /// # Errors
    /// If there is none. An answer that says no is an answer.
    pub async fn forward(
        &self,
        method: Method,
        path_and_query: &str,
        kind: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Forwarded, RemoteError> {
        let url = format!("{}{path_and_query}", self.endpoint.url);
        let fail = |source: reqwest::Error| RemoteError::Request {
            url: self.endpoint.url.clone(),
            source: source.without_url(),
        };
        let mut request = self.endpoint.authorize(self.client.request(method, url)).body(body);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let mut response = request.send().await.map_err(fail)?;
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).cloned();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(fail)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(RemoteError::TooLong { url: self.endpoint.url.clone() });
            }
        }
        Ok(Forwarded { status, kind, body: body.freeze() })
    }

    /// Evaluates an expression at an instant.
    ///
    /// # Errors
    /// As the engine's; a remote that cannot be asked is [`EvalError::Query`].
    pub async fn instant(&self, query: &str, time_ms: i64) -> Result<Value, EvalError> {
        let time = format!("{}.{:03}", time_ms.div_euclid(1000), time_ms.rem_euclid(1000));
        let timeout = format!("{}ms", self.endpoint.timeout.as_millis());
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("query", query), ("time", &time), ("timeout", &timeout)])
            .finish();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let answer = self.forward(Method::POST, "/api/v1/query", Some(kind), form.into()).await;
        let answer = answer.map_err(|error| self.away(error))?;
        let Ok(reply) = serde_json::from_slice::<Reply>(&answer.body) else {
            let text = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            let (url, status) = (self.endpoint.url.clone(), answer.status);
            return Err(self.away(RemoteError::Answer { url, status, text }));
        };
        match (reply.status.as_str(), reply.data) {
            ("success", Some(data)) => Ok(value(data)),
            _ => Err(match reply.kind.as_str() {
                "bad_data" => EvalError::BadQuery(reply.error),
                "timeout" => EvalError::TimedOut,
                "execution" => EvalError::Execution(reply.error),
                _ => self.away(RemoteError::Answer {
                    url: self.endpoint.url.clone(),
                    status: answer.status,
                    text: reply.error,
                }),
            }),
        }
    }

    fn away(&self, error: RemoteError) -> EvalError {
        let source_name = format!("Prometheus at {}", self.endpoint.url);
        EvalError::Query(QueryError { source_name, cause: Box::new(error) })
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.endpoint.timeout
    }
}

fn value(data: Data) -> Value {
    match data {
        Data::Scalar(point) => Value::Scalar(sample(&point)),
        Data::String((time, text)) => Value::String { timestamp_ms: millis(time), text },
        // Native histograms have no value that a rule could be about.
        Data::Vector(list) => Value::Vector(
            list.into_iter()
                .filter_map(|entry| {
                    let sample = sample(entry.value.as_ref()?);
                    let labels = Labels::from_pairs(&entry.metric);
                    Some(VectorSample { labels, sample, histogram: None })
                })
                .collect(),
        ),
        Data::Matrix(list) => Value::Matrix(
            list.into_iter()
                .map(|entry| Series {
                    labels: Labels::from_pairs(&entry.metric),
                    samples: entry.values.iter().map(sample).collect(),
                    histograms: Vec::new(),
                })
                .collect(),
        ),
    }
}

fn sample((time, value): &Point) -> Sample {
    Sample { timestamp_ms: millis(*time), value: value.parse().unwrap_or(f64::NAN) }
}

fn millis(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "an instant in this century")]
    let ms = (seconds * 1000.0).round() as i64;
    ms
}
