//! `min-replicas-to-write` follows the replicas that are well.

use std::time::Duration;

use holdfast_supervisor::config::Synchronous;

use crate::cluster::{Cluster, Server, servers, until};

async fn demanded(cluster: &Cluster) -> String {
    let mut connection = cluster.primary().open().await.unwrap();
    let reply = connection.command(&["CONFIG", "GET", "min-replicas-to-write"]).await.unwrap();
    let holdfast_psync::Reply::Array(Some(pair)) = reply else { panic!("{reply:?}") };
    pair[1].text().unwrap()
}

async fn until_demanded(cluster: &Cluster, replicas: u32) {
    let text = replicas.to_string();
    until("the demand follows", || async {
        demanded(cluster).await == text && cluster.status().wait_safe_replicas == replicas
    })
    .await;
    let written = cluster.primary().try_run("SET key value").await;
    assert_eq!(written.as_deref(), Some("OK"), "with a demand of {replicas}");
    until("the number is kept for others", || async {
        cluster.primary().try_run("GET holdfast:wait-safe-replicas").await == Some(text.clone())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demand_follows_the_replicas_and_never_stops_writes() {
    let mode = Synchronous { replicas: 2, max_lag: Duration::from_secs(10), strict: false };
    let mut cluster =
        Cluster::start(servers().await, |settings| settings.synchronous = Some(mode)).await;
    until_demanded(&cluster, 2).await;
    let (port, first) = (cluster.primary().port.to_string(), cluster.primary().address());
    let index = |cluster: &Cluster| {
        cluster
            .servers
            .iter()
            .position(|server| server.as_ref().is_some_and(|server| server.address() != first))
    };
    let gone = index(&cluster).unwrap();
    let back = cluster.servers[gone].take().unwrap().port;
    until_demanded(&cluster, 1).await;
    let other = index(&cluster).unwrap();
    drop(cluster.servers[other].take());
    until_demanded(&cluster, 0).await;
    let replica = Server::start(back, &["--replicaof", "127.0.0.1", &port]).await;
    cluster.servers[gone] = Some(replica);
    until_demanded(&cluster, 1).await;
    for line in [
        "supervisor_redis_wait_safe_replicas{redis=\"main\"} 1",
        "supervisor_redis_has_majority{redis=\"main\"} 1",
    ] {
        cluster.until_metric(line).await;
    }
    until("a failover is expected to take less than a second", || async {
        let text = holdfast_telemetry::metrics::encode(&cluster.registry);
        text.contains("supervisor_redis_failover_expected_seconds{redis=\"main\"} 0.")
    })
    .await;
    // What a supervisor has raised to fence the primary off is left alone, whatever happens to the replicas.
    let mut connection = cluster.primary().open().await.unwrap();
    let fence = ["CONFIG", "SET", "min-replicas-to-write", "1000001"];
    connection.command(&fence).await.unwrap();
    drop(cluster.servers[gone].take());
    until("the loss is seen", || async { cluster.status().wait_safe_replicas == 0 }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(demanded(&cluster).await, "1000001");
}
