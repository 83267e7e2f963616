//! The built-in chat model, as two people and their devices meet it.

use serde_json::{Value, json};

use crate::accounts::{chat, node, register};
use crate::client::{Client, Incoming};
use crate::kit::{Node, Redis, eventually};

/// Connects with a token of a login.
async fn connect(node: &Node, token: &str) -> Client {
    let mut client = Client::open(node.client).await;
    let reply = client.call("connect", json!({"token": token})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    client
}

/// Result of a procedure.
async fn call(client: &mut Client, method: &str, data: Value) -> Value {
    let reply = client.call("rpc", json!({"method": method, "data": data})).await;
    assert!(reply.get("error").is_none(), "{method} {data}: {reply}");
    reply["rpc"]["data"].clone()
}

/// Error code of a procedure.
async fn refused(client: &mut Client, method: &str, data: Value) -> u64 {
    let reply = client.call("rpc", json!({"method": method, "data": data})).await;
    reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method} {data}: {reply}"))
}

async fn send(client: &mut Client, to: Value, id: &str) -> Value {
    call(client, "send", json!({"to": to, "id": id, "body": {"text": id}})).await
}

fn ids(publications: &Value) -> Vec<String> {
    let all = publications.as_array().expect("publications");
    all.iter().map(|one| one["data"]["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn who_was_away_gets_what_it_missed_in_order_and_once() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let (ada_token, bob_token) = (register(&node, "ada").await, register(&node, "bob").await);
    let mut ada = connect(&node, &ada_token).await;
    let bob = json!({"user": "bob"});
    let first = send(&mut ada, bob.clone(), "m1").await;
    assert_eq!((&first["channel"], &first["offset"]), (&json!("dialog:#ada,bob"), &json!(1)));
    assert_eq!(send(&mut ada, bob.clone(), "m1").await, first, "sent again: the same answer");
    send(&mut ada, bob.clone(), "m2").await;

    let mut device = connect(&node, &bob_token).await;
    let inbox = call(&mut device, "inbox", json!({})).await;
    let dialog = &inbox["conversations"][0];
    assert_eq!(dialog["channel"], "dialog:#ada,bob", "{inbox}");
    assert_eq!((&dialog["with"], &dialog["name"]), (&json!("ada"), &json!("ADA")));
    assert_eq!((&dialog["unread"], &dialog["last"]["id"]), (&json!(2), &json!("m2")));
    let subscribed = device.subscribe("dialog:#ada,bob").await;
    let page = json!({"channel": "dialog:#ada,bob", "limit": -1});
    let history = device.call("history", page).await;
    assert_eq!(ids(&history["history"]["publications"]), ["m1", "m2"]);

    // The device goes away; what is said meanwhile is replayed when it is back.
    drop(device);
    for id in ["m3", "m4", "m4", "m5"] {
        send(&mut ada, bob.clone(), id).await;
    }
    let mut device = connect(&node, &bob_token).await;
    let position = json!({"channel": "dialog:#ada,bob", "recover": true,
        "offset": subscribed["offset"], "epoch": subscribed["epoch"]});
    let back = device.call("subscribe", position).await;
    assert_eq!(back["subscribe"]["recovered"], true, "{back}");
    assert_eq!(ids(&back["subscribe"]["publications"]), ["m3", "m4", "m5"]);

    call(&mut device, "mark_read", json!({"channel": "dialog:#ada,bob", "offset": 4})).await;
    call(&mut device, "mark_read", json!({"channel": "dialog:#ada,bob", "offset": 2})).await;
    let inbox = call(&mut device, "inbox", json!({})).await;
    let dialog = &inbox["conversations"][0];
    assert_eq!((&dialog["read"], &dialog["unread"]), (&json!(4), &json!(1)), "never back");
    let inbox = call(&mut ada, "inbox", json!({})).await;
    assert_eq!(inbox["conversations"][0]["unread"], 0, "who writes has read");
}

#[tokio::test]
async fn a_message_reaches_all_devices_and_a_new_dialog_is_announced() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let (ada_token, bob_token) = (register(&node, "ada").await, register(&node, "bob").await);
    let mut ada = connect(&node, &ada_token).await;
    let mut devices = [connect(&node, &bob_token).await, connect(&node, &bob_token).await];
    send(&mut ada, json!({"user": "bob"}), "m1").await;
    for device in &mut devices {
        let push = device.push().await;
        assert_eq!(push["channel"], "user:#bob", "{push}");
        let notice = json!({"type": "conversation", "channel": "dialog:#ada,bob"});
        assert_eq!(push["pub"]["data"], notice);
        device.subscribe("dialog:#ada,bob").await;
    }
    call(&mut ada, "typing", json!({"channel": "dialog:#ada,bob"})).await;
    send(&mut ada, json!({"user": "bob"}), "m2").await;
    for device in &mut devices {
        assert_eq!(device.push_of("pub").await["data"], json!({"type": "typing", "from": "ada"}));
        let message = device.push_of("pub").await;
        assert_eq!((&message["data"]["id"], &message["offset"]), (&json!("m2"), &json!(2)));
        assert_eq!(message["data"]["name"], "ADA");
    }
}

#[tokio::test]
async fn a_dialog_is_for_its_two_and_written_by_send_alone() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let (ada_token, eve_token) = (register(&node, "ada").await, register(&node, "eve").await);
    register(&node, "bob").await;
    let mut ada = connect(&node, &ada_token).await;
    let opened = call(&mut ada, "open", json!({"to": {"user": "bob"}})).await;
    assert_eq!(opened["channel"], "dialog:#ada,bob");
    ada.subscribe("dialog:#ada,bob").await;
    let publish = ada.publish("dialog:#ada,bob", json!({"type": "message"})).await;
    assert_eq!(publish["error"]["code"], 103);

    let mut eve = connect(&node, &eve_token).await;
    for channel in ["dialog:#ada,bob", "dialog:#bob,ada", "dialog:#eve", "user:#ada"] {
        let reply = eve.call("subscribe", json!({"channel": channel})).await;
        assert_eq!(reply["error"]["code"], 103, "{channel}");
    }
    for (method, data, code) in [
        ("mark_read", json!({"channel": "dialog:#ada,bob", "offset": 1}), 103),
        ("typing", json!({"channel": "dialog:#ada,bob"}), 103),
        ("send", json!({"to": {"user": "nobody"}, "id": "1", "body": 1}), 404),
        ("send", json!({"to": {"user": "eve"}, "id": "1", "body": 1}), 404),
        ("send", json!({"to": {"user": "bob"}, "id": "", "body": 1}), 107),
        ("send", json!({"to": {"user": "bob"}, "id": "1", "body": "x".repeat(17_000)}), 107),
        ("send", json!({"to": "bob"}), 107),
        ("nonsense", json!({}), 104),
    ] {
        assert_eq!(refused(&mut eve, method, data).await, code, "{method}");
    }
}

#[tokio::test]
async fn membership_opens_and_closes_a_group() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let (ada_token, bob_token) = (register(&node, "ada").await, register(&node, "bob").await);
    let mut ada = connect(&node, &ada_token).await;
    let mut bob = connect(&node, &bob_token).await;
    let group = call(&mut ada, "groups.create", json!({"name": "Lunch"})).await;
    let (id, channel) = (&group["group"], group["channel"].as_str().unwrap());
    ada.subscribe(channel).await;
    send(&mut ada, json!({"group": id}), "m1").await;

    let subscribe = json!({"channel": channel});
    assert_eq!(bob.call("subscribe", subscribe.clone()).await["error"]["code"], 103);
    let message = json!({"to": {"group": id}, "id": "x", "body": 1});
    assert_eq!(refused(&mut bob, "send", message).await, 103);
    let listed = call(&mut bob, "groups.list", json!({"open": true})).await;
    assert_eq!(listed["groups"][0]["name"], "Lunch", "{listed}");
    for _ in 0..2 {
        let joined = call(&mut bob, "groups.join", json!({"group": id})).await;
        assert_eq!(joined["channel"], channel);
    }
    bob.subscribe(channel).await;
    let inbox = call(&mut bob, "inbox", json!({})).await;
    assert_eq!(inbox["conversations"][0]["unread"], 0, "what was before is not unread: {inbox}");
    let members = call(&mut ada, "groups.members", json!({"group": id})).await;
    let names: Vec<_> = members["members"].as_array().unwrap().iter().map(|m| &m["user"]).collect();
    assert_eq!(names, ["ada", "bob"], "{members}");
    assert_eq!(members["members"][1]["online"], true);
    send(&mut bob, json!({"group": id}), "m2").await;

    call(&mut bob, "groups.leave", json!({"group": id})).await;
    assert_eq!(bob.push_of("unsubscribe").await["code"], 2000);
    assert_eq!(bob.call("subscribe", subscribe).await["error"]["code"], 103);
    assert_eq!(call(&mut bob, "groups.list", json!({})).await["groups"], json!([]));

    let closed = call(&mut ada, "groups.create", json!({"name": "Board", "open": false})).await;
    let id = &closed["group"];
    assert_eq!(refused(&mut bob, "groups.join", json!({"group": id})).await, 103);
    assert_eq!(refused(&mut bob, "groups.add", json!({"group": id, "user": "bob"})).await, 103);
    call(&mut ada, "groups.add", json!({"group": id, "user": "bob"})).await;
    bob.subscribe(closed["channel"].as_str().unwrap()).await;
}

#[tokio::test]
async fn contacts_show_who_is_there_and_blocking_hides_and_silences() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let (ada_token, bob_token) = (register(&node, "ada").await, register(&node, "bob").await);
    let mut ada = connect(&node, &ada_token).await;
    call(&mut ada, "contacts.add", json!({"user": "bob"})).await;
    assert_eq!(refused(&mut ada, "contacts.add", json!({"user": "nobody"})).await, 404);
    let contacts = call(&mut ada, "contacts.list", json!({})).await;
    let expected = json!([{"user": "bob", "name": "BOB", "online": false, "blocked": false}]);
    assert_eq!(contacts["contacts"], expected);
    let mut bob = connect(&node, &bob_token).await;
    assert_eq!(call(&mut ada, "contacts.presence", json!({})).await["online"], json!(["bob"]));

    call(&mut bob, "contacts.block", json!({"user": "ada"})).await;
    assert_eq!(call(&mut ada, "contacts.presence", json!({})).await["online"], json!([]));
    let message = json!({"to": {"user": "bob"}, "id": "1", "body": 1});
    assert_eq!(refused(&mut ada, "send", message.clone()).await, 103);
    call(&mut bob, "contacts.unblock", json!({"user": "ada"})).await;
    call(&mut ada, "send", message).await;
}

#[tokio::test]
async fn logging_out_closes_the_devices_of_that_login() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let token = register(&node, "ada").await;
    let (_, other) =
        chat(&node, "login", "", &json!({"user": "ada", "password": "correct horse"})).await;
    let mut first = connect(&node, &token).await;
    let mut second = connect(&node, other["token"].as_str().unwrap()).await;
    assert_eq!(chat(&node, "logout", &token, &json!({})).await.0, 204);
    assert_eq!(first.closed().await, 3500);
    call(&mut second, "inbox", json!({})).await;
    let mut again = Client::open(node.client).await;
    again.command("connect", json!({"token": token})).await;
    assert_eq!(again.next().await, Incoming::Closed(3500, "invalid token".to_owned()));
}

#[tokio::test]
async fn the_model_is_one_over_several_nodes() {
    let redis = Redis::primary().await;
    let (here, there) = (node(&redis).await, node(&redis).await);
    let (ada_token, bob_token) = (register(&here, "ada").await, register(&there, "bob").await);
    let mut ada = connect(&here, &ada_token).await;
    let mut bob = connect(&there, &bob_token).await;
    let group = call(&mut ada, "groups.create", json!({"name": "Lunch"})).await;
    let id = group["group"].clone();
    call(&mut bob, "groups.join", json!({"group": id})).await;
    bob.subscribe(group["channel"].as_str().unwrap()).await;
    send(&mut ada, json!({"group": id}), "m1").await;
    eventually("the message on the other node", async || {
        let push = bob.push_of("pub").await;
        (push["data"]["id"] == "m1").then_some(())
    })
    .await;
    // A login ended on one node is over on the other.
    assert_eq!(chat(&here, "logout", &bob_token, &json!({})).await.0, 204);
    assert_eq!(bob.closed().await, 3500);
}
