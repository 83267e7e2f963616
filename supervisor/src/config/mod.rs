//! Settings of the supervisor: the file as written (`file.rs`) becomes the checked [`Config`] the program uses.
//!
//! Sections that grew large have both forms and their checks in a file of their own. One conversion (`check.rs`) validates everything, cross-field rules, secrets and cron expressions included, and reports all faults
//! together. Relative paths count from the settings file's folder, so that a cluster's folder can be moved as a whole. Rule files are
//! only named here; [`crate::judge::rules`] reads them.

mod check;
mod file;
mod group;
mod metrics;
mod redis;
mod redis_control;
mod relabel;
mod remote;
mod rules;
mod scrape;
mod scrape_job;
mod sentinel;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_settings::{Faults, Secret};
use holdfast_telemetry::logs;
use serde::Deserialize;

use crate::cluster::Address;

pub use group::Group;
pub use metrics::Metrics;
pub use redis::{Redis, RedisServer, Sentinels};
pub use redis_control::{Hook, Moment, OnTimeout, Restart, RestartBy, Synchronous};
pub use rules::Rules;
pub use scrape::Scrape;
pub use scrape_job::{DnsLookup, DnsRecord, ScrapeJob};
pub use sentinel::Sentinel;

/// Names of the drills that exist.
pub const SCENARIOS: [&str; 3] = ["chatnode-crash", "redis-primary-crash", "slow-upstream"];

/// The checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where they were read.
    pub file: PathBuf,
    /// The supervisor itself.
    pub supervisor: Supervisor,
    /// Logging.
    pub log: Log,
    /// OTLP/HTTP endpoint for traces; `None`: off.
    pub otlp_endpoint: Option<String>,
    /// Scraping.
    pub scrape: Scrape,
    /// The embedded store.
    pub metrics: Metrics,
    /// Rule files.
    pub rules: Rules,
    /// Chat nodes.
    pub nodes: Vec<Node>,
    /// The balancer.
    pub balancer: Option<Balancer>,
    /// Each Redis primary with its replicas; names and addresses are there once.
    pub redis: Vec<Redis>,
    /// The Sentinel-compatible endpoint.
    pub sentinel: Option<Sentinel>,
    /// The supervisors' group; `None`: this one is alone.
    pub group: Option<Group>,
    /// Limits on what may be done to the cluster.
    pub guards: Guards,
    /// The synthetic chat client; `None`: off.
    pub canary: Option<Canary>,
    /// Backups.
    pub backup: Option<Backup>,
    /// Telling people.
    pub notify: Notify,
    /// Drills.
    pub drills: Drills,
}

/// The supervisor itself.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// Its name.
    pub name: String,
    /// Status page, operator API, metrics, health. Port 0: any free one.
    pub listen: SocketAddr,
    /// Where people reach it; `None`: `http://<bound address>`.
    pub external_url: Option<String>,
    /// Bearer token of the operator API.
    pub token: Secret,
    /// Its own data.
    pub state_dir: PathBuf,
    /// Watch and record, change nothing.
    pub observe_only: bool,
}

/// Logging.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// Least severe level printed.
    pub level: logs::Level,
    /// JSON or text.
    pub format: logs::Format,
}

/// A chat node.
#[derive(Debug, Clone)]
pub struct Node {
    /// The same as its server's in the balancer's pool.
    pub name: String,
    /// Where `/metrics` is read.
    pub metrics: Address,
    /// For drills on this host.
    pub pid_file: Option<PathBuf>,
}

/// The balancer.
#[derive(Debug, Clone)]
pub struct Balancer {
    /// Its operator API.
    pub admin: Address,
    /// Bearer token for it.
    pub token: Secret,
    /// The pool whose servers are the chat nodes.
    pub pool: String,
}

/// Limits on what may be done to the cluster.
#[derive(Debug, Clone)]
pub struct Guards {
    /// Share of a pool that may be out of service through us, 0 to 1.
    pub max_out_share: f64,
    /// A rule must call for an action this long.
    pub open_after: Duration,
    /// And be silent this long before the first step back.
    pub close_after: Duration,
    /// Shares of the weight on the way back, rising, the last one 1.
    pub return_steps: Vec<f64>,
    /// Time between two steps.
    pub return_step_every: Duration,
}

/// The synthetic chat client.
#[derive(Debug, Clone)]
pub struct Canary {
    /// WebSocket address, through the balancer.
    pub url: String,
    /// HS256 secret for its tokens.
    pub hmac_secret: Secret,
    /// The channel it uses; its namespace needs history and recovery.
    pub channel: String,
    /// Time between two messages.
    pub interval: Duration,
    /// A message without acknowledgement for this long has failed.
    pub timeout: Duration,
}

/// Backups.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Name of the Redis that is backed up.
    pub redis: String,
    /// Where they are stored.
    pub dir: PathBuf,
    /// Cron expression in local time; `None`: only by command.
    pub schedule: Option<String>,
    /// Snapshots kept, at least 1.
    pub keep: usize,
    /// zstd level, 1 to 19.
    pub compression_level: i32,
    /// Restore each into a scratch server and compare.
    pub verify: bool,
    /// Program used for the scratch server.
    pub redis_server: PathBuf,
}

/// Telling people.
#[derive(Debug, Clone)]
pub struct Notify {
    /// Alerts of one group that arrive within this time go out together.
    pub group_wait: Duration,
    /// A firing alert is told again after this long.
    pub repeat_interval: Duration,
    /// E-mail.
    pub email: Option<Email>,
    /// Webhooks.
    pub webhooks: Vec<Webhook>,
}

/// How an SMTP connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// Not at all: for a server on this host.
    #[default]
    None,
    /// Upgraded by STARTTLS, refused if the server does not offer it.
    Starttls,
    /// TLS from the first byte.
    Implicit,
}

/// E-mail.
#[derive(Debug, Clone)]
pub struct Email {
    /// The SMTP server.
    pub smtp: Address,
    /// Security of the connection.
    pub tls: SmtpTls,
    /// Sender.
    pub from: String,
    /// Receivers, at least one.
    pub to: Vec<String>,
    /// Login and password, both or neither.
    pub login: Option<(String, Secret)>,
}

/// A webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where alerts are posted.
    pub url: String,
    /// Sent as bearer token.
    pub bearer_token: Option<Secret>,
    /// One attempt may take this long.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries_max: u32,
}

/// Drills.
#[derive(Debug, Clone)]
pub struct Drills {
    /// Where reports are written.
    pub report_dir: PathBuf,
    /// When which drill runs.
    pub schedule: Vec<DrillSchedule>,
}

/// One line of the drill plan.
#[derive(Debug, Clone)]
pub struct DrillSchedule {
    /// One of [`SCENARIOS`].
    pub scenario: String,
    /// Cron expression in local time.
    pub cron: String,
}

impl Config {
    /// Reads and checks the settings file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it, with line and key.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let (file, source) = holdfast_settings::read::<file::File>(path)?;
        check::check(file, &source)
    }
}
