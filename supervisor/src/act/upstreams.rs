//! Drivers that change the servers of a balancer.
//!
//! Holdfast's own balancer is driven through its operator API. A driver lists what is there and sets one server; both are idempotent
//! and bounded in time. Every change carries the term its leader acts in: a balancer that has heard of a later one refuses it.

use std::time::Duration;

use serde::Deserialize;

use crate::cluster::ServerStatus;
use crate::config::Balancer;
use crate::plan::servers::{Change, OURS, Observed};

/// A balancer on the same network answers in a millisecond; one that takes this long is in trouble itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// An error text longer than this is cut.
const ERROR_CHARS_MAX: usize = 300;

/// Why a call to a balancer did not work.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No answer.
    #[error("{attempt} at the balancer {admin}")]
    Unreachable {
        /// What was attempted.
        attempt: String,
        /// The balancer's operator API.
        admin: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is not what was asked for.
    #[error("{attempt} at the balancer {admin}: {status}: {message}")]
    Refused {
        /// What was attempted.
        attempt: String,
        /// The balancer's operator API.
        admin: String,
        /// HTTP status code.
        status: u16,
        /// The balancer's own words.
        message: String,
    },
}

/// Holdfast's own balancer.
#[derive(Debug, Clone)]
pub struct HoldfastBalancer {
    config: Balancer,
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Pool {
    servers: Vec<Server>,
}

#[derive(Deserialize)]
struct Server {
    #[serde(flatten)]
    status: ServerStatus,
    configured_weight: u16,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

impl From<Server> for Observed {
    fn from(server: Server) -> Self {
        Self {
            status: server.status,
            configured_weight: server.configured_weight,
            reason: server.reason,
        }
    }
}

impl HoldfastBalancer {
    /// A driver of one balancer.
    pub fn new(config: Balancer, client: reqwest::Client) -> Self {
        Self { config, client }
    }

    /// The servers of the pool.
    ///
    /// # Errors
    /// The balancer does not answer, or not as expected.
    pub async fn list(&self) -> Result<Vec<Observed>, UpstreamError> {
        let attempt = format!("list pool {}", self.config.pool);
        let url = format!("http://{}/api/v1/pools/{}", self.config.admin, self.config.pool);
        let pool: Pool = self.call(&attempt, self.client.get(url)).await?;
        Ok(pool.servers.into_iter().map(Observed::from).collect())
    }

    /// Makes one change under `epoch`, the term this supervisor leads in, and returns the server as it is then.
    ///
    /// # Errors
    /// As [`Self::list`]; also a stale epoch.
    pub async fn set(&self, change: &Change, epoch: u64) -> Result<Observed, UpstreamError> {
        let Change { server, state, weight, summary, .. } = change;
        let attempt = format!("set {server} to {state}, weight {weight},");
        let url = format!(
            "http://{}/api/v1/pools/{}/servers/{server}",
            self.config.admin, self.config.pool
        );
        let body = serde_json::json!({
            "state": state,
            "weight": weight,
            "reason": format!("{OURS}{summary}"),
        });
        let request =
            self.client.patch(url).header("X-Holdfast-Epoch", epoch.to_string()).json(&body);
        self.call::<Server>(&attempt, request).await.map(Observed::from)
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        attempt: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, UpstreamError> {
        let admin = self.config.admin.to_string();
        let unreachable = |source: reqwest::Error| UpstreamError::Unreachable {
            attempt: attempt.to_owned(),
            admin: admin.clone(),
            source: source.without_url(),
        };
        let response = request
            .bearer_auth(self.config.token.expose())
            .timeout(CALL_TIMEOUT)
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map_err(unreachable);
        }
        let text = response.text().await.map_err(unreachable)?;
        let message = serde_json::from_str::<ErrorBody>(&text).map_or(text, |body| body.error);
        Err(UpstreamError::Refused {
            attempt: attempt.to_owned(),
            admin: self.config.admin.to_string(),
            status: status.as_u16(),
            message: message.chars().take(ERROR_CHARS_MAX).collect(),
        })
    }
}
