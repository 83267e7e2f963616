//! Faults on purpose: what clients see, and that they end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use support::{Balancer, DEADLINE, Upstream, request, settings, until};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

const ENABLED: &str = "[faults]\nenabled = true\nmax_lease = \"5m\"\n";

async fn balancer(pool: &str, servers: &[&Upstream]) -> Balancer {
    let servers: Vec<_> =
        servers.iter().map(|server| (server.shared.name.as_str(), server.address)).collect();
    Balancer::start(&format!("{ENABLED}{}", settings(pool, &servers))).await
}

/// Injects a fault and returns its number.
async fn inject(balancer: &Balancer, fault: &str) -> u64 {
    let body = format!(r#"{{"pool":"p",{fault}}}"#);
    let (status, answer) = balancer.api("POST", "/faults", &body).await;
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_u64().unwrap()
}

async fn end(balancer: &Balancer, id: u64) {
    let (status, answer) = balancer.api("DELETE", &format!("/faults/{id}"), "").await;
    assert_eq!(status, 204, "{answer}");
}

#[tokio::test]
async fn without_leave_there_are_none() {
    let a = Upstream::start("a");
    let servers = [("a", a.address)];
    let balancer = Balancer::start(&settings("", &servers)).await;
    let body = r#"{"pool":"p","effect":"refuse","lease":"1m"}"#;
    assert_eq!(balancer.api("POST", "/faults", body).await.0, 403);
    let (status, list) = balancer.api("GET", "/faults", "").await;
    assert_eq!((status, &list["enabled"]), (200, &false.into()));
    // With leave by a reload; taken away again, what is in force ends.
    balancer.write(&format!("{ENABLED}{}", settings("", &servers)));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    assert_eq!(balancer.api("POST", "/faults", body).await.0, 201);
    assert_eq!(request(balancer.address("l"), "GET", "/", &[], b"").await.status, 502);
    balancer.write(&settings("", &servers));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    let (_, list) = balancer.api("GET", "/faults", "").await;
    assert_eq!(list["faults"], serde_json::json!([]));
}

#[tokio::test]
async fn a_fault_is_asked_for_in_full() {
    let a = Upstream::start("a");
    let balancer = balancer("", &[&a]).await;
    for (body, status, expected) in [
        (r#"{"pool":"q","effect":"hang","lease":"1m"}"#, 404, "there is no pool named q"),
        (r#"{"pool":"p","server":"x","effect":"hang","lease":"1m"}"#, 404, "there is no server"),
        (r#"{"pool":"p","effect":"hang"}"#, 422, "missing field `lease`"),
        (r#"{"pool":"p","effect":"hang","lease":"0s"}"#, 422, "lease: expected a duration"),
        (r#"{"pool":"p","effect":"hang","lease":"6m"}"#, 422, "lease: expected at most 5m"),
        (r#"{"pool":"p","effect":"hang","lease":"soon"}"#, 422, "lease: "),
        (r#"{"pool":"p","effect":"hang","lease":"1m","share":0}"#, 422, "share: expected above 0"),
        (r#"{"pool":"p","effect":"hang","lease":"1m","share":1.1}"#, 422, "share: expected above"),
        (r#"{"pool":"p","effect":"hang","lease":"1m","status":500}"#, 422, "status: has no mean"),
        (r#"{"pool":"p","effect":"error","lease":"1m"}"#, 422, "status: is needed"),
        (r#"{"pool":"p","effect":"error","status":200,"lease":"1m"}"#, 422, "status: expected 400"),
        (r#"{"pool":"p","effect":"latency","lease":"1m"}"#, 422, "delay: is needed"),
        (r#"{"pool":"p","effect":"latency","delay":"9m","lease":"1m"}"#, 422, "delay: expected at"),
        (
            r#"{"pool":"p","effect":"bandwidth","bytes_per_second":0,"lease":"1m"}"#,
            422,
            "bytes_per_second: expected at least 1",
        ),
        (r#"{"pool":"p","effect":"fire","lease":"1m"}"#, 422, "effect: unknown variant"),
    ] {
        let (found, answer) = balancer.api("POST", "/faults", body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert_eq!(found, status, "{body}: {error}");
        assert!(error.starts_with(expected), "{body}: {error}");
    }
    assert_eq!(balancer.api("DELETE", "/faults/1", "").await.0, 404);
}

#[tokio::test]
async fn errors_come_in_their_share_and_end_with_the_lease() {
    let a = Upstream::start("a");
    let balancer = balancer("", &[&a]).await;
    let l = balancer.address("l");
    let id = inject(&balancer, r#""effect":"error","status":503,"lease":"5m","share":0.5"#).await;
    let mut failed = 0;
    for _ in 0..200 {
        let response = request(l, "GET", "/", &[], b"").await;
        assert!(response.status == 200 || response.status == 503, "{response:?}");
        failed += usize::from(response.status == 503);
    }
    // Seven standard deviations of a half of 200 either way.
    assert!((50..150).contains(&failed), "{failed}");
    let injected = "balancer_faults_injected_total{effect=\"error\",pool=\"p\"}";
    balancer.wait_metric(injected, failed as f64).await;
    balancer.wait_metric("balancer_faults_active{effect=\"error\",pool=\"p\"}", 1.0).await;
    end(&balancer, id).await;
    for _ in 0..20 {
        assert_eq!(request(l, "GET", "/", &[], b"").await.status, 200);
    }
    inject(&balancer, r#""effect":"error","status":500,"lease":"100ms""#).await;
    until("the lease to end", async || {
        let (_, list) = balancer.api("GET", "/faults", "").await;
        if list["faults"] == serde_json::json!([]) { Ok(()) } else { Err(list) }
    })
    .await;
    assert_eq!(request(l, "GET", "/", &[], b"").await.status, 200);
    balancer.wait_metric("balancer_faults_active{effect=\"error\",pool=\"p\"}", 0.0).await;
}

#[tokio::test]
async fn a_refusing_server_is_left_for_another() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let balancer = balancer("fail_timeout = \"1m\"", &[&a, &b]).await;
    inject(&balancer, r#""server":"a","effect":"refuse","lease":"5m","reason":"drill""#).await;
    for _ in 0..10 {
        assert_eq!(request(balancer.address("l"), "GET", "/", &[], b"").await.status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (0, 10));
    assert_eq!(balancer.server("a").await["ejection"]["cause"], "failures");
    let (_, list) = balancer.api("GET", "/faults", "").await;
    let fault = &list["faults"][0];
    assert_eq!((&fault["effect"], &fault["reason"]), (&"refuse".into(), &"drill".into()));
    assert_eq!(fault["injected"], 1, "after that it was out: {list}");
    let (_, ended) = balancer.api("DELETE", "/faults", "").await;
    assert_eq!(ended["ended"], 1);
}

#[tokio::test]
async fn latency_is_added() {
    let a = Upstream::start("a");
    let balancer = balancer("", &[&a]).await;
    let id =
        inject(&balancer, r#""effect":"latency","delay":"1s","jitter":"100ms","lease":"5m""#).await;
    let begun = Instant::now();
    assert_eq!(request(balancer.address("l"), "GET", "/", &[], b"").await.status, 200);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    end(&balancer, id).await;
    // Whoever still waits is let go at once.
    let id = inject(&balancer, r#""effect":"latency","delay":"5m","lease":"5m""#).await;
    let l = balancer.address("l");
    let waiting = tokio::spawn(async move { request(l, "GET", "/", &[], b"").await.status });
    balancer
        .wait_metric("balancer_faults_injected_total{effect=\"latency\",pool=\"p\"}", 2.0)
        .await;
    end(&balancer, id).await;
    assert_eq!(timeout(DEADLINE, waiting).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn a_reset_connection_looks_like_a_server_that_died() {
    let a = Upstream::start("a");
    let balancer = balancer("max_fails = 0", &[&a]).await;
    let l = balancer.address("l");
    let id = inject(&balancer, r#""effect":"reset","lease":"5m""#).await;
    // POST is not repeated.
    assert_eq!(request(l, "POST", "/", &[], b"body").await.status, 502);
    end(&balancer, id).await;
    inject(&balancer, r#""effect":"reset","after":"3s","lease":"5m""#).await;
    let url = format!("ws://{l}/ws");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(DEADLINE, ended).await.unwrap();
    balancer
        .wait_metric("balancer_listener_closed_total{cause=\"error\",listener=\"l\"}", 1.0)
        .await;
}

#[tokio::test]
async fn a_hung_server_is_given_up_and_goes_on_when_the_fault_ends() {
    let a = Upstream::start("a");
    let balancer = balancer("response_timeout = \"300ms\"\nmax_fails = 0", &[&a]).await;
    let l = balancer.address("l");
    let id = inject(&balancer, r#""effect":"hang","lease":"5m""#).await;
    assert_eq!(request(l, "GET", "/", &[], b"").await.status, 504);
    end(&balancer, id).await;
    balancer.write(&format!(
        "{ENABLED}{}",
        settings("response_timeout = \"1m\"\nmax_fails = 0", &[("a", a.address)])
    ));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    let id = inject(&balancer, r#""effect":"hang","lease":"5m""#).await;
    let waiting = tokio::spawn(async move { request(l, "GET", "/", &[], b"").await.status });
    balancer.wait_metric("balancer_faults_injected_total{effect=\"hang\",pool=\"p\"}", 2.0).await;
    end(&balancer, id).await;
    assert_eq!(timeout(DEADLINE, waiting).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn a_narrow_line_is_as_narrow_as_asked_and_loses_nothing() {
    let a = Upstream::start("a");
    let balancer = balancer("", &[&a]).await;
    let rate = 20_000_u64;
    inject(&balancer, &format!(r#""effect":"bandwidth","bytes_per_second":{rate},"lease":"5m""#))
        .await;
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    let begun = Instant::now();
    let message: Vec<u8> = (0..30_000_u32).map(|n| (n % 251) as u8).collect();
    socket.send(Message::binary(message.clone())).await.unwrap();
    let answer = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer, Message::binary(message));
    // 30,000 bytes at 20,000 a second, less what was saved up: more than a second, there alone.
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}
