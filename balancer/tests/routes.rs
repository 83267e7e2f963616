//! Requests of one listener to several pools.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;

use support::{Balancer, Upstream, raw, settings};

/// A listener with these routes, its own pool `p`, and pools `a` and `b` besides.
fn routed(routes: &str, servers: &[(&str, SocketAddr)], rules: &str) -> String {
    let routes = format!("pool = \"p\"\n{routes}");
    let mut text = settings("", &servers[..1]).replacen("pool = \"p\"\n", &routes, 1);
    for (name, address) in &servers[1..] {
        write!(
            text,
            "[[pool]]\nname = \"{name}\"\n{rules}\n[[pool.server]]\nname = \"{name}\"\naddress = \"{address}\"\n"
        )
        .unwrap();
    }
    text
}

/// Which server answered.
async fn ask(address: SocketAddr, host: &str, target: &str, fields: &str) -> String {
    let text =
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    let answer = String::from_utf8(raw(address, text.as_bytes()).await).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| answer[..].into());
    body["server"].as_str().map_or_else(|| answer.clone(), str::to_owned)
}

#[tokio::test]
async fn requests_go_where_routes_lead_and_elsewhere_after_a_reload() {
    let (p, a, b) = (Upstream::start("p"), Upstream::start("a"), Upstream::start("b"));
    let servers = [("p", p.address), ("a", a.address), ("b", b.address)];
    let routes = "[[listener.route]]\nhost = \"*.api.example\"\npath_prefix = \"/v2\"\npool = \"a\"\n\
        [[listener.route]]\nheader = \"X-Canary\"\nheader_value = \"yes\"\npool = \"b\"\n";
    let balancer = Balancer::start(&routed(routes, &servers, "sticky_cookie = \"node\"")).await;
    let l = balancer.address("l");
    assert_eq!(ask(l, "x.api.example:80", "/v2/rooms?a=b", "").await, "a");
    assert_eq!(ask(l, "x.api.example", "/v1", "").await, "p");
    assert_eq!(ask(l, "api.example", "/v2", "x-canary: yes\r\n").await, "b");
    assert_eq!(ask(l, "api.example", "/v2", "").await, "p");
    // A target in absolute form names the host.
    assert_eq!(ask(l, "other", "http://x.api.example/v2", "").await, "a");
    // The rules are those of the pool that serves.
    let answer =
        raw(l, b"GET /v2 HTTP/1.1\r\nHost: x.api.example\r\nConnection: close\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&answer).contains("Set-Cookie: node="));

    balancer.write(&routed(&routes.replace("pool = \"a\"", "pool = \"b\""), &servers, ""));
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.to_string().contains("listener l changed"), "{answer}");
    assert_eq!(ask(l, "x.api.example", "/v2", "").await, "b");

    // A route to nowhere changes nothing.
    balancer.write(&routed(&routes.replace("pool = \"b\"", "pool = \"c\""), &servers, ""));
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 422, "{answer}");
    let fault = answer["faults"][0].as_str().unwrap();
    assert!(fault.contains("listener[0].route[1].pool: there is no pool named \"c\""), "{fault}");
    assert_eq!(ask(l, "x.api.example", "/v2", "").await, "b");
    balancer.end().await;
}
