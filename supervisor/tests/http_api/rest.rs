//! The parts of Prometheus' API that its own pages, other Prometheus servers and careful clients ask for.

use chrono::Utc;
use holdfast_series::{Labels, Metadata, MetricKind};
use serde_json::json;

use crate::kit::Server;

fn fill(server: &Server) {
    let now = Utc::now().timestamp_millis();
    for (name, job) in [("up", "a"), ("up", "b"), ("requests_total", "a")] {
        let labels = [("__name__", name), ("job", job), ("instance", "x:1")];
        server.store.append(&Labels::from_pairs(labels), now, 1.0).unwrap();
    }
    let about = Metadata { kind: MetricKind::Counter, help: "All".into(), unit: "".into() };
    server.store.set_metadata("requests", &about);
}

#[tokio::test]
async fn targets_tell_their_pools_and_metadata() {
    let server = Server::start().await;
    fill(&server);
    let (_, pools) = server.json("/api/v1/scrape_pools").await;
    assert_eq!(pools["data"], json!({ "scrapePools": ["a", "b"] }));
    let all = server.json("/api/v1/targets/metadata").await.1["data"].clone();
    let expected = json!([{
        "target": { "job": "a", "instance": "x:1" },
        "metric": "requests",
        "type": "counter",
        "help": "All",
        "unit": "",
    }]);
    assert_eq!(all, expected);
    let (_, one) =
        server.json("/api/v1/targets/metadata?metric=requests&match_target={job=%22a%22}").await;
    assert_eq!(one["data"][0].get("metric"), None, "{one}");
    let (status, none) = server.json("/api/v1/targets/metadata?match_target={job=%22b%22}").await;
    assert_eq!((status, &none["errorType"]), (404, &json!("not_found")), "{none}");
    let (_, targets) = server.json("/api/v1/targets").await;
    assert_eq!(targets["data"]["droppedTargetCounts"], json!({}));
}

#[tokio::test]
async fn expressions_are_shown_as_trees() {
    let server = Server::start().await;
    let query = "sum%20by%20(job)%20(rate(up%5B5m%5D))%20%3E%20bool%202";
    let (_, tree) = server.json(&format!("/api/v1/parse_query?query={query}")).await;
    let tree = &tree["data"];
    assert_eq!((&tree["type"], &tree["op"]), (&json!("binaryExpr"), &json!(">")), "{tree}");
    assert_eq!(tree["lhs"]["expr"]["args"][0]["range"], 300_000, "{tree}");
    let (status, wrong) = server.json("/api/v1/parse_query?query=sum(").await;
    assert_eq!((status, &wrong["errorType"]), (400, &json!("bad_data")));
}

#[tokio::test]
async fn the_server_tells_what_it_really_is() {
    let server = Server::start().await;
    fill(&server);
    let (_, info) = server.json("/api/v1/status/runtimeinfo").await;
    let info = &info["data"];
    assert!(info["goroutineCount"].as_u64().unwrap() > 0, "{info}");
    assert!(info["GOMAXPROCS"].as_u64().unwrap() > 0, "{info}");
    assert_eq!(info["timeSeriesCount"], 3);
}

#[tokio::test]
async fn slow_queries_are_counted() {
    // The kit sets the bound to nothing, so every query is a slow one.
    let server = Server::start().await;
    server.json("/api/v1/query?query=1").await;
    server.json("/api/v1/query?query=up%20%2B%20on()%20group_left%20up&timeout=0").await;
    let text = server.page("/metrics").await;
    for line in [
        "supervisor_slow_queries_total 2",
        "supervisor_queries_total{result=\"ok\"} 1",
        "supervisor_queries_total{result=\"timeout\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn remote_read_refuses_what_it_cannot_answer() {
    let server = Server::start().await;
    let url = format!("{}/api/v1/read", server.base);
    let answer = server.client.post(url).body("no snappy").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let text = answer.text().await.unwrap();
    assert!(text.contains("is not a snappy block"), "{text}");
}

#[tokio::test]
async fn pages_show_targets_and_what_takes_the_room() {
    let server = Server::start().await;
    fill(&server);
    let page = server.page("/targets").await;
    assert!(page.contains("<h1>Nothing is scraped</h1>"), "{page}");
    let page = server.page("/cardinality").await;
    assert!(page.contains("3 series of") && page.contains("<code>requests_total</code>"), "{page}");
}
