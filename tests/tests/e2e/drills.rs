//! Drills by command: a report with RTO, RPO and verdict, and an exit code that follows it.

use std::time::Duration;

use holdfast_tests::cluster::Cluster;
use holdfast_tests::wait;

/// A drill ends when an incident of another cause opens, as it should: on a busy machine a node that is only slow is one.
const ATTEMPTS: usize = 3;
/// Exit code of a drill that was stopped.
const ABORTED: Option<i32> = Some(3);

async fn run(scenario: &str) {
    let cluster = Cluster::start(&[]).await;
    let mut attempt = 1;
    let output = loop {
        let (status, output) = cluster.cli(&["drill", "run", scenario]).await;
        if status.success() {
            break output;
        }
        assert!(status.code() == ABORTED && attempt < ATTEMPTS, "{status}\n{output}");
        attempt += 1;
        wait::until("the end of the other incident", Duration::from_mins(1), async || {
            let open: Vec<_> =
                cluster.incidents().await.into_iter().filter(|i| i.closed.is_none()).collect();
            if open.is_empty() { Ok(()) } else { Err(open) }
        })
        .await;
        cluster.healthy(Duration::from_mins(1)).await;
    };
    for word in ["RTO", "RPO", "pass"] {
        assert!(output.to_lowercase().contains(&word.to_lowercase()), "no {word} in {output}");
    }
    let reports: Vec<_> = std::fs::read_dir(cluster.folder().join("drills"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    // Names begin with the time: the last is the one that passed.
    let by_kind =
        |kind: &str| reports.iter().filter(|path| path.extension().unwrap() == kind).max();
    let json = std::fs::read_to_string(by_kind("json").expect("a JSON report")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&report["verdict"], &report["rpo_messages"]),
        (&"pass".into(), &0.into()),
        "{json}"
    );
    assert!(report["rto_seconds"].as_f64().unwrap() > 0.0, "{json}");
    let markdown = std::fs::read_to_string(by_kind("md").expect("a Markdown report")).unwrap();
    assert!(markdown.contains("RTO") && markdown.contains("RPO"), "{markdown}");
    cluster.stop().await;
}

#[tokio::test]
async fn the_redis_primary_crash_drill_passes() {
    run("redis-primary-crash").await;
}

#[tokio::test]
async fn the_chatnode_crash_drill_passes() {
    run("chatnode-crash").await;
}

#[tokio::test]
async fn the_slow_upstream_drill_passes() {
    run("slow-upstream").await;
}

#[tokio::test]
async fn a_drill_is_refused_while_something_is_wrong_and_the_exit_code_says_so() {
    let cluster = Cluster::start(&[]).await;
    // One node is stopped: the cluster is not in its steady state.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(cluster.pid("chatnode-1")).unwrap()),
        nix::sys::signal::Signal::SIGSTOP,
    )
    .unwrap();
    wait::until("the node to be missed", Duration::from_secs(30), async || {
        let nodes = cluster.status().await.servers.nodes;
        if nodes[0].up == Some(false) { Ok(()) } else { Err(nodes) }
    })
    .await;
    let (status, output) = cluster.cli(&["drill", "run", "chatnode-crash"]).await;
    assert!(!status.success(), "{output}");
    assert!(output.contains("chatnode-1") || output.contains("incident"), "{output}");
}
