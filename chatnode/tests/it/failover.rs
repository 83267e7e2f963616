//! The primary dies.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::Client;
use crate::kit::{Node, Redis, Sentinel, announcer, eventually};

/// Publishes until one publish is acknowledged; returns every payload tried, the acknowledged one last.
async fn publish_until_acknowledged(client: &mut Client, from: i64) -> Vec<i64> {
    let mut tried = Vec::new();
    loop {
        let number = from + i64::try_from(tried.len()).unwrap();
        tried.push(number);
        if client.publish("room", json!(number)).await.get("publish").is_some() {
            return tried;
        }
        assert!(tried.len() < 1000, "nothing is acknowledged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn numbers(history: &[(u64, Value)]) -> Vec<i64> {
    history.iter().map(|(_, data)| data.as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_sentinel_is_followed_and_no_acknowledged_message_is_lost() {
    let mut primary = Redis::primary().await;
    let replicas = [Redis::replica_of(&primary).await, Redis::replica_of(&primary).await];
    let sentinel = Sentinel::watching(&primary).await;
    let redis = format!(
        "sentinels = [\"127.0.0.1:1\", \"127.0.0.1:{}\"]\nprimary_name = \"main\"\nconfirm_timeout = \"4s\"\ncommand_timeout = \"5s\"",
        sentinel.port
    );
    let (one, two) = tokio::join!(Node::with(&redis, ""), Node::with(&redis, ""));
    let mut ada = Client::connect(one.client, "ada").await;
    let mut bob = Client::connect(two.client, "bob").await;
    let position = bob.subscribe("room").await;
    let mut acknowledged = Vec::new();
    for number in 0..10 {
        assert!(ada.publish("room", json!(number)).await.get("publish").is_some());
        acknowledged.push(number);
    }
    // An acknowledgement means one replica. Sentinel may promote the other, whose offset it asked for seconds ago: a loss no node can
    // prevent, and not what is tested here.
    for replica in &replicas {
        eventually("every replica to have everything", async || {
            let reply = replica.command(&["XLEN", "holdfast:{room}:log"]).await;
            (reply == ":10\r\n").then_some(())
        })
        .await;
    }
    primary.process.kill();
    let tried = publish_until_acknowledged(&mut ada, 10).await;
    acknowledged.push(*tried.last().unwrap());

    let history = numbers(&ada.history("room").await);
    for number in &acknowledged {
        assert_eq!(history.iter().filter(|n| *n == number).count(), 1, "{number} in {history:?}");
    }
    assert!(history.is_sorted(), "{history:?}");
    // Bob gets everything, in order, once.
    let mut received = Vec::new();
    while received.last() != acknowledged.last() {
        let push = bob.push().await;
        if let Some(publication) = push.get("pub") {
            received.push(publication["data"].as_i64().unwrap());
        } else if push.get("unsubscribe").is_some() {
            // His node reached the new primary after hers had published; he does what an SDK does.
            assert_eq!(push["unsubscribe"]["code"], 2500);
            let offset = received.len();
            let request = json!({"channel": "room", "recover": true, "offset": offset, "epoch": position["epoch"]});
            let reply = bob.call("subscribe", request).await["subscribe"].clone();
            assert_eq!(reply["recovered"], true, "{reply}");
            let missed = reply["publications"].as_array().unwrap();
            received.extend(missed.iter().map(|publication| publication["data"].as_i64().unwrap()));
        }
    }
    assert_eq!(received, history);
    // A client that was away over the failover, at a position before it, recovers.
    let mut carl = Client::connect(two.client, "carl").await;
    let request =
        json!({"channel": "room", "recover": true, "offset": 2, "epoch": position["epoch"]});
    let reply = carl.call("subscribe", request).await["subscribe"].clone();
    assert_eq!(reply["recovered"], true, "{reply}");
    assert_eq!(reply["publications"].as_array().unwrap().len(), history.len() - 2);
    assert_ne!(reply["epoch"], position["epoch"], "the history is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_without_a_primary_is_held_for_a_moment() {
    let mut primary = Redis::primary().await;
    let replica = Redis::replica_of(&primary).await;
    let _second = Redis::replica_of(&replica).await;
    let (announce, address) = watch::channel(primary.address());
    let endpoint = announcer(address).await;
    let redis = format!(
        "sentinels = [\"{endpoint}\"]\nprimary_name = \"main\"\nconfirm_timeout = \"9s\"\ncommand_timeout = \"10s\""
    );
    let node = Node::with(&redis, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    assert!(ada.publish("room", json!(1)).await.get("publish").is_some());
    primary.process.kill();
    eventually("the loss of the primary", async || {
        (node.metric("chatnode_redis_failures_total").await >= 2.0).then_some(())
    })
    .await;
    let held = ada.command("publish", json!({"channel": "room", "data": 2})).await;
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    announce.send(replica.address()).unwrap();
    assert_eq!(ada.reply(held).await["publish"], json!({}));
    assert_eq!(numbers(&ada.history("room").await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_must_be_on_as_many_replicas_as_the_supervisor_says_are_well() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let address = primary.address();
    let redis = format!("address = \"{address}\"\nconfirm_all_healthy = true");
    let node = Node::with(&redis, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    let mut acknowledged = async |wanted: bool| {
        let what = format!("a publish that is acknowledged: {wanted}");
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        while ada.publish("room", json!(1)).await.get("publish").is_some() != wanted {
            assert!(tokio::time::Instant::now() < deadline, "not within a minute: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    acknowledged(true).await;
    // There is only one.
    primary.command(&["SET", "holdfast:wait-safe-replicas", "2"]).await;
    acknowledged(false).await;
    primary.command(&["DEL", "holdfast:wait-safe-replicas"]).await;
    acknowledged(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_connections_and_refuses_commands_is_not_hammered() {
    let primary = Redis::primary().await;
    let redis = format!("address = \"{}\"\nconfirm_replicas = 0", primary.address());
    let node = Node::with(&redis, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    primary.command(&["ACL", "SETUSER", "default", "-evalsha"]).await;
    let before = node.metric("chatnode_redis_failures_total").await;
    for number in 0..3 {
        let reply = ada.publish("room", json!(number)).await;
        assert_eq!(reply["error"]["code"], 100, "{reply}");
    }
    let failures = node.metric("chatnode_redis_failures_total").await - before;
    assert!(failures >= 1.0, "the refusal is a failure of the connection");
    // Three seconds of retries: with growing pauses some dozen on each connection, without them thousands.
    assert!(failures < 100.0, "{failures} connections were tried");

    primary.command(&["ACL", "SETUSER", "default", "+evalsha"]).await;
    eventually("an acknowledgement", async || {
        ada.publish("room", json!(9)).await.get("publish").map(drop)
    })
    .await;
    let history = ada.history("room").await;
    assert_eq!(numbers(&history), [9], "what was refused was not done");
}
