//! The requests of Grafana's Prometheus data source and of promtool, put to a real Prometheus and to us, on the same samples and rules:
//! whatever field the answer of the one has, ours has too, with a value of the same kind.
//!
//! Grafana itself is in no package registry that a test could install it from; its requests are taken from its documentation and from
//! what its data source was seen to send: form bodies by `POST` with `GET` as fallback, `match[]`, `start`, `end`, `limit`, gzip.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use chrono::Utc;
use serde_json::Value;

use crate::support::prometheus::Prometheus;
use crate::support::supervisor::Supervisor;
use crate::support::until;
use crate::value;

const RULES: &str = "groups: [{name: g, interval: 1s, rules: [\
    {record: 'job:up:sum', expr: 'sum by (job) (up)', labels: {team: a}},\
    {alert: Always, expr: 'up{job=\"own\"} == 1', labels: {severity: info}, annotations: {summary: 'x'}},\
    {alert: Never, expr: 'up{job=\"own\"} == 7', for: 5m}]}]";

/// What a request is and whether it is a form.
struct Request {
    path: &'static str,
    form: Vec<(&'static str, String)>,
    post: bool,
}

fn requests(now: i64) -> Vec<Request> {
    let (start, end) = ((now - 600).to_string(), now.to_string());
    let span = || vec![("start", start.clone()), ("end", end.clone())];
    let with = |more: &[(&'static str, &str)]| {
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        span().into_iter().chain(more).collect::<Vec<_>>()
    };
    let post = |path, form| Request { path, form, post: true };
    let get = |path, form| Request { path, form, post: false };
    let health = vec![("query", "1+1".to_owned()), ("time", end.clone())];
    let gauge = "up{job=\"own\"}";
    vec![
        post("/api/v1/query", health.clone()),
        get("/api/v1/query", health),
        post("/api/v1/query", vec![("query", gauge.to_owned())]),
        post("/api/v1/query", vec![("query", format!("{gauge}[1m]"))]),
        post("/api/v1/query", vec![("query", "\"text\"".to_owned())]),
        post("/api/v1/query_range", with(&[("query", gauge), ("step", "15")])),
        get("/api/v1/query_range", with(&[("query", gauge), ("step", "15s")])),
        post("/api/v1/query_exemplars", with(&[("query", gauge)])),
        post("/api/v1/series", with(&[("match[]", gauge), ("limit", "40000")])),
        get("/api/v1/series", with(&[("match[]", "up"), ("match[]", "go_info")])),
        post("/api/v1/labels", with(&[("limit", "40000")])),
        post("/api/v1/labels", with(&[("match[]", gauge)])),
        get("/api/v1/label/__name__/values", with(&[("limit", "40000")])),
        get("/api/v1/label/job/values", with(&[("match[]", "up")])),
        get("/api/v1/metadata", vec![("limit", "5000".to_owned())]),
        get("/api/v1/metadata", vec![("metric", "go_info".to_owned())]),
        get("/api/v1/rules", Vec::new()),
        get("/api/v1/rules", vec![("type", "alert".to_owned())]),
        get("/api/v1/alerts", Vec::new()),
        get("/api/v1/targets", vec![("state", "active".to_owned())]),
        get("/api/v1/targets", Vec::new()),
        get("/api/v1/targets/metadata", vec![("metric", "go_info".to_owned())]),
        get("/api/v1/targets/metadata", vec![("match_target", "{job=\"own\"}".to_owned())]),
        get("/api/v1/alertmanagers", Vec::new()),
        get("/api/v1/status/buildinfo", Vec::new()),
        get("/api/v1/status/runtimeinfo", Vec::new()),
        get("/api/v1/status/config", Vec::new()),
        get("/api/v1/status/flags", Vec::new()),
        get("/api/v1/status/tsdb", Vec::new()),
        get("/api/v1/status/walreplay", Vec::new()),
        get("/api/v1/format_query", vec![("query", "sum(up)by(job)".to_owned())]),
        // What is wrong is told in the same words and with the same status.
        post("/api/v1/query", vec![("query", "sum(".to_owned())]),
        post("/api/v1/query_range", vec![("query", "up".to_owned())]),
        get("/api/v1/series", Vec::new()),
        get("/api/v1/label/a-b/values", Vec::new()),
        post("/api/v1/query", vec![("query", "go_info + on() {job=\"own\"}".to_owned())]),
    ]
}

/// What `theirs` has and `ours` has not, or has as another kind of value. Of lists, all elements of theirs count and any of ours.
fn lacks(path: &str, theirs: &Value, ours: &Value, found: &mut BTreeSet<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            // Sets of labels, settings and counts by name are data, not shape.
            let data = ["metric", "labels", "target", "discoveredLabels", "annotations"];
            let last = path.rsplit('.').next().unwrap_or_default();
            if data.contains(&last.trim_end_matches("[]")) || path == "/api/v1/status/flags.data" {
                return;
            }
            for (key, value) in theirs {
                let below = format!("{path}.{key}");
                match ours.get(key) {
                    Some(own) => lacks(&below, value, own, found),
                    None => drop(found.insert(format!("{below} is missing"))),
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            if ours.is_empty() && !theirs.is_empty() {
                found.insert(format!("{path} is empty"));
            }
            for value in theirs {
                let tries = ours.iter().map(|own| {
                    let mut differences = BTreeSet::new();
                    lacks(&format!("{path}[]"), value, own, &mut differences);
                    differences
                });
                found.extend(tries.min_by_key(BTreeSet::len).unwrap_or_default());
            }
        }
        (Value::Null, _)
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_))
        | (Value::Bool(_), Value::Bool(_)) => {}
        (theirs, ours) => drop(found.insert(format!("{path}: {ours} for {theirs}"))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_every_field_that_those_of_prometheus_have() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yml"), RULES).unwrap();
    let rules = folder.path().join("rules.yml").display().to_string();
    let config = format!(
        "global: {{scrape_interval: 1s}}\nrule_files: ['{rules}']\n\
         scrape_configs: [{{job_name: own, static_configs: [{{targets: ['SELF']}}]}}]\n"
    );
    let prometheus = Prometheus::start(&config);
    let address = prometheus.base().trim_start_matches("http://").to_owned();
    let settings = format!(
        "[rules]\nfiles = [\"rules.yml\"]\n\
         [[scrape.job]]\nname = \"own\"\ntargets = [\"{address}\"]\n"
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for base in [prometheus.base(), supervisor.base.clone()] {
        until("rules and targets are there", async || {
            let firing = "ALERTS{alertname=\"Always\", alertstate=\"firing\"} and on() count_over_time(up{job=\"own\"}[1m]) > 3";
            value(&base, firing).await.is_some()
        })
        .await;
    }
    let mut differences = String::new();
    for Request { path, form, post } in requests(Utc::now().timestamp()) {
        let ask = async |base: &str| -> (u16, Value) {
            let url = format!("{base}{path}");
            let request =
                if post { client.post(url).form(&form) } else { client.get(url).query(&form) };
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.json().await.unwrap_or_default())
        };
        let (theirs, ours) = (ask(&prometheus.base()).await, ask(&supervisor.base).await);
        let mut found = BTreeSet::new();
        if theirs.0 != ours.0 || theirs.1["errorType"] != ours.1["errorType"] {
            found.insert(format!("status {} {} for {} {}", ours.0, ours.1, theirs.0, theirs.1));
        }
        lacks(path, &theirs.1, &ours.1, &mut found);
        for difference in found {
            writeln!(differences, "{path} {form:?}: {difference}").unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
    promtool(&prometheus.base(), &supervisor.base);
}

/// Every question that promtool asks a server, put to both: it understands both answers, and finds the same series in them.
fn promtool(theirs: &str, ours: &str) {
    let now = Utc::now().timestamp();
    let (start, end) = (format!("--start={}", now - 60), format!("--end={now}"));
    let cases: [(&str, Vec<&str>, Vec<&str>); 4] = [
        ("instant", vec![], vec!["count by (job) (up{job=\"own\"})"]),
        ("range", vec![&start, &end, "--step=5s"], vec!["count by (job) (up{job=\"own\"})"]),
        ("series", vec!["--match=up{job=\"own\"}", &start, &end], vec![]),
        ("labels", vec![&start, &end, "--match=up{job=\"own\"}"], vec!["job"]),
    ];
    for (question, flags, last) in cases {
        let ask = |base: &str| {
            let mut command = Command::new("promtool");
            command.args(["query", question]).args(&flags).arg(base).args(&last);
            let output = command.output().unwrap();
            let failed = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "promtool query {question} at {base}: {failed}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            // What is before the values: the instants differ.
            let names: BTreeSet<String> = said
                .lines()
                .filter(|line| !line.contains(" @["))
                .map(str::to_owned)
                .chain(
                    said.lines()
                        .filter_map(|line| line.split_once(" => "))
                        .map(|(name, _)| name.to_owned()),
                )
                .collect();
            names
        };
        assert_eq!(ask(ours), ask(theirs), "promtool query {question}");
    }
}
