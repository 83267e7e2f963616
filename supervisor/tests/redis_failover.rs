//! Failover on real servers: crash, hang, empty restart, lost replica, planned switchover.

#[path = "redis_failover/cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::{Cluster, Server, servers, until};
use holdfast_supervisor::cluster::{Address, RedisRole, RedisState};
use tokio::time::{Instant, sleep};

/// Where a server stands in the list.
fn position(cluster: &Cluster, address: &Address) -> usize {
    let is_it = |server: &Option<Server>| server.as_ref().is_some_and(|s| s.address() == *address);
    cluster.servers.iter().position(is_it).unwrap()
}

/// All servers but `primary` follow it.
async fn until_all_follow(cluster: &Cluster, primary: &Address) {
    for server in cluster.servers.iter().flatten().filter(|server| server.address() != *primary) {
        until("a server follows the new primary", || async {
            server.info("master_port").await == primary.port().to_string()
                && server.info("master_link_status").await == "up"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_at_once_and_comes_back_as_a_replica() {
    let mut cluster = Cluster::start(servers().await, |_| {}).await;
    let old = cluster.primary().address();
    cluster.primary().confirmed_write("key", "value").await;
    let (epoch, started) = (cluster.status().epoch, Instant::now());
    cluster.primary().signal("KILL");
    let mut status = cluster.handles.status.clone();
    status.wait_for(|status| status.primary.as_ref() != Some(&old)).await.unwrap();
    let switched = started.elapsed();
    cluster.until_healthy(epoch).await;
    let new = cluster.primary().address();
    println!(
        "kill -9 to another primary published: {:.1} ms, to verified: {:.1} ms",
        switched.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    for record in cluster.records().iter().filter(|record| record.contains("FailoverStep")) {
        println!(
            "  {}",
            record.split("message: ").nth(1).unwrap().split(", reasons").next().unwrap()
        );
    }
    assert_eq!(cluster.primary().try_run("GET key").await.as_deref(), Some("value"));
    assert_eq!(cluster.status().epoch, epoch + 1);
    assert!(cluster.recorded("FailoverDone"), "{:#?}", cluster.records());
    assert!(cluster.recorded("refuses connections: nobody listens there"));

    // It comes back empty and as a primary, on the same port.
    let index = position(&cluster, &old);
    drop(cluster.servers[index].take());
    let back = Server::start(old.port(), &[]).await;
    cluster.servers[index] = Some(back);
    until_all_follow(&cluster, &new).await;
    let back = cluster.servers[index].as_ref().unwrap();
    until("it has copied the data", || async {
        back.try_run("GET key").await.as_deref() == Some("value")
    })
    .await;
    assert_eq!(cluster.status().primary, Some(new));
    assert_eq!(cluster.status().epoch, epoch + 1);
    until("the status shows two replicas", || async {
        let is_linked = |s: &&_| -> bool {
            let s: &holdfast_supervisor::cluster::RedisServerStatus = s;
            s.role == Some(RedisRole::Replica) && s.link_up == Some(true)
        };
        cluster.status().servers.iter().filter(is_linked).count() == 2
    })
    .await;
    let text = holdfast_telemetry::metrics::encode(&cluster.registry);
    let line = r#"supervisor_redis_failovers_total{redis="main",result="succeeded"} 1"#;
    assert!(text.contains(line), "{text}");
}
