//! What a former primary had alone: saved, shown, and replayed on order.

use std::time::Duration;

use holdfast_supervisor::control::{ControlError, RedisCommand, SalvageOrder};
use serde_json::Value;

use crate::cluster::{Cluster, servers};

const WRITES: usize = 300;

async fn replay(
    cluster: &Cluster,
    id: &str,
    dry_run: bool,
    force: bool,
) -> Result<Value, ControlError> {
    let (id, by) = (id.to_owned(), "test".to_owned());
    let order = |reply| SalvageOrder::Replay { id, dry_run, force, by, reply };
    cluster.order(|reply| RedisCommand::Salvage(order(reply))).await
}

async fn show(cluster: &Cluster, id: &str, values: bool) -> Result<Value, ControlError> {
    let id = id.to_owned();
    let order = |reply| SalvageOrder::Show { id, from: 0, values, reply };
    cluster.order(|reply| RedisCommand::Salvage(order(reply))).await
}

/// The replicas are cut off while the primary writes on; then it hangs, is replaced, and runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_saved_is_shown_without_values_and_replayed_once_around_newer_keys() {
    let cluster = Cluster::start(servers().await, |settings| {
        settings.hang_after = Duration::from_millis(400);
        settings.probe_timeout = Duration::from_millis(300);
    })
    .await;
    let old = cluster.primary();
    let epoch = cluster.status().epoch;
    old.confirmed_write("newer", "0").await;
    let address = old.address();
    let is_replica = |server: &&crate::cluster::Server| server.address() != address;
    let replicas: Vec<_> = cluster.servers.iter().flatten().filter(is_replica).collect();
    for replica in &replicas {
        replica.signal("STOP");
    }
    let mut writer = old.open().await.unwrap();
    writer.command(&["CLIENT", "KILL", "TYPE", "replica"]).await.unwrap();
    for number in 0..WRITES {
        let (key, value) = (format!("only:{number}"), format!("value {number}"));
        writer.command(&["SET", key.as_str(), value.as_str()]).await.unwrap();
        writer.command(&["INCR", "counter"]).await.unwrap();
        writer.command(&["PUBLISH", "channel", "message"]).await.unwrap();
    }
    writer.command(&["SET", "newer", "then"]).await.unwrap();
    old.signal("STOP");
    for replica in &replicas {
        replica.signal("CONT");
    }
    cluster.until_healthy(epoch).await;
    let new = cluster.primary();
    new.confirmed_write("newer", "now").await;
    old.signal("CONT");
    cluster.until_recorded("can be replayed").await;

    let list = cluster.order(|reply| RedisCommand::Salvage(SalvageOrder::List { reply })).await;
    let list = list.unwrap();
    let id = list["salvages"][0]["id"].as_str().unwrap();
    assert_eq!(list["salvages"].as_array().unwrap().len(), 1, "{list}");
    let shown = show(&cluster, id, false).await.unwrap().to_string();
    assert!(shown.contains("only:7") && !shown.contains("value 7"), "{shown}");
    assert!(show(&cluster, id, true).await.unwrap().to_string().contains("value 7"));
    let unknown = show(&cluster, "../redis", false).await.unwrap_err();
    assert!(matches!(unknown, ControlError::NotFound(_)), "{unknown}");

    // A preview changes nothing and says what is newer, by the present primary's own stream.
    let preview = replay(&cluster, id, true, false).await.unwrap();
    let report = &preview["report"];
    assert_eq!(report["newer_by"], "stream", "{preview}");
    assert_eq!(
        (&report["newer"], &report["applied"]),
        (&1.into(), &(2 * WRITES).into()),
        "{preview}"
    );
    assert_eq!(report["keyless"], WRITES, "{preview}");
    assert_eq!(new.try_run("EXISTS only:0").await.as_deref(), Some("Integer(0)"));

    let done = replay(&cluster, id, false, false).await.unwrap();
    assert_eq!(done["report"]["applied"], 2 * WRITES, "{done}");
    for number in [0, WRITES / 2, WRITES - 1] {
        let value = new.try_run(&format!("GET only:{number}")).await;
        assert_eq!(value, Some(format!("value {number}")));
    }
    let counter = WRITES.to_string();
    assert_eq!(new.try_run("GET counter").await.as_deref(), Some(counter.as_str()));
    assert_eq!(new.try_run("GET newer").await.as_deref(), Some("now"));
    let again = replay(&cluster, id, false, true).await.unwrap_err();
    assert!(again.to_string().contains("was replayed at"), "{again}");
    assert_eq!(new.try_run("GET counter").await.as_deref(), Some(counter.as_str()));
    cluster.until_recorded("was replayed: 600 commands carried out").await;
    assert!(!cluster.records().iter().any(|record| record.contains("value 7")));
}
