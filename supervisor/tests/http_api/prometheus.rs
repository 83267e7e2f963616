//! Prometheus' API, as Grafana and promtool use it.

use std::process::Command;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_series::{Exemplar, Histogram, Labels, Metadata, MetricKind, Span};
use serde_json::{Value, json};

use crate::kit::{Server, body, firing};

/// Ten seconds of `up` for two nodes.
fn fill(server: &Server, now: i64) {
    for (node, value) in [("chatnode-1", 1.0), ("chatnode-2", 0.0)] {
        let labels = [("__name__", "up"), ("job", "chatnode"), ("server", node)];
        for second in 0..10 {
            let labels = Labels::from_pairs(labels);
            server.store.append(&labels, now - 10_000 + second * 1000, value).unwrap();
        }
    }
}

#[tokio::test]
async fn grafana_reads_it_as_it_would_a_prometheus() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    fill(&server, now);
    let (status, answer) = server.json("/api/v1/query?query=sum(up)").await;
    assert_eq!((status, &answer["status"]), (200, &json!("success")), "{answer}");
    assert_eq!(answer["data"]["result"][0]["value"][1], "1");

    let form = [
        ("query", "up{server=\"chatnode-1\"}".to_owned()),
        ("start", format!("{}", (now - 9000) as f64 / 1000.0)),
        ("end", format!("{}", now as f64 / 1000.0)),
        ("step", "1s".to_owned()),
    ];
    let request = server.client.post(format!("{}/api/v1/query_range", server.base)).form(&form);
    let (status, answer) = body(request.send().await.unwrap()).await;
    assert_eq!((status, &answer["data"]["resultType"]), (200, &json!("matrix")), "{answer}");
    assert_eq!(answer["data"]["result"][0]["values"].as_array().unwrap().len(), 10);

    let list = async |path: &str| server.json(path).await.1["data"].clone();
    assert_eq!(list("/api/v1/labels").await, json!(["__name__", "job", "server"]));
    let names = json!(["chatnode-1", "chatnode-2"]);
    assert_eq!(list("/api/v1/label/server/values?match[]=up").await, names);
    assert_eq!(list("/api/v1/series?match[]=up").await.as_array().unwrap().len(), 2);
    assert!(list("/api/v1/status/buildinfo").await["version"].is_string());
    server.alerts.send_replace(vec![firing()]);
    let alerts = list("/api/v1/alerts").await;
    assert_eq!(alerts["alerts"][0]["state"], "firing");
    let active = alerts["alerts"][0]["activeAt"].as_str().unwrap();
    assert!(DateTime::parse_from_rfc3339(active).is_ok());
    let targets = list("/api/v1/targets").await;
    let health = |index: usize| targets["activeTargets"][index]["health"].clone();
    assert_eq!([health(0), health(1)], ["up", "down"]);
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }

    let wrong = [
        ("/api/v1/query?query=sum(", 400, "bad_data", "invalid parameter \"query\""),
        ("/api/v1/query", 400, "bad_data", "query"),
        (
            "/api/v1/query?query=up&time=x",
            400,
            "bad_data",
            "cannot parse \"x\" to a valid timestamp",
        ),
        ("/api/v1/query_range?query=up&start=0&end=20000&step=1", 400, "bad_data", "11,000 points"),
        ("/api/v1/query_range?query=up&start=9&end=5&step=1", 400, "bad_data", "end timestamp"),
        ("/api/v1/query_range?query=up&start=0&end=5&step=0", 400, "bad_data", "zero or negative"),
        ("/api/v1/series", 400, "bad_data", "no match[] parameter"),
        ("/api/v1/series?match[]=1", 400, "bad_data", "expected a selector"),
        ("/api/v1/query?query=up%20%2B%20on()%20up", 422, "execution", "many-to-many"),
        ("/api/v1/query?query=up&timeout=0", 503, "timeout", "timed out"),
    ];
    for (path, status, kind, text) in wrong {
        let (found, answer) = server.json(path).await;
        assert_eq!((found, &answer["errorType"]), (status, &json!(kind)), "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(text), "{path}: {answer}");
    }
}

#[tokio::test]
async fn rules_are_filtered_as_asked() {
    let server = Server::start().await;
    for (filter, expected) in [
        ("", vec!["nodes", "sums"]),
        ("type=alert", vec!["nodes"]),
        ("type=record", vec!["sums"]),
        ("rule_group[]=sums&rule_group[]=other", vec!["sums"]),
        ("file[]=nodes.yml", vec!["nodes"]),
        ("rule_name[]=NodeDown", vec!["nodes"]),
        ("rule_name[]=NodeDown&type=record", vec![]),
    ] {
        let (_, answer) = server.json(&format!("/api/v1/rules?{filter}")).await;
        let groups = answer["data"]["groups"].as_array().unwrap();
        let names: Vec<_> = groups.iter().map(|group| group["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{filter}");
    }
    let (_, answer) = server.json("/api/v1/rules?exclude_alerts=true&type=alert").await;
    assert_eq!(answer["data"]["groups"][0]["rules"][0].get("alerts"), None);
    assert_eq!(server.json("/api/v1/rules?type=other").await.0, 400);
}

#[tokio::test]
async fn the_server_describes_itself_and_its_series() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    fill(&server, now);
    let help = Metadata { kind: MetricKind::Gauge, help: "Up or not".into(), unit: "".into() };
    server.store.set_metadata("up", &help);
    let list = async |path: &str| server.json(path).await.1["data"].clone();
    let described = json!({ "up": [{ "type": "gauge", "help": "Up or not", "unit": "" }] });
    assert_eq!(list("/api/v1/metadata").await, described);
    assert_eq!(list("/api/v1/metadata?metric=down").await, json!({}));
    let tsdb = list("/api/v1/status/tsdb").await;
    assert_eq!(tsdb["headStats"]["numSeries"], 2);
    assert_eq!(tsdb["seriesCountByMetricName"][0], json!({ "name": "up", "value": 2 }));
    for (path, key) in [
        ("config", "yaml"),
        ("flags", "query.timeout"),
        ("runtimeinfo", "storageRetention"),
        ("walreplay", "current"),
        ("buildinfo", "version"),
    ] {
        let answer = list(&format!("/api/v1/status/{path}")).await;
        assert!(!answer[key].is_null(), "{path}: {answer}");
    }
    let none = json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] });
    assert_eq!(list("/api/v1/alertmanagers").await, none);

    let federated = server.page("/federate?match[]=up&match[]={job=%22chatnode%22}").await;
    let lines: Vec<&str> = federated.lines().collect();
    let newest = now - 1000;
    assert_eq!(
        lines,
        [
            "# TYPE up gauge",
            &format!("up{{job=\"chatnode\",server=\"chatnode-1\"}} 1 {newest}"),
            &format!("up{{job=\"chatnode\",server=\"chatnode-2\"}} 0 {newest}"),
        ]
    );
    // One that does not unpack by itself.
    let plain = reqwest::Client::builder().no_proxy().no_gzip().build().unwrap();
    let zipped = plain.get(format!("{}/api/v1/labels", server.base));
    let zipped = zipped.header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn answers_are_limited_timed_and_annotated_as_asked() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    fill(&server, now);
    let ask = async |path: &str| server.json(path).await.1;
    let cut = ask("/api/v1/query?query=up&limit=1").await;
    assert_eq!(cut["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(cut["warnings"], json!(["results truncated due to limit"]));
    let cut = ask("/api/v1/label/server/values?limit=1").await;
    assert_eq!(
        (cut["data"].clone(), cut["warnings"][0].is_string()),
        (json!(["chatnode-1"]), true)
    );
    let timed = ask("/api/v1/query?query=1%2B1&stats=all").await;
    assert_eq!(timed["data"]["result"][1], "2");
    assert!(timed["data"]["stats"]["timings"]["execTotalTime"].is_number(), "{timed}");
    let noted = ask("/api/v1/query?query=rate(up[5m])").await;
    assert!(noted["infos"][0].as_str().unwrap().contains("might not be a counter"), "{noted}");
    let early = format!("/api/v1/series?match[]=up&start=0&end={}", now / 1000 - 3600);
    assert_eq!(ask(&early).await["status"], "success");
    let laid_out = ask("/api/v1/format_query?query=sum(up)by(job)").await;
    assert_eq!(laid_out["data"], "sum by (job) (up)");
    let short = ask("/api/v1/query?query=up&lookback_delta=1ms").await;
    assert_eq!(short["data"]["result"], json!([]));
}

#[tokio::test]
async fn exemplars_and_native_histograms_are_answered() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    let labels = Labels::from_pairs([("__name__", "request_seconds_bucket"), ("le", "1")]);
    let trace = Labels::from_pairs([("trace_id", "abc")]);
    let exemplar = Exemplar { labels: trace, value: 0.5, timestamp_ms: now };
    server.store.append(&labels, now, 7.0).unwrap();
    server.store.append_exemplar(&labels, exemplar);
    let query = "histogram_quantile(0.9%2C%20rate(request_seconds_bucket%5B5m%5D))";
    let path = format!("/api/v1/query_exemplars?query={query}&start={}", now / 1000 - 60);
    let (_, answer) = server.json(&path).await;
    assert_eq!(answer["data"][0]["seriesLabels"]["le"], "1", "{answer}");
    assert_eq!(answer["data"][0]["exemplars"][0]["labels"]["trace_id"], "abc");
    assert_eq!(answer["data"][0]["exemplars"][0]["value"], "0.5");

    let histogram = Histogram {
        count: 3.0,
        sum: 6.0,
        positive_spans: vec![Span { offset: 1, length: 1 }],
        positive_counts: vec![3.0],
        ..Histogram::default()
    };
    let labels = Labels::from_pairs([("__name__", "native_seconds")]);
    server.store.append_histogram(&labels, now, Arc::new(histogram)).unwrap();
    let (_, answer) = server.json("/api/v1/query?query=native_seconds").await;
    let shown: &Value = &answer["data"]["result"][0]["histogram"][1];
    assert_eq!((&shown["count"], &shown["sum"]), (&json!("3"), &json!("6")), "{answer}");
}

/// promtool's own client reads our answers.
#[tokio::test(flavor = "multi_thread")]
async fn promtool_queries_it() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    fill(&server, now);
    let start = format!("--start={}", now / 1000 - 8);
    let end = format!("--end={}", now / 1000);
    let time = format!("--time={}", now / 1000);
    let base = server.base.as_str();
    let cases: [(&[&str], &str); 5] = [
        (&["instant", &time, base, "sum(up)"], "{} => 1 @["),
        (&["range", &start, &end, "--step=1s", base, "up"], "server=\"chatnode-2\"} =>\n0 @["),
        (&["series", "--match=up", &start, &end, base], "server=\"chatnode-1\"}"),
        (&["labels", &start, &end, base, "server"], "chatnode-1\nchatnode-2"),
        (&["instant", &time, base, "nothing"], ""),
    ];
    for (args, expected) in cases {
        let output = Command::new("promtool").args(["query"]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && failed.is_empty(), "{args:?}: {failed}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let wrong = Command::new("promtool").args(["query", "instant", base, "sum("]).output().unwrap();
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("bad_data"));
}

/// The requests that Grafana's data source makes: its health check, what it can do, and a panel.
#[tokio::test]
async fn grafana_s_own_requests_are_answered() {
    let server = Server::start().await;
    let now = Utc::now().timestamp_millis();
    fill(&server, now);
    let post = async |path: &str, form: &[(&str, String)]| {
        let request = server.client.post(format!("{}{path}", server.base)).form(form);
        body(request.send().await.unwrap()).await
    };
    let seconds = |ms: i64| (ms / 1000).to_string();
    let span = |name: &str, value: &str| {
        vec![
            (name.to_owned(), value.to_owned()),
            ("start".to_owned(), seconds(now - 3_600_000)),
            ("end".to_owned(), seconds(now)),
        ]
    };
    let health = post("/api/v1/query", &[("query", "1+1".into()), ("time", seconds(now))]).await;
    assert_eq!((health.0, health.1["data"]["result"][1].clone()), (200, json!("2")));
    let form: Vec<(String, String)> = span("query", "rate(up[1m])");
    let mut form: Vec<(&str, String)> =
        form.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    form.push(("step", "15".to_owned()));
    assert_eq!(post("/api/v1/query_range", &form).await.1["data"]["resultType"], "matrix");
    assert_eq!(post("/api/v1/query_exemplars", &form).await.1["data"], json!([]));
    let form =
        [("match[]", "up".to_owned()), ("start", seconds(now - 60_000)), ("limit", "40000".into())];
    assert_eq!(post("/api/v1/series", &form).await.1["data"].as_array().unwrap().len(), 2);
    assert_eq!(post("/api/v1/labels", &form).await.1["data"], json!(["__name__", "job", "server"]));
    let values =
        format!("/api/v1/label/__name__/values?start={}&limit=40000", seconds(now - 60_000));
    for path in [
        values.as_str(),
        "/api/v1/metadata?limit=5000&limit_per_metric=1",
        "/api/v1/status/buildinfo",
        "/api/v1/rules",
        "/api/v1/alerts",
        "/api/v1/status/flags",
    ] {
        let (status, answer) = server.json(path).await;
        assert_eq!((status, &answer["status"]), (200, &json!("success")), "{path}: {answer}");
    }
}
