//! The Sentinel-compatible endpoint as `redis-cli` and a subscriber see it, through a real failover.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "redis_failover/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the failover itself")]
mod cluster;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use cluster::{Cluster, servers, until};
use holdfast_supervisor::serve::sentinel::{Primary, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Serves the cluster's primary; ends with the test's runtime.
async fn serve(cluster: &Cluster) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let primary = Primary {
        topology: cluster.handles.topology.clone(),
        events: cluster.handles.events.clone(),
        failover: cluster.commands.clone(),
        down_after: Duration::from_secs(1),
    };
    tokio::spawn(run(listener, vec![primary], cluster.shutdown.clone()));
    address
}

async fn redis_cli(at: SocketAddr, words: &[&str]) -> String {
    let port = at.port().to_string();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        Command::new("timeout").args(["20", "redis-cli", "-p", &port]).args(words).output().unwrap()
    });
    String::from_utf8(output.await.unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_the_primary_and_are_told_of_the_next() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    let old = cluster.status().primary.unwrap();

    let found = redis_cli(at, &["sentinel", "get-master-addr-by-name", "main"]).await;
    assert_eq!(found, format!("127.0.0.1\n{}\n", old.port()));
    let masters = redis_cli(at, &["-3", "sentinel", "masters"]).await;
    assert!(masters.contains("main") && masters.contains("num-slaves"), "{masters}");
    let replicas = redis_cli(at, &["sentinel", "replicas", "main"]).await;
    assert_eq!(replicas.matches("master-link-status").count(), 2, "{replicas}");
    let info = redis_cli(at, &["info", "sentinel"]).await;
    let line = format!("master0:name=main,status=ok,address={old},slaves=2,sentinels=1");
    assert!(info.contains(&line), "{info}");

    let mut subscriber = TcpStream::connect(at).await.unwrap();
    subscriber
        .write_all(b"SUBSCRIBE +switch-master\r\nPSUBSCRIBE [-+]sdown +slave\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_until(&mut subscriber, &mut seen, "+slave\r\n:3\r\n").await;
    cluster.primary().signal("KILL");
    read_until(&mut subscriber, &mut seen, "+switch-master\r\n$").await;
    let new = cluster.status().primary.unwrap();
    assert_ne!(new, old);
    let message = format!("main 127.0.0.1 {} 127.0.0.1 {}\r\n", old.port(), new.port());
    read_until(&mut subscriber, &mut seen, &message).await;
    let replica =
        format!("slave {old} 127.0.0.1 {} @ main 127.0.0.1 {}\r\n", old.port(), new.port());
    read_until(&mut subscriber, &mut seen, &replica).await;
    let order: Vec<_> = ["master main", "+switch-master\r\n$", &replica]
        .map(|text| seen.find(text).unwrap())
        .into();
    assert!(order.is_sorted(), "{seen}");
    let found = redis_cli(at, &["sentinel", "get-master-addr-by-name", "main"]).await;
    assert_eq!(found, format!("127.0.0.1\n{}\n", new.port()));
}

async fn read_until(stream: &mut TcpStream, seen: &mut String, text: &str) {
    let mut buffer = vec![0; 4096];
    while !seen.contains(text) {
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut buffer)).await;
        let length = read.unwrap_or_else(|_| panic!("no {text:?} in {seen:?}")).unwrap();
        assert!(length > 0, "closed before {text:?}: {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_failover_is_a_switchover() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    let old = cluster.status().primary.unwrap();
    until("a candidate is known", || async { cluster.status().candidate.is_some() }).await;
    assert_eq!(redis_cli(at, &["sentinel", "failover", "main"]).await, "OK\n");
    cluster.until_healthy(cluster.status().epoch.max(1) - 1).await;
    until("another primary is told", || async { cluster.status().primary != Some(old.clone()) })
        .await;
    cluster.until_healthy(1).await;
    assert!(cluster.recorded("switchover from"), "{:#?}", cluster.records());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_long_and_malformed_commands_end_the_connection_with_a_reason() {
    let cluster = Cluster::start(servers().await, |_| {}).await;
    let at = serve(&cluster).await;
    for bytes in [b"*1\r\n$99999999\r\n".to_vec(), b"*1\r\n:1\r\n".to_vec(), vec![b'x'; 70_000]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut text));
        // A reset after the reply is an end too.
        read.await.unwrap().ok();
        assert!(text.starts_with("-ERR Protocol error") || text.is_empty(), "{text}");
    }
    assert_eq!(redis_cli(at, &["ping"]).await, "PONG\n");
}
