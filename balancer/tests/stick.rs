//! Clients that are brought back to their servers by what a table remembers, also at another balancer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::authority::Authority;
use support::redis::Redis;
use support::{Balancer, Upstream, free, request, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Settings of a pool that takes its servers in turn, but for clients in a table.
fn sticky(table: &str, servers: &[&Upstream]) -> String {
    let servers: Vec<_> =
        servers.iter().map(|server| (server.shared.name.as_str(), server.address)).collect();
    settings(&format!("algorithm = \"round_robin\"\n[pool.stick_table]\n{table}"), &servers)
}

/// The server that a client with this token gets.
async fn served_by(address: SocketAddr, token: &str) -> String {
    let response = request(address, "GET", "/", &[("X-Token", token)], b"").await;
    assert_eq!(response.status, 200, "{}", response.text());
    let seen: Value = serde_json::from_slice(&response.body).unwrap();
    seen["server"].as_str().unwrap().to_owned()
}

/// What the operator API says about a client.
async fn entry(balancer: &Balancer, value: &str) -> Value {
    let (status, view) =
        balancer.api("GET", &format!("/pools/p/stick-table?value={value}"), "").await;
    assert_eq!(status, 200, "{view}");
    view["entry"].clone()
}

#[tokio::test]
async fn a_client_comes_back_to_its_server_while_that_may_be_used() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let balancer = Balancer::start(&sticky("key = \"header:x-token\"", &[&a, &b])).await;
    let address = balancer.address("l");
    let first = served_by(address, "t").await;
    for other in ["u", "v", "w"] {
        served_by(address, other).await;
        assert_eq!(served_by(address, "t").await, first);
    }
    assert_eq!(entry(&balancer, "t").await["server"], first);
    assert_eq!(entry(&balancer, "nobody").await, Value::Null);
    let (_, view) = balancer.api("GET", "/pools/p/stick-table", "").await;
    assert_eq!((&view["key"], &view["shared"]), (&json!("header:x-token"), &json!(false)));
    assert_eq!((&view["entries"], &view["entry"]), (&json!(4), &Value::Null), "{view}");
    // One that drains is left, and the other one kept.
    let server = format!("/pools/p/servers/{first}");
    assert_eq!(balancer.api("PATCH", &server, r#"{"state":"drain"}"#).await.0, 200);
    let second = served_by(address, "t").await;
    assert_ne!(second, first);
    assert_eq!(balancer.api("PATCH", &server, r#"{"state":"ready"}"#).await.0, 200);
    for _ in 0..3 {
        assert_eq!(served_by(address, "t").await, second);
    }
    let forget = "/pools/p/stick-table?value=t";
    assert_eq!(balancer.api("DELETE", forget, "").await.0, 204);
    assert_eq!(balancer.api("DELETE", forget, "").await.0, 404);
    assert_eq!(entry(&balancer, "t").await, Value::Null);
    let (_, journal) = balancer.api("GET", "/journal", "").await;
    assert!(!journal.to_string().contains("value=t"), "{journal}");
    let hits = "balancer_stick_table_lookups_total{pool=\"p\",result=\"hit\"}";
    assert!(balancer.metric(hits).await > 6.5);
    balancer.wait_metric("balancer_stick_table_entries{pool=\"p\"}", 4.0).await;
    // A pool without one says so, and shows no figures of it.
    balancer.write(&settings("", &[("a", a.address), ("b", b.address)]));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    assert_eq!(balancer.api("GET", "/pools/p/stick-table", "").await.0, 404);
    assert!(!balancer.metrics().await.contains("balancer_stick_table_entries{"));
    balancer.end().await;
}

#[tokio::test]
async fn a_tcp_client_is_known_by_its_address() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = sticky("key = \"source\"", &[&a, &b]);
    let text = text.replacen("pool = \"p\"", "pool = \"p\"\nmode = \"tcp\"", 1);
    let balancer = Balancer::start(&text).await;
    let served = async || {
        let mut stream = TcpStream::connect(balancer.address("l")).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.contains("\"server\":\"a\"")
    };
    let first = served().await;
    for _ in 0..3 {
        assert_eq!(served().await, first);
    }
    let name = if first { "a" } else { "b" };
    assert_eq!(entry(&balancer, "127.0.0.1").await["server"], name);
    let (status, fault) = balancer.api("GET", "/pools/p/stick-table?value=localhost", "").await;
    assert_eq!(status, 422, "{fault}");
    balancer.end().await;
}

/// Waits until a balancer knows that a client is at a server.
async fn until_known(balancer: &Balancer, value: &str, server: &Value) {
    until("the other balancer's word", async || {
        let known = entry(balancer, value).await;
        if known["server"] == *server { Ok(()) } else { Err(known) }
    })
    .await;
}

/// A Redis that speaks TLS only, and knows one user with the rights the runbook names.
async fn secure_redis(authority: &Authority) -> Redis {
    authority.sign("redis.test");
    let path = |file: &str| authority.path(file).display().to_string();
    let address = free();
    let settings = format!(
        "port 0\ntls-port {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\n\
         user default off\n\
         user balancer on >secret ~{{test}}:* -@all +eval +evalsha +script|load +role +time +get +set \
         +xadd +xtrim +xrange +pexpire\n",
        address.port(),
        path("redis.test.pem"),
        path("redis.test.key"),
        path("ca.pem"),
    );
    Redis::start(address, &settings, &[]).await
}

#[tokio::test]
async fn what_one_balancer_knows_another_one_hears_over_tls() {
    let authority = Authority::new();
    let redis = secure_redis(&authority).await;
    let password = authority.path("password");
    std::fs::write(&password, "secret\n").unwrap();
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = |user: &str| {
        format!(
            "[redis]\naddress = \"{}\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nprefix = \"test\"\n\
             username = \"{user}\"\npassword_file = \"{}\"\n\
             [redis.tls]\nca = \"{}\"\nserver_name = \"redis.test\"\n{}",
            redis.address,
            password.display(),
            authority.path("ca.pem").display(),
            sticky("key = \"header:x-token\"\nshared = true", &[&a, &b])
        )
    };
    let one = Balancer::start(&text("balancer")).await;
    let other = Balancer::start(&text("balancer")).await;
    for token in ["t", "u", "v"] {
        let server = served_by(one.address("l"), token).await;
        until_known(&other, token, &json!(server)).await;
        assert_eq!(served_by(other.address("l"), token).await, server);
    }
    // The last word holds everywhere.
    let server = served_by(one.address("l"), "t").await;
    let drain = format!("/pools/p/servers/{server}");
    assert_eq!(other.api("PATCH", &drain, r#"{"state":"drain"}"#).await.0, 200);
    let moved = served_by(other.address("l"), "t").await;
    assert_ne!(moved, server);
    until_known(&one, "t", &json!(moved)).await;
    assert_eq!(one.api("DELETE", "/pools/p/stick-table?value=t", "").await.0, 204);
    until_known(&other, "t", &Value::Null).await;
    // One that begins hears of all.
    let late = Balancer::start(&text("balancer")).await;
    until_known(&late, "u", &entry(&one, "u").await["server"]).await;
    // Other access takes effect with a reload: a user that Redis does not know, and the right one again.
    let reachable = "balancer_shared_stick_tables_reachable";
    late.wait_metric(reachable, 1.0).await;
    for (user, answers) in [("stranger", 0.0), ("balancer", 1.0)] {
        late.write(&text(user));
        let (status, answer) = late.api("POST", "/reload", "").await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer.to_string().contains("redis has new rules"), "{answer}");
        late.wait_metric(reachable, answers).await;
    }
    until("an exchange under the new rules", async || {
        let count = late.metric("balancer_shared_stick_tables_exchange_seconds_count").await;
        if count > 0.5 { Ok(()) } else { Err(count) }
    })
    .await;
    one.end().await;
    other.end().await;
    late.end().await;
}

#[tokio::test]
async fn without_redis_each_keeps_what_it_knows() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let address = free();
    let redis = Redis::start(address, "", &[]).await;
    let text = format!(
        "[redis]\naddress = \"{address}\"\ninterval = \"20ms\"\ntimeout = \"10s\"\n{}",
        sticky("key = \"query:token\"\nshared = true", &[&a, &b])
    );
    let (one, other) = (Balancer::start(&text).await, Balancer::start(&text).await);
    let served = async |balancer: &Balancer, token: &str| {
        let path = format!("/?token={token}");
        let response = request(balancer.address("l"), "GET", &path, &[], b"").await;
        assert_eq!(response.status, 200);
        serde_json::from_slice::<Value>(&response.body).unwrap()["server"].clone()
    };
    let first = served(&one, "t").await;
    until_known(&other, "t", &first).await;
    drop(redis);
    let reachable = "balancer_shared_stick_tables_reachable";
    one.wait_metric(reachable, 0.0).await;
    other.wait_metric(reachable, 0.0).await;
    for _ in 0..3 {
        assert_eq!(served(&one, "t").await, first);
        assert_eq!(served(&other, "t").await, first);
    }
    let lost = served(&one, "lost").await;
    let _redis = Redis::start(address, "", &[]).await;
    one.wait_metric(reachable, 1.0).await;
    other.wait_metric(reachable, 1.0).await;
    // What could not be told then is told with the next use.
    assert_eq!(served(&one, "lost").await, lost);
    until_known(&other, "lost", &lost).await;
    one.end().await;
    other.end().await;
}
