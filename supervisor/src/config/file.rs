//! The settings file as written. Names, types and defaults only; what they must fulfil together is checked in the parent module.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::duration;
use holdfast_telemetry::logs;
use serde::Deserialize;

use super::{metrics, rules, scrape};
use crate::cluster::Address;

macro_rules! default_durations {
    ($($name:ident = $millis:expr;)*) => { $(fn $name() -> Duration { Duration::from_millis($millis) })* };
}

// Each default and its reason.
default_durations! {
    second = 1_000;                 // the reaction time people expect of "seconds"
    close_after = 10_000;           // a latency rule's own window is 5 s; twice that is calm
    return_step_every = 3_000;      // three scrapes under the new load before the next step
    canary_interval = 100;          // resolution of RTO figures
    canary_timeout = 2_000;         // a person would call a chat that slow broken
    repeat_interval = 4 * 3_600_000; // as Alertmanager's default
    webhook_timeout = 5_000;        // a receiver that needs longer is down
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) supervisor: Supervisor,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) traces: Traces,
    #[serde(default)]
    pub(super) scrape: scrape::Written,
    #[serde(default)]
    pub(super) metrics: metrics::Written,
    #[serde(default)]
    pub(super) rules: rules::Written,
    #[serde(default)]
    pub(super) node: Vec<Node>,
    pub(super) balancer: Option<Balancer>,
    #[serde(default)]
    pub(super) redis: super::redis::Sections,
    pub(super) sentinel: Option<super::sentinel::Written>,
    pub(super) group: Option<super::group::Written>,
    #[serde(default)]
    pub(super) guards: Guards,
    pub(super) canary: Option<Canary>,
    pub(super) backup: Option<Backup>,
    #[serde(default)]
    pub(super) notify: Notify,
    #[serde(default)]
    pub(super) drills: Drills,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Supervisor {
    #[serde(default = "supervisor_name")]
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) external_url: Option<String>,
    pub(super) token_file: PathBuf,
    pub(super) state_dir: PathBuf,
    #[serde(default)]
    pub(super) observe_only: bool,
}

fn supervisor_name() -> String {
    "supervisor-1".to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) level: logs::Level,
    pub(super) format: logs::Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Traces {
    pub(super) otlp_endpoint: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) metrics: Address,
    pub(super) pid_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balancer {
    pub(super) admin: Address,
    pub(super) token_file: PathBuf,
    pub(super) pool: String,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Guards {
    pub(super) max_out_share: f64,
    #[serde(with = "duration")]
    pub(super) open_after: Duration,
    #[serde(with = "duration")]
    pub(super) close_after: Duration,
    pub(super) return_steps: Vec<f64>,
    #[serde(with = "duration")]
    pub(super) return_step_every: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            // A third, rounded so that one of three is allowed.
            max_out_share: 0.34,
            // Rules bring their own `for`.
            open_after: Duration::ZERO,
            close_after: close_after(),
            return_steps: vec![0.1, 0.5, 1.0],
            return_step_every: return_step_every(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canary {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) url: String,
    pub(super) hmac_secret_file: PathBuf,
    #[serde(default = "canary_channel")]
    pub(super) channel: String,
    #[serde(default = "canary_interval", with = "duration")]
    pub(super) interval: Duration,
    #[serde(default = "canary_timeout", with = "duration")]
    pub(super) timeout: Duration,
}

fn canary_channel() -> String {
    "canary:probe".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    pub(super) redis: Option<String>,
    pub(super) dir: PathBuf,
    #[serde(default)]
    pub(super) schedule: String,
    #[serde(default = "keep")]
    pub(super) keep: usize,
    #[serde(default = "compression_level")]
    pub(super) compression_level: i32,
    #[serde(default = "yes")]
    pub(super) verify: bool,
    #[serde(default = "redis_server")]
    pub(super) redis_server: PathBuf,
}

fn keep() -> usize {
    // Two weeks of daily snapshots.
    14
}

fn compression_level() -> i32 {
    // zstd-1 runs at about 240 MB/s per core; level 3 halves that for 1-8 % less space (measured).
    1
}

fn redis_server() -> PathBuf {
    PathBuf::from("redis-server")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Notify {
    #[serde(with = "duration")]
    pub(super) group_wait: Duration,
    #[serde(with = "duration")]
    pub(super) repeat_interval: Duration,
    pub(super) email: Option<Email>,
    pub(super) webhook: Vec<Webhook>,
}

impl Default for Notify {
    fn default() -> Self {
        // A second gathers what one fault sets off without making anybody wait.
        Self {
            group_wait: second(),
            repeat_interval: repeat_interval(),
            email: None,
            webhook: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Email {
    pub(super) smtp: Address,
    #[serde(default)]
    pub(super) tls: super::SmtpTls,
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Webhook {
    pub(super) url: String,
    pub(super) bearer_token_file: Option<PathBuf>,
    #[serde(default = "webhook_timeout", with = "duration")]
    pub(super) timeout: Duration,
    #[serde(default = "retries_max")]
    pub(super) retries_max: u32,
}

fn retries_max() -> u32 {
    // With doubling waits from 1 s: half a minute.
    5
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Drills {
    pub(super) report_dir: Option<PathBuf>,
    pub(super) schedule: Vec<DrillSchedule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrillSchedule {
    pub(super) scenario: String,
    pub(super) cron: String,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
}
