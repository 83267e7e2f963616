//! Clients are told to leave: paced drains, rebalancing, a graceful end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use support::{Balancer, DEADLINE, Upstream, settings, until};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket and returns the name of the server it reached.
async fn open(balancer: &Balancer) -> (Socket, String) {
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let name = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
    (socket, name)
}

async fn open_many(balancer: &Balancer, count: usize) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(open(balancer).await.0);
    }
    sockets
}

async fn works(socket: &mut Socket) {
    socket.send(Message::text("ping")).await.unwrap();
    let answer = timeout(DEADLINE, socket.next()).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), Message::text("ping"));
}

/// Reads to the end; the Close frame on the way, and when it came.
async fn farewell(mut socket: Socket) -> (Option<CloseFrame>, Instant) {
    let mut last = (None, Instant::now());
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(frame) = message {
            last = (frame, Instant::now());
        }
    }
    last
}

/// What every one of them was told, and when.
async fn farewells(sockets: Vec<Socket>) -> Vec<(String, Instant)> {
    let mut all: JoinSet<_> = sockets.into_iter().map(farewell).collect();
    let mut told = Vec::new();
    while let Some(one) = timeout(DEADLINE, all.join_next()).await.unwrap() {
        let (frame, at) = one.unwrap();
        let frame = frame.expect("a Close frame");
        told.push((format!("{} {}", u16::from(frame.code), frame.reason), at));
    }
    told.sort_by_key(|(_, at)| *at);
    told
}

async fn drain_of(balancer: &Balancer, server: &str, left: u64) -> Value {
    until(&format!("{left} connections left at {server}"), async || {
        let server = balancer.server(server).await;
        if server["drain"]["left"] == left { Ok(server["drain"].clone()) } else { Err(server) }
    })
    .await
}

#[tokio::test]
async fn a_drain_keeps_its_pace_and_tells_how_far_it_is() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let sockets = open_many(&balancer, 40).await;
    let told = tokio::spawn(farewells(sockets));
    let begun = Instant::now();
    let order = r#"{"state":"drain","drain":{"rate":20,"deadline":"10m"},"reason":"test"}"#;
    let (status, view) = balancer.api("PATCH", "/pools/p/servers/a", order).await;
    assert_eq!((status, &view["state"]), (200, &json!("drain")), "{view}");
    assert_eq!((&view["drain"]["total"], &view["drain"]["rate"]), (&json!(40), &json!(20)));
    let told = timeout(DEADLINE, told).await.unwrap().unwrap();
    assert_eq!(told.len(), 40);
    assert!(told.iter().all(|(text, _)| text == "1012 drained"), "{told:?}");
    // However busy the machine is, it may be slower than its pace and never faster.
    let took = told[39].1 - begun;
    assert!(took >= Duration::from_millis(1_500), "{took:?} for 40 at 20/s");
    let view = drain_of(&balancer, "a", 0).await;
    assert_eq!((&view["total"], &view["moved"]), (&json!(40), &json!(40)));
    let moved = "balancer_server_moved_connections_total{cause=\"drain\",pool=\"p\",server=\"a\"}";
    balancer.wait_metric(moved, 40.0).await;
}

#[tokio::test]
async fn a_drain_is_cancelled_by_making_the_server_ready() {
    let a = Upstream::start("a");
    // The pace of the settings is that of every drain, as the supervisor's.
    let rules = "lifetime = { drain_rate = 1 }";
    let balancer = Balancer::start(&settings(rules, &[("a", a.address)])).await;
    let mut sockets = open_many(&balancer, 20).await;
    balancer.api("PATCH", "/pools/p/servers/a", r#"{"state":"drain"}"#).await;
    until("the first to leave", async || {
        let server = balancer.server("a").await;
        if server["drain"]["moved"].as_u64() >= Some(1) { Ok(()) } else { Err(server) }
    })
    .await;
    // Said once more, it goes on and does not begin anew.
    let (_, view) = balancer.api("PATCH", "/pools/p/servers/a", r#"{"state":"drain"}"#).await;
    assert_eq!(view["drain"]["total"], 20);
    let (_, view) = balancer.api("PATCH", "/pools/p/servers/a", r#"{"state":"ready"}"#).await;
    assert_eq!((&view["state"], &view["drain"]), (&json!("ready"), &Value::Null));
    sockets.push(open(&balancer).await.0);
    let mut stayed = 0;
    for mut socket in sockets {
        if socket.send(Message::text("ping")).await.is_ok()
            && let Some(Ok(Message::Text(_))) = timeout(DEADLINE, socket.next()).await.unwrap()
        {
            works(&mut socket).await;
            stayed += 1;
        }
    }
    assert!(stayed >= 2, "{stayed} stayed");
}

#[tokio::test]
async fn at_the_deadline_all_are_told() {
    let a = Upstream::start("a");
    let rules = "lifetime = { close_code = 1001 }";
    let balancer = Balancer::start(&settings(rules, &[("a", a.address)])).await;
    let sockets = open_many(&balancer, 10).await;
    for (body, fault) in [
        (r#"{"drain":{"rate":5}}"#, "drain: needs the state drain"),
        (r#"{"state":"drain","drain":{"rate":0}}"#, "drain.rate: expected 1 to 100000, found 0"),
        (r#"{"state":"drain","drain":{"deadline":"soon"}}"#, "drain.deadline: expected"),
    ] {
        let (status, answer) = balancer.api("PATCH", "/pools/p/servers/a", body).await;
        assert_eq!(status, 422);
        assert!(answer["error"].as_str().unwrap().starts_with(fault), "{answer}");
    }
    let order = r#"{"state":"drain","drain":{"deadline":"50ms"}}"#;
    balancer.api("PATCH", "/pools/p/servers/a", order).await;
    let told = farewells(sockets).await;
    assert!(told.iter().all(|(text, _)| text == "1001 drained"), "{told:?}");
    drain_of(&balancer, "a", 0).await;
}

#[tokio::test]
async fn after_a_scale_out_connections_move_until_they_are_even() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let rules = "lifetime = { rebalance_rate = 40, rebalance_tolerance = 0.1 }";
    let balancer = Balancer::start(&settings(rules, &[("a", a.address)])).await;
    let mut clients = JoinSet::new();
    let url = format!("ws://{}/ws", balancer.address("l"));
    for _ in 0..40 {
        let url = url.clone();
        clients.spawn(async move {
            loop {
                let (socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
                let (frame, _) = farewell(socket).await;
                assert_eq!(frame.unwrap().reason.as_str(), "rebalanced");
            }
        });
    }
    let active = async |name: &str| {
        balancer.server(name).await["active_connections"].as_u64().unwrap_or_default()
    };
    until("40 connections", async || {
        let count = active("a").await;
        if count == 40 { Ok(()) } else { Err(count) }
    })
    .await;
    let new = json!({ "name": "b", "address": b.address.to_string() }).to_string();
    balancer.api("POST", "/pools/p/servers", &new).await;
    let moved =
        "balancer_server_moved_connections_total{cause=\"rebalance\",pool=\"p\",server=\"a\"}";
    until("an even spread", async || {
        let counts = (active("a").await, active("b").await);
        if counts.0 <= 22 && counts.0 + counts.1 == 40 { Ok(()) } else { Err(counts) }
    })
    .await;
    // Clients that are slow to come back may make it a few more than half, but it does not go on for ever.
    let moved = balancer.metric(moved).await;
    assert!((18.0..=40.0).contains(&moved), "{moved} moved");
    clients.abort_all();
}

#[tokio::test]
async fn a_graceful_end_tells_clients_to_leave() {
    let a = Upstream::start("a");
    let text = settings("", &[("a", a.address)]).replace("period = \"1s\"", "period = \"100ms\"");
    let mut balancer = Balancer::start(&text).await;
    let sockets = open_many(&balancer, 10).await;
    balancer.begin_end();
    let told = farewells(sockets).await;
    assert!(told.iter().all(|(text, _)| text == "1012 shutdown"), "{told:?}");
    until("the end", async || if balancer.is_ended() { Ok(()) } else { Err(()) }).await;
}
