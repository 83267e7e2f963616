//! A cluster that is broken at random, round after round, while clients talk through the balancer.
//!
//! Every round has a room and clients of its own. They talk, something breaks (`fault.rs`), they go on until everything works again; then
//! each says a last word, and the ledger compares what was acknowledged, kept and seen. The next round begins when the cluster is whole.
//!
//! The random numbers of a round come from one seed, which its line shows: `--seed` of that line and one round repeat the same faults at
//! the same moments. What the machine does in between is not repeated, so a rare finding may need several attempts.

pub mod fault;

use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;
use holdfast_supervisor::cluster::{RedisRole, RedisState, Status};
use serde_json::json;

use crate::clients::{Load, Member, history};
use crate::cluster::Cluster;
use crate::ledger::{Finding, Ledger};
use crate::wait;
use fault::Fault;

/// Programs come back quickly: a round ends when the cluster is whole.
const SETTINGS: &str = "restart_after = \"200ms\"\n";

/// Clients of a round: two or three at each of three nodes.
const CLIENTS: usize = 8;

/// How long clients talk before something breaks, and afterwards at least.
const BEFORE_MS: std::ops::Range<u64> = 200..700;
const AFTER_MS: std::ops::Range<u64> = 300..1500;

/// Everything heals within seconds; what does not within this never will.
const HEALED_WITHIN: Duration = Duration::from_mins(1);

/// A last word that is not delivered within this will not be: clients notice a dead connection after 35 s, nodes a missed publication
/// after 40 s.
const DELIVERED_WITHIN: Duration = Duration::from_secs(50);

/// A cluster to be broken.
#[derive(Debug)]
pub struct Soak {
    cluster: Cluster,
}

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    /// Repeats it.
    pub seed: u64,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// Messages acknowledged.
    pub acked: usize,
    /// Messages sent without an acknowledgement.
    pub unacked: usize,
    /// Subscriptions that were told that something is missing.
    pub told: u64,
    /// Times from a noticed loss of the connection until subscribed again.
    pub reconnects: Vec<Duration>,
    /// The longest a client went without an acknowledgement.
    pub longest_wait: Duration,
    /// How long the round took, with the healing before it.
    pub took: Duration,
    /// Broken promises.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.faults.iter().map(ToString::to_string).collect();
        write!(
            f,
            "seed={} {}: acked={} unacked={} reconnects={} told_of_gaps={} longest_wait={:.1}s took={:.1}s",
            self.seed,
            faults.join(" and "),
            self.acked,
            self.unacked,
            self.reconnects.len(),
            self.told,
            self.longest_wait.as_secs_f64(),
            self.took.as_secs_f64(),
        )?;
        self.findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl Soak {
    /// Starts the cluster.
    pub async fn start() -> Self {
        Self { cluster: Cluster::configured(SETTINGS, &[]).await }
    }

    /// Breaks the cluster once.
    ///
    /// # Panics
    /// If the cluster does not heal.
    #[expect(clippy::disallowed_methods, reason = "it tells how long it took")]
    pub async fn round(&self, seed: u64) -> Round {
        let (begun, mut random) = (Instant::now(), Rng::with_seed(seed));
        let status = whole(&self.cluster).await;
        let nodes: Vec<_> = status.servers.nodes.into_iter().map(|node| node.name).collect();
        let room = format!("soak-{seed}");
        let members = members(&self.cluster, &room).await;
        let load = Load::start(&members, &room);
        let faults = fault::choose(&mut random, &nodes);
        tokio::time::sleep(Duration::from_millis(random.u64(BEFORE_MS))).await;
        let strikes = faults.iter().map(|fault| fault::strike(&self.cluster, fault));
        futures_util::future::join_all(strikes).await;
        tokio::time::sleep(Duration::from_millis(random.u64(AFTER_MS))).await;
        let (findings, tally) = settle(&members, &room, load).await;
        let views: Vec<_> = members.iter().map(Member::seen).collect();
        Round {
            seed,
            faults,
            acked: tally.acked,
            unacked: tally.unacked,
            told: views.iter().map(|seen| seen.unrecovered).sum(),
            reconnects: views.into_iter().flat_map(|seen| seen.reconnects).collect(),
            longest_wait: tally.longest_wait,
            took: begun.elapsed(),
            findings,
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Ends the cluster.
    pub async fn stop(self) {
        self.cluster.stop().await;
    }
}

/// Clients that are in the room.
///
/// # Panics
/// If they cannot join.
pub async fn members(cluster: &Cluster, room: &str) -> Vec<Member> {
    let joins =
        (1..=CLIENTS).map(async |n| Member::join(cluster, &format!("user-{n}"), room).await);
    futures_util::future::join_all(joins).await
}

/// What was sent.
#[derive(Debug)]
pub struct Tally {
    /// Messages acknowledged.
    pub acked: usize,
    /// Messages without an acknowledgement.
    pub unacked: usize,
    /// The longest a client went without an acknowledgement.
    pub longest_wait: Duration,
}

/// Ends the load, lets every client say a last word once it can, and checks the ledger when all had the time to hear it.
///
/// # Panics
/// If a client cannot send any more.
pub async fn settle(members: &[Member], room: &str, load: Load) -> (Vec<Finding>, Tally) {
    let mut sent = load.stop().await;
    for member in members {
        let id = wait::until("a last word to be acknowledged", HEALED_WITHIN, async || {
            let id = format!("{}-last-{}", member.name, fastrand::u32(..));
            let said = member.client.publish(room, json!({ "id": id })).await;
            said.map(|()| id).map_err(|error| error.to_string())
        })
        .await;
        sent.acked.entry(member.name.clone()).or_default().push(id);
    }
    let tally = Tally {
        acked: sent.acked.values().map(Vec::len).sum(),
        unacked: sent.failed.len(),
        longest_wait: sent.longest_wait,
    };
    let history = history(&members[0], room).await;
    let mut ledger = Ledger { acked: sent.acked, history, ..Ledger::default() };
    let heard = async {
        loop {
            let seen = members.iter().map(|member| (member.name.clone(), member.seen().sights));
            ledger.seen = seen.collect();
            let findings = ledger.check();
            // Only what has not arrived yet can become better by waiting.
            if !findings.iter().any(Finding::is_silent_gap) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // What is missing after this time is found below.
    let _late = tokio::time::timeout(DELIVERED_WITHIN, heard).await;
    (ledger.check(), tally)
}

/// Waits until nothing is left of the last fault: every node in service, Redis healthy with all its replicas.
///
/// # Panics
/// If that does not come about.
pub async fn whole(cluster: &Cluster) -> Status {
    wait::until("a whole cluster", HEALED_WITHIN, async || {
        let status = cluster.try_status().await?;
        match missing(&status) {
            None => Ok(status),
            Some(what) => Err(what),
        }
    })
    .await
}

fn missing(status: &Status) -> Option<String> {
    let serves = |node: &&holdfast_supervisor::cluster::NodeStatus| {
        node.up != Some(true) || !node.server.as_ref().is_some_and(|server| server.usable)
    };
    if let Some(node) = status.servers.nodes.iter().find(serves) {
        return Some(format!("{} is not in service", node.name));
    }
    let redis = status.redis.first()?;
    if redis.state != RedisState::Healthy {
        return Some(format!("Redis is {:?}: {:?}", redis.state, redis.reason));
    }
    let follows = |role| role == Some(RedisRole::Replica);
    let replicas =
        redis.servers.iter().filter(|one| follows(one.role) && one.link_up == Some(true));
    let count = replicas.count();
    (count + 1 != redis.servers.len()).then(|| format!("{count} Redis replicas are linked"))
}

/// The result row of a soak, and whether it is good.
pub fn row(rounds: &[Round]) -> (String, bool) {
    let findings = || rounds.iter().flat_map(|round| &round.findings);
    let lost = findings().filter(|finding| finding.is_lost()).count();
    let doubled = findings().filter(|finding| finding.is_doubled()).count();
    let gaps = findings().filter(|finding| finding.is_silent_gap()).count();
    let acked: usize = rounds.iter().map(|round| round.acked).sum();
    let mut times: Vec<_> = rounds.iter().flat_map(|round| &round.reconnects).collect();
    times.sort_unstable();
    let p99 =
        times.get(times.len().saturating_sub(1) * 99 / 100).map_or(0, |time| time.as_millis());
    let row = format!(
        "soak-chat rounds={} acked={acked} lost={lost} doubled={doubled} silent_gaps={gaps} reconnect_p99_ms={p99}",
        rounds.len()
    );
    (row, lost + doubled + gaps == 0)
}
