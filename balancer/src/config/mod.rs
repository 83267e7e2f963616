//! The settings the program runs on: checked, with every reference resolved.
//!
//! [`load`] reads the [`file`] as written and converts it once; whatever cannot run is refused there, all faults together, so the rest
//! of the program holds values that are right by their type.

pub mod admin;
mod check;
mod drain;
mod faults;
mod file;
mod health;
pub(crate) mod lifetime;
mod limits;
mod redis;
mod resilience;
mod routes;
pub mod sight;
mod stick;
mod tcp;

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::Faults;
use holdfast_telemetry::logs;
use ipnet::IpNet;

use crate::limits::{BanRules, LimitRules};
use crate::message::choice::Key;
use crate::proxy_protocol::Version;
use crate::stick::StickRules;
use crate::store::RedisRules;
use crate::tls::{ClientTls, ServerTls};

use admin::AdminConfig;
use check::Checker;
pub use drain::DrainRules;
pub use faults::FaultRules;
pub use file::{Algorithm, Mode};
pub use health::{AgentRules, CheckKind, CheckPlace, CheckRules, Expected, Question};
pub use lifetime::{Lifetime, Pace, Rebalance};
pub use resilience::{OutlierRules, RetryRules};
pub use routes::RouteConfig;
use sight::{AccessLogConfig, TracesConfig};
pub use tcp::TcpRules;

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where they were read from; a reload reads it again.
    pub file: PathBuf,
    /// The file as it was then.
    pub text: Arc<str>,
    /// Operator API, `/metrics` and `/health/*`.
    pub admin: AdminConfig,
    /// Least important log lines written.
    pub log_level: logs::Level,
    /// How log lines are written.
    pub log_format: logs::Format,
    /// Lines about requests, if wanted.
    pub access_log: Option<AccessLogConfig>,
    /// Spans of requests, if wanted.
    pub traces: Option<TracesConfig>,
    /// How it ends.
    pub drain: DrainRules,
    /// Worker threads; `None` means one per core.
    pub workers: Option<usize>,
    /// Whether faults may be injected.
    pub faults: Option<FaultRules>,
    /// At least one, names and addresses unique.
    pub listeners: Vec<ListenerConfig>,
    /// Names unique; the pools of listeners and routes are among them.
    pub pools: Vec<PoolConfig>,
    /// When clients are banned without an operator's doing, if ever.
    pub bans: Option<BanRules>,
    /// What several balancers share, if they do.
    pub redis: Option<Arc<RedisRules>>,
}

/// One listening address.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, not states")]
pub struct ListenerConfig {
    /// Unique name, a metric label.
    pub name: Arc<str>,
    /// Address to bind.
    pub listen: SocketAddr,
    /// What is spoken there.
    pub mode: Mode,
    /// Pool that serves what no route takes.
    pub pool: Arc<str>,
    /// Other pools for some requests; the first that matches is taken.
    pub routes: Vec<RouteConfig>,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether every connection begins with who its client is, said by one of these proxies.
    pub proxy_protocol: bool,
    /// Whether `Forwarded` is written beside `X-Forwarded-*`.
    pub forwarded: bool,
    /// Whether requests get an `X-Request-Id`.
    pub request_id: bool,
    /// Whether requests without a W3C `traceparent` get one.
    pub trace: bool,
    /// What is spoken before all else, if not clear text.
    pub tls: Option<ServerTls>,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// Streams such a client may have open on a connection.
    pub http2_streams_max: u32,
    /// More connections than this are refused.
    pub connections_max: u32,
    /// Time for a client to send a request's head once it began.
    pub header_timeout: Duration,
    /// Time a kept-alive connection may rest, or a body may stall.
    pub idle_timeout: Duration,
    /// Largest request head.
    pub header_bytes_max: usize,
    /// When a silent client counts as gone.
    pub tcp: TcpRules,
    /// Longest body of a request, if it is bounded.
    pub body_bytes_max: Option<u64>,
    /// Longest frame of a client's WebSocket, if it is bounded.
    pub frame_bytes_max: Option<u64>,
    /// Bytes a client has to send or take in a second while it is waited for, if any.
    pub client_rate_min: Option<NonZeroU32>,
    /// What a client may ask for, if that is bounded.
    pub limits: Option<Arc<LimitRules>>,
}

/// A set of servers that serve the same.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolConfig {
    /// Unique name, a metric label.
    pub name: Arc<str>,
    /// Everything but the servers.
    pub rules: PoolRules,
    /// As the file names them.
    pub servers: Vec<ServerConfig>,
}

/// How a pool chooses and judges its servers.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolRules {
    /// How a server is chosen.
    pub algorithm: Algorithm,
    /// Part of a request that keys [`Algorithm::Hash`].
    pub key: Option<Key>,
    /// Cookie that brings a client back to its server.
    pub sticky_cookie: Option<Box<str>>,
    /// What brings those back that keep no cookies, if anything.
    pub stick: Option<StickRules>,
    /// Time to connect to a server.
    pub connect_timeout: Duration,
    /// Time to the first byte of a response.
    pub response_timeout: Duration,
    /// Failures in a row that take a server out; 0 switches passive marking off.
    pub fails_max: u32,
    /// The time within which failures count, and for which a server is out.
    pub fail_timeout: Duration,
    /// Time over which a returning server gets its weight back.
    pub slow_start: Duration,
    /// Share of usable servers below which all are used, 0 to 1.
    pub panic_threshold: f64,
    /// Connections a server may have at a time: requests in flight, upgraded and TCP connections.
    pub server_connections_max: Option<NonZeroU32>,
    /// Clients that may wait for a server with room.
    pub queue_max: usize,
    /// For how long.
    pub queue_timeout: Duration,
    /// Whether servers are told who the client is before the first byte.
    pub send_proxy: Option<Version>,
    /// What is spoken with servers, if not clear text.
    pub tls: Option<ClientTls>,
    /// Active checks, if any.
    pub check: Option<CheckRules>,
    /// Where servers say themselves how much they can take, if they do.
    pub agent: Option<AgentRules>,
    /// Comparison of servers by their traffic, if wanted.
    pub outliers: Option<OutlierRules>,
    /// What is asked again elsewhere.
    pub retries: RetryRules,
    /// WebSockets and TCP connections a server is given per second.
    pub server_rate_max: Option<NonZeroU32>,
    /// How connections that live long end.
    pub lifetime: Lifetime,
    /// When a silent server counts as gone.
    pub tcp: TcpRules,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Unique in its pool, a metric label.
    pub name: Arc<str>,
    /// Where it is.
    pub address: Address,
    /// Its share.
    pub weight: Weight,
    /// Connections it may have at a time, if not as many as the pool says.
    pub connections_max: Option<NonZeroU32>,
    /// What its checks have otherwise than the pool's.
    pub check: CheckPlace,
}

impl ServerConfig {
    /// A server with what its pool has for everything else.
    pub fn new(name: &str, address: Address, weight: Weight) -> Self {
        Self {
            name: name.into(),
            address,
            weight,
            connections_max: None,
            check: CheckPlace::default(),
        }
    }
}

/// Share of new connections, 0 (none) to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

impl Weight {
    /// The largest weight.
    pub const MAX: u16 = 256;

    /// `None` above [`Self::MAX`].
    pub fn try_new(value: u16) -> Option<Self> {
        (value <= Self::MAX).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// `host:port`; a host name is resolved for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: Arc<str>,
    socket: Option<SocketAddr>,
}

impl Address {
    /// `None` unless `text` is `ip:port` or `name:port` with a port that is not 0.
    pub fn try_new(text: &str) -> Option<Self> {
        let socket: Option<SocketAddr> = text.parse().ok();
        let valid = if let Some(socket) = socket {
            socket.port() != 0
        } else {
            let (host, port) = text.rsplit_once(':')?;
            let is_host = !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        valid.then(|| Self { text: text.into(), socket })
    }

    /// The same host at another port.
    #[must_use]
    pub fn with_port(&self, port: NonZeroU16) -> Self {
        let host = self.text.rsplit_once(':').map_or(&*self.text, |(host, _)| host);
        let socket = self.socket.map(|socket| SocketAddr::new(socket.ip(), port.get()));
        Self { text: format!("{host}:{port}").into(), socket }
    }

    /// The address, if no name has to be resolved.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.socket
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What [`is_name`] asks for; what was found follows.
pub(crate) const EXPECTED_NAME: &str =
    "expected 1 to 64 characters of A-Z, a-z, 0-9, '-', '.', '_', found";

/// Names are metric labels and parts of URLs: short, and of characters that need no quoting anywhere.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Reads and checks the settings file at `path`.
///
/// # Errors
/// Everything that is wrong with it, with line and key.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let (file, source) = holdfast_settings::read::<file::File>(path)?;
    check::convert(file, &source)
}

/// Checks `text` as if it stood in the settings file at `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: String) -> Result<Config, Faults> {
    let (file, source) = holdfast_settings::parse::<file::File>(path, text)?;
    check::convert(file, &source)
}
