//! Redis misbehaves in ways short of dying, and the node says so, holds on, and goes on afterwards.

use serde_json::json;
use tokio::sync::watch;

use crate::client::{Client, Incoming};
use crate::kit::{Node, Redis, announcer, eventually};

async fn acknowledged(client: &mut Client, channel: &str, number: i64) {
    eventually("an acknowledgement", async || {
        client.publish(channel, json!(number)).await.get("publish").map(drop)
    })
    .await;
}

fn fixed(primary: &Redis) -> String {
    format!(
        "address = \"{}\"\nconfirm_timeout = \"10s\"\ncommand_timeout = \"30s\"",
        primary.address()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_scripts_are_loaded_again_and_nothing_fails() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let node = Node::with(&fixed(&primary), "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    acknowledged(&mut ada, "room", 1).await;
    primary.command(&["SCRIPT", "FLUSH", "SYNC"]).await;
    for number in 2..=3 {
        let reply = ada.publish("room", json!(number)).await;
        assert_eq!(reply["publish"], json!({}), "{reply}");
    }
    let offsets: Vec<_> = ada.history("room").await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets.last().copied(), Some(offsets.len() as u64), "each once: {offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_publishes_fail_and_reads_do_not() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let node = Node::with(&fixed(&primary), "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    acknowledged(&mut ada, "room", 1).await;
    let before = ada.history("room").await;
    primary.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let reply = ada.publish("room", json!(2)).await;
    assert_eq!(
        (&reply["error"]["code"], &reply["error"]["temporary"]),
        (&json!(100), &json!(true))
    );
    assert_eq!(ada.history("room").await, before, "what was refused was not done");
    primary.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    acknowledged(&mut ada, "room", 3).await;
    assert_eq!(ada.history("room").await.len(), before.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_becomes_a_replica_is_left_and_does_not_answer_reads() {
    let primary = Redis::primary().await;
    let replica = Redis::replica_of(&primary).await;
    let (announce, address) = watch::channel(primary.address());
    let endpoint = announcer(address).await;
    let redis =
        format!("sentinels = [\"{endpoint}\"]\nprimary_name = \"main\"\ncommand_timeout = \"10s\"");
    let node = Node::with(&redis, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    acknowledged(&mut ada, "room", 1).await;
    // The roles change under open connections, without their being closed: READONLY is all the node gets.
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    let port = replica.port.to_string();
    primary.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    let held = ada.command("publish", json!({"channel": "room", "data": 2})).await;
    let asked = ada.command("history", json!({"channel": "room", "limit": -1})).await;
    announce.send(replica.address()).unwrap();
    let mut answered = std::collections::BTreeMap::new();
    while answered.len() < 2 {
        let Incoming::Document(reply) = ada.next().await else { panic!("closed") };
        if let Some(id) = reply["id"].as_u64() {
            answered.insert(id, reply);
        }
    }
    // A read that only a replica could answer is not answered by it: it is held too.
    let history = &answered[&u64::from(asked)]["history"];
    assert_eq!(history["publications"][0]["data"], 1, "{history}");
    // If the news came while it was under way, nobody knows whether it was done, and that is said; it is never done twice.
    let reply = &answered[&u64::from(held)];
    let acknowledged = reply.get("publish").is_some();
    assert!(acknowledged || reply["error"]["code"] == 100, "{reply}");
    let history = ada.history("room").await;
    let count = history.iter().filter(|(_, data)| *data == 2).count();
    assert!(count == 1 || (count == 0 && !acknowledged), "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_is_noticed_and_waited_for() {
    let primary = Redis::primary().await;
    let redis = format!(
        "address = \"{}\"\nconfirm_replicas = 0\ncommand_timeout = \"300ms\"",
        primary.address()
    );
    let node = Node::with(&redis, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    ada.subscribe("room").await;
    acknowledged(&mut ada, "room", 1).await;
    primary.process.signal("-STOP");
    assert_eq!(ada.publish("room", json!(2)).await["error"]["code"], 100);
    eventually("the end of readiness", async || {
        let (status, _) = crate::kit::http(node.client, "GET", "/health/ready", None).await;
        (status == 503).then_some(())
    })
    .await;
    eventually("the figure of it", async || {
        (node.metric("chatnode_redis_up").await < 0.5).then_some(())
    })
    .await;
    primary.process.signal("-CONT");
    acknowledged(&mut ada, "room", 3).await;
    eventually("readiness", async || {
        let (status, _) = crate::kit::http(node.client, "GET", "/health/ready", None).await;
        (status == 200).then_some(())
    })
    .await;
    let history = eventually("a history", async || {
        let reply = ada.call("history", json!({"channel": "room", "limit": -1})).await;
        reply["history"]["publications"].as_array().cloned()
    })
    .await;
    let offsets: Vec<_> = history.iter().map(|p| p["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, (1..=history.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_read_answers_all_who_ask_the_same_at_once() {
    let primary = Redis::primary().await;
    let redis = format!(
        "address = \"{}\"\nconfirm_replicas = 0\ncommand_timeout = \"10s\"",
        primary.address()
    );
    let node = Node::with(&redis, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    acknowledged(&mut ada, "room", 1).await;
    primary.process.signal("-STOP");
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..40 {
        ids.insert(ada.command("history", json!({"channel": "room", "limit": -1})).await);
    }
    // They wait in the node behind the first, which waits for Redis.
    primary.process.signal("-CONT");
    while !ids.is_empty() {
        let Incoming::Document(reply) = ada.next().await else { panic!("closed") };
        let Some(publications) = reply["history"]["publications"].as_array() else { continue };
        assert_eq!(publications.len(), 1, "{reply}");
        ids.remove(&u32::try_from(reply["id"].as_u64().unwrap()).unwrap());
    }
    let shared = "chatnode_reads_shared_total";
    node.until_metric(shared, 1.0).await;
}
