use std::path::Path;

use super::*;
use crate::config::{Algorithm, CheckKind};

/// The sample that operators start from; `deploy/config/balancer.toml`.
const SAMPLE: &str = include_str!("../../../../deploy/config/balancer.toml");

/// The sample with a token file that exists.
fn sample() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "hunter2\n").unwrap();
    let text = SAMPLE.replace("/etc/holdfast/balancer.token", token.to_str().unwrap());
    (dir, text)
}

fn check(text: String) -> Result<Config, Faults> {
    let (file, source) = holdfast_settings::parse::<file::File>(Path::new("b.toml"), text)?;
    convert(file, &source)
}

#[test]
fn the_sample_is_right() {
    let (_dir, text) = sample();
    let config = check(text).unwrap();
    assert_eq!(config.listeners.len(), 1);
    let pool = &config.pools[0];
    assert_eq!(pool.rules.algorithm, Algorithm::LeastConnections);
    assert_eq!(pool.servers[1].weight.get(), 100);
    let CheckKind::Http(question, _) = &pool.rules.check.as_ref().unwrap().kind else { panic!() };
    assert_eq!(&*question.path, "/health/ready");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_sample_shows_the_defaults() {
    let (_dir, text) = sample();
    // Without the keys that have a default, all but what the sample switches on beyond them.
    let optional = [
        "level",
        "format",
        "period",
        "mode",
        "max_",
        "header_timeout",
        "idle_timeout",
        "algorithm",
        "connect_timeout",
        "response_timeout",
        "fail_timeout",
        "panic_threshold",
        "interval",
        "timeout",
        "rise",
        "fall",
        "weight",
        "proxy_protocol",
        "forwarded",
        "request_id",
        "queue_",
        "jitter",
        "budget",
        "min_per_second",
        "enabled",
        "keep_changes",
        "journal_",
        "http2",
        "trace",
    ];
    let short: String = text
        .lines()
        .filter(|line| !optional.iter().any(|key| line.starts_with(key)))
        .flat_map(|line| [line, "\n"])
        .collect();
    let (full, short) = (check(text).unwrap(), check(short).unwrap());
    assert_eq!(full.listeners, short.listeners);
    assert_eq!(full.pools, short.pools);
    assert_eq!(full.drain, short.drain);
    assert_eq!(full.admin, short.admin);
}

#[test]
fn every_fault_is_named_where_it_is() {
    let cases = [
        ("listen = \"127.0.0.1:9801\"", "listen = \"localhost\"", "admin.listen: expected an IP"),
        ("pool = \"chat\"", "pool = \"chta\"", "listener[0].pool: there is no pool named \"chta\""),
        ("127.0.0.0/8", "127.0.0.0/33", "listener[0].trusted_proxies[0]: expected an address"),
        ("max_header_bytes = 16384", "max_header_bytes = 10", "listener[0].max_header_bytes: exp"),
        ("mode = \"http\"", "mode = \"udp\"", "listener[0].mode: unknown variant `udp`"),
        ("mode = \"http\"", "mode = \"tcp\"", "listener[0].trusted_proxies: has no meaning"),
        ("panic_threshold = 0.34", "panic_threshold = 34.0", "pool[0].panic_threshold: expected 0"),
        ("type = \"http\"", "type = \"tcp\"", "pool[0].health_check.path: has no meaning"),
        ("path = \"/health", "path = \"health", "pool[0].health_check.path: expected a path"),
        ("http2_max_streams = 100", "http2_max_streams = 0", "listener[0].http2_max_streams: exp"),
        ("rise = 2", "rise = 0", "pool[0].health_check.rise: expected at least 1"),
        ("10.0.0.12:8100", "10.0.0.12", "pool[0].server[1].address: expected host:port"),
        ("10.0.0.12:8100", "10.0.0.12:0", "pool[0].server[1].address: expected host:port"),
        ("chatnode-2", "chatnode-1", "pool[0].server[1].name: \"chatnode-1\" is used twice"),
        ("chatnode-2", "chat node", "pool[0].server[1].name: expected 1 to 64 characters"),
        ("weight = 100", "weight = 257", "pool[0].server[0].weight: expected 0 to 256, found 257"),
        ("listen = \"0.0.0.0:8000\"", "listen = \"127.0.0.1:9801\"", "listener[0].listen: 127.0."),
        ("slow_start = \"10s\"", "slow_strat = \"10s\"", "pool[0].slow_strat: unknown field"),
        ("connect_timeout = \"1s\"", "connect_timeout = \"0s\"", "pool[0].connect_timeout: exp"),
        ("queue_max = 1000", "server_max_connections = 0", "pool[0].server_max_connections: exp"),
        ("queue_max = 1000", "hash_key = \"uri\"", "pool[0].hash_key: has a meaning only with"),
        ("queue_max = 1000", "sticky_cookie = \"a b\"", "pool[0].sticky_cookie: expected the name"),
        ("interval = \"500ms\"", "interval = \"1ms\"", "pool[0].health_check.interval: expected"),
        ("jitter = 0.1", "jitter = 0.6", "pool[0].health_check.jitter: expected 0 to 0.5"),
        ("jitter = 0.1", "expect_status = [\"2xx\"]", "pool[0].health_check.expect_status[0]: exp"),
        ("jitter = 0.1", "expect_body = \"\"", "pool[0].health_check.expect_body: expected 1 to"),
        ("jitter = 0.1", "tls = true", "pool[0].health_check.tls: needs [pool.tls]"),
        ("jitter = 0.1", "port = 0", "pool[0].health_check.port: invalid value"),
        ("type = \"http\"", "type = \"ping\"", "pool[0].health_check.type: unknown variant `ping`"),
        ("max_servers = 5", "max_servers = 6", "pool[0].retries.max_servers: expected 1 to 5"),
        ("budget = 0.2", "budget = 20.0", "pool[0].retries.budget: expected 0 to 1, found 20"),
        ("queue_max = 1000", "server_max_rate = 0", "pool[0].server_max_rate: expected 1 to"),
        ("weight = 100", "max_connections = 0", "pool[0].server[0].max_connections: expected at"),
        ("weight = 100", "check_path = \"x\"", "pool[0].server[0].check_path: expected a path"),
    ];
    for (right, wrong, expected) in cases {
        let (_dir, text) = sample();
        assert!(text.contains(right), "{right}");
        let text = text.replacen(right, wrong, 1);
        // A key that has no meaning beside the wrong value is the one to take out.
        let at = match expected.split_once(": has no meaning") {
            Some((key, _)) => key.rsplit('.').next().unwrap(),
            None => wrong,
        };
        let lines: Vec<_> = text.lines().collect();
        let line = 1 + lines
            .iter()
            .rposition(|line| line.starts_with(at) || (at == wrong && line.contains(at)))
            .unwrap();
        let faults = check(text).unwrap_err().to_string();
        assert!(faults.starts_with(&format!("b.toml:{line}: {expected}")), "{wrong}: {faults}");
    }
}

#[test]
fn all_faults_come_together() {
    let text = "[admin]\nlisten = \"x\"\ntoken_file = \"does-not-exist\"\n[workers]\ncount = 0\n";
    let faults = check(text.to_owned()).unwrap_err();
    let keys: Vec<_> = faults.list.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["admin.listen", "admin.token_file", "workers.count", "listener"]);
}

/// The sample with what is commented out from `from` to the next empty line switched on.
fn uncommented(text: &str, from: &str) -> String {
    let start = text.find(from).unwrap();
    let end = start + text[start..].find("\n\n").unwrap();
    let table: String = text[start..end]
        .lines()
        .flat_map(|line| [line.strip_prefix("# ").unwrap_or(line), "\n"])
        .collect();
    [&text[..start], &table, &text[end..]].concat()
}

#[test]
fn the_optional_tables_of_the_sample_show_their_defaults() {
    let (_dir, text) = sample();
    for (table, key) in [("outlier_detection", "interval"), ("agent_check", "interval")] {
        // What an agent is asked for has a meaning over HTTP only.
        let full = uncommented(&text, &format!("# [pool.{table}]"))
            .lines()
            .filter(|line| !line.starts_with("path = \"/agent\""))
            .flat_map(|line| [line, "\n"])
            .collect::<String>();
        let pools = check(full.clone()).unwrap().pools;
        let rules = &pools[0].rules;
        assert!(rules.outliers.is_some() || rules.agent.is_some(), "{table}");
        // The keys one by one: without it, nothing changes.
        let start = full.find(&format!("[pool.{table}]")).unwrap();
        let rest = &full[start..];
        let end = start + rest.find("\n\n").unwrap_or(rest.len());
        let keys: Vec<_> = full[start..end].lines().skip(1).collect();
        assert!(keys.iter().any(|line| line.starts_with(key)), "{keys:?}");
        let has_default = |line: &&&str| !line.starts_with("port") && !line.starts_with("tls");
        for line in keys.iter().filter(has_default) {
            if table == "agent_check" && line.starts_with("type") {
                continue;
            }
            let without = full.replacen(&format!("\n{line}\n"), "\n", 1);
            let without = check(without).map_or_else(|faults| panic!("{faults}"), |c| c.pools);
            assert_eq!(without, pools, "{line}");
        }
    }
}
