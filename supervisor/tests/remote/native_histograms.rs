//! Protobuf expositions and native histograms: read from targets, compared with what a real Prometheus makes of the same bytes, and handed
//! on by federation.

use std::path::Path;

use holdfast_series::protobuf::{self, Families};
use holdfast_series::text::{Entries as _, Entry};
use serde_json::Value;

use crate::support::prometheus::Prometheus;
use crate::support::supervisor::Supervisor;
use crate::support::until;
use crate::target::Target;

async fn ask(base: &str, path: &str, parameters: &[(&str, &str)]) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("{base}{path}")).query(parameters);
    request.send().await.unwrap().json().await.unwrap()
}

/// Labels and value of every series that a query finds, in order.
async fn found(base: &str, query: &str) -> Vec<String> {
    let answer = ask(base, "/api/v1/query", &[("query", query)]).await;
    let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let mut lines: Vec<String> = series
        .iter()
        .map(|series| {
            let value: f64 = series["value"][1].as_str().unwrap_or("NaN").parse().unwrap();
            format!("{} {value:.9}", series["metric"])
        })
        .collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_makes_the_same_of_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let seed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/exposition_protobuf/families.pb");
    let target = Target::start(protobuf::CONTENT_TYPE, std::fs::read(seed).unwrap()).await;
    let address = &target.address;
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
         - {{job_name: native, static_configs: [{{targets: ['{address}']}}]}}\n"
    );
    let prometheus =
        Prometheus::start_with(&config, &["--enable-feature=native-histograms".to_owned()]);
    let job = format!(
        "[[scrape.job]]\nname = \"native\"\ntargets = [\"{address}\"]\nscrape_native_histograms = true\n\
         [[scrape.job]]\nname = \"both\"\ntargets = [\"{address}\"]\nscrape_native_histograms = true\n\
         always_scrape_classic_histograms = true\n"
    );
    let supervisor = Supervisor::start(folder.path(), &job).await;
    for base in [&prometheus.base(), &supervisor.base] {
        until("the histogram is there", async || {
            !found(base, "histogram_count(h{job=\"native\"})").await.is_empty()
        })
        .await;
    }
    for query in [
        "c_total{job=\"native\"}",
        "{__name__=~\"s|s_sum|s_count\", job=\"native\"}",
        "histogram_count(h{job=\"native\"})",
        "histogram_sum(h{job=\"native\"})",
        "histogram_quantile(0, h{job=\"native\"})",
        "histogram_quantile(1, sum by (job) (h{job=\"native\"}))",
        "histogram_fraction(1, +Inf, h{job=\"native\"})",
        "count by (__name__) ({__name__=~\"h.*\", job=\"native\"})",
    ] {
        let (ours, theirs) =
            (found(&supervisor.base, query).await, found(&prometheus.base(), query).await);
        assert!(!theirs.is_empty(), "{query}");
        assert_eq!(ours, theirs, "{query}");
    }
    // Between the bounds of a bucket the third version interpolates by powers, which 2.42 did not do yet: the middle one of five
    // observations lies a quarter of the way through the bucket (0.71, 1].
    let median = found(&supervisor.base, "histogram_quantile(0.5, h{job=\"native\"})").await;
    assert!(median[0].ends_with(" 0.771105413"), "{median:?}");
    let classic = found(&supervisor.base, "h_bucket{job=\"both\", le=\"1.0\"}").await;
    assert_eq!(classic.len(), 1, "classic buckets are kept where that is asked for");

    let federated = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = federated.get(format!("{}/federate", supervisor.base));
    let request = request.query(&[("match[]", "{job=\"native\"}")]);
    let text = request.try_clone().unwrap().send().await.unwrap().text().await.unwrap();
    assert!(text.contains("c_total{") && !text.contains("\nh{"), "{text}");
    let answer = request.header("accept", protobuf::CONTENT_TYPE).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], protobuf::CONTENT_TYPE);
    let body = answer.bytes().await.unwrap();
    let families = Families::read(&body, false).unwrap();
    let mut entries = families.entries();
    let histogram = std::iter::from_fn(|| entries.next_entry("")).find_map(|entry| match entry {
        Ok(Entry::Histogram(sample, histogram)) => Some((sample.series, histogram.count)),
        _ => None,
    });
    let (series, count) = histogram.expect("a native histogram is federated");
    assert!(series.starts_with("h{") && count > 0.0, "{series}");
}

/// Debian's Prometheus as a target: what it says in protobuf is what it says in text.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_target_says_the_same_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let target = Prometheus::start("global: {}\n");
    let address = target.base().trim_start_matches("http://").to_owned();
    let settings = format!(
        "[[scrape.job]]\nname = \"text\"\ntargets = [\"{address}\"]\n\
         [[scrape.job]]\nname = \"protobuf\"\ntargets = [\"{address}\"]\n\
         scrape_native_histograms = true\nalways_scrape_classic_histograms = true\n"
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let series = async |job: &str| -> Vec<String> {
        let selector = format!("{{job=\"{job}\"}}");
        // Of the last seconds: what was there before the first scrape of the other job does not count.
        let answer = ask(&supervisor.base, "/api/v1/query", &[("query", &selector)]).await;
        let mut lines: Vec<String> = answer["data"]["result"]
            .as_array()
            .unwrap()
            .iter()
            .map(|series| series["metric"].to_string().replace(&format!("\"job\":\"{job}\""), ""))
            // Bounds are written as in OpenMetrics by the one, and as Go prints numbers by the other.
            .map(|series| series.replace(".0\"", "\""))
            .collect();
        lines.sort();
        lines
    };
    until("both have the same series", async || {
        let (text, protobuf) = (series("text").await, series("protobuf").await);
        text.len() > 200 && text == protobuf
    })
    .await;
    let about = ask(&supervisor.base, "/api/v1/metadata", &[("metric", "go_info")]).await;
    assert_eq!(about["data"]["go_info"].as_array().unwrap().len(), 1, "{about}");
}
