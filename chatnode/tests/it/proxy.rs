//! Back ends that decide: a small one is asked over HTTP by a running node.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::post;
use serde_json::{Value, json};

use crate::client::{Client, Incoming};
use crate::kit::{Node, Redis, eventually};

/// A back end that notes what it was asked.
#[derive(Default)]
struct BackEnd {
    asked: Mutex<Vec<Value>>,
    count: AtomicUsize,
    broken: AtomicBool,
}

async fn answer(
    State(back_end): State<Arc<BackEnd>>,
    headers: HeaderMap,
    Json(mut question): Json<Value>,
) -> Response {
    back_end.count.fetch_add(1, Ordering::SeqCst);
    if back_end.broken.load(Ordering::SeqCst) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    question["token"] = json!(headers["authorization"].to_str().unwrap());
    let (channel, method) = (question["channel"].as_str(), question["method"].as_str());
    let reply = match (channel, method) {
        (Some("gated:open"), _) if question.get("data").is_some_and(|data| data["n"] == 1) => {
            json!({"result": {"data": {"n": 2}}})
        }
        (Some("gated:open"), _) => {
            json!({"result": {"info": {"role": "guest"}, "data": {"hello": 1}}})
        }
        (Some("gated:closed"), _) => json!({"error": {"code": 1001, "message": "no seats"}}),
        (Some(_), _) => json!({"disconnect": {"code": 4501, "reason": "go away"}}),
        (_, Some("sum")) => json!({"result": {"data": {"sum": 3}}}),
        (_, Some(_)) => json!({"error": {"code": 404, "message": "no such thing"}}),
        _ => {
            json!({"result": {"user": "42", "info": {"name": "Ada"}, "channels": ["news"], "meta": {"m": 1}}})
        }
    };
    back_end.asked.lock().unwrap().push(question);
    Json(reply).into_response()
}

/// A back end and a node that asks it about everything.
async fn start(redis: &Redis) -> (Arc<BackEnd>, Node) {
    let back_end = Arc::new(BackEnd::default());
    let router = Router::new().route("/ask", post(answer)).with_state(Arc::clone(&back_end));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ask", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "back end's token").unwrap();
    let more = format!(
        "[access]\nconnect_proxy = \"main\"\nrpc_proxy = \"main\"\n\
         [[proxy]]\nname = \"main\"\nurl = \"{url}\"\ntoken_file = \"{}\"\nfailures_max = 3\npause = \"1m\"\ntimeout = \"10s\"\n\
         [[namespace]]\nname = \"gated\"\nsubscribe_proxy = \"main\"\npublish_proxy = \"main\"\n",
        token.display()
    );
    let address = format!("address = \"{}\"\nconfirm_replicas = 0", redis.address());
    (back_end, Node::with(&address, &more).await)
}

#[tokio::test]
async fn the_back_end_says_who_connects_and_what_is_allowed() {
    let redis = Redis::primary().await;
    let (back_end, node) = start(&redis).await;
    let mut client = Client::open(node.client).await;
    let reply = client.call("connect", json!({"data": {"ticket": 7}, "name": "test"})).await;
    assert!(reply["connect"]["subs"].get("news").is_some(), "{reply}");
    let question = back_end.asked.lock().unwrap()[0].clone();
    assert_eq!(question["data"], json!({"ticket": 7}));
    assert_eq!(question["client"], reply["connect"]["client"]);
    assert_eq!(
        (&question["transport"], &question["protocol"]),
        (&json!("websocket"), &json!("json"))
    );
    assert_eq!(
        (&question["name"], &question["token"]),
        (&json!("test"), &json!("Bearer back end's token"))
    );

    let open = client.call("subscribe", json!({"channel": "gated:open"})).await;
    assert_eq!(open["subscribe"]["data"], json!({"hello": 1}), "{open}");
    let question = back_end.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!((&question["user"], &question["meta"]), (&json!("42"), &json!({"m": 1})));
    let closed = client.call("subscribe", json!({"channel": "gated:closed"})).await;
    assert_eq!(closed["error"], json!({"code": 1001, "message": "no seats"}));

    client.publish("gated:open", json!({"n": 1})).await;
    assert_eq!(client.push_of("pub").await["data"], json!({"n": 2}), "the back end changed it");
    let sum = client.call("rpc", json!({"method": "sum", "data": [1, 2]})).await;
    assert_eq!(sum["rpc"]["data"], json!({"sum": 3}));
    let unknown = client.call("rpc", json!({"method": "other"})).await;
    assert_eq!(unknown["error"]["code"], 404);
    client.command("subscribe", json!({"channel": "gated:other"})).await;
    assert_eq!(client.next().await, Incoming::Closed(4501, "go away".to_owned()));
}

#[tokio::test]
async fn a_back_end_that_fails_is_left_alone() {
    let redis = Redis::primary().await;
    let (back_end, node) = start(&redis).await;
    let mut client = Client::open(node.client).await;
    client.call("connect", json!({})).await;
    back_end.broken.store(true, Ordering::SeqCst);
    let before = back_end.count.load(Ordering::SeqCst);
    for _ in 0..10 {
        let reply = client.call("rpc", json!({"method": "sum"})).await;
        assert_eq!(reply["error"]["code"], 100, "{reply}");
        assert_eq!(reply["error"]["temporary"], true);
    }
    assert_eq!(back_end.count.load(Ordering::SeqCst) - before, 3, "not asked any more");
    eventually("the metric of the open breaker", async || {
        (node.metric("chatnode_proxy_open{proxy=\"main\"}").await > 0.5).then_some(())
    })
    .await;
}
