//! The Redis primary dies under load: writes go on, and every acknowledged message is in the history afterwards.

use std::time::Duration;

use holdfast_supervisor::cluster::RedisState;
use holdfast_supervisor::record::Kind;
use holdfast_tests::clients::{Load, Member, history, not_once};
use holdfast_tests::cluster::Cluster;
use holdfast_tests::{process, wait};

const ROOM: &str = "failover";
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_killed_primary_costs_no_acknowledged_message() {
    let cluster = Cluster::start(&[]).await;
    let mut members = Vec::new();
    for number in 1..=4 {
        members.push(Member::join(&cluster, &format!("user-{number}"), ROOM).await);
    }
    let load = Load::start(&members, ROOM);
    let old = cluster.status().await.redis.remove(0).primary.unwrap();
    let before = cluster.last_event().await;
    cluster.kill(&cluster.redis_name(&old.to_string()));

    let done = cluster.event("the failover", before, SOON, |e| e.kind == Kind::FailoverDone).await;
    assert!(!done.reasons.is_empty(), "a failover without reasons: {done:#?}");
    let status =
        wait::until("a healthy Redis with its old primary as a replica", SOON, async || {
            let redis = cluster.status().await.redis.remove(0);
            let linked = redis.servers.iter().filter(|server| server.link_up == Some(true)).count();
            if redis.state == RedisState::Healthy && linked == 2 { Ok(redis) } else { Err(redis) }
        })
        .await;
    assert_ne!(status.primary.as_ref(), Some(&old));
    assert!(status.epoch >= 1);

    // Everything that reads the primary's address from the Sentinel-compatible endpoint gets the new one.
    let settings = std::fs::read_to_string(cluster.folder().join("etc/holdfast.toml")).unwrap();
    let settings: toml::Table = settings.parse().unwrap();
    let sentinel = settings["sentinel"]["listen"].as_str().unwrap().to_owned();
    let port = sentinel.rsplit_once(':').unwrap().1.to_owned();
    let args = ["-p", &port, "sentinel", "get-master-addr-by-name", "main"];
    let (_, answer) = process::run(std::path::Path::new("redis-cli"), &args).await;
    let primary = status.primary.unwrap();
    assert_eq!(answer.lines().collect::<Vec<_>>(), [primary.host(), &primary.port().to_string()]);

    let sent = load.stop().await;
    let acked = sent.all_acked();
    assert!(acked.len() > 20, "only {} messages were acknowledged", acked.len());
    let stored = history(&members[0], ROOM).await;
    assert_eq!(not_once(&acked, &stored), [], "acknowledged, but not once in the history");
    cluster.healthy(Duration::from_mins(1)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_demonstration_prints_the_time_and_finds_nothing_lost() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let args = ["up", "--ports", "free", "--state-dir", state, "--scenario", "redis-primary-crash"];
    let (status, output) = process::run(&process::binary("holdfast"), &args).await;
    assert!(status.success(), "{status}\n{output}");
    assert!(output.contains("next acknowledged"), "{output}");
}

#[tokio::test]
async fn a_planned_switchover_costs_nothing_and_is_explained() {
    let cluster = Cluster::start(&[]).await;
    let member = Member::join(&cluster, "writer", ROOM).await;
    let members = [member];
    let load = Load::start(&members, ROOM);
    let old = cluster.status().await.redis.remove(0).primary.unwrap();
    let (status, output) = cluster.cli(&["--json", "failover"]).await;
    assert!(status.success(), "{output}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_ne!(report["to"], old.to_string());
    assert_eq!(report["from"], old.to_string());
    let sent = load.stop().await;
    let stored = history(&members[0], ROOM).await;
    assert_eq!(not_once(&sent.all_acked(), &stored), []);
    let (status, events) = cluster.cli(&["events", "list"]).await;
    assert!(
        status.success() && events.contains(&report["to"].as_str().unwrap().to_owned()),
        "{events}"
    );
    cluster.stop().await;
}
