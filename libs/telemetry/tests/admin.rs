//! What a program shows on its admin listener, asked over a real socket and judged by Prometheus' own tool.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::{Registry, http, metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(30);

async fn serve(registry: Registry, readiness: Readiness) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind on loopback");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(axum::serve(listener, http::router(registry, readiness)).into_future());
    address
}

/// Status line and headers, then the body.
async fn get(address: SocketAddr, path: &str) -> (String, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("connect over loopback");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("send over loopback");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response in UTF-8");
        response
    };
    let response = tokio::time::timeout(DEADLINE, exchange).await.expect("an answer in time");
    let (head, body) = response.split_once("\r\n\r\n").expect("headers and body");
    (head.to_owned(), body.to_owned())
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().expect("a number")
}

#[tokio::test]
async fn metrics_are_served_and_pass_promtool() {
    let registry = metrics::registry("chatnode", "1.2.3");
    metrics::counter(&registry, "chatnode_deliveries_total", "Messages delivered").inc_by(7);
    metrics::counter_vec(&registry, "chatnode_commands_total", "Commands handled", &["command"])
        .with_label_values(&["publish"])
        .inc();
    metrics::float_counter(&registry, "chatnode_waiting_seconds_total", "Time waited").inc_by(0.5);
    metrics::float_counter_vec(&registry, "chatnode_busy_seconds_total", "Time worked", &["part"])
        .with_label_values(&["hub"])
        .inc_by(0.25);
    metrics::gauge(&registry, "chatnode_connections", "Open connections").set(3);
    metrics::gauge_vec(&registry, "chatnode_queue_bytes", "Bytes queued", &["priority"])
        .with_label_values(&["low"])
        .set(4);
    metrics::float_gauge(&registry, "chatnode_fill_ratio", "Share of the queue in use").set(0.5);
    metrics::float_gauge_vec(&registry, "chatnode_share_ratio", "Share of the work", &["shard"])
        .with_label_values(&["a"])
        .set(0.5);
    metrics::histogram(&registry, "chatnode_echo_seconds", "Echo time", &[0.1, 1.0]).observe(0.2);
    metrics::histogram_vec(&registry, "chatnode_call_seconds", "Calls", &["name"], &[0.1, 1.0])
        .with_label_values(&["wait"])
        .observe(0.2);

    let (head, text) = get(serve(registry, Readiness::new()).await, "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    promtool_accepts(&text);

    assert!(text.contains("chatnode_build_info{version=\"1.2.3\"} 1\n"), "{text}");
    assert!((value(&text, "chatnode_deliveries_total") - 7.0).abs() < f64::EPSILON);
    assert!((value(&text, "chatnode_echo_seconds_bucket{le=\"1\"}") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn process_and_host_figures_are_plausible() {
    let registry = metrics::registry("balancer", "1.2.3");
    let text = metrics::encode(&registry);
    let above_zero = [
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "host_memory_total_bytes",
        "host_memory_available_bytes",
    ];
    for name in above_zero {
        assert!(value(&text, name) > 0.0, "{name} in:\n{text}");
    }
    assert!(value(&text, "process_start_time_seconds") > 1.6e9, "seconds since the Unix epoch");
    assert!((0.0..=1.0).contains(&value(&text, "host_cpu_usage_ratio")));
    assert!(value(&text, "host_memory_available_bytes") <= value(&text, "host_memory_total_bytes"));
    for name in [
        "process_cpu_seconds_total",
        "host_load1",
        "host_network_receive_bytes_total",
        "host_network_transmit_bytes_total",
    ] {
        assert!(value(&text, name) >= 0.0);
    }
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let readiness = Readiness::new();
    let redis = readiness.condition("redis");
    redis.unmet("connection refused");
    let address = serve(metrics::registry("chatnode", "1.2.3"), readiness.clone()).await;

    assert!(get(address, "/health/live").await.0.starts_with("HTTP/1.1 200"));
    let (head, body) = get(address, "/health/ready").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let expected =
        r#"{"ready":false,"unmet":[{"condition":"redis","reason":"connection refused"}]}"#;
    assert_eq!(body, expected);

    redis.met();
    let (head, body) = get(address, "/health/ready").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, r#"{"ready":true,"unmet":[]}"#);

    readiness.begin_shutdown();
    assert!(get(address, "/health/ready").await.0.starts_with("HTTP/1.1 503"));
    assert!(get(address, "/health/live").await.0.starts_with("HTTP/1.1 200"));
}

/// `promtool check metrics` exits with 3 when it has something to say about a name, with 1 when it cannot read the text.
fn promtool_accepts(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package prometheus");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
    assert!(said.is_empty(), "{said}");
}
