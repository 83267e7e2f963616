//! Is a part of the local cluster ready?

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::cli::client::Client;
use crate::cluster::RedisState;

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// An HTTP client for health checks.
pub(super) fn http() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    builder.build().expect("a TLS provider is installed at the start of main")
}

/// A Redis server answers, and follows its primary if it is a replica.
pub(super) async fn redis(address: SocketAddr, is_primary: bool) -> Result<(), String> {
    let ask = async {
        let client =
            redis::Client::open(format!("redis://{address}")).map_err(|e| e.to_string())?;
        let mut connection =
            client.get_multiplexed_async_connection().await.map_err(|e| e.to_string())?;
        let info: String = redis::cmd("INFO")
            .arg("replication")
            .query_async(&mut connection)
            .await
            .map_err(|e| e.to_string())?;
        let linked = info.lines().any(|line| line == "master_link_status:up");
        if is_primary || linked {
            Ok(())
        } else {
            Err("it does not follow the primary yet".to_owned())
        }
    };
    timeout(ANSWER_WITHIN, ask).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// The supervisor sees everything up: nodes, Redis, and the canary's messages go through.
pub(super) async fn cluster(client: &Client) -> Result<(), String> {
    let status = timeout(ANSWER_WITHIN, client.status())
        .await
        .map_err(|_| "no answer".to_owned())?
        .map_err(|error| error.to_string())?;
    if let Some(node) = status.servers.nodes.iter().find(|node| {
        node.up != Some(true) || !node.server.as_ref().is_some_and(|server| server.usable)
    }) {
        return Err(format!("the supervisor does not see {} in service yet", node.name));
    }
    for redis in &status.redis {
        if redis.state != RedisState::Healthy {
            return Err(format!("the supervisor sees Redis {}", redis.state.name()));
        }
        let linked = |server: &crate::cluster::RedisServerStatus| {
            server.up == Some(true)
                && (Some(&server.address) == redis.primary.as_ref() || server.link_up == Some(true))
        };
        if let Some(server) = redis.servers.iter().find(|server| !linked(server)) {
            return Err(format!(
                "the supervisor does not see Redis {} in order yet",
                server.address
            ));
        }
    }
    match &status.canary {
        Some(canary) if canary.ok != Some(true) => {
            let why = canary.error.as_deref().unwrap_or("no message yet");
            Err(format!("the canary's messages do not go through: {why}"))
        }
        _ => Ok(()),
    }
}
