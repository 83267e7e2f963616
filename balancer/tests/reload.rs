//! New settings under traffic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use support::{Balancer, Upstream, request, settings, until};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_reload_keeps_connections_and_what_was_set_at_run_time() {
    let (a, b, c) = (Upstream::start("a"), Upstream::start("b"), Upstream::start("c"));
    let first = settings("", &[("a", a.address), ("b", b.address)]);
    let balancer = Balancer::start(&first).await;
    let address = balancer.address("l");
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{address}/ws")).await.unwrap();
    let name = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
    balancer.api("PATCH", "/pools/p/servers/a", r#"{"weight":30}"#).await;
    balancer.api("PATCH", "/pools/p/servers/b", r#"{"weight":40}"#).await;

    // Nothing differs, so nothing changes.
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!((status, answer), (200, serde_json::json!({ "changed": [] })));

    // The server the WebSocket is on goes, another comes, the pool gets new rules.
    let (kept, kept_address) = if name == "a" { ("b", b.address) } else { ("a", a.address) };
    balancer
        .write(&settings("algorithm = \"round_robin\"", &[(kept, kept_address), ("c", c.address)]));
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["changed"],
        serde_json::json!([
            "pool p has new rules",
            format!("pool p: server {name} removed"),
            "pool p: server c added"
        ])
    );
    assert_eq!(balancer.address("l"), address);
    assert_eq!(balancer.server(kept).await["weight"], if kept == "a" { 30 } else { 40 });
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    for _ in 0..4 {
        assert_eq!(request(address, "GET", "/", &[], b"").await.status, 200);
    }
    assert_eq!(c.requests(), 2);
    socket.close(None).await.unwrap();
    drop(socket);
    until("the removed server's series to go", async || {
        let text = balancer.metrics().await;
        if text.contains(&format!("server=\"{name}\"")) { Err(()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn bad_settings_change_nothing() {
    let a = Upstream::start("a");
    let first = settings("", &[("a", a.address)]);
    let balancer = Balancer::start(&first).await;
    let l = balancer.address("l");
    let other = "[[listener]]\nname = \"m\"\nlisten = \"127.0.0.1:0\"\npool = \"p\"\n";
    let occupied =
        format!("{first}[[listener]]\nname = \"m\"\nlisten = \"{}\"\npool = \"p\"\n", a.address);
    for (text, fault) in [
        (first.replace("pool = \"p\"", "pool = \"q\""), "listener[0].pool: there is no pool"),
        (format!("{first}{other}wrong = 1\n"), "unknown field"),
        (occupied, "listener[1].listen: bind 127.0.0.1:"),
    ] {
        balancer.write(&text);
        let (status, answer) = balancer.api("POST", "/reload", "").await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["faults"][0].as_str().unwrap().contains(fault), "{answer}");
        balancer.wait_metric("balancer_config_last_reload_successful", 0.0).await;
        assert_eq!(request(l, "GET", "/", &[], b"").await.status, 200);
        assert_eq!(balancer.api("GET", "/pools", "").await.1["pools"].as_array().unwrap().len(), 1);
    }
    balancer.write(&first);
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    balancer.wait_metric("balancer_config_last_reload_successful", 1.0).await;
}

#[tokio::test]
async fn listeners_and_pools_come_go_and_change_names() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let first = settings("", &[("a", a.address)]);
    let balancer = Balancer::start(&first).await;
    let l = balancer.address("l");
    let second = format!(
        "{first}[[listener]]\nname = \"m\"\nlisten = \"127.0.0.1:0\"\npool = \"q\"\n\
         [[pool]]\nname = \"q\"\n[[pool.server]]\nname = \"b\"\naddress = \"{}\"\n",
        b.address
    );
    balancer.write(&second);
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    let m = balancer.address("m");
    assert_eq!((balancer.address("l"), m == l), (l, false));
    assert!(request(m, "GET", "/", &[], b"").await.text().contains("\"server\":\"b\""));

    // Back to one listener, under a new name and for the other pool.
    let third = second
        .replace(
            "name = \"l\"\nlisten = \"127.0.0.1:0\"",
            &format!("name = \"n\"\nlisten = \"{l}\""),
        )
        .replacen("pool = \"p\"", "pool = \"q\"", 1)
        .replace("[[listener]]\nname = \"m\"\nlisten = \"127.0.0.1:0\"\npool = \"q\"\n", "");
    balancer.write(&third);
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(balancer.address("n"), l, "the address stays, so the socket stays");
    assert!(request(l, "GET", "/", &[], b"").await.text().contains("\"server\":\"b\""));
    until("the old address to be free", async || {
        tokio::net::TcpListener::bind(m).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    until("the series of the old listeners to go", async || {
        let text = balancer.metrics().await;
        let old = text.contains("listener=\"l\"") || text.contains("listener=\"m\"");
        if old { Err(text) } else { Ok(()) }
    })
    .await;
}

/// Connections under traffic through the reloads.
const SOCKETS: usize = 100;
const RELOADS: usize = 10;

#[tokio::test]
async fn no_connection_is_dropped_and_no_byte_is_wrong_while_settings_change() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let both = settings("algorithm = \"round_robin\"", &[("a", a.address), ("b", b.address)]);
    let one = settings("slow_start = \"1s\"", &[("b", b.address)]);
    let balancer = Balancer::start(&both).await;
    let url = format!("ws://{}/ws", balancer.address("l"));
    let over = tokio_util::sync::CancellationToken::new();
    let heard = Arc::new(AtomicUsize::new(0));
    let mut talkers = tokio::task::JoinSet::new();
    for talker in 0..SOCKETS {
        let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
        socket.next().await.unwrap().unwrap();
        let (over, heard) = (over.clone(), Arc::clone(&heard));
        talkers.spawn(async move {
            let mut said = 0_usize;
            while !over.is_cancelled() {
                let message =
                    Message::text(format!("{talker} {said} {}", "x".repeat(said % 3_000)));
                socket.send(message.clone()).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), message);
                said += 1;
                heard.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for n in 0..RELOADS {
        balancer.write(if n % 2 == 0 { &one } else { &both });
        let (status, answer) = balancer.api("POST", "/reload", "").await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(request(balancer.address("l"), "GET", "/", &[], b"").await.status, 200);
        let before = heard.load(Ordering::Relaxed);
        until("traffic under the new settings", async || {
            let since = heard.load(Ordering::Relaxed) - before;
            if since >= 10 * SOCKETS { Ok(()) } else { Err(since) }
        })
        .await;
    }
    over.cancel();
    // A talker that lost its connection or heard something wrong has panicked.
    assert_eq!(talkers.join_all().await.len(), SOCKETS);
    assert_eq!(a.requests() + b.requests(), SOCKETS + RELOADS);
}
