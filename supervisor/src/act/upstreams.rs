//! Drivers that change the servers of a balancer.
//!
//! Holdfast's own balancer is driven through its operator API. A driver lists what is there and sets one server; both are idempotent
//! and bounded in time. For drills it also puts a fault on the way to a server, which the balancer ends by itself after a lease. Every change carries the term its leader acts in: a balancer that has heard of a later one refuses it.

use std::time::Duration;

use holdfast_settings::duration;
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
struct Faults {
    faults: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    id: u64,
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

    /// Lets requests and connections to `server` begin later by `delay`, for as long as `lease`; the number of that fault.
    ///
    /// # Errors
    /// As [`Self::list`]; also a balancer whose settings allow no faults.
    pub async fn delay(
        &self,
        server: &str,
        delay: Duration,
        lease: Duration,
        reason: &str,
    ) -> Result<u64, UpstreamError> {
        let body = serde_json::json!({
            "pool": self.config.pool,
            "server": server,
            "effect": "latency",
            "delay": duration::format(delay),
            "lease": duration::format(lease),
            "reason": format!("{OURS}{reason}"),
        });
        let attempt = format!("delay the way to {server}");
        let request = self.client.post(self.faults_url()).json(&body);
        self.call::<Fault>(&attempt, request).await.map(|fault| fault.id)
    }

    /// The numbers of the faults in force.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn faults(&self) -> Result<Vec<u64>, UpstreamError> {
        let request = self.client.get(self.faults_url());
        let Faults { faults } = self.call("list faults", request).await?;
        Ok(faults.into_iter().map(|fault| fault.id).collect())
    }

    /// Ends a fault. One that has ended is ended.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn end_fault(&self, fault: u64) -> Result<(), UpstreamError> {
        let request = self.client.delete(format!("{}/{fault}", self.faults_url()));
        match self.send(&format!("end fault {fault}"), request).await {
            Ok(_) | Err(UpstreamError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn faults_url(&self) -> String {
        format!("http://{}/api/v1/faults", self.config.admin)
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        attempt: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, UpstreamError> {
        let response = self.send(attempt, request).await?;
        response.json().await.map_err(|source| self.unreachable(attempt, source))
    }

    fn unreachable(&self, attempt: &str, source: reqwest::Error) -> UpstreamError {
        UpstreamError::Unreachable {
            attempt: attempt.to_owned(),
            admin: self.config.admin.to_string(),
            source: source.without_url(),
        }
    }

    /// A success, whatever is in it.
    async fn send(
        &self,
        attempt: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, UpstreamError> {
        let unreachable = |source| self.unreachable(attempt, source);
        let response = request
            .bearer_auth(self.config.token.expose())
            .timeout(CALL_TIMEOUT)
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
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
