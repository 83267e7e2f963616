//! The settings file as an operator writes it. Names and defaults stand here and nowhere else; `deploy/config/balancer.toml` is the
//! commented sample of every key.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::duration;
use holdfast_telemetry::logs;
use serde::Deserialize;

use super::faults::Faults;
use super::health::{AgentCheck, HealthCheck};
use super::limits;
use super::redis;
use super::resilience::{OutlierDetection, Retries};
use crate::proxy_protocol::Version;
use crate::tls::{ClientCertificate, MinVersion};

/// Twice the connections of a busy chat node: a guard against running out of file descriptors, not a limit in daily work.
const MAX_CONNECTIONS: u32 = 20_000;
/// A client on a bad mobile link sends its headers in a second or two; one that needs longer is holding a connection on purpose.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// What RFC 9113 6.5.2 recommends at least, so that nobody has to open a second connection; all their heads together are under 2 MiB.
const HTTP2_MAX_STREAMS: u32 = 100;
/// Longer than the 60 s after which browsers and most clients give up an idle connection, so that they close it and not we.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Twice what browsers accept for all cookies of a site.
const MAX_HEADER_BYTES: usize = 16_384;
/// A connection within one network is made in under a millisecond; a lost SYN is repeated by the kernel after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Slow answers are the application's business; past half a minute most clients have gone.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// One refused connection is proof enough that nobody listens.
const MAX_FAILS: u32 = 1;
/// Long enough for a crashed process to be started again, short enough to use it soon.
const FAIL_TIMEOUT: Duration = Duration::from_secs(2);
/// With a third of the servers left, they would get three times their load; then even doubtful servers are worth a try.
const PANIC_THRESHOLD: f64 = 0.34;
/// What a thousand clients of a dead node ask for when they come back at once.
const QUEUE_MAX: usize = 1_000;
/// Shorter than the time after which client libraries of chat give up a connection attempt (5 s and more).
const QUEUE_TIMEOUT: Duration = Duration::from_secs(3);
/// Weight of a server that names none: room for finer steps both ways below the maximum of 256.
const WEIGHT: u16 = 100;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub admin: super::admin::File,
    #[serde(default)]
    pub log: Log,
    pub access_log: Option<super::sight::AccessLogFile>,
    pub traces: Option<super::sight::TracesFile>,
    #[serde(default)]
    pub drain: super::drain::File,
    #[serde(default)]
    pub workers: Workers,
    pub bans: Option<limits::Bans>,
    pub redis: Option<redis::Redis>,
    #[serde(default)]
    pub faults: Faults,
    #[serde(default)]
    pub listener: Vec<Listener>,
    #[serde(default)]
    pub pool: Vec<Pool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    #[serde(default)]
    pub level: logs::Level,
    #[serde(default)]
    pub format: logs::Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workers {
    pub count: Option<usize>,
}

/// How a listener treats what arrives.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// HTTP/1.1 and what it is upgraded to.
    Http,
    /// Bytes.
    Tcp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, not states")]
pub(super) struct Listener {
    pub name: String,
    pub listen: String,
    #[serde(default = "mode")]
    pub mode: Mode,
    pub pool: String,
    #[serde(default)]
    pub route: Vec<super::routes::Route>,
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    #[serde(default)]
    pub proxy_protocol: bool,
    pub tls: Option<ListenerTls>,
    #[serde(default)]
    pub http2: bool,
    #[serde(default = "http2_max_streams")]
    pub http2_max_streams: u32,
    #[serde(default)]
    pub forwarded: bool,
    #[serde(default)]
    pub request_id: bool,
    #[serde(default)]
    pub trace: bool,
    #[serde(default = "max_connections")]
    pub max_connections: u32,
    #[serde(with = "duration", default = "header_timeout")]
    pub header_timeout: Duration,
    #[serde(with = "duration", default = "idle_timeout")]
    pub idle_timeout: Duration,
    #[serde(default = "max_header_bytes")]
    pub max_header_bytes: usize,
    #[serde(default)]
    pub tcp: super::tcp::File,
    pub max_body_bytes: Option<u64>,
    pub max_frame_bytes: Option<u64>,
    #[serde(default)]
    pub min_client_rate: u32,
    pub limits: Option<limits::Limits>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTls {
    pub certificate: Vec<Certificate>,
    pub client_ca: Option<PathBuf>,
    pub client_certificate: Option<ClientCertificate>,
    #[serde(default = "min_version")]
    pub min_version: MinVersion,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    pub ocsp: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolTls {
    pub ca: PathBuf,
    pub server_name: Option<String>,
    pub chain: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// How a server is chosen.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// In turn, weights ignored (but not weight 0).
    RoundRobin,
    /// In turn, in proportion to the weights and evenly spread.
    WeightedRoundRobin,
    /// The one with the fewest connections in use per weight.
    LeastConnections,
    /// The better of two drawn by weight: the one with fewer connections in use per weight.
    RandomTwo,
    /// The better of two drawn by weight: the one whose responses cost less time, those in flight counted.
    PeakEwma,
    /// By the client's address, always the same while the servers stay the same.
    SourceHash,
    /// As that, by what `hash_key` names.
    Hash,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub name: String,
    #[serde(default = "algorithm")]
    pub algorithm: Algorithm,
    pub hash_key: Option<String>,
    pub sticky_cookie: Option<String>,
    pub stick_table: Option<super::stick::StickTable>,
    #[serde(with = "duration", default = "connect_timeout")]
    pub connect_timeout: Duration,
    #[serde(with = "duration", default = "response_timeout")]
    pub response_timeout: Duration,
    #[serde(default = "max_fails")]
    pub max_fails: u32,
    #[serde(with = "duration", default = "fail_timeout")]
    pub fail_timeout: Duration,
    #[serde(with = "duration", default)]
    pub slow_start: Duration,
    #[serde(default = "panic_threshold")]
    pub panic_threshold: f64,
    pub send_proxy_protocol: Option<Version>,
    pub tls: Option<PoolTls>,
    pub health_check: Option<HealthCheck>,
    pub agent_check: Option<AgentCheck>,
    pub outlier_detection: Option<OutlierDetection>,
    #[serde(default)]
    pub retries: Retries,
    pub server_max_connections: Option<u32>,
    pub server_max_rate: Option<u32>,
    #[serde(default = "queue_max")]
    pub queue_max: usize,
    #[serde(with = "duration", default = "queue_timeout")]
    pub queue_timeout: Duration,
    #[serde(default)]
    pub lifetime: super::lifetime::File,
    #[serde(default)]
    pub tcp: super::tcp::File,
    #[serde(default)]
    pub server: Vec<Server>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub name: String,
    pub address: String,
    #[serde(default = "weight")]
    pub weight: u16,
    pub max_connections: Option<u32>,
    pub check_port: Option<NonZeroU16>,
    pub check_path: Option<String>,
    pub agent_port: Option<NonZeroU16>,
}

fn mode() -> Mode {
    Mode::Http
}
/// What every browser and client library of the last ten years speaks.
fn min_version() -> MinVersion {
    MinVersion::Tls12
}
fn max_connections() -> u32 {
    MAX_CONNECTIONS
}
fn http2_max_streams() -> u32 {
    HTTP2_MAX_STREAMS
}
fn header_timeout() -> Duration {
    HEADER_TIMEOUT
}
fn idle_timeout() -> Duration {
    IDLE_TIMEOUT
}
fn max_header_bytes() -> usize {
    MAX_HEADER_BYTES
}
/// Chat connections live for hours, so counting them is the only fair share.
fn algorithm() -> Algorithm {
    Algorithm::LeastConnections
}
fn connect_timeout() -> Duration {
    CONNECT_TIMEOUT
}
fn response_timeout() -> Duration {
    RESPONSE_TIMEOUT
}
fn max_fails() -> u32 {
    MAX_FAILS
}
fn fail_timeout() -> Duration {
    FAIL_TIMEOUT
}
fn queue_max() -> usize {
    QUEUE_MAX
}
fn queue_timeout() -> Duration {
    QUEUE_TIMEOUT
}
fn panic_threshold() -> f64 {
    PANIC_THRESHOLD
}
fn weight() -> u16 {
    WEIGHT
}
