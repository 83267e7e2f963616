//! The settings file as written.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_telemetry::logs::{Format, Level};
use serde::Deserialize;

use super::access::{AccessFile, AccountsFile, ApiFile, ProxyFile, TokensFile};
use super::redis;
use crate::namespaces::Options;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Node,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) traces: Traces,
    #[serde(default)]
    pub(super) tokens: TokensFile,
    #[serde(default)]
    pub(super) access: AccessFile,
    #[serde(default)]
    pub(super) proxy: Vec<ProxyFile>,
    #[serde(default)]
    pub(super) api: ApiFile,
    #[serde(default)]
    pub(super) accounts: AccountsFile,
    pub(super) redis: Option<redis::Section>,
    #[serde(default)]
    pub(super) client: Client,
    #[serde(default)]
    pub(super) drain: Drain,
    #[serde(default)]
    pub(super) channels: Options,
    #[serde(default)]
    pub(super) namespace: Vec<Options>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) admin_listen: String,
    pub(super) admin_token_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) broker: redis::Kind,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Level,
    pub(super) format: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Traces {
    pub(super) otlp_endpoint: String,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Client {
    #[serde(with = "holdfast_settings::duration")]
    pub(super) ping_interval: Duration,
    #[serde(with = "holdfast_settings::duration")]
    pub(super) pong_timeout: Duration,
    #[serde(with = "holdfast_settings::duration")]
    pub(super) stale_timeout: Duration,
    pub(super) message_bytes_max: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) channels_max: usize,
    pub(super) connections_max: usize,
    pub(super) allowed_origins: Vec<String>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            // The protocol's own defaults, which the SDKs are tested with.
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            stale_timeout: Duration::from_secs(10),
            message_bytes_max: 65_536,
            queue_bytes_max: 1_048_576,
            channels_max: 128,
            // 8 KiB each is 80 MiB; a smaller figure than most machines could take, raised knowingly together with `ulimit -n`.
            connections_max: 10_000,
            allowed_origins: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Drain {
    #[serde(with = "holdfast_settings::duration")]
    pub(super) period: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        // Long enough for a balancer that checks every 500 ms, and for the other nodes to take 10,000 clients at 2,000 a second.
        Self { period: Duration::from_secs(5) }
    }
}
