//! A node becomes slow: it is re-weighted, then drained, and returns step by step when it has recovered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_supervisor::cluster::{CircuitState, ServerState};
use holdfast_supervisor::record::Kind;
use holdfast_tests::cluster::Cluster;
use holdfast_tests::process::signal_pid;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use tokio_util::task::AbortOnDropHandle;

const SOON: Duration = Duration::from_mins(1);
/// How long the node runs between two pauses.
const RUNS: Duration = Duration::from_millis(120);

/// Stops and continues a process over and over; a pause of zero lets it run.
struct Slowness {
    pause_millis: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Slowness {
    fn of(pid: u32) -> Self {
        let pause_millis = Arc::new(AtomicU64::new(0));
        let pause = Arc::clone(&pause_millis);
        let task = tokio::spawn(async move {
            loop {
                let millis = pause.load(Ordering::Relaxed);
                if millis > 0 {
                    signal_pid(pid, SIGSTOP);
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    signal_pid(pid, SIGCONT);
                }
                tokio::time::sleep(RUNS).await;
            }
        });
        Self { pause_millis, _task: AbortOnDropHandle::new(task) }
    }

    fn pause(&self, millis: u64) {
        self.pause_millis.store(millis, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_slow_node_is_weighted_down_then_drained_and_returns() {
    let cluster = Cluster::start(&[]).await;
    let victim = "chatnode-2";
    let slowness = Slowness::of(cluster.pid(victim));
    let before = cluster.last_event().await;

    // Over the limit of NodeSlow, and short enough for the balancer's own health checks.
    slowness.pause(250);
    let weighted = cluster
        .event("the weight to be lowered", before, SOON, |e| {
            e.kind == Kind::ActionTaken && e.subject == victim && e.detail["action"] == "weight"
        })
        .await;
    assert_eq!(weighted.detail["weight"], 10, "{weighted:#?}");
    assert!(weighted.reasons.iter().any(|reason| reason.favours), "{weighted:#?}");

    slowness.pause(700);
    cluster
        .event("the node to be drained", weighted.id, SOON, |e| {
            e.kind == Kind::ActionTaken && e.subject == victim && e.detail["action"] == "drain"
        })
        .await;
    let status = cluster.status().await;
    let nodes = &status.servers.nodes;
    let node = nodes.iter().find(|node| node.name == victim).unwrap();
    assert_eq!(node.circuit, CircuitState::Open);
    assert_eq!(node.server.as_ref().unwrap().state, ServerState::Drain);

    // With one of three out, the guard keeps a second one in: also when an operator asks.
    let (exit, output) = cluster.cli(&["drain", "chatnode-1"]).await;
    assert!(!exit.success(), "{output}");
    assert!(output.contains("guard of 34 %"), "{output}");
    let out = cluster.status().await.servers.nodes;
    let out = out.iter().filter(|n| n.server.as_ref().unwrap().state != ServerState::Ready).count();
    assert_eq!(out, 1);

    let drained = cluster.last_event().await;
    slowness.pause(0);
    cluster
        .event("the circuit to close", drained, SOON, |e| {
            e.kind == Kind::Circuit && e.subject == victim && e.message.contains("closed")
        })
        .await;
    let steps: Vec<_> = cluster
        .events(drained)
        .await
        .into_iter()
        .filter(|e| e.kind == Kind::ActionTaken && e.subject == victim)
        .map(|e| e.detail["weight"].as_u64().unwrap())
        .collect();
    assert!(steps.starts_with(&[10, 50]), "not step by step: {steps:?}");
    let status = cluster.healthy(SOON).await;
    let node = status.servers.nodes.iter().find(|node| node.name == victim).unwrap();
    let server = node.server.as_ref().unwrap();
    assert_eq!((server.state, server.weight), (ServerState::Ready, 100));
    cluster.stop().await;
}
