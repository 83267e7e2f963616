//! Limits that two balancers keep together in a real Redis: found directly or by a Sentinel, lost and found again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use redis::AsyncCommands as _;
use support::redis::Redis;
use support::{Balancer, Upstream, free, request, settings, until};

/// A balancer whose limits are kept there: twenty requests for each token, and then hardly any.
async fn balancer(upstream: &Upstream, redis: &str) -> Balancer {
    let limits = "pool = \"p\"\n[listener.limits]\nshared = true\n[listener.limits.token]\n\
        key = \"header:x-token\"\nrequests_per_second = 0.001\nrequests_burst = 20";
    let text = settings("", &[("a", upstream.address)]).replacen("pool = \"p\"", limits, 1);
    Balancer::start(&format!("[redis]\ninterval = \"20ms\"\n{redis}\n{text}")).await
}

async fn ask(balancer: &Balancer, token: &str) -> u16 {
    request(balancer.address("l"), "GET", "/", &[("X-Token", token)], b"").await.status
}

/// Waits for so many exchanges with Redis in all.
async fn exchanged(balancer: &Balancer, count: f64) {
    until("an exchange", async || {
        let seen = balancer.metric("balancer_shared_limits_exchange_seconds_count").await;
        if seen >= count { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn is_reachable(balancer: &Balancer) -> bool {
    balancer.metric("balancer_shared_limits_reachable").await > 0.5
}

#[tokio::test]
async fn what_one_balancer_lets_pass_counts_at_the_other() {
    let upstream = Upstream::start("a");
    let redis = Redis::start(free(), "requirepass secret\n", &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let settings = format!(
        "address = \"{}\"\npassword_file = \"{}\"\nprefix = \"test\"",
        redis.address,
        password.display()
    );
    let (one, other) = (balancer(&upstream, &settings).await, balancer(&upstream, &settings).await);
    for _ in 0..20 {
        assert_eq!(ask(&one, "t").await, 200);
    }
    assert_eq!(ask(&one, "t").await, 429);
    // Until all of it is told, in as many exchanges as it takes.
    let client = redis::Client::open(format!("redis://:secret@{}", redis.address)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    until("all to be told", async || {
        let keys: Vec<String> = connection.keys("{test}:l:token:*").await.unwrap();
        let left: Option<i64> = match keys.first() {
            Some(key) => Some(connection.pttl(key).await.unwrap()),
            None => None,
        };
        // A thousand seconds for each of them.
        if left.is_some_and(|left| left > 19_500_000) { Ok(()) } else { Err((keys, left)) }
    })
    .await;
    // The first is let pass for want of knowledge, which comes with it.
    assert_eq!(ask(&other, "t").await, 200);
    exchanged(&other, 1.0).await;
    assert_eq!(ask(&other, "t").await, 429);
    assert_eq!(ask(&other, "u").await, 200, "another token");
    one.end().await;
    other.end().await;
}

#[tokio::test]
async fn without_redis_each_keeps_its_own_limits() {
    let upstream = Upstream::start("a");
    let address = free();
    let redis = Redis::start(address, "", &[]).await;
    let sentinel = format!("sentinel monitor main 127.0.0.1 {} 1\n", address.port());
    let sentinel = Redis::start(free(), &sentinel, &["--sentinel"]).await;
    let settings = format!("sentinels = [\"{}\"]\nprimary = \"main\"", sentinel.address);
    let balancer = balancer(&upstream, &settings).await;
    assert_eq!(ask(&balancer, "t").await, 200);
    exchanged(&balancer, 1.0).await;
    drop(redis);
    let mut asked = 0;
    until("the loss to be noticed", async || {
        asked += 1;
        assert_eq!(ask(&balancer, &format!("lost {asked}")).await, 200);
        if is_reachable(&balancer).await { Err("reachable") } else { Ok(()) }
    })
    .await;
    for _ in 0..19 {
        assert_eq!(ask(&balancer, "t").await, 200, "by its own count");
    }
    assert_eq!(ask(&balancer, "t").await, 429);
    until("the failure to be counted", async || {
        let failures = balancer.metric("balancer_shared_limits_failures_total").await;
        if failures > 0.5 { Ok(()) } else { Err(failures) }
    })
    .await;
    let _redis = Redis::start(address, "", &[]).await;
    until("it to be found again", async || {
        if is_reachable(&balancer).await { Ok(()) } else { Err("unreachable") }
    })
    .await;
    balancer.end().await;
}

#[tokio::test]
async fn without_redis_nothing_passes_where_that_is_wanted() {
    let upstream = Upstream::start("a");
    let address = free();
    let settings = format!("address = \"{address}\"\non_failure = \"refuse\"");
    let balancer = balancer(&upstream, &settings).await;
    let mut asked = 0;
    until("requests to be refused", async || {
        asked += 1;
        match ask(&balancer, &format!("lost {asked}")).await {
            503 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    let _redis = Redis::start(address, "", &[]).await;
    until("requests to pass again", async || match ask(&balancer, "t").await {
        200 => Ok(()),
        seen => Err(seen),
    })
    .await;
    balancer.end().await;
}
