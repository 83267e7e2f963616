//! Servers that fail, hang, drain, come and go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::sync::atomic::Ordering;

use futures_util::{SinkExt as _, StreamExt as _};
use support::{Balancer, CHECKED, DEADLINE, TOKEN, Upstream, raw, request, settings, until};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket and returns the name of the server it reached.
async fn open(balancer: &Balancer) -> (Socket, String) {
    let url = format!("ws://{}/ws", balancer.address("l"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let name = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
    (socket, name)
}

async fn works(socket: &mut Socket) {
    socket.send(Message::text("ping")).await.unwrap();
    let answer = timeout(DEADLINE, socket.next()).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), Message::text("ping"));
}

async fn ends(socket: &mut Socket) {
    timeout(DEADLINE, async { while let Some(Ok(_)) = socket.next().await {} }).await.unwrap();
}

#[tokio::test]
async fn nobody_notices_a_server_that_refuses_connections() {
    let (mut a, b) = (Upstream::start("a"), Upstream::start("b"));
    let servers = [("a", a.address), ("b", b.address)];
    let settings = settings("algorithm = \"round_robin\"\nfail_timeout = \"1m\"", &servers);
    let balancer = Balancer::start(&settings).await;
    let l = balancer.address("l");
    for _ in 0..4 {
        assert_eq!(request(l, "GET", "/", &[], b"").await.status, 200);
    }
    assert_eq!(a.requests(), 2);
    a.kill();
    // The first may still find a kept connection; a request with a body is passed on as well, since nothing was sent.
    for n in 0..20 {
        let body: &[u8] = if n % 2 == 0 { b"" } else { b"body" };
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        assert_eq!(request(l, method, "/", &[], body).await.status, 200, "request {n}");
    }
    assert_eq!(balancer.server("a").await["passive"], "open");
    let labels = "{pool=\"p\",server=\"a\"}";
    let ejections = "balancer_server_ejections_total{cause=\"failures\",pool=\"p\",server=\"a\"}";
    balancer.wait_metric(ejections, 1.0).await;
    balancer.wait_metric(&format!("balancer_server_usable{labels}"), 0.0).await;
}

#[tokio::test]
async fn a_pool_without_servers_says_so() {
    let mut a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    a.kill();
    let l = balancer.address("l");
    assert_eq!(request(l, "GET", "/", &[], b"").await.status, 502);
    balancer.api("PATCH", "/pools/p/servers/a", r#"{"state":"drain"}"#).await;
    let response = request(l, "GET", "/", &[], b"").await;
    assert_eq!((response.status, response.text()), (503, "no server is available\n"));
    for (cause, count) in [("connect", 1.0), ("no_server", 1.0), ("timeout", 0.0)] {
        let series = format!("balancer_pool_errors_total{{cause=\"{cause}\",pool=\"p\"}}");
        balancer.wait_metric(&series, count).await;
    }
}

#[tokio::test]
async fn a_server_that_takes_too_long_is_given_up() {
    let a = Upstream::start("a");
    let balancer =
        Balancer::start(&settings("response_timeout = \"200ms\"", &[("a", a.address)])).await;
    a.shared.hung.store(true, Ordering::SeqCst);
    assert_eq!(request(balancer.address("l"), "GET", "/", &[], b"").await.status, 504);
}

#[tokio::test]
async fn a_client_that_stops_sending_does_not_cost_a_server_its_place() {
    let a = Upstream::start("a");
    let balancer =
        Balancer::start(&settings("response_timeout = \"200ms\"", &[("a", a.address)])).await;
    let stalled = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nsome";
    let answer = raw(balancer.address("l"), stalled).await;
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let server = balancer.server("a").await;
    assert_eq!((&server["passive"], &server["usable"]), (&"closed".into(), &true.into()));
}

#[tokio::test]
async fn health_checks_take_a_server_out_and_in_again() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let servers = [("a", a.address), ("b", b.address)];
    let settings = settings(CHECKED, &servers)
        .replace("[pool.health_check]", "slow_start = \"1m\"\n[pool.health_check]");
    let balancer = Balancer::start(&settings).await;
    balancer.wait_usable("a", true).await;
    balancer.wait_usable("b", true).await;
    assert!((balancer.server("a").await["effective_weight"].as_f64().unwrap() - 100.0).abs() < 0.1);
    a.shared.ready.store(503, Ordering::SeqCst);
    balancer.wait_usable("a", false).await;
    let before = a.requests();
    for _ in 0..10 {
        request(balancer.address("l"), "GET", "/", &[], b"").await;
    }
    assert_eq!(a.requests(), before);
    a.shared.ready.store(200, Ordering::SeqCst);
    balancer.wait_usable("a", true).await;
    let server = balancer.server("a").await;
    assert_eq!(server["health"], "up");
    assert!(server["effective_weight"].as_f64().unwrap() < 50.0, "it ramps: {server}");
    let failed = "balancer_server_health_checks_total{pool=\"p\",result=\"fail\",server=\"a\"}";
    assert!(balancer.metric(failed).await >= 2.0);
}

#[tokio::test]
async fn the_websockets_of_a_killed_server_end_and_open_elsewhere() {
    let (mut a, b) = (Upstream::start("a"), Upstream::start("b"));
    let servers = [("a", a.address), ("b", b.address)];
    let balancer = Balancer::start(&settings(CHECKED, &servers)).await;
    balancer.wait_usable("a", true).await;
    balancer.wait_usable("b", true).await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(open(&balancer).await);
    }
    assert_eq!(sockets.iter().filter(|(_, name)| name == "a").count(), 5);
    a.kill();
    for (socket, name) in &mut sockets {
        if name == "a" {
            ends(socket).await;
            let (again, name) = open(&balancer).await;
            assert_eq!(name, "b");
            *socket = again;
        }
        works(socket).await;
    }
    // It comes back at its old address.
    let address = a.address;
    let _a = Upstream::start_at("a", address);
    balancer.wait_usable("a", true).await;
}

#[tokio::test]
async fn the_connections_of_a_server_that_says_nothing_are_closed() {
    let a = Upstream::start("a");
    let patient = settings(CHECKED, &[("a", a.address)]);
    let balancer = Balancer::start(&patient).await;
    balancer.wait_usable("a", true).await;
    let (mut socket, _) = open(&balancer).await;
    // Not ready is no reason to close what works.
    a.shared.ready.store(503, Ordering::SeqCst);
    balancer.wait_usable("a", false).await;
    works(&mut socket).await;
    a.shared.ready.store(200, Ordering::SeqCst);
    balancer.wait_usable("a", true).await;
    // From now on it may be taken for silent, and it will be.
    balancer.write(&patient.replace("timeout = \"30s\"", "timeout = \"200ms\""));
    let (status, answer) = balancer.api("POST", "/reload", "").await;
    assert_eq!(status, 200, "{answer}");
    a.shared.hung.store(true, Ordering::SeqCst);
    ends(&mut socket).await;
    let closed = "balancer_listener_closed_total{cause=\"server_silent\",listener=\"l\"}";
    balancer.wait_metric(closed, 1.0).await;
}

#[tokio::test]
async fn drain_and_maintenance_keep_what_is_open() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let balancer = Balancer::start(&settings(CHECKED, &[("a", a.address), ("b", b.address)])).await;
    balancer.wait_usable("a", true).await;
    balancer.wait_usable("b", true).await;
    let mut socket = loop {
        let (socket, name) = open(&balancer).await;
        if name == "a" {
            break socket;
        }
    };
    for state in ["drain", "maintenance"] {
        let body = format!(r#"{{"state":"{state}","reason":"test"}}"#);
        let (status, server) = balancer.api("PATCH", "/pools/p/servers/a", &body).await;
        assert_eq!((status, &server["state"]), (200, &state.into()));
        assert_eq!((&server["usable"], &server["reason"]), (&false.into(), &"test".into()));
        for _ in 0..6 {
            assert_eq!(open(&balancer).await.1, "b");
        }
        works(&mut socket).await;
        let series = format!("balancer_server_state{{pool=\"p\",server=\"a\",state=\"{state}\"}}");
        balancer.wait_metric(&series, 1.0).await;
    }
    until("checks to be off", async || {
        let server = balancer.server("a").await;
        if server["health"] == "unknown" { Ok(()) } else { Err(server) }
    })
    .await;
    balancer.api("PATCH", "/pools/p/servers/a", r#"{"state":"ready","weight":200}"#).await;
    balancer.wait_usable("a", true).await;
    let server = balancer.server("a").await;
    assert_eq!((&server["weight"], &server["reason"]), (&200.into(), &serde_json::Value::Null));
    works(&mut socket).await;
}

#[tokio::test]
async fn servers_come_and_go_at_run_time() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let new = format!(r#"{{"name":"b","address":"{}","weight":256}}"#, b.address);
    let (status, server) = balancer.api("POST", "/pools/p/servers", &new).await;
    assert_eq!((status, &server["usable"]), (201, &true.into()));
    assert_eq!(balancer.api("POST", "/pools/p/servers", &new).await.0, 409);
    let (status, _) = balancer.api("DELETE", "/pools/p/servers/a", "").await;
    assert_eq!(status, 204);
    let (mut socket, name) = open(&balancer).await;
    assert_eq!(name, "b");
    let (status, error) = balancer.api("DELETE", "/pools/p/servers/b", "").await;
    assert_eq!(status, 409, "{error}");
    assert!(error["error"].as_str().unwrap().contains("has 1 connections"), "{error}");
    works(&mut socket).await;
    assert_eq!(balancer.api("DELETE", "/pools/p/servers/b?force=true", "").await.0, 204);
    ends(&mut socket).await;
    until("the series to go", async || {
        let text = balancer.metrics().await;
        if text.contains("server=\"b\"") { Err(text) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn the_api_knows_its_operators_and_their_epochs() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    let path = "/pools/p/servers/a";
    for wrong in ["", "Bearer", "Bearer wrong", "Basic the-token", "the-token"] {
        let headers = [("Authorization", wrong)];
        assert_eq!(balancer.api_with("GET", "/pools", &headers, "").await.0, 401, "{wrong:?}");
    }
    for (method, path, body, status) in [
        ("GET", "/pools/q", "", 404),
        ("GET", "/nothing", "", 404),
        ("PATCH", "/pools/p/servers/q", "{}", 404),
        ("PATCH", path, "{", 400),
        ("PATCH", path, r#"{"weight":257}"#, 422),
        ("PATCH", path, r#"{"state":"gone"}"#, 422),
        ("PATCH", path, r#"{"wieght":1}"#, 422),
        ("POST", "/pools/p/servers", r#"{"name":"b","address":"nowhere"}"#, 422),
        ("POST", "/pools/p/servers", r#"{"name":"b c","address":"a:1"}"#, 422),
        ("DELETE", "/pools/p/servers/a?force=maybe", "", 400),
    ] {
        let (found, answer) = balancer.api(method, path, body).await;
        assert_eq!(found, status, "{method} {path} {body}");
        assert!(answer["error"].is_string(), "{method} {path} {body}: {answer}");
    }
    for (method, path, body, expected) in [
        ("PATCH", path, r#"{"weight":"heavy"}"#, "weight: invalid type: string \"heavy\""),
        ("PATCH", path, r#"{"weight":70000}"#, "weight: expected 0 to 256, found 70000"),
        ("PATCH", path, r#"{"weight":-1}"#, "weight: expected 0 to 256, found -1"),
        ("PATCH", path, r#"{"state":"off"}"#, "state: unknown variant `off`, expected one of"),
        ("PATCH", path, r#"{"wieght":1}"#, "wieght: unknown field `wieght`, expected one of"),
        ("PATCH", path, "[]", "expected a JSON object"),
        ("POST", "/pools/p/servers", r#"{"name":"b"}"#, "missing field `address`"),
        ("POST", "/pools/p/servers", r#"{"name":"b c","address":"a:1"}"#, "name: expected 1 to 64"),
        (
            "POST",
            "/pools/p/servers",
            r#"{"name":"b","address":"a"}"#,
            "address: expected host:port",
        ),
    ] {
        let (_, answer) = balancer.api(method, path, body).await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with(expected), "{method} {path} {body}: {error}");
    }
    let (status, answer) = balancer.api("PUT", "/pools", "").await;
    assert_eq!(status, 405);
    assert!(answer["error"].is_string(), "{answer}");
    let token = format!("Bearer {TOKEN}");
    let change = r#"{"weight":7}"#;
    for (epoch, status) in
        [("5", 200), ("4", 409), ("5", 200), ("six", 400), ("6", 200), ("5", 409)]
    {
        let headers = [("Authorization", token.as_str()), ("X-Holdfast-Epoch", epoch)];
        let (found, answer) = balancer.api_with("PATCH", path, &headers, change).await;
        assert_eq!(found, status, "epoch {epoch}: {answer}");
        if status == 409 {
            assert!(answer["error"].as_str().unwrap().starts_with("stale epoch"), "{answer}");
        }
    }
    assert_eq!(balancer.api("PATCH", path, change).await.0, 200);
}

#[tokio::test]
async fn metrics_pass_promtool() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings(CHECKED, &[("a", a.address)])).await;
    request(balancer.address("l"), "GET", "/", &[], b"").await;
    let text = balancer.metrics().await;
    let mut promtool = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn clients_wait_in_line_for_a_server_with_room() {
    let upstream = Upstream::start("a");
    let text = settings(
        "server_max_connections = 1\nqueue_max = 1\nqueue_timeout = \"1m\"",
        &[("a", upstream.address)],
    );
    let balancer = Balancer::start(&text).await;
    let address = balancer.address("l");
    let url = format!("ws://{address}/ws");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let waiting = tokio::spawn(async move { request(address, "GET", "/", &[], b"").await });
    balancer.wait_metric("balancer_pool_queued{pool=\"p\"}", 1.0).await;
    let third = request(address, "GET", "/", &[], b"").await;
    assert_eq!((third.status, third.text()), (503, "every server is busy\n"));
    assert!(third.head.contains("retry-after: "), "{}", third.head);
    assert!(!waiting.is_finished());
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(timeout(DEADLINE, waiting).await.unwrap().unwrap().status, 200);
    let full = "balancer_pool_errors_total{cause=\"queue_full\",pool=\"p\"}";
    balancer.wait_metric(full, 1.0).await;
}
