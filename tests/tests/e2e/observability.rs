//! What others read: Prometheus scrapes all programs and loads our rules; every metric that rules and dashboards name exists.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_tests::cluster::Cluster;
use holdfast_tests::process::{self, Process, free_address, workspace};
use holdfast_tests::wait;
use regex::Regex;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(40);

/// Metrics of what the cluster is not set up for: remote write, what balancers share, a key set, back ends, other supervisors and certificates. A program has
/// them once its settings name one.
const NOT_SET_UP: [&str; 8] = [
    "balancer_listener_certificate_",
    "balancer_shared_",
    "balancer_stick_table_",
    "supervisor_remote_write_",
    "chatnode_jwks_",
    "chatnode_proxy_",
    "supervisor_group_member_",
    "supervisor_sentinel_certificate_",
];

/// Names of all series in the supervisor's store: everything that was scraped from every program and Redis, and what it makes itself.
async fn stored_names(cluster: &Cluster) -> BTreeSet<String> {
    let url = format!("{}/api/v1/label/__name__/values", cluster.supervisor_url());
    let answer: Value = serde_json::from_str(&cluster.get(&url).await.unwrap()).unwrap();
    let names = answer["data"].as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Metric names in a text: the prefixes that programs and exporters use, and the few names without.
fn names_in(text: &str) -> BTreeSet<String> {
    let names = Regex::new(
        r"\b(?:(?:supervisor|balancer|chatnode|redis|process|host)_[a-z0-9_]+|scrape_[a-z_]+_seconds|ALERTS|up)\b",
    )
    .unwrap();
    names.find_iter(text).map(|name| name.as_str().to_owned()).collect()
}

/// All expressions of the rule files and of the dashboard.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in fs::read_dir(workspace().join("alerts")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let rules: Value = serde_norway::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for group in rules["groups"].as_array().unwrap() {
            for rule in group["rules"].as_array().unwrap() {
                all.push((path.display().to_string(), rule["expr"].as_str().unwrap().to_owned()));
            }
        }
    }
    for file in fs::read_dir(workspace().join("dashboards")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let dashboard: Value =
                serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            collect_expressions(&dashboard, &path.display().to_string(), &mut all);
        }
    }
    assert!(all.len() > 50, "only {} expressions", all.len());
    all
}

fn collect_expressions(value: &Value, file: &str, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(expression)) = object.get("expr") {
                all.push((file.to_owned(), expression.clone()));
            }
            object.values().for_each(|value| collect_expressions(value, file, all));
        }
        Value::Array(array) => array.iter().for_each(|value| collect_expressions(value, file, all)),
        _ => {}
    }
}

#[tokio::test]
async fn rules_and_dashboards_name_only_metrics_that_exist() {
    let cluster = Cluster::start(&[]).await;
    // A message and a request, so that everything that counts events has counted one.
    let member = holdfast_tests::clients::Member::join(&cluster, "somebody", "room").await;
    member.client.publish("room", serde_json::json!({"id": "1"})).await.unwrap();
    let mut missing = Vec::new();
    wait::until("all metrics", SOON, async || {
        let stored = stored_names(&cluster).await;
        missing.clear();
        for (file, expression) in expressions() {
            let names = names_in(&expression).into_iter();
            let names = names.filter(|name| {
                !stored.contains(name) && !NOT_SET_UP.iter().any(|prefix| name.starts_with(prefix))
            });
            missing.extend(names.map(|name| (file.clone(), name)));
        }
        missing.sort();
        missing.dedup();
        if missing.is_empty() { Ok(()) } else { Err(missing.clone()) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn prometheus_scrapes_every_program_and_loads_the_rules() {
    let cluster = Cluster::start(&[]).await;
    for (program, url) in cluster.admins() {
        let metrics = cluster.get(&format!("{url}/metrics")).await.unwrap();
        check_metrics(&program, &metrics);
        for path in ["health/live", "health/ready"] {
            cluster
                .get(&format!("{url}/{path}"))
                .await
                .unwrap_or_else(|e| panic!("{program}: {e}"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let jobs: Vec<_> = cluster
        .admins()
        .into_iter()
        .map(|(program, url)| {
            let target = url.trim_start_matches("http://");
            format!("  - job_name: {program}\n    static_configs: [{{targets: ['{target}']}}]\n")
        })
        .collect();
    let rules = workspace().join("alerts").canonicalize().unwrap();
    let jobs = jobs.concat();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}/*.yml']\nscrape_configs:\n{jobs}",
        rules.display()
    );
    let file = dir.path().join("prometheus.yml");
    fs::write(&file, config).unwrap();
    let address = free_address().to_string();
    let args = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", dir.path().join("data").display()),
        format!("--web.listen-address={address}"),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let prometheus = Process::start(Path::new("prometheus"), &args, &dir.path().join("log"));
    let wanted = cluster.admins().len();
    wait::until("Prometheus to have scraped everything", SOON, async || {
        let answer = cluster.get(&format!("http://{address}/api/v1/targets")).await;
        let answer = answer.map_err(|error| format!("{error}\n{}", prometheus.output()))?;
        let targets: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let targets = targets["data"]["activeTargets"].as_array().unwrap();
        let up = targets.iter().filter(|t| t["health"] == "up" && t["lastError"] == "").count();
        if up == wanted { Ok(()) } else { Err(answer) }
    })
    .await;
    let rules = cluster.get(&format!("http://{address}/api/v1/rules")).await.unwrap();
    assert!(rules.contains("NodeDown") && !rules.contains("\"health\":\"err\""), "{rules}");
    cluster.stop().await;
}

fn check_metrics(program: &str, metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.is_empty(), "{program}: {text}");
}

#[tokio::test]
async fn the_supervisor_answers_queries_as_prometheus_does() {
    let cluster = Cluster::start(&[]).await;
    let base = cluster.supervisor_url();
    let answer = wait::until("an answer", SOON, async || {
        let text = cluster.get(&format!("{base}/api/v1/query?query=sum(up)")).await?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        // Three nodes, balancer, three Redis servers, the supervisor itself.
        if answer["data"]["result"][0]["value"][1] == "8" { Ok(answer) } else { Err(text) }
    })
    .await;
    assert_eq!(answer["status"], "success");
    let error = cluster.get(&format!("{base}/api/v1/query?query=sum(")).await.unwrap_err();
    assert!(error.contains("400") && error.contains("bad_data"), "{error}");
    // promtool is a client of the same API.
    wait::until("promtool's answer", SOON, async || {
        let args = ["query", "instant", &base, "count(up == 1)"];
        let (status, output) = process::run(Path::new("promtool"), &args).await;
        if status.success() && output.contains("=> 8") { Ok(()) } else { Err(output) }
    })
    .await;
    let (status, page) =
        (cluster.get(&base).await, cluster.get(&format!("{base}/runbooks/NodeDown")).await);
    assert!(status.unwrap().contains("chatnode-3"));
    assert!(page.unwrap().contains("NodeDown"));
    cluster.stop().await;
}
