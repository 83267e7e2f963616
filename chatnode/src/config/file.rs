//! The settings file as written.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_telemetry::logs::{Format, Level};
use ipnet::IpNet;
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
    pub(super) user_connections_max: usize,
    pub(super) address_connections_max: usize,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) connects_per_second: u32,
    pub(super) connects_burst: u32,
    pub(super) commands_per_second: u32,
    pub(super) commands_burst: u32,
    pub(super) user_commands_per_second: u32,
    pub(super) user_commands_burst: u32,
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
            // A person has some devices and many tabs; a loop that connects again and again has more.
            user_connections_max: 100,
            // Off: a whole office, or a proxy that is not in the list, has one address.
            address_connections_max: 0,
            trusted_proxies: Vec::new(),
            // At an estimated 100 µs of CPU per connect this keeps more than half of a core for those who are connected; a reconnect storm
            // of all clients of a node passes as one burst.
            connects_per_second: 4_000,
            connects_burst: 10_000,
            // At an estimated 20 µs of CPU per command one connection can take 2 % of a core. The burst is that of an SDK that comes back: a
            // subscribe for each of its channels, several times over.
            commands_per_second: 1_000,
            commands_burst: 2_000,
            // Twice that for all connections of a user on this node together.
            user_commands_per_second: 2_000,
            user_commands_burst: 4_000,
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
