//! The chat under random faults: a handful of rounds of what `make soak-chat` does at length, and a rolling restart.

use std::time::Duration;

use holdfast_tests::clients::Load;
use holdfast_tests::soak::{self, Soak, fault, row};
use holdfast_tests::wait;

/// Together these break everything that can be broken; `fault.rs` says what each does.
const SEEDS: [u64; 5] = [1, 4, 7, 10, 18];

/// Nobody is left behind while the cluster is updated. How fast they move is for `make soak-chat` to print: a busy machine would decide
/// this test.
const PATIENCE: Duration = Duration::from_secs(30);

const SOON: Duration = Duration::from_mins(1);

#[tokio::test]
async fn random_faults_lose_nothing_and_nobody_is_left_in_the_dark() {
    let soak = Soak::start().await;
    let mut rounds = Vec::new();
    for seed in SEEDS {
        let round = soak.round(seed).await;
        println!("{round}");
        rounds.push(round);
    }
    soak.stop().await;
    let (row, good) = row(&rounds);
    assert!(good, "{row}");
    assert!(rounds.iter().all(|round| round.acked > 5), "{row}");
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_and_keeps_nobody_waiting() {
    let soak = Soak::start().await;
    let cluster = soak.cluster();
    let status = soak::whole(cluster).await;
    let members = soak::members(cluster, "rolling").await;
    let load = Load::start(&members, "rolling");
    for node in status.servers.nodes {
        let old = cluster.pid(&node.name);
        fault::drain(cluster, &node.name).await;
        wait::until("the node to be replaced", SOON, async || {
            let file = cluster.folder().join("pids").join(format!("{}.pid", node.name));
            let pid = std::fs::read_to_string(file).unwrap_or_default();
            let replaced = pid.trim().parse().is_ok_and(|pid: u32| pid != old);
            if replaced { Ok(()) } else { Err(pid) }
        })
        .await;
        soak::whole(cluster).await;
    }
    let (findings, tally) = soak::settle(&members, "rolling", load).await;
    assert_eq!(findings, []);
    assert!(tally.acked > 20, "only {} messages were acknowledged", tally.acked);
    let reconnects: Vec<_> = members.iter().flat_map(|member| member.seen().reconnects).collect();
    assert!(reconnects.len() >= members.len(), "not everybody was moved: {reconnects:?}");
    let longest = reconnects.into_iter().max().unwrap_or_default().max(tally.longest_wait);
    assert!(longest <= PATIENCE, "somebody waited {longest:?}");
    // Whoever is told that something is missing fetches it, and the findings above count what is not there then.
    let told: u64 = members.iter().map(|member| member.seen().unrecovered).sum();
    assert!(told <= 1, "{told} times somebody was told that something is missing");
    soak.stop().await;
}
