//! Messages as JSON over HTTP, in the format of Alertmanager's webhook (version 4), which many receivers understand already.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, redirect};
use serde_json::{Value, json};

use super::channel::{Attempt, Carrier, Undelivered};
use super::message::{Alert, Message};
use crate::config::Webhook as Settings;

/// What stands for "not over yet" in the format: Go's zero time.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// Name of the receiver in the format.
const RECEIVER: &str = "holdfast";

/// Why a webhook cannot be set up or reached. The address may hold a secret, so only its host is ever named.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is not one.
    #[error("the webhook's url is not one")]
    Url {
        /// What is wrong with it.
        #[source]
        source: <Url as std::str::FromStr>::Err,
    },
    /// The HTTP client cannot be built.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The receiver cannot be reached.
    #[error("post to {host}")]
    Post {
        /// The receiver.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The receiver does not want it.
    #[error("{host} answered {status}")]
    Refused {
        /// The receiver.
        host: String,
        /// Its answer.
        status: StatusCode,
    },
}

/// Posts to one address.
pub(super) struct Webhook {
    url: Url,
    host: String,
    client: Client,
    settings: Settings,
}

impl Webhook {
    pub(super) fn new(settings: &Settings) -> Result<Self, WebhookError> {
        let url: Url = settings.url.parse().map_err(|source| WebhookError::Url { source })?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let client = Client::builder()
            .timeout(settings.timeout)
            // Where alerts go is for the settings to say, not for a variable of the environment.
            .no_proxy()
            // A redirect would carry the alert, and on the same host the token, to where nobody meant it to go.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Self { url, host, client, settings: settings.clone() })
    }

    /// Host and port, for people.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    async fn post(&self, message: &Message) -> Result<(), WebhookError> {
        let mut request = self.client.post(self.url.clone()).json(&payload(message));
        if let Some(token) = &self.settings.bearer_token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|error| WebhookError::Post {
            host: self.host.clone(),
            source: error.without_url(),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(WebhookError::Refused { host: self.host.clone(), status })
    }
}

impl Carrier for Webhook {
    fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    fn retries_max(&self) -> u32 {
        self.settings.retries_max
    }

    fn deliver<'a>(&'a self, message: &'a Message) -> Attempt<'a> {
        Box::pin(async {
            self.post(message).await.map_err(|error| {
                let may_pass = match &error {
                    WebhookError::Refused { status, .. } => may_pass(*status),
                    WebhookError::Post { source, .. } => !source.is_builder(),
                    WebhookError::Url { .. } | WebhookError::Client(_) => false,
                };
                Undelivered { cause: Box::new(error), may_pass }
            })
        })
    }
}

/// A receiver that is busy or broken may recover; one that says the request is wrong will say so again.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn payload(message: &Message) -> Value {
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname={:?}}}", message.name),
        "truncatedAlerts": message.truncated,
        "status": message.status(),
        "receiver": RECEIVER,
        "groupLabels": { "alertname": message.name },
        "commonLabels": message.common_labels(),
        "commonAnnotations": message.common_annotations(),
        "externalURL": message.external_url,
        "alerts": message.alerts.iter().map(|alert| alert_json(message, alert)).collect::<Vec<_>>(),
    })
}

fn alert_json(message: &Message, alert: &Alert) -> Value {
    let source = match alert.incident {
        Some(id) => format!("{}/incidents/{id}", message.external_url),
        None => format!("{}/", message.external_url),
    };
    json!({
        "status": if alert.is_firing { "firing" } else { "resolved" },
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": alert.starts_at,
        "endsAt": alert.ends_at.map_or_else(|| json!(NO_END), |at| json!(at)),
        "generatorURL": source,
        "fingerprint": format!("{:016x}", fingerprint(&alert.labels)),
    })
}

/// Tells alerts apart: FNV-1a over the sorted labels with a byte between them that no text contains, as Prometheus computes it.
fn fingerprint(labels: &BTreeMap<String, String>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = labels
        .iter()
        .flat_map(|(name, value)| name.bytes().chain([0xff]).chain(value.bytes()).chain([0xff]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tell::message::tests::message;

    #[test]
    fn the_payload_is_alertmanagers() {
        let payload = payload(&message());
        assert_eq!(payload["version"], "4");
        assert_eq!(payload["status"], "firing");
        assert_eq!(payload["groupKey"], r#"{}:{alertname="NodeDown"}"#);
        assert_eq!(payload["groupLabels"], json!({ "alertname": "NodeDown" }));
        let common = json!({ "alertname": "NodeDown", "severity": "critical" });
        assert_eq!(payload["commonLabels"], common);
        let alerts = payload["alerts"].as_array().unwrap();
        assert_eq!(alerts.len(), 2);
        assert_eq!(
            (&alerts[0]["status"], &alerts[0]["endsAt"]),
            (&json!("firing"), &json!(NO_END))
        );
        assert_eq!(alerts[0]["startsAt"], "2027-01-15T08:00:03Z");
        assert_eq!(alerts[0]["generatorURL"], "http://h.example/incidents/1");
        assert_eq!(alerts[1]["endsAt"], "2027-01-15T08:01:00Z");
        assert_ne!(alerts[0]["fingerprint"], alerts[1]["fingerprint"]);
    }

    #[test]
    fn fingerprints_are_those_of_prometheus() {
        // The empty set is FNV-1a's offset basis; so it is in Prometheus.
        assert_eq!(fingerprint(&BTreeMap::new()), 14_695_981_039_346_656_037);
        let swapped = |a: &str, b: &str| fingerprint(&[(a.to_owned(), b.to_owned())].into());
        assert_ne!(swapped("a", "bc"), swapped("ab", "c"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, expected) in [
            (500, true),
            (503, true),
            (429, true),
            (408, true),
            (400, false),
            (401, false),
            (302, false),
        ] {
            assert_eq!(may_pass(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}
