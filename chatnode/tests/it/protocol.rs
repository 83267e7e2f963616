//! Every code of the protocol, as clients see it.

use serde_json::{Value, json};

use crate::client::{Client, Incoming, token};
use crate::kit::{DEADLINE, Node, Redis, raw_http};

fn connect(claims: &Value) -> String {
    json!({"id": 1, "connect": {"token": token(claims)}}).to_string()
}

async fn node() -> (Redis, Node) {
    let primary = Redis::primary().await;
    let redis = format!("address = \"{}\"\nconfirm_replicas = 0", primary.address());
    let node = Node::with(&redis, "[client]\nchannels_max = 3\nmessage_bytes_max = 2048").await;
    (primary, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_end_the_connection() {
    let (_redis, node) = node().await;
    let good = connect(&json!({"sub": "ada"}));
    let long = "x".repeat(3000);
    let cases = [
        ("an empty frame", vec![""], 3501),
        ("no JSON", vec!["{"], 3501),
        ("no object", vec!["[]"], 3501),
        ("a number too large", vec![r#"{"id":4294967296,"publish":{}}"#], 3501),
        ("a command before connect", vec![r#"{"id":1,"publish":{"channel":"a","data":1}}"#], 3501),
        ("connect without id", vec![r#"{"connect":{"token":"a"}}"#], 3501),
        ("connect without token", vec![r#"{"id":1,"connect":{}}"#], 3501),
        ("a second connect", vec![&good, &good], 3501),
        ("an invalid token", vec![r#"{"id":1,"connect":{"token":"a.b.c"}}"#], 3500),
        ("a token for nobody", vec![&connect(&json!({"sub": ""}))], 3507),
        (
            "a command after a refused connect",
            vec![&connect(&json!({"sub": "a", "exp": 1})), r#"{"id":2,"rpc":{}}"#],
            3501,
        ),
        ("an unasked pong", vec![&good, "{}"], 3501),
        ("an id without request", vec![&good, r#"{"id":7}"#], 3501),
        ("an unknown request", vec![&good, r#"{"id":7,"dance":{}}"#], 3501),
        ("a request without id", vec![&good, r#"{"publish":{"channel":"a","data":1}}"#], 3501),
        ("the client's ping", vec![&good, r#"{"id":2,"ping":{}}"#], 3501),
        ("a channel without name", vec![&good, r#"{"id":2,"subscribe":{}}"#], 3501),
        ("a message nobody takes", vec![&good, r#"{"send":{"data":1}}"#], 3508),
        ("refresh without token", vec![&good, r#"{"id":2,"refresh":{}}"#], 3501),
        ("refresh by an invalid token", vec![&good, r#"{"id":2,"refresh":{"token":"x"}}"#], 3500),
        (
            "refresh for another user",
            vec![
                &good,
                &json!({"id": 2, "refresh": {"token": token(&json!({"sub": "bob"}))}}).to_string(),
            ],
            3500,
        ),
        (
            "refresh by an old token",
            vec![
                &good,
                &json!({"id": 2, "refresh": {"token": token(&json!({"sub": "ada", "exp": 1}))}})
                    .to_string(),
            ],
            3005,
        ),
        ("a frame too large", vec![&good, &long], 1009),
    ]
    .map(|(what, frames, code)| {
        (what, frames.into_iter().map(str::to_owned).collect::<Vec<_>>(), code)
    });
    for (what, frames, code) in cases {
        let mut client = Client::open(node.client).await;
        for frame in &frames {
            client.send(frame).await;
        }
        assert_eq!(client.closed().await, code, "{what}");
    }
    let mut client = Client::open(node.client).await;
    client.send_binary(b"\xff\xfe").await;
    assert_eq!(client.closed().await, 3501, "no UTF-8");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_answered_with_an_error() {
    let (_redis, node) = node().await;
    let mut ada = Client::connect(node.client, "ada").await;
    ada.subscribe("a").await;
    let long = "x".repeat(256);
    for (name, body, code) in [
        ("subscribe", json!({"channel": "a"}), 105),
        ("subscribe", json!({"channel": "nowhere:a"}), 102),
        ("subscribe", json!({"channel": "$private"}), 103),
        ("subscribe", json!({"channel": "dialog#ada,bob"}), 103),
        ("subscribe", json!({"channel": "closed:a"}), 103),
        ("subscribe", json!({"channel": "map", "type": 1}), 103),
        ("subscribe", json!({"channel": long}), 107),
        ("subscribe", json!({"channel": "räume"}), 107),
        ("publish", json!({"channel": "a"}), 107),
        ("publish", json!({"channel": "closed:a", "data": 1}), 103),
        ("history", json!({"channel": "plain:a", "limit": 1}), 108),
        ("history", json!({"channel": "closed:a", "limit": 1}), 103),
        ("history", json!({"channel": "a", "limit": 1, "reverse": true, "since": {}}), 107),
        ("presence", json!({"channel": "plain:a"}), 108),
        ("presence", json!({"channel": "closed:a"}), 103),
        ("presence_stats", json!({"channel": "plain:a"}), 108),
        ("rpc", json!({"method": "x", "data": 1}), 108),
        ("sub_refresh", json!({"channel": "a", "token": "x"}), 103),
    ] {
        let reply = ada.call(name, body.clone()).await;
        assert_eq!(reply["error"]["code"], code, "{name} {body} {reply}");
        assert!(reply["error"]["message"].is_string());
    }
    ada.subscribe("b").await;
    ada.subscribe("c").await;
    assert_eq!(ada.call("subscribe", json!({"channel": "d"})).await["error"]["code"], 106);
    // Leaving what one is not in is no error, and makes room.
    assert_eq!(ada.call("unsubscribe", json!({"channel": "d"})).await["unsubscribe"], json!({}));
    ada.call("unsubscribe", json!({"channel": "c"})).await;
    ada.subscribe("d").await;
    node.until_metric("chatnode_command_errors_total{code=\"103\"}", 5.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_an_error_and_the_rest_of_its_frame_is_not_executed() {
    let (_redis, node) = node().await;
    let mut ada = Client::open(node.client).await;
    let expired = connect(&json!({"sub": "ada", "exp": 1}));
    ada.send(&format!("{expired}\n{}", r#"{"id":2,"publish":{"channel":"a","data":1}}"#)).await;
    let Incoming::Document(reply) = ada.next().await else { panic!("closed") };
    assert_eq!(reply["error"]["code"], 109);
    ada.send(r#"{"id":3,"publish":{"channel":"a","data":1}}"#).await;
    assert_eq!(ada.next().await, Incoming::Closed(3501, "bad request".to_owned()));
    let mut bob = Client::connect(node.client, "bob").await;
    assert_eq!(bob.history("a").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_expire_unless_refreshed() {
    let (_redis, node) = node().await;
    let far = 4_000_000_000_u64;
    let mut ada = Client::open(node.client).await;
    let reply =
        ada.call("connect", json!({"token": token(&json!({"sub": "ada", "exp": far}))})).await;
    assert_eq!(reply["connect"]["expires"], true);
    assert!(reply["connect"]["ttl"].as_u64().unwrap() > 1000);
    assert_eq!((&reply["connect"]["ping"], &reply["connect"]["pong"]), (&json!(25), &json!(true)));
    let reply = ada.call("refresh", json!({"token": token(&json!({"sub": "ada"}))})).await;
    assert!(reply["refresh"]["client"].is_string() && reply["refresh"].get("expires").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_are_closed() {
    let primary = Redis::primary().await;
    let redis = format!("address = \"{}\"", primary.address());
    // Long enough for a busy machine to connect and to send a pong.
    let timers = "[client]\nstale_timeout = \"2s\"\nping_interval = \"4s\"\npong_timeout = \"2s\"";
    let node = Node::with(&redis, timers).await;
    // Also whoever does not even ask, or not to the end.
    for request in ["", "GET /connection/websocket HTTP/1.1\r\nHost: node\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(node.client).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
        tokio::time::timeout(DEADLINE, end).await.expect("the connection is closed").unwrap();
    }
    assert_eq!(Client::open(node.client).await.closed().await, 3502);
    let mut ada = Client::connect(node.client, "ada").await;
    assert_eq!(ada.next().await, Incoming::Document(json!({})));
    ada.send("{}").await;
    assert_eq!(ada.next().await, Incoming::Document(json!({})), "a pong keeps it open");
    assert_eq!(ada.next().await, Incoming::Closed(3012, "no pong".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upgrade_is_tolerant_where_sdks_need_it_and_clear_where_not() {
    let primary = Redis::primary().await;
    let redis = format!("address = \"{}\"", primary.address());
    let limits = "[client]\nconnections_max = 1\nallowed_origins = [\"https://chat.example.org\"]";
    let node = Node::with(&redis, limits).await;
    let upgrade = |headers: &str| {
        format!(
            "GET /connection/websocket?cf_protocol_version=v2 HTTP/1.1\r\nHost: node\r\nConnection: Upgrade, close\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
    };
    let (status, _) = raw_http(node.client, &upgrade("Origin: https://evil.example.org\r\n")).await;
    assert_eq!(status, 403);
    // The node closes an upgraded connection that never connects, which ends the answer.
    for headers in [
        "Sec-WebSocket-Protocol: \r\n",
        "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
        "Origin: https://chat.example.org\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(node.client).await.unwrap();
        let mut status = [0; 12];
        tokio::io::AsyncWriteExt::write_all(&mut stream, upgrade(headers).as_bytes())
            .await
            .unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 101", "{headers}");
        drop(stream);
        crate::kit::eventually("room", async || {
            (node.metric("chatnode_connections").await == 0.0).then_some(())
        })
        .await;
    }
    let _only = Client::connect(node.client, "ada").await;
    let (status, _) = raw_http(node.client, &upgrade("")).await;
    assert_eq!(status, 503);
    node.until_metric("chatnode_rejected_connections_total{reason=\"limit\"}", 1.0).await;
}
