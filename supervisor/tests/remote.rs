//! Remote write, both ways, a remote Prometheus in place of the store, and scrape jobs: with a real Prometheus at the other end.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod support;

use std::path::Path;

use serde_json::{Value, json};

use support::prometheus::Prometheus;
use support::supervisor::{Supervisor, TOKEN};
use support::until;

/// The value of the first series that a query finds.
async fn value(base: &str, query: &str) -> Option<Value> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("{base}/api/v1/query")).query(&[("query", query)]);
    let answer: Value = request.send().await.ok()?.json().await.ok()?;
    answer["data"]["result"].get(0).map(|series| series["value"][1].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_reach_a_prometheus_and_none_is_lost_while_either_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut remote = Prometheus::start("global: {}\n");
    let settings = format!(
        "[metrics]\nexternal_labels = {{ cluster = \"eu\" }}\n\
         [[metrics.remote_write]]\nname = \"long-term\"\nurl = \"{}/api/v1/write\"\n",
        remote.base()
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    supervisor.import("load{a=\"1\"} 7\n").await;
    until("the sample is at the remote", async || {
        value(&remote.base(), "load{cluster=\"eu\"}").await == Some(json!("7"))
    })
    .await;

    remote.stop();
    supervisor.import("load{a=\"2\"} 8\n").await;
    until("the request fails", async || {
        let failed = "supervisor_remote_write_failures_total";
        supervisor.metric(failed).await.is_some_and(|count| count > 0.0)
    })
    .await;
    drop(supervisor);
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    remote.start_again();
    until("what was kept reaches it", async || {
        value(&remote.base(), "load{a=\"2\"}").await == Some(json!("8"))
    })
    .await;
    let refused = supervisor.metric("supervisor_remote_write_samples_refused_total").await;
    assert_eq!(refused, Some(0.0));

    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../alerts/supervisor.yml");
    let alerts = std::fs::read_to_string(alerts).unwrap();
    let metrics = supervisor.get("/metrics").await;
    let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: Vec<_> = words.filter(|word| word.starts_with("supervisor_remote_write_")).collect();
    assert!(!names.is_empty(), "there are alerts about remote write");
    for name in names {
        assert!(metrics.contains(&format!("\n{name}{{")), "alerts use {name}, which is not there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_sends_its_samples_to_us() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(folder.path(), "").await;
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: own, static_configs: [{{targets: ['SELF']}}]}}]\n\
         remote_write: [{{url: '{}/api/v1/write', authorization: {{credentials: {TOKEN}}},\
         metadata_config: {{send_interval: 1s}}}}]\n",
        supervisor.base
    );
    let _remote = Prometheus::start(&config);
    until("its samples are here", async || {
        value(&supervisor.base, "up{job=\"own\"}").await == Some(json!("1"))
    })
    .await;
    until("its metadata is here", async || {
        let text = supervisor.get("/api/v1/metadata?metric=prometheus_build_info").await;
        text.contains("\"type\":\"gauge\"")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_prometheus_stands_in_for_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let config = "global: {scrape_interval: 1s}\n\
                  scrape_configs: [{job_name: own, static_configs: [{targets: ['SELF']}]}]\n";
    let mut remote = Prometheus::start(config);
    let rules = folder.path().join("rules.yml");
    let text = "groups: [{name: g, interval: 1s, rules: [\
                {alert: Seen, expr: 'up{job=\"own\"} == 1', labels: {severity: info}},\
                {alert: Away, expr: 'rate(prometheus_rule_evaluation_failures_total[1m]) > 0'}]}]";
    std::fs::write(&rules, text).unwrap();
    let settings = format!(
        "[rules]\nfiles = [\"rules.yml\"]\n[metrics]\nbackend = \"prometheus\"\n\
         [metrics.prometheus]\nurl = \"{}\"\ntimeout = \"2s\"\n",
        remote.base()
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let firing = async |name: &str| {
        let alerts: Value = serde_json::from_str(&supervisor.get("/api/v1/alerts").await).unwrap();
        let alerts = alerts["data"]["alerts"].as_array().unwrap().clone();
        alerts.iter().any(|alert| alert["labels"]["alertname"] == name)
    };
    until("a rule fires on a series of the remote", async || firing("Seen").await).await;
    assert_eq!(value(&supervisor.base, "up{job=\"own\"}").await, Some(json!("1")));
    let wrong = supervisor.get("/api/v1/query?query=sum(").await;
    assert!(wrong.contains("bad_data"), "{wrong}");

    remote.stop();
    until("the absence of the remote is an alert", async || firing("Away").await).await;
    assert!(firing("Seen").await, "what is not known leaves its alert as it is");
    let answer = supervisor.get("/api/v1/query?query=up").await;
    assert!(answer.contains("\"errorType\":\"unavailable\""), "{answer}");

    remote.start_again();
    until("it is asked again", async || {
        value(&supervisor.base, "up{job=\"own\"}").await == Some(json!("1"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_scrape_what_settings_and_files_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = Prometheus::start("global: {}\n");
    let address = target.base().trim_start_matches("http://").to_owned();
    let settings = format!(
        "[[scrape.job]]\nname = \"fixed\"\ntargets = [\"{address}\"]\nlabels = {{ dc = \"x\" }}\n\
         relabel_configs = [{{ source_labels = [\"__address__\"], regex = \"(.*):.*\", target_label = \"host\" }}]\n\
         metric_relabel_configs = [{{ source_labels = [\"__name__\"], regex = \"go_.*\", action = \"drop\" }}]\n\
         [[scrape.job]]\nname = \"files\"\nfile_sd = [\"targets.*\"]\n"
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let base = supervisor.base.as_str();
    let is = async |query: &str, expected: Option<&str>| {
        until(query, async || value(base, query).await == expected.map(|text| json!(text))).await;
    };
    is("up{job=\"fixed\", dc=\"x\", host=\"127.0.0.1\"}", Some("1")).await;
    is("count(prometheus_build_info{job=\"fixed\", host=\"127.0.0.1\"})", Some("1")).await;
    is("count({__name__=~\"go_.*\", job=\"fixed\"})", None).await;

    let list = folder.path().join("targets.json");
    let write = |text: &str| std::fs::write(&list, text.replace("ADDRESS", &address)).unwrap();
    write("[{\"targets\": [\"ADDRESS\"], \"labels\": {\"a\": \"1\"}}]");
    is("up{job=\"files\", a=\"1\"}", Some("1")).await;
    write("[{\"targets\": [");
    until("the fault is told", async || {
        let log = std::fs::read_to_string(folder.path().join("supervisor.log")).unwrap();
        log.contains("targets stay as the file listed them last")
    })
    .await;
    is("up{job=\"files\", a=\"1\"}", Some("1")).await;
    write("[{\"targets\": [\"ADDRESS\"], \"labels\": {\"a\": \"2\"}}]");
    is("up{job=\"files\", a=\"2\"}", Some("1")).await;
    is("up{job=\"files\", a=\"1\"}", None).await;

    let file = folder.path().join("supervisor.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let job = "name = \"files\"\n";
    let changed = text.replace(job, &format!("{job}labels = {{ again = \"yes\" }}\n"));
    std::fs::write(&file, changed).unwrap();
    supervisor.hang_up();
    is("up{job=\"files\", again=\"yes\", a=\"2\"}", Some("1")).await;

    target.stop();
    is("up{job=\"fixed\"}", Some("0")).await;
    is("count({job=\"fixed\", __name__=~\"prometheus_.*\"})", None).await;
    let targets: Value = serde_json::from_str(&supervisor.get("/api/v1/targets").await).unwrap();
    let targets = targets["data"]["activeTargets"].as_array().unwrap().clone();
    let fixed = targets.iter().find(|target| target["scrapePool"] == "fixed").unwrap();
    assert_eq!(fixed["scrapeUrl"], format!("http://{address}/metrics"));
    assert_eq!(fixed["discoveredLabels"]["__address__"], address);
    assert!(!fixed["lastError"].as_str().unwrap().is_empty(), "{fixed}");
}
