//! The model of the cluster that every part of the supervisor shares: plain data, no behaviour beyond its own invariants.
//!
//! Each running part publishes its piece ([`NodeStatus`], [`RedisStatus`], …) on a `watch` channel; the status page and the operator API
//! put them together as [`Status`]. What is not known is `None`, never zero and never "healthy".

mod address;
mod group;
mod manager;

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use address::Address;
pub use group::{GroupBrief, MemberBrief, SILENT_SECONDS};
pub use manager::{Managed, Manager, SentinelStatus};

/// How the whole cluster is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything observed is as it should be.
    Ok,
    /// Users are served, but something is missing or being handled.
    Degraded,
    /// Users are not served.
    Down,
}

/// Administrative state of a server in a balancer's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Takes new connections.
    Ready,
    /// Keeps its connections, takes no new ones.
    Drain,
    /// As drain, and its health checks are off.
    Maintenance,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        })
    }
}

/// A server of the pool as its balancer reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Name in the pool, the same as the node's name.
    pub name: String,
    /// Address the balancer sends traffic to.
    pub address: String,
    /// Administrative state.
    pub state: ServerState,
    /// Weight, 0 to 256.
    pub weight: u16,
    /// `up`, `down` or `unknown`: the balancer's own health checks.
    pub health: String,
    /// Whether the balancer would send a new connection there.
    pub usable: bool,
    /// Connections open now.
    pub active_connections: u64,
}

/// State of a server's circuit, driven by rules with an `action` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Full traffic.
    Closed,
    /// Drained or down-weighted because a rule calls for it.
    Open,
    /// On its way back, step by step.
    HalfOpen,
}

/// One chat node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name, the same as its server's in the pool.
    pub name: String,
    /// Where its metrics are read.
    pub metrics: Address,
    /// Result of the last scrape; `None` before the first.
    pub up: Option<bool>,
    /// Why the last scrape failed.
    pub error: Option<String>,
    /// CPU it uses, in cores.
    pub cpu_cores: Option<f64>,
    /// Resident memory.
    pub memory_bytes: Option<f64>,
    /// Client connections.
    pub connections: Option<f64>,
    /// How long the last scrape took, seconds.
    pub scrape_seconds: Option<f64>,
    /// The balancer's view of it.
    pub server: Option<ServerStatus>,
    /// Its circuit.
    pub circuit: CircuitState,
    /// Why the circuit is not closed.
    pub circuit_reason: Option<String>,
}

/// The balancer and its pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalancerStatus {
    /// Its operator API.
    pub admin: Address,
    /// Whether it answered last; `None` before the first time.
    pub up: Option<bool>,
    /// Why it did not.
    pub error: Option<String>,
    /// The pool's name.
    pub pool: String,
}

/// Nodes and balancer together, published by the server controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ServersStatus {
    /// The chat nodes in the order of the settings.
    pub nodes: Vec<NodeStatus>,
    /// The balancer, if one is set.
    pub balancer: Option<BalancerStatus>,
}

/// Role a Redis server reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisRole {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Replica,
}

/// Where the Redis failover state machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisState {
    /// Not enough seen yet to say anything.
    Unknown,
    /// The primary answers.
    Healthy,
    /// A probe failed or is late.
    Suspect,
    /// The primary is down, by proof or corroboration.
    Down,
    /// Waiting until the replicas have drained what they received.
    Draining,
    /// Choosing the candidate.
    Electing,
    /// Keeping the old primary from taking writes.
    Fencing,
    /// Making the candidate the primary.
    Promoting,
    /// Pointing the others at it.
    Repointing,
    /// Proving that the new primary takes writes and replicates them.
    Verifying,
    /// Action is called for but withheld.
    Held,
    /// The last failover did not succeed.
    Failed,
}

impl RedisState {
    /// All states, for metrics.
    pub const ALL: [Self; 12] = [
        Self::Unknown,
        Self::Healthy,
        Self::Suspect,
        Self::Down,
        Self::Draining,
        Self::Electing,
        Self::Fencing,
        Self::Promoting,
        Self::Repointing,
        Self::Verifying,
        Self::Held,
        Self::Failed,
    ];

    /// The name in metrics, logs and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Electing => "electing",
            Self::Fencing => "fencing",
            Self::Promoting => "promoting",
            Self::Repointing => "repointing",
            Self::Verifying => "verifying",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// One Redis server as last seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisServerStatus {
    /// Where it is.
    pub address: Address,
    /// Whether it answered its last probe; `None` before the first.
    pub up: Option<bool>,
    /// Why it did not.
    pub error: Option<String>,
    /// The role it reports.
    pub role: Option<RedisRole>,
    /// Replication offset, bytes.
    pub offset: Option<u64>,
    /// Replication id.
    pub replid: Option<String>,
    /// Replicas: whether the link to the primary is up.
    pub link_up: Option<bool>,
    /// Replicas: bytes behind the primary.
    pub lag_bytes: Option<u64>,
    /// Version it reports.
    pub version: Option<String>,
}

/// Nothing is changed by ourselves until it ends. What operators ask for is still done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Why.
    pub reason: String,
    /// Who wanted it.
    pub by: String,
    /// When it ends by itself; `None`: not until somebody ends it.
    pub until: Option<DateTime<Utc>>,
}

/// A switchover to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appointment {
    /// When.
    pub at: DateTime<Utc>,
    /// To which server; the best one of then if `None`.
    pub target: Option<Address>,
    /// Who wanted it.
    pub by: String,
}

/// A Redis primary with its replicas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisStatus {
    /// Name under which clients ask for the primary.
    pub name: String,
    /// Where the failover state machine stands.
    pub state: RedisState,
    /// Why it stands there, when that is not obvious (`Held`, `Failed`, `Suspect`).
    pub reason: Option<String>,
    /// The primary clients are told.
    pub primary: Option<Address>,
    /// Fencing epoch: grows by one with every change of the primary.
    pub epoch: u64,
    /// The servers in the order of the settings.
    pub servers: Vec<RedisServerStatus>,
    /// If the primary died now: who would follow it.
    pub candidate: Option<Address>,
    /// … and how many bytes it lacks.
    pub loss_estimate_bytes: Option<u64>,
    /// When the last failover ended.
    pub last_failover: Option<DateTime<Utc>>,
    /// Automatic changes are paused.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// A switchover that is to come.
    #[serde(default)]
    pub switchover: Option<Appointment>,
    /// A failover waits for an operator's approval.
    #[serde(default)]
    pub awaits_approval: bool,
    /// Who changes roles.
    #[serde(default)]
    pub managed: Managed,
    /// Enough supervisors hear each other to decide a failover now.
    #[serde(default)]
    pub has_majority: bool,
    /// Time a failover would take now from the decision to the first write, seconds; `None` if nobody can take over.
    #[serde(default)]
    pub expected_seconds: Option<f64>,
    /// Replicas that are well: `WAIT` for this many is answered at once.
    #[serde(default)]
    pub wait_safe_replicas: u32,
    /// The rolling restart that goes on, or the last one.
    #[serde(default)]
    pub restart: Option<RestartStatus>,
}

/// How far a rolling restart of all servers is. It is over when nothing is left, and has stopped when there is a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartStatus {
    /// Who wanted it.
    pub by: String,
    /// Servers that are back.
    pub done: Vec<Address>,
    /// The one that is being restarted.
    pub current: Option<Address>,
    /// Those to come, in their order.
    pub left: Vec<Address>,
    /// Why it has stopped.
    pub problem: Option<String>,
}

/// What the synthetic chat client sees: the truth about the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Whether the last message was acknowledged; `None` before the first.
    pub ok: Option<bool>,
    /// Why it was not.
    pub error: Option<String>,
    /// Share of acknowledged messages in the last minute, 0 to 1.
    pub availability_ratio: Option<f64>,
    /// Median time from send to acknowledgement in the last minute, seconds.
    pub ack_seconds: Option<f64>,
    /// Median time from send to delivery in the last minute, seconds.
    pub delivery_seconds: Option<f64>,
    /// Messages sent since the start.
    pub sent: u64,
    /// Messages acknowledged since the start.
    pub acked: u64,
    /// Messages acknowledged but never delivered nor found in the history.
    pub lost: u64,
}

/// Backups in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Whether one is running now.
    pub running: bool,
    /// Identifier of the newest good one.
    pub newest: Option<String>,
    /// When it was taken.
    pub newest_at: Option<DateTime<Utc>>,
    /// Its size as stored, bytes.
    pub newest_bytes: Option<u64>,
    /// Whether it was restored and compared.
    pub newest_verified: Option<bool>,
    /// Backups kept.
    pub count: usize,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When the next one is due.
    pub next_at: Option<DateTime<Utc>>,
}

/// State of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// True, but not yet for as long as the rule asks.
    Pending,
    /// True for long enough.
    Firing,
    /// No longer true.
    Resolved,
}

/// An alert as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertStatus {
    /// Name of the rule.
    pub name: String,
    /// Its state.
    pub state: AlertState,
    /// All labels, `alertname` and `severity` included.
    pub labels: BTreeMap<String, String>,
    /// Annotations with their templates filled in.
    pub annotations: BTreeMap<String, String>,
    /// When it became true.
    pub active_at: DateTime<Utc>,
    /// When it began to fire.
    pub fired_at: Option<DateTime<Utc>>,
    /// When it was resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The value of the expression.
    pub value: f64,
}

/// A drill in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillStatus {
    /// The run that is going on, or the last one.
    pub run: Option<String>,
    /// Its scenario.
    pub scenario: Option<String>,
    /// `steady_state`, `fault`, `recovery`, `verification`, `finished`.
    pub phase: Option<String>,
    /// `pass`, `fail` or `aborted` once it is finished.
    pub verdict: Option<String>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Next scheduled run: scenario and time.
    pub next: Option<(String, DateTime<Utc>)>,
}

/// Everything an operator sees first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When this was put together.
    pub at: DateTime<Utc>,
    /// The supervisor's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it only watches.
    pub observe_only: bool,
    /// In one word.
    pub health: Health,
    /// What keeps `health` from being `ok`, most important first.
    pub problems: Vec<String>,
    /// The supervisors' group, if there is more than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupBrief>,
    /// Nodes and balancer.
    pub servers: ServersStatus,
    /// Each Redis in the order of the settings; empty if there is none.
    pub redis: Vec<RedisStatus>,
    /// The canary, if on.
    pub canary: Option<CanaryStatus>,
    /// Backups, if set.
    pub backup: Option<BackupStatus>,
    /// Pending and firing alerts.
    pub alerts: Vec<AlertStatus>,
    /// Drills.
    pub drill: Option<DrillStatus>,
}
