//! A backup restored into an empty Redis gives the same data, key by key.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::clients::Member;
use holdfast_tests::cluster::Cluster;
use holdfast_tests::process::{self, Process};
use holdfast_tests::wait;

async fn connect(address: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Every key with its serialised value, and whether it expires.
async fn contents(address: &str, pattern: &str) -> BTreeMap<String, (Vec<u8>, bool)> {
    let mut connection = connect(address).await;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
    let mut contents = BTreeMap::new();
    for key in keys {
        let value: Vec<u8> =
            redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
        let ttl: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
        contents.insert(key, (value, ttl >= 0));
    }
    contents
}

#[tokio::test]
async fn a_backup_restores_key_by_key() {
    let cluster = Cluster::start(&[]).await;
    let primary = cluster.status().await.redis.remove(0).primary.unwrap().to_string();
    let mut connection = connect(&primary).await;
    // Data of every kind, under a prefix that nothing else in the cluster writes.
    let mut pipe = redis::pipe();
    for n in 0..500 {
        pipe.cmd("SET").arg(format!("test:s:{n}")).arg("x".repeat(n)).ignore();
        pipe.cmd("HSET").arg("test:hash").arg(n).arg(n * n).ignore();
        pipe.cmd("RPUSH").arg("test:list").arg(n).ignore();
        pipe.cmd("ZADD").arg("test:zset").arg(n).arg(format!("m{n}")).ignore();
        pipe.cmd("SADD").arg("test:set").arg(n).ignore();
        pipe.cmd("XADD").arg("test:stream").arg("*").arg("n").arg(n).ignore();
        pipe.cmd("SET").arg(format!("test:ttl:{n}")).arg(n).arg("EX").arg(3600).ignore();
    }
    pipe.exec_async(&mut connection).await.unwrap();
    let member = Member::join(&cluster, "writer", "kept").await;
    member.client.publish("kept", serde_json::json!({"id": "1", "text": "keep me"})).await.unwrap();
    let _: i64 = redis::cmd("WAIT").arg(2).arg(5000).query_async(&mut connection).await.unwrap();
    let expected = contents(&primary, "test:*").await;

    let (status, output) = cluster.cli(&["--json", "backup", "take"]).await;
    assert!(status.success(), "{output}");
    let report: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(report["verified"], true, "{output}");
    assert!(report["keys"].as_u64().unwrap() >= expected.len() as u64);
    let id = report["id"].as_str().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let target = process::free_address();
    let (port, folder) = (target.port().to_string(), dir.path().to_str().unwrap());
    let args = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--dir",
        folder,
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    let _scratch = Process::start(Path::new("redis-server"), &args, &dir.path().join("redis.log"));
    wait::until("the empty server", Duration::from_secs(30), async || {
        tokio::net::TcpStream::connect(target).await.map(drop)
    })
    .await;
    let backups = cluster.folder().join("backups");
    let (target, backups) = (target.to_string(), backups.to_str().unwrap());
    let restore = ["restore", "--dir", backups, "--backup", id, "--to", &target];
    let (status, output) = cluster.cli(&restore).await;
    assert!(status.success(), "{output}");
    assert_eq!(contents(&target, "test:*").await, expected);
    assert!(!contents(&target, "*kept*").await.is_empty(), "the chat's own history is in it");

    // What is there already is not overwritten by accident.
    let (status, output) = cluster.cli(&restore).await;
    assert!(!status.success(), "{output}");
    assert!(output.contains("overwrite"), "{output}");
    cluster.stop().await;
}
