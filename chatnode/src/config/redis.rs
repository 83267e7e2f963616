//! Where messages are kept: the `[redis]` section as written, checked into what the broker works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::Secret;
use holdfast_settings::tls::{ClientSection, SectionFault};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use super::Check;

/// Where messages are kept.
#[derive(Debug, Clone)]
pub enum Broker {
    /// In the memory of this node, which then is the only one.
    Memory,
    /// In Redis.
    Redis(Box<Redis>),
}

/// Where a primary is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primary {
    /// By asking Sentinel-compatible endpoints for the primary of this name.
    Sentinels {
        /// `host:port` of each.
        endpoints: Vec<String>,
        /// Name they know the primary by.
        name: String,
    },
    /// At this `host:port`, always.
    Fixed(String),
}

/// Which servers share the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// Independent primaries, one or more; channels spread over them by a hash of their names.
    Shards(Vec<Primary>),
}

/// How TLS connections to Redis are made.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Authorities, and this node's certificate if it has one.
    pub client: Arc<ClientConfig>,
    /// The name on the servers' certificates, if not the host they are connected by.
    pub server_name: Option<ServerName<'static>>,
}

/// Who we are to a server.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// ACL user, if not the default one.
    pub username: Option<String>,
    /// Password of that user.
    pub password: Option<Secret>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Tls>,
}

/// How Redis is used.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Which servers.
    pub servers: Servers,
    /// Who we are to them.
    pub access: Access,
    /// Who we are to Sentinel-compatible endpoints.
    pub sentinel_access: Access,
    /// A publish is acknowledged once it is on this many replicas.
    pub confirm_replicas: u32,
    /// Or on as many as the supervisor says are well, if those are more.
    pub confirm_all_healthy: bool,
    /// How long to wait for them.
    pub confirm_timeout: Duration,
    /// How long any other reply may take, and how long a publish is held while there is no primary.
    pub command_timeout: Duration,
}

/// Which broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// [`Broker::Redis`].
    #[default]
    Redis,
    /// [`Broker::Memory`].
    Memory,
}

/// The section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    sentinels: Option<Vec<String>>,
    primary_name: Option<String>,
    address: Option<String>,
    #[serde(default)]
    shard: Vec<ShardSection>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    sentinel_username: Option<String>,
    sentinel_password_file: Option<PathBuf>,
    #[serde(default)]
    sentinel_tls: bool,
    tls: Option<ClientSection>,
    #[serde(default = "confirm_replicas")]
    confirm_replicas: u32,
    #[serde(default)]
    confirm_all_healthy: bool,
    #[serde(default = "one_second", with = "holdfast_settings::duration")]
    confirm_timeout: Duration,
    #[serde(default = "one_second", with = "holdfast_settings::duration")]
    command_timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardSection {
    sentinels: Option<Vec<String>>,
    primary_name: Option<String>,
    address: Option<String>,
}

/// One replica is what makes an acknowledged message survive the primary.
fn confirm_replicas() -> u32 {
    1
}

/// Far above what a healthy Redis needs, and a fifth of the SDKs' command timeout of 5 s.
fn one_second() -> Duration {
    Duration::from_secs(1)
}

impl Check<'_> {
    pub(super) fn broker(&mut self, kind: Kind, redis: Option<&Section>) -> Broker {
        match (kind, redis) {
            (Kind::Redis, Some(redis)) => Broker::Redis(Box::new(self.redis(redis))),
            (Kind::Redis, None) => {
                self.fault("redis", "expected this section, or node.broker = \"memory\"");
                Broker::Memory
            }
            (Kind::Memory, None) => Broker::Memory,
            (Kind::Memory, Some(_)) => {
                self.fault("node.broker", "is \"memory\", but there is a [redis] section");
                Broker::Memory
            }
        }
    }

    fn redis(&mut self, file: &Section) -> Redis {
        let short = Duration::from_millis(10);
        self.at_least("redis.confirm_timeout", file.confirm_timeout, short);
        self.at_least("redis.command_timeout", file.command_timeout, short);
        for (user, password, key) in [
            (&file.username, &file.password_file, "redis.username"),
            (&file.sentinel_username, &file.sentinel_password_file, "redis.sentinel_username"),
        ] {
            if user.is_some() && password.is_none() {
                self.fault(key, format!("needs {}", key.replace("username", "password_file")));
            }
        }
        let tls = file.tls.as_ref().and_then(|tls| self.tls(tls));
        if file.sentinel_tls && file.tls.is_none() {
            self.fault("redis.sentinel_tls", "needs a [redis.tls] section");
        }
        let password =
            |check: &mut Self, key, path: &Option<PathBuf>| check.secret(key, path.as_deref());
        Redis {
            servers: self.servers(file),
            access: Access {
                username: file.username.clone(),
                password: password(self, "redis.password_file", &file.password_file),
                tls: tls.clone(),
            },
            sentinel_access: Access {
                username: file.sentinel_username.clone(),
                password: password(
                    self,
                    "redis.sentinel_password_file",
                    &file.sentinel_password_file,
                ),
                tls: tls.filter(|_| file.sentinel_tls),
            },
            confirm_replicas: file.confirm_replicas,
            confirm_all_healthy: file.confirm_all_healthy,
            confirm_timeout: file.confirm_timeout,
            command_timeout: file.command_timeout,
        }
    }

    fn servers(&mut self, file: &Section) -> Servers {
        let single = file.sentinels.is_some() || file.address.is_some();
        let ways = [single, !file.shard.is_empty()];
        if ways.iter().filter(|way| **way).count() > 1 {
            let expected = "expected one of address, sentinels and [[redis.shard]]";
            self.fault("redis", format!("{expected}, found several"));
        }
        if file.shard.is_empty() {
            let shard = ShardSection {
                sentinels: file.sentinels.clone(),
                primary_name: file.primary_name.clone(),
                address: file.address.clone(),
            };
            return Servers::Shards(vec![self.primary("redis", &shard)]);
        }
        let shards = file.shard.iter().enumerate();
        Servers::Shards(
            shards.map(|(i, shard)| self.primary(&format!("redis.shard[{i}]"), shard)).collect(),
        )
    }

    fn primary(&mut self, section: &str, file: &ShardSection) -> Primary {
        match (&file.sentinels, &file.address) {
            (Some(_), Some(_)) => {
                let expected = "expected either sentinels or address, found both";
                self.fault(&format!("{section}.address"), expected);
                Primary::Fixed(String::new())
            }
            (None, None) => {
                self.fault(section, "expected sentinels and primary_name, or address");
                Primary::Fixed(String::new())
            }
            (None, Some(address)) => {
                self.host_port(&format!("{section}.address"), address);
                Primary::Fixed(address.clone())
            }
            (Some(endpoints), None) => {
                self.host_ports(&format!("{section}.sentinels"), endpoints);
                let name = file.primary_name.clone().unwrap_or_default();
                if name.is_empty() {
                    let expected = "expected the name the sentinels know it by";
                    self.fault(&format!("{section}.primary_name"), expected);
                }
                Primary::Sentinels { endpoints: endpoints.clone(), name }
            }
        }
    }

    fn host_ports(&mut self, key: &str, values: &[String]) {
        if values.is_empty() {
            self.fault(key, "expected at least one host:port");
        }
        for (index, value) in values.iter().enumerate() {
            self.host_port(&format!("{key}[{index}]"), value);
        }
    }

    /// `None` after a fault.
    fn tls(&mut self, file: &ClientSection) -> Option<Tls> {
        match file.clone().load(|path| path) {
            Ok((client, server_name)) => Some(Tls { client: Arc::new(client), server_name }),
            Err(SectionFault { key, message }) => {
                let key = key.map(|key| format!("redis.tls.{key}"));
                self.fault(key.as_deref().unwrap_or("redis.tls"), message);
                None
            }
        }
    }
}
