//! What a round breaks, chosen by the round's own random numbers, and how.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::process::{self, http_client};

/// How long a frozen process stays frozen: from a hiccup nobody acts on to well beyond the supervisor's patience of a second.
const FROZEN_MS: std::ops::Range<u64> = 100..3000;

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of a chat node.
    KillNode(String),
    /// SIGSTOP of a chat node, and SIGCONT after a while.
    FreezeNode(String, Duration),
    /// A chat node is asked to drain, as before an update.
    DrainNode(String),
    /// kill -9 of the Redis primary.
    KillPrimary,
    /// SIGSTOP of the Redis primary, and SIGCONT after a while.
    FreezePrimary(Duration),
    /// The operator moves the primary.
    Switchover,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillNode(node) => write!(f, "kill -9 {node}"),
            Self::FreezeNode(node, time) => write!(f, "freeze {node} for {time:?}"),
            Self::DrainNode(node) => write!(f, "drain {node}"),
            Self::KillPrimary => f.write_str("kill -9 the Redis primary"),
            Self::FreezePrimary(time) => write!(f, "freeze the Redis primary for {time:?}"),
            Self::Switchover => f.write_str("switch the Redis primary over"),
        }
    }
}

/// One fault at a node, one at Redis, or in a quarter of the rounds both.
pub fn choose(random: &mut Rng, nodes: &[String]) -> Vec<Fault> {
    let node = nodes[random.usize(..nodes.len())].clone();
    let frozen = |random: &mut Rng| Duration::from_millis(random.u64(FROZEN_MS));
    let at_node = match random.u8(..3) {
        0 => Fault::KillNode(node),
        1 => Fault::FreezeNode(node, frozen(random)),
        _ => Fault::DrainNode(node),
    };
    let at_redis = match random.u8(..5) {
        0 | 1 => Fault::KillPrimary,
        2 | 3 => Fault::FreezePrimary(frozen(random)),
        _ => Fault::Switchover,
    };
    match random.u8(..8) {
        0..=2 => vec![at_node],
        3..=5 => vec![at_redis],
        6 => vec![at_node, at_redis],
        _ => vec![at_redis, at_node],
    }
}

/// Puts a fault in and, where it is one that ends, takes it out again. What does not come back by itself is restarted by the cluster.
///
/// # Panics
/// If the cluster is not as it should be at the start of a round: a program to be struck does not run.
pub async fn strike(cluster: &Cluster, fault: &Fault) {
    match fault {
        Fault::KillNode(node) => {
            cluster.kill(node);
        }
        Fault::FreezeNode(node, time) => freeze(cluster.pid(node), *time).await,
        Fault::DrainNode(node) => drain(cluster, node).await,
        Fault::KillPrimary => {
            cluster.kill(&primary(cluster).await);
        }
        Fault::FreezePrimary(time) => freeze(cluster.pid(&primary(cluster).await), *time).await,
        Fault::Switchover => {
            // A supervisor that is busy with another fault refuses, which is its right.
            let _refused = cluster.cli(&["failover"]).await;
        }
    }
}

/// Asks a chat node to leave.
///
/// # Panics
/// If it does not take the request.
pub async fn drain(cluster: &Cluster, node: &str) {
    let admin = cluster.admins().into_iter().find(|(name, _)| name == node).expect("a node").1;
    let token = std::fs::read_to_string(cluster.folder().join("secrets/chatnode.token"));
    let token = token.expect("the cluster's token for its nodes");
    let asked = http_client().post(format!("{admin}/drain")).bearer_auth(token.trim());
    let answer = asked.send().await.expect("the node answers");
    assert!(answer.status().is_success(), "{node} does not drain: {}", answer.status());
}

async fn freeze(pid: u32, time: Duration) {
    process::signal_pid(pid, Signal::SIGSTOP);
    tokio::time::sleep(time).await;
    if process::is_alive(pid) {
        process::signal_pid(pid, Signal::SIGCONT);
    }
}

async fn primary(cluster: &Cluster) -> String {
    let status = cluster.status().await;
    let redis = status.redis.first().expect("a cluster with Redis");
    cluster.redis_name(&redis.primary.as_ref().expect("a primary").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_breaks_the_same_and_every_fault_has_its_turn() {
        let nodes = ["a", "b", "c"].map(str::to_owned);
        let faults = |seed| choose(&mut Rng::with_seed(seed), &nodes);
        assert_eq!(faults(7), faults(7));
        let kinds: std::collections::HashSet<_> =
            (0..200).flat_map(faults).map(|fault| std::mem::discriminant(&fault)).collect();
        assert_eq!(kinds.len(), 6);
        assert!((0..200).any(|seed| faults(seed).len() == 2));
    }
}
