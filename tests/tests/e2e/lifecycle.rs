//! `holdfast up` begins and ends as an operator expects: what it prints, what it leaves behind, what happens when it is killed.

use std::time::Duration;

use holdfast_tests::cluster::Cluster;
use holdfast_tests::process::{self, is_alive};
use holdfast_tests::wait;
use nix::sys::signal::Signal::{SIGINT, SIGKILL};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn it_prints_what_there_is_and_ends_without_a_trace() {
    let cluster = Cluster::start(&[]).await;
    let output = cluster.output();
    for word in ["redis-1", "chatnode-3", "balancer", "supervisor", "holdfast status", "kill -9"] {
        assert!(output.contains(word), "no {word:?} in {output}");
    }
    // The command line finds the running cluster by itself from the folder above.
    let (status, output) = cluster.cli(&["status"]).await;
    assert!(status.success(), "{output}");
    for word in ["chatnode-1", "chatnode-2", "chatnode-3", "primary", "replica"] {
        assert!(output.contains(word), "no {word:?} in {output}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn ctrl_c_ends_it_with_success() {
    let mut cluster = Cluster::start(&["--nodes", "1", "--replicas", "1"]).await;
    let pids = cluster.pids();
    let up = cluster.up();
    up.signal(SIGINT);
    assert!(up.wait(SOON).await.success());
    assert!(!pids.into_iter().any(is_alive));
}

#[tokio::test]
async fn killing_it_kills_everything_it_started() {
    let mut cluster = Cluster::start(&["--nodes", "1", "--replicas", "1"]).await;
    let pids = cluster.pids();
    assert!(pids.len() >= 5, "{pids:?}");
    cluster.up().signal(SIGKILL);
    wait::until("all programs to be gone", SOON, async || {
        let alive: Vec<_> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive) }
    })
    .await;
}

#[tokio::test]
async fn it_ends_by_itself_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let args = [
        "up",
        "--ports",
        "free",
        "--state-dir",
        state,
        "--nodes",
        "1",
        "--replicas",
        "0",
        "--exit-after",
        "1s",
    ];
    let (status, output) = process::run(&process::binary("holdfast"), &args).await;
    assert!(status.success(), "{status}\n{output}");
}
