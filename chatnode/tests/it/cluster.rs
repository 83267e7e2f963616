//! Clients on two nodes over one primary and one replica.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::client::{Client, Incoming, token};
use crate::kit::{ADMIN_TOKEN, Node, Redis, eventually, http, raw_http};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_two_nodes_talk_and_see_each_other() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let (one, two) = tokio::join!(Node::on(&primary), Node::on(&primary));
    let mut ada = Client::connect(one.client, "ada").await;
    let mut bob = Client::connect(two.client, "bob").await;
    let asks = json!({"channel": "room", "join_leave": true});
    ada.call("subscribe", asks.clone()).await;
    assert_eq!(ada.push_of("join").await["info"]["user"], "ada");
    bob.call("subscribe", asks).await;
    assert_eq!(ada.push_of("join").await["info"]["user"], "bob");

    assert_eq!(ada.publish("room", json!({"text": "hi"})).await["publish"], json!({}));
    let expected = json!({
        "data": {"text": "hi"}, "offset": 1, "info": {"user": "ada", "client": ada.id},
    });
    for client in [&mut ada, &mut bob] {
        let mut publication = client.push_of("pub").await;
        let epoch = publication.as_object_mut().unwrap().remove("epoch");
        assert!(epoch.is_some(), "the first publication tells the epoch");
        assert_eq!(publication, expected);
    }
    assert_eq!(bob.publish("room", json!(2)).await["publish"], json!({}));
    assert_eq!(ada.push_of("pub").await["offset"], 2);

    let presence = ada.call("presence", json!({"channel": "room"})).await;
    let members = presence["presence"]["presence"].as_object().unwrap().clone();
    assert_eq!(members.len(), 2);
    assert_eq!(members[&bob.id], json!({"user": "bob", "client": bob.id}));
    let stats = ada.call("presence_stats", json!({"channel": "room"})).await;
    assert_eq!(stats["presence_stats"], json!({"num_clients": 2, "num_users": 2}));
    assert_eq!(bob.history("room").await, [(1, json!({"text": "hi"})), (2, json!(2))]);

    drop(bob);
    assert_eq!(ada.push_of("leave").await["info"]["user"], "bob");
    eventually("bob's absence", async || {
        let mut carl = Client::connect(one.client, "carl").await;
        let stats = carl.call("presence_stats", json!({"channel": "room"})).await;
        (stats["presence_stats"]["num_clients"] == 1).then_some(())
    })
    .await;
    one.until_metric("chatnode_publishes_total{result=\"confirmed\"}", 1.0).await;
    one.until_metric("chatnode_redis_up", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_recovered_on_another_node_or_honestly_not() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let (one, two) = tokio::join!(Node::on(&primary), Node::on(&primary));
    let mut ada = Client::connect(one.client, "ada").await;
    let first = ada.subscribe("room").await;
    assert_eq!((&first["recoverable"], &first["positioned"]), (&json!(true), &json!(true)));
    let epoch = first["epoch"].as_str().unwrap().to_owned();
    drop(ada);
    let mut bob = Client::connect(one.client, "bob").await;
    for number in 1..=3 {
        bob.publish("room", json!(number)).await;
    }

    for (asked, recovered, publications, offset) in [
        (json!({"offset": 1, "epoch": epoch}), true, vec![2, 3], 1),
        (json!({"offset": 3, "epoch": epoch}), true, vec![], 3),
        (json!({"epoch": epoch}), true, vec![1, 2, 3], 0),
        (json!({}), true, vec![1, 2, 3], 0),
        (json!({"offset": 1, "epoch": "other"}), false, vec![], 3),
        (json!({"offset": 9, "epoch": epoch}), false, vec![], 3),
    ] {
        let mut client = Client::connect(two.client, "ada").await;
        let mut request = asked.clone();
        request["channel"] = json!("room");
        request["recover"] = json!(true);
        let reply = client.call("subscribe", request.clone()).await["subscribe"].clone();
        assert_eq!(reply["was_recovering"], true, "{asked}");
        assert_eq!(reply["recovered"].as_bool().unwrap_or_default(), recovered, "{asked} {reply}");
        assert_eq!(reply["offset"].as_u64().unwrap_or_default(), offset, "{asked} {reply}");
        let none = Vec::new();
        let got: Vec<_> = reply["publications"].as_array().unwrap_or(&none).iter().collect();
        let offsets: Vec<_> = got.iter().map(|p| p["offset"].as_i64().unwrap()).collect();
        assert_eq!(offsets, publications, "{asked}");

        if !recovered {
            let mut strict = Client::connect(two.client, "ada").await;
            request["flag"] = json!(2);
            assert_eq!(strict.call("subscribe", request).await["error"]["code"], 112);
        }
    }
    two.until_metric("chatnode_recoveries_total{result=\"recovered\"}", 4.0).await;

    let since = json!({"channel": "room", "limit": 1, "since": {"offset": 3, "epoch": epoch}, "reverse": true});
    let page = bob.call("history", since).await["history"].clone();
    assert_eq!(page["publications"].as_array().unwrap()[0]["offset"], 2);
    assert_eq!((&page["offset"], &page["epoch"]), (&json!(3), &json!(epoch)));
    let top = bob.call("history", json!({"channel": "room"})).await["history"].clone();
    assert_eq!((&top["publications"], &top["offset"]), (&json!([]), &json!(3)));
    let foreign = json!({"channel": "room", "limit": 1, "since": {"offset": 1, "epoch": "other"}});
    assert_eq!(bob.call("history", foreign).await["error"]["code"], 112);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_may_subscribe_and_the_client_recovers_that_too() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let node = Node::on(&primary).await;
    let claims = json!({"sub": "ada", "channels": ["news", "room"]});
    let mut ada = Client::open(node.client).await;
    let reply = ada.call("connect", json!({"token": token(&claims)})).await["connect"].clone();
    let news = &reply["subs"]["news"];
    assert_eq!(news["recoverable"], true, "{reply}");
    assert!(reply["subs"].get("room").is_some());
    let epoch = news["epoch"].clone();
    let again = ada.call("subscribe", json!({"channel": "news"})).await;
    assert_eq!(again["error"]["code"], 105);
    let mut bob = Client::connect(node.client, "bob").await;
    bob.publish("news", json!(1)).await;
    assert_eq!(ada.push_of("pub").await["data"], 1);
    drop(ada);
    bob.publish("news", json!(2)).await;

    let mut ada = Client::open(node.client).await;
    let subs = json!({"news": {"recover": true, "offset": 1, "epoch": epoch}});
    // A subscribe in the same frame waits for the connect.
    let connect = json!({"id": 1, "connect": {"token": token(&claims), "subs": subs}});
    let subscribe = json!({"id": 2, "subscribe": {"channel": "other"}});
    ada.send(&format!("{connect}\n{subscribe}\n")).await;
    let Incoming::Document(reply) = ada.next().await else { panic!("closed") };
    assert_eq!(reply["connect"]["subs"]["news"]["recovered"], true, "{reply}");
    assert_eq!(reply["connect"]["subs"]["news"]["publications"][0]["data"], 2);
    let Incoming::Document(reply) = ada.next().await else { panic!("closed") };
    assert_eq!(reply["id"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_nothing_is_acknowledged() {
    let primary = Redis::primary().await;
    let settings = format!("address = \"{}\"\nconfirm_timeout = \"100ms\"", primary.address());
    let node = Node::with(&settings, "").await;
    let mut ada = Client::connect(node.client, "ada").await;
    let error = ada.publish("room", json!(1)).await["error"].clone();
    let expected = json!({"code": 100, "message": "internal server error", "temporary": true});
    assert_eq!(error, expected);
    node.until_metric("chatnode_publishes_total{result=\"unconfirmed\"}", 1.0).await;
    // What is not kept needs no replica.
    assert_eq!(ada.publish("plain:a", json!(1)).await["publish"], json!({}));
    // As soon as there is one, publishing goes on.
    let _replica = Redis::replica_of(&primary).await;
    eventually("an acknowledged publish", async || {
        (ada.publish("room", json!(2)).await["publish"] == json!({})).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_without_history_reach_everybody_without_positions() {
    let primary = Redis::primary().await;
    let node = Node::on(&primary).await;
    let mut ada = Client::connect(node.client, "ada").await;
    assert_eq!(ada.subscribe("plain:a").await, json!({}));
    ada.publish("plain:a", json!([1])).await;
    let publication = ada.push_of("pub").await;
    assert_eq!(publication, json!({"data": [1], "info": {"user": "ada", "client": ada.id}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_sends_its_clients_elsewhere_and_ends() {
    let primary = Redis::primary().await;
    let redis = format!("address = \"{}\"", primary.address());
    let node = Node::with(&redis, "[drain]\nperiod = \"3s\"").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(node.client, "ada").await);
    }
    assert_eq!(http(node.admin, "POST", "/drain", None).await.0, 401);
    assert_eq!(http(node.admin, "POST", "/drain", Some("guess")).await.0, 401);
    assert_eq!(http(node.admin, "POST", "/drain", Some(ADMIN_TOKEN)).await.0, 202);
    assert_eq!(clients[0].closed().await, 3001);
    let upgrade = "GET /connection/websocket HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (status, answer) = raw_http(node.client, upgrade).await;
    assert_eq!(status, 503);
    assert!(answer.to_ascii_lowercase().contains("retry-after: 1"), "{answer}");
    for client in &mut clients[1..] {
        assert_eq!(client.closed().await, 3001);
    }
    drop(clients);
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_and_the_others_are_not() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let redis = format!("address = \"{}\"", primary.address());
    let node = Node::with(&redis, "[client]\nqueue_bytes_max = 200000").await;
    let mut slow = Client::connect(node.client, "slow").await;
    slow.subscribe("plain:a").await;
    let mut writer = Client::connect(node.client, "writer").await;
    let text = "x".repeat(60_000);
    let slow_consumers = "chatnode_slow_consumers_total";
    while node.metric(slow_consumers).await < 1.0 {
        for _ in 0..20 {
            writer.command("publish", json!({"channel": "plain:a", "data": text})).await;
        }
        writer.subscribe("plain:b").await;
        writer.call("unsubscribe", json!({"channel": "plain:b"})).await;
    }
    assert!([3008, 0].contains(&slow.closed().await));
    eventually("the settled queue", async || {
        (node.metric("chatnode_queue_bytes").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_what_prometheus_expects() {
    let primary = Redis::primary().await;
    let node = Node::on(&primary).await;
    let (status, answer) = http(node.admin, "GET", "/metrics", None).await;
    assert_eq!(status, 200);
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    for name in [
        "chatnode_connections 0",
        "chatnode_commands_total{command=\"publish\"} 0",
        "chatnode_command_errors_total{code=\"100\"} 0",
        "chatnode_disconnects_total{code=\"3001\"} 0",
        "chatnode_build_info{version=",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(name), "{name}");
    }
    assert_eq!(http(node.client, "GET", "/health/live", None).await.0, 200);
    let (_, clients) = http(node.client, "GET", "/metrics", None).await;
    assert!(!clients.contains("chatnode_"), "figures are not for clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_of_one_connection_stay_in_order() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let node = Node::on(&primary).await;
    let mut ada = Client::connect(node.client, "ada").await;
    ada.subscribe("room").await;
    let frame: Vec<String> = (0..90)
        .map(|n| json!({"id": 100 + n, "publish": {"channel": "room", "data": n}}).to_string())
        .collect();
    ada.send(&frame.join("\n")).await;
    for number in 0..90 {
        let publication = ada.push_of("pub").await;
        assert_eq!(
            (&publication["data"], &publication["offset"]),
            (&json!(number), &json!(number + 1))
        );
    }
    let history: Vec<Value> = ada.history("room").await.into_iter().map(|(_, data)| data).collect();
    assert_eq!(history, (0..90).map(|n| json!(n)).collect::<Vec<_>>());
}
