//! Remote write, both ways, a remote Prometheus in place of the store, and scrape jobs: with a real Prometheus at the other end.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod dns;
mod native_histograms;
mod pool;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
mod target;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use pool::Pool;
use support::prometheus::Prometheus;
use support::supervisor::{Supervisor, TOKEN};
use support::until;
use target::Target;

/// What the command line prints.
fn holdfast(base: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    let output = command.args(["--server", base]).args(arguments).output().unwrap();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {failed}");
    String::from_utf8(output.stdout).unwrap()
}

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

/// Exemplars of a target are in the Prometheus that we send to.
#[tokio::test(flavor = "multi_thread")]
async fn exemplars_go_with_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let text = "# TYPE requests counter\nrequests_total 7 # {trace_id=\"abc\"} 0.5\n# EOF\n";
    let kind = "application/openmetrics-text; version=1.0.0";
    let target = Target::start(kind, text.into()).await;
    let storage = "--enable-feature=exemplar-storage".to_owned();
    let remote = Prometheus::start_with("global: {}\n", &[storage]);
    let settings = format!(
        "[[scrape.job]]\nname = \"a\"\ntargets = [\"{}\"]\n\
         [[metrics.remote_write]]\nurl = \"{}/api/v1/write\"\n",
        target.address,
        remote.base()
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let found = async |base: &str| -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{base}/api/v1/query_exemplars"));
        let request = request.query(&[("query", "requests_total"), ("start", "0")]);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["data"][0]["exemplars"][0]["labels"].clone()
    };
    let expected = json!({ "trace_id": "abc" });
    for base in [supervisor.base.clone(), remote.base()] {
        until("the exemplar is there", async || found(&base).await == expected).await;
    }
}

/// A Prometheus evaluates on samples that it reads from us.
#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_reads_our_samples() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[metrics]\nexternal_labels = { cluster = \"eu\" }\n";
    let supervisor = Supervisor::start(folder.path(), settings).await;
    supervisor.import("load{a=\"1\"} 7\nload{a=\"2\"} 5\nother 1\n").await;
    let config =
        format!("remote_read: [{{url: '{}/api/v1/read', read_recent: true}}]\n", supervisor.base);
    let reader = Prometheus::start(&config);
    let base = reader.base();
    until("it finds them", async || value(&base, "sum(load)").await == Some(json!("12"))).await;
    let one = "load{cluster=\"eu\", a=~\"1|3\", a!=\"2\"}";
    assert_eq!(value(&base, one).await, Some(json!("7")), "under our labels outside");
    assert_eq!(value(&base, "load{cluster!~\"e.*\"}").await, None);
}

/// Nothing is scraped by us: a Prometheus does, and rules, circuits and the status go by what it has.
#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_a_remote_where_scraping_is_off() {
    let folder = tempfile::tempdir().unwrap();
    let text = "chatnode_connections 12\nprocess_resident_memory_bytes 5e7\nslow 1\n";
    let node = Target::start("text/plain; version=0.0.4", text.into()).await;
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: chatnode, static_configs: [\
         {{targets: ['{}'], labels: {{server: chatnode-1}}}}]}}]\n",
        node.address
    );
    let remote = Prometheus::start(&config);
    let rules = "groups: [{name: g, interval: 1s, rules: [\
                 {alert: Slow, expr: 'slow == 1', labels: {action: drain}},\
                 {alert: Gone, expr: 'up{job=\"chatnode\"} == 0'}]}]";
    std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
    let pool = Pool::start().await;
    let settings = format!(
        "[rules]\nfiles = [\"rules.yml\"]\n[scrape]\nenabled = false\n\
         [[node]]\nname = \"chatnode-1\"\nmetrics = \"{}\"\n\
         [balancer]\nadmin = \"{}\"\ntoken_file = \"token\"\npool = \"chat\"\n\
         [metrics]\nbackend = \"prometheus\"\n[metrics.prometheus]\nurl = \"{}\"\n",
        node.address,
        pool.address,
        remote.base()
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let shown = async |pointer: &str| {
        let text = supervisor.get("/operator/v1/status").await;
        let status: Value = serde_json::from_str(&text).unwrap();
        status.pointer(&format!("/servers/nodes/0/{pointer}")).cloned().unwrap_or_default()
    };
    until("the node is known", async || shown("up").await == json!(true)).await;
    until("its figures are known", async || shown("connections").await == json!(12.0)).await;
    until("its circuit opens", async || shown("circuit").await == json!("open")).await;
    until("it is drained", async || pool.state() == "drain").await;
    let page = supervisor.get("/").await;
    assert!(page.contains("47.7 MiB"), "the page shows its memory: {page}");
    node.stop();
    let firing = async || supervisor.get("/api/v1/alerts").await.contains("Gone");
    until("its end is an alert", firing).await;
    until("its end is shown", async || shown("up").await == json!(false)).await;
    let visitors = node.visitors.lock().unwrap().clone();
    let others: Vec<_> = visitors.iter().filter(|who| !who.starts_with("Prometheus/")).collect();
    assert!(!visitors.is_empty() && others.is_empty(), "{others:?} asked too");
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
    let page = supervisor.get("/targets").await;
    assert!(page.contains("targets down</h1>") && page.contains(&address), "{page}");
    let said = holdfast(base, &["targets", "--down"]);
    assert!(said.contains("fixed") && said.contains(&address) && said.contains("down"), "{said}");
    let said = holdfast(base, &["cardinality", "--limit", "3"]);
    assert!(said.contains("series of") && said.contains("memory of values"), "{said}");
}
