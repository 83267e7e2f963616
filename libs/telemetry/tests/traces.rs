//! Spans reach an OpenTelemetry collector, and setting up and ending the export is harmless where async code runs.
//!
//! One test only: logging is set up once per process.

use std::time::Duration;

use holdfast_telemetry::logs::{self, Format, Level};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_secs(30);

/// Answers one export and returns the request as it came.
async fn collect_one(listener: TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.expect("accept a loopback connection");
    let mut request = Vec::new();
    while !is_complete(&request) {
        let read = stream.read_buf(&mut request).await.expect("exchange over loopback");
        assert_ne!(read, 0, "the request ended early");
    }
    let response =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(response.as_bytes()).await.expect("exchange over loopback");
    request
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((_, after)) = text.split_once("content-length: ") else { return false };
    let length: usize =
        after.split("\r\n").next().and_then(|length| length.parse().ok()).unwrap_or(usize::MAX);
    let Some(body) = request.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    request.len() - body - 4 >= length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_sent_by_the_time_the_guard_is_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = tokio::spawn(collect_one(listener));

    let guard = logs::init(Level::Info, Format::Json, Some(&endpoint), "supervisor").unwrap();
    assert!(logs::init(Level::Info, Format::Json, None, "supervisor").is_err(), "only once");
    tracing::info_span!(target: "holdfast_test", "promote_replica", redis = "main").in_scope(
        || {
            tracing::info!(target: "holdfast_test", "promoted");
        },
    );
    tracing::info_span!(target: "hyper_test", "request").in_scope(|| {});
    drop(guard);

    let request = tokio::time::timeout(DEADLINE, collector).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&request);
    assert!(text.starts_with("POST /v1/traces "), "{text}");
    for part in ["application/x-protobuf", "supervisor", "promote_replica", "main"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(!text.contains("hyper_test"), "spans of libraries stay out: {text}");
}
