//! The server API over a running node.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::Client;
use crate::kit::{Node, Redis, http, raw_http};

const KEY: &str = "a key";

/// `printf %s 'a key' | sha256sum`
const SETTINGS: &str = "[api]\nkey_hashes = [\"7f0d7c2b9a6f2c1b\"]\n";

/// A node with one API key, in memory.
async fn node(redis: &Redis) -> Node {
    let hash = sha256(KEY);
    let more = SETTINGS.replace("7f0d7c2b9a6f2c1b", &hash);
    Node::with(&format!("address = \"{}\"\nconfirm_replicas = 0", redis.address()), &more).await
}

fn sha256(text: &str) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// Status and body of a call with these header lines.
async fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let (status, answer) = raw_http(address, &request).await;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

/// What a method answers.
async fn call(node: &Node, method: &str, body: Value) -> Value {
    let headers = format!("X-API-Key: {KEY}\r\n");
    let (status, answer) =
        post(node.admin, &format!("/api/{method}"), &headers, &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn a_call_needs_a_key_in_one_of_its_three_places() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    for (path, headers, status) in [
        ("/api/info", "X-API-Key: a key\r\n", 200),
        ("/api/info", "Authorization: apikey a key\r\n", 200),
        ("/api/info?api_key=a%20key", "", 200),
        ("/api/info", "X-API-Key: another\r\n", 401),
        ("/api/info", "Authorization: Bearer a key\r\n", 401),
        ("/api/info", "", 401),
    ] {
        let (got, body) = post(node.admin, path, headers, "{}").await;
        assert_eq!(got, status, "{path} {headers}: {body}");
        assert!(status == 200 || body.is_empty(), "{body}");
    }
    let (status, _) = post(node.client, "/api/info", "X-API-Key: a key\r\n", "{}").await;
    assert_eq!(status, 404, "the API is not on the clients' listener unless it is asked for");
    let (status, document) = http(node.admin, "GET", "/api/openapi.json", None).await;
    assert!(status == 200 && document.contains("\"/api/publish\""), "{document}");
}

#[tokio::test]
async fn publications_reach_subscribers_and_are_kept_once_for_each_idempotency_key() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let mut client = Client::connect(node.client, "42").await;
    client.subscribe("news").await;
    let publish =
        json!({"channel": "news", "data": {"n": 1}, "tags": {"a": "b"}, "idempotency_key": "k"});
    let first = call(&node, "publish", publish.clone()).await;
    assert_eq!(first["result"]["offset"], 1, "{first}");
    assert_eq!(call(&node, "publish", publish).await, first, "published once");
    let second = call(&node, "publish", json!({"channel": "news", "data": 2})).await;
    assert_eq!(second["result"]["offset"], 2);
    assert_eq!(second["result"]["epoch"], first["result"]["epoch"]);
    assert_eq!(client.push_of("pub").await["data"], json!({"n": 1}));
    assert_eq!(client.push_of("pub").await["data"], 2);

    let skipped = json!({"channel": "news", "b64data": "Mw==", "skip_history": true});
    assert_eq!(call(&node, "publish", skipped).await["result"]["offset"], 0);
    assert_eq!(client.push_of("pub").await["data"], 3);

    let history = call(&node, "history", json!({"channel": "news", "limit": -1})).await;
    let publications = history["result"]["publications"].as_array().unwrap();
    assert_eq!(publications.len(), 2, "{history}");
    assert_eq!(publications[0]["tags"], json!({"a": "b"}));
    assert_eq!((&history["result"]["offset"], &publications[1]["data"]), (&json!(2), &json!(2)));
    let epoch = &first["result"]["epoch"];
    let since = json!({"channel": "news", "limit": 10, "since": {"offset": 1, "epoch": epoch}});
    let page = call(&node, "history", since).await;
    assert_eq!(page["result"]["publications"].as_array().unwrap().len(), 1);
    let lost = json!({"channel": "news", "since": {"offset": 1, "epoch": "other"}});
    assert_eq!(call(&node, "history", lost).await["error"]["code"], 112);

    assert_eq!(
        call(&node, "history_remove", json!({"channel": "news"})).await,
        json!({"result": {}})
    );
    let history = call(&node, "history", json!({"channel": "news", "limit": -1})).await;
    assert_eq!(history["result"]["publications"], json!([]));
    assert_eq!(history["result"]["offset"], 2, "positions go on");
}

#[tokio::test]
async fn broadcasts_and_batches_answer_in_order_and_each_for_itself() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let broadcast = json!({"channels": ["a", "nowhere:b", "c"], "data": {"x": 1}});
    let answer = call(&node, "broadcast", broadcast).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert_eq!(responses[0]["result"]["offset"], 1, "{answer}");
    assert_eq!(responses[1]["error"]["code"], 102);
    assert_eq!(responses[2]["result"]["offset"], 1);

    for parallel in [false, true] {
        let batch = json!({"parallel": parallel, "commands": [
            {"publish": {"channel": "a", "data": 2}},
            {"presence_stats": {"channel": "a"}},
            {"nonsense": {}},
            {"history": {"channel": "plain:x"}},
        ]});
        let answer = call(&node, "batch", batch).await;
        let replies = answer["result"]["replies"].as_array().unwrap();
        assert!(replies[0]["publish"]["offset"].as_u64().unwrap() > 1, "{answer}");
        assert_eq!(replies[1]["presence_stats"], json!({"num_clients": 0, "num_users": 0}));
        assert_eq!(replies[2]["error"]["code"], 104);
        assert_eq!(replies[3]["error"]["code"], 108);
    }
}

#[tokio::test]
async fn mistakes_are_named_and_may_show_as_statuses() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    for (method, body, code, status) in [
        ("publish", json!({"channel": "a"}), 107, 400),
        ("publish", json!({"data": 1}), 107, 400),
        ("publish", json!({"channel": "nowhere:a", "data": 1}), 102, 404),
        ("publish", json!({"channel": "a", "b64data": "?"}), 107, 400),
        ("publish", json!({"channel": "a", "data": 1, "tags": {"a": 1}}), 107, 400),
        ("presence", json!({"channel": "plain:a"}), 108, 400),
        ("disconnect", json!({}), 107, 400),
        ("disconnect", json!({"user": "1", "disconnect": {"code": 1, "reason": ""}}), 107, 400),
        ("rpc", json!({"method": "x"}), 104, 404),
        ("nonsense", json!({}), 104, 404),
    ] {
        assert_eq!(
            call(&node, method, body.clone()).await["error"]["code"],
            code,
            "{method} {body}"
        );
        let headers = format!("X-API-Key: {KEY}\r\nX-Centrifugo-Error-Mode: transport\r\n");
        let path = format!("/api/{method}");
        let (got, answer) = post(node.admin, &path, &headers, &body.to_string()).await;
        let error: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{method} {body}");
    }
    let (status, _) = post(node.admin, "/api/publish", "X-API-Key: a key\r\n", "{").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn orders_reach_a_users_connections_on_every_node() {
    let redis = Redis::primary().await;
    let (here, there) = (node(&redis).await, node(&redis).await);
    crate::kit::eventually("the nodes' knowledge of each other", async || {
        let info = call(&here, "info", json!({})).await;
        (info["result"]["nodes"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let mut first = Client::connect(here.client, "42").await;
    let mut second = Client::connect(there.client, "42").await;
    let mut other = Client::connect(there.client, "43").await;
    let subscribe = json!({"user": "42", "channel": "news", "data": {"by": "api"}});
    assert_eq!(call(&here, "subscribe", subscribe).await, json!({"result": {}}));
    for client in [&mut first, &mut second] {
        let push = client.push_of("subscribe").await;
        assert_eq!(push["data"], json!({"by": "api"}), "{push}");
    }
    let channels = call(&here, "channels", json!({"pattern": "ne*"})).await;
    assert_eq!(channels["result"]["channels"], json!({"news": {"num_clients": 2}}));
    let stats = call(&here, "presence_stats", json!({"channel": "news"})).await;
    assert_eq!(stats["result"], json!({"num_clients": 2, "num_users": 1}));
    call(&here, "unsubscribe", json!({"user": "42", "channel": "news"})).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.push_of("unsubscribe").await["code"], 2000);
    }
    let disconnect = json!({"user": "42", "whitelist": [first.id],
        "disconnect": {"code": 4100, "reason": "elsewhere"}});
    call(&here, "disconnect", disconnect).await;
    assert_eq!(second.closed().await, 4100);
    call(&there, "disconnect", json!({"client": first.id})).await;
    assert_eq!(first.closed().await, 3503);
    call(&here, "refresh", json!({"user": "43", "expired": true})).await;
    assert_eq!(other.closed().await, 3005);
}

#[tokio::test]
async fn tokens_taken_back_close_connections_and_open_none() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let one = crate::client::token(&json!({"sub": "42", "jti": "t1", "iat": 1}));
    let mut client = Client::open(node.client).await;
    client.call("connect", json!({"token": one})).await;
    let mut another = Client::connect(node.client, "42").await;
    call(&node, "revoke_token", json!({"uid": "t1"})).await;
    assert_eq!(client.closed().await, 3500);
    another.subscribe("news").await;
    let mut again = Client::open(node.client).await;
    again.command("connect", json!({"token": one})).await;
    assert_eq!(again.closed().await, 3500);

    let old = crate::client::token(&json!({"sub": "42", "iat": 1}));
    let mut client = Client::open(node.client).await;
    client.call("connect", json!({"token": old})).await;
    call(&node, "invalidate_user_tokens", json!({"user": "42", "issued_before": 100})).await;
    assert_eq!(client.closed().await, 3500);
    let fresh = crate::client::token(&json!({"sub": "42", "iat": 100}));
    let mut client = Client::open(node.client).await;
    assert!(client.call("connect", json!({"token": fresh})).await.get("connect").is_some());
}

#[tokio::test]
async fn rules_of_channels_are_read_again_without_dropping_anybody() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let mut client = Client::connect(node.client, "42").await;
    let closed = json!({"channel": "closed:a"});
    assert_eq!(client.call("subscribe", closed.clone()).await["error"]["code"], 103);
    let file = node.dir.path().join("chatnode.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let name = "name = \"closed\"\n";
    let opened = text.replace(name, "name = \"closed\"\nallow_subscribe_for_client = true\n");
    let token = Some(crate::kit::ADMIN_TOKEN);
    std::fs::write(&file, text.replace(name, "name = \"closed\"\nallow = true\n")).unwrap();
    let (status, faults) = http(node.admin, "POST", "/reload", token).await;
    assert!(status == 400 && faults.contains("unknown field `allow`"), "{faults}");
    assert!(node.metric("chatnode_config_last_reload_successful").await < 0.5);
    std::fs::write(&file, opened).unwrap();
    assert_eq!(http(node.admin, "POST", "/reload", None).await.0, 401);
    assert_eq!(http(node.admin, "POST", "/reload", token).await.0, 200);
    assert!(node.metric("chatnode_config_last_reload_successful").await > 0.5);
    client.subscribe("closed:a").await;
}
