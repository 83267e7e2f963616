//! Settings: the file as written, checked into the [`Config`] the node works with.
//!
//! All faults are reported together, each with file, line and key, before anything is bound or connected to.

mod access;
mod file;
mod redis;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Uri;
use holdfast_settings::{Faults, Secret, Source};
use holdfast_telemetry::logs::{Format, Level};
use ipnet::IpNet;

pub use access::{Permissions, Tokens};
use file::File;

pub use redis::{Access, Broker, Primary, Redis, Servers, Tls};

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Where they were read from.
    pub file: PathBuf,
    /// Name of this node among its like.
    pub name: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators and scrapers connect.
    pub admin_listen: SocketAddr,
    /// Token for calls that change something; without it they are off.
    pub admin_token: Option<Secret>,
    /// How much is logged.
    pub log_level: Level,
    /// In which form.
    pub log_format: Format,
    /// Where traces go, if anywhere.
    pub otlp_endpoint: Option<String>,
    /// Where messages are kept.
    pub broker: Broker,
    /// What one client may take.
    pub client: Client,
    /// Time over which connections are closed on shutdown.
    pub drain_period: Duration,
    /// Who may do what.
    pub access: Permissions,
}

/// Bounds and timers of one client connection.
#[derive(Debug, Clone)]
pub struct Client {
    /// Time between pings.
    pub ping_interval: Duration,
    /// Time to answer one.
    pub pong_timeout: Duration,
    /// Time to send a connect command.
    pub stale_timeout: Duration,
    /// Largest message.
    pub message_bytes_max: usize,
    /// Most bytes waiting to be read by the client.
    pub queue_bytes_max: usize,
    /// Most channels of one connection.
    pub channels_max: usize,
    /// Most connections of this node.
    pub connections_max: usize,
    /// Most connections of one user to this node; 0: as many as there is room for.
    pub user_connections_max: usize,
    /// Most connections from one address; 0: as many as there is room for.
    pub address_connections_max: usize,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How fast clients may connect to this node.
    pub connect_rate: CommandRate,
    /// How fast one connection may send commands.
    pub command_rate: CommandRate,
    /// How fast all connections of a user to this node may send commands together.
    pub user_command_rate: CommandRate,
    /// Origins browsers may connect from; empty: any.
    pub allowed_origins: Vec<String>,
}

/// How often something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandRate {
    /// In the long run; 0: as often as wanted.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

impl Config {
    /// Reads and checks the settings file at `path`, and the secrets it names.
    ///
    /// # Errors
    /// Every fault found.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let (file, source) = holdfast_settings::read::<File>(path)?;
        check(&file, &source)
    }
}

fn check(file: &File, source: &Source) -> Result<Config, Faults> {
    let mut check = Check { source, faults: Faults::new(&source.file) };
    if file.node.name.is_empty() {
        check.fault("node.name", "expected a name");
    }
    let listen = check.socket("node.listen", &file.node.listen);
    let admin_listen = check.socket("node.admin_listen", &file.node.admin_listen);
    let admin_token = check.secret("node.admin_token_file", file.node.admin_token_file.as_deref());
    let broker = check.broker(file.node.broker, file.redis.as_ref());
    let client = check.client(&file.client);
    let access = check.access(file);
    if listen == admin_listen && listen.port() != 0 {
        check.fault(
            "node.admin_listen",
            format!("expected another address than node.listen, found {listen}"),
        );
    }
    let otlp_endpoint = Some(&file.traces.otlp_endpoint).filter(|e| !e.is_empty()).cloned();
    if let Some(endpoint) = otlp_endpoint.as_deref().filter(|endpoint| !is_url(endpoint)) {
        let expected = "expected a URL such as \"http://127.0.0.1:4318\"";
        check.fault("traces.otlp_endpoint", format!("{expected}, found {endpoint:?}"));
    }
    check.faults.finish(Config {
        file: source.file.clone(),
        name: file.node.name.clone(),
        listen,
        admin_listen,
        admin_token,
        log_level: file.log.level,
        log_format: file.log.format,
        otlp_endpoint,
        broker,
        client,
        drain_period: file.drain.period,
        access,
    })
}

fn is_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        uri.authority().is_some()
            && uri.scheme().is_some_and(|s| ["http", "https"].contains(&s.as_str()))
    })
}

/// Faults while they are collected. After a fault a check goes on with some value, since nothing of it is handed out.
struct Check<'a> {
    source: &'a Source,
    faults: Faults,
}

impl Check<'_> {
    fn fault(&mut self, key: &str, message: impl std::fmt::Display) {
        self.faults.add(self.source, key, message);
    }

    fn socket(&mut self, key: &str, value: &str) -> SocketAddr {
        value.parse().unwrap_or_else(|_| {
            self.fault(
                key,
                format!(
                    "expected an IP address and port such as \"0.0.0.0:8100\", found {value:?}"
                ),
            );
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn secret(&mut self, key: &str, path: Option<&Path>) -> Option<Secret> {
        match Secret::from_file(path?) {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.fault(key, error);
                None
            }
        }
    }

    fn host_port(&mut self, key: &str, value: &str) {
        let valid = value.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !valid {
            self.fault(key, format!("expected host:port, found {value:?}"));
        }
    }

    fn at_least(&mut self, key: &str, value: Duration, min: Duration) {
        if value < min {
            let min = holdfast_settings::duration::format(min);
            self.fault(key, format!("expected at least {min}"));
        }
    }

    fn client(&mut self, file: &file::Client) -> Client {
        // The client is told whole seconds; less than one would tell it that there are no pings.
        self.at_least("client.ping_interval", file.ping_interval, Duration::from_secs(1));
        let short = Duration::from_millis(10);
        self.at_least("client.pong_timeout", file.pong_timeout, short);
        self.at_least("client.stale_timeout", file.stale_timeout, short);
        if file.pong_timeout >= file.ping_interval {
            self.fault("client.pong_timeout", "expected less than client.ping_interval");
        }
        for (key, value) in [
            ("client.message_bytes_max", file.message_bytes_max),
            ("client.queue_bytes_max", file.queue_bytes_max),
        ] {
            if value < 1024 {
                self.fault(key, "expected at least 1024");
            }
        }
        for (key, value) in [
            ("client.connections_max", file.connections_max),
            ("client.channels_max", file.channels_max),
        ] {
            if value == 0 {
                self.fault(key, "expected at least 1, found 0");
            }
        }
        Client {
            ping_interval: file.ping_interval,
            pong_timeout: file.pong_timeout,
            stale_timeout: file.stale_timeout,
            message_bytes_max: file.message_bytes_max,
            queue_bytes_max: file.queue_bytes_max,
            channels_max: file.channels_max,
            connections_max: file.connections_max,
            user_connections_max: file.user_connections_max,
            address_connections_max: file.address_connections_max,
            trusted_proxies: file.trusted_proxies.clone(),
            connect_rate: CommandRate {
                per_second: file.connects_per_second,
                burst: file.connects_burst,
            },
            command_rate: CommandRate {
                per_second: file.commands_per_second,
                burst: file.commands_burst,
            },
            user_command_rate: CommandRate {
                per_second: file.user_commands_per_second,
                burst: file.user_commands_burst,
            },
            allowed_origins: file.allowed_origins.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::Namespaces;

    const SAMPLE: &str = include_str!("../../../deploy/config/chatnode.toml");

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["chatnode.token", "chat.secret", "redis.password"] {
            std::fs::write(dir.path().join(name), "a secret\n").unwrap();
        }
        let text = text.replace("/etc/holdfast", dir.path().to_str().unwrap());
        let path = dir.path().join("chatnode.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
            .map_err(|faults| faults.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn in_redis(config: &Config) -> &Redis {
        match &config.broker {
            Broker::Redis(redis) => redis,
            Broker::Memory => panic!("not in Redis"),
        }
    }

    #[test]
    fn the_sample_file_is_valid_and_says_the_defaults() {
        let config = load(SAMPLE).unwrap();
        assert_eq!(config.name, "chatnode-1");
        let redis = in_redis(&config);
        assert!(matches!(&redis.servers, Servers::Shards(one) if one.len() == 1));
        let namespaces = Namespaces::new(config.access.namespaces.clone());
        assert_eq!(namespaces.of("a").unwrap().history_size, 1000);
        assert!(namespaces.of("canary:probe").unwrap().force_recovery);
        let bare = load(
            "[node]\nname = \"n\"\nlisten = \"0.0.0.0:1\"\nadmin_listen = \"0.0.0.0:2\"\n\
             [tokens]\nhmac_secret_file = \"/etc/holdfast/chat.secret\"\n[redis]\naddress = \"r:1\"\n",
        )
        .unwrap();
        assert_eq!(format!("{:?}", bare.client), format!("{:?}", config.client));
        assert_eq!(bare.drain_period, config.drain_period);
        let bare_redis = in_redis(&bare);
        assert_eq!(bare_redis.confirm_replicas, redis.confirm_replicas);
        assert_eq!(bare_redis.confirm_timeout, redis.confirm_timeout);
        assert_eq!(bare_redis.command_timeout, redis.command_timeout);
    }

    #[test]
    fn every_fault_is_reported_with_its_line() {
        let text = SAMPLE
            .replace("listen = \"0.0.0.0:8100\"", "listen = \"here\"")
            .replace("chat.secret", "absent.secret")
            .replace("[\"127.0.0.1:26379\"]", "[\"127.0.0.1\"]")
            .replace("pong_timeout = \"8s\"", "pong_timeout = \"30s\"")
            .replace("history_ttl = \"10m\"", "history_ttl = \"0s\"");
        let faults = load(&text).unwrap_err();
        for expected in [
            "chatnode.toml:7: node.listen: expected an IP address and port",
            "tokens.hmac_secret_file: cannot read the secret file",
            "redis.sentinels[0]: expected host:port, found \"127.0.0.1\"",
            "client.pong_timeout: expected less than client.ping_interval",
            "namespace[0].force_recovery: needs history_size and history_ttl above 0",
        ] {
            assert!(faults.contains(expected), "{expected} not in\n{faults}");
        }
    }

    #[test]
    fn an_address_used_twice_and_an_endpoint_that_is_none_are_refused() {
        let text = SAMPLE
            .replace("admin_listen = \"127.0.0.1:9811\"", "admin_listen = \"0.0.0.0:8100\"")
            .replace("otlp_endpoint = \"\"", "otlp_endpoint = \"collector:4318\"");
        let faults = load(&text).unwrap_err();
        for expected in [
            "node.admin_listen: expected another address than node.listen, found 0.0.0.0:8100",
            "traces.otlp_endpoint: expected a URL such as \"http://127.0.0.1:4318\", found \"collector:4318\"",
        ] {
            assert!(faults.contains(expected), "{expected} not in\n{faults}");
        }
    }

    #[test]
    fn values_that_would_turn_every_client_away_are_refused() {
        let text = SAMPLE
            .replace("pong_timeout = \"8s\"", "pong_timeout = \"0s\"")
            .replace("stale_timeout = \"10s\"", "stale_timeout = \"0s\"")
            .replace("channels_max = 128", "channels_max = 0")
            .replace("[redis]", "[redis]\nusername = \"chat\"")
            .replace("password_file", "# password_file");
        let faults = load(&text).unwrap_err();
        for expected in [
            "client.pong_timeout: expected at least 10ms",
            "client.stale_timeout: expected at least 10ms",
            "client.channels_max: expected at least 1, found 0",
            "redis.username: needs redis.password_file",
        ] {
            assert!(faults.contains(expected), "{expected} not in\n{faults}");
        }
    }

    #[test]
    fn unknown_keys_and_contradictions_are_refused() {
        let unknown = load(&SAMPLE.replace("channels_max", "chanels_max")).unwrap_err();
        assert!(unknown.contains("unknown field `chanels_max`"), "{unknown}");
        let both = load(&SAMPLE.replace("# address =", "address =")).unwrap_err();
        assert!(both.contains("redis.address: expected either sentinels or address"), "{both}");
        let twice = load(&format!("{SAMPLE}\n[[namespace]]\nname = \"canary\"\n")).unwrap_err();
        assert!(twice.contains("namespace[1].name: \"canary\" is used twice"), "{twice}");
    }
}
