//! Samples that come from elsewhere.

use chrono::Utc;
use holdfast_series::Matcher;
use serde_json::json;

use crate::kit::{Server, TOKEN, body};

#[tokio::test]
async fn texts_are_imported_with_their_timestamps() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    let earlier = now - 40 * 60_000;
    let text = format!(
        "# TYPE load gauge\nload{{a=\"1\"}} 2 {}\nload{{a=\"1\"}} 1 {earlier}\nload{{a=\"2\"}} 3\n",
        earlier + 1000
    );
    let path = format!("/api/v1/import/prometheus?extra_label=cluster=eu&timestamp={now}");
    let url = format!("{}{path}", server.base);
    let denied = server.client.post(&url).body(text.clone()).send().await.unwrap();
    assert_eq!(denied.status(), 401);
    assert_eq!(server.send(&path, &text).await.status(), 204);
    let found = server.store.select(&[Matcher::equal("__name__", "load")], earlier, now);
    let mut shown: Vec<String> = found
        .iter()
        .map(|series| {
            let samples = series.samples.iter().map(|s| (s.timestamp_ms - earlier, s.value));
            format!("{} {:?}", series.labels, samples.collect::<Vec<_>>())
        })
        .collect();
    shown.sort();
    assert_eq!(
        shown,
        [
            "{__name__=\"load\", a=\"1\", cluster=\"eu\"} [(0, 1.0), (1000, 2.0)]".to_owned(),
            format!("{{__name__=\"load\", a=\"2\", cluster=\"eu\"}} [({}, 3.0)]", now - earlier),
        ]
    );
    let (status, answer) = server.post("/api/v1/import/prometheus", "load 1\nload{ 2\n").await;
    assert_eq!((status, &answer["errorType"]), (400, &json!("bad_data")));
    assert!(answer["error"].as_str().unwrap().starts_with("line 2:"), "{answer}");
    let (status, _) = server.post("/api/v1/import/prometheus?extra=1", "load 1\n").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn remote_write_needs_the_token_and_a_request() {
    let server = Server::start().await;
    let url = format!("{}/api/v1/write", server.base);
    let post = || server.client.post(&url).header("content-type", "application/x-protobuf");
    assert_eq!(post().body("x").send().await.unwrap().status(), 401);
    let refused = post().bearer_auth(TOKEN).body("hello").send().await.unwrap();
    let (status, text) = body(refused).await;
    assert_eq!(status, 400);
    assert!(text.as_str().unwrap().contains("snappy"), "{text}");
    let kind = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    let newer = server.client.post(&url).header("content-type", kind).bearer_auth(TOKEN);
    assert_eq!(newer.body("").send().await.unwrap().status(), 415);
}
