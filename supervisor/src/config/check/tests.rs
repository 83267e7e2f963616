use std::path::Path;

use super::*;

/// A folder with the secrets that the fixture names, and the settings text with `changes` made to it.
fn read(changes: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
    let mut settings = SAMPLE.to_owned();
    for (from, to) in changes {
        assert!(settings.contains(from), "the sample has no {from:?}");
        settings = settings.replacen(from, to, 1);
    }
    let path = dir.path().join("holdfast.toml");
    std::fs::write(&path, settings).unwrap();
    let prefix = format!("{}/", dir.path().display());
    Config::read(&path).map_err(|faults| faults.to_string().replace(&prefix, ""))
}

const SAMPLE: &str = r#"[supervisor]
listen = "127.0.0.1:0"
token_file = "secret"
state_dir = "state"

[[node]]
name = "chatnode-1"
metrics = "127.0.0.1:9811"

[balancer]
admin = "127.0.0.1:9801"
token_file = "secret"
pool = "chat"

[redis]
servers = ["127.0.0.1:6379", "127.0.0.1:6380"]

[sentinel]
listen = "127.0.0.1:0"

[canary]
url = "ws://127.0.0.1:8000/connection/websocket"
hmac_secret_file = "secret"

[backup]
dir = "backups"
schedule = "0 */6 * * *"

[notify.email]
smtp = "127.0.0.1:25"
from = "Holdfast <holdfast@example.org>"
to = ["ops@example.org"]

[[notify.webhook]]
url = "http://127.0.0.1:9999/hook"

[[drills.schedule]]
scenario = "chatnode-crash"
cron = "0 3 * * 6"
"#;

#[test]
fn the_sample_is_accepted_and_relative_paths_count_from_its_folder() {
    let config = read(&[]).unwrap();
    assert!(config.supervisor.state_dir.is_absolute());
    assert!(config.supervisor.state_dir.ends_with("state"));
    assert_eq!(config.redis[0].servers.len(), 2);
    assert_eq!(config.drills.schedule.len(), 1);
    assert!(config.drills.report_dir.ends_with("state/drills"));
}

#[test]
fn the_shipped_sample_is_accepted_once_its_secrets_exist() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/holdfast.toml");
    let text = std::fs::read_to_string(shipped).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "s3cret").unwrap();
    let text: String = text
        .lines()
        .map(|line| match line.split_once(" = \"/etc/holdfast/") {
            Some((key, _)) if key.ends_with("_file") => format!("{key} = \"secret\"\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let path = dir.path().join("holdfast.toml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path).unwrap();
}

#[test]
fn each_fault_names_file_line_and_key() {
    for (from, to, expected) in [
        (
            "pool = \"chat\"",
            "poll = \"chat\"",
            "holdfast.toml:13: balancer.poll: unknown field `poll`",
        ),
        (
            "\"127.0.0.1:9811\"",
            "\"9811\"",
            "holdfast.toml:8: node[0].metrics: expected host:port, found \"9811\"",
        ),
        (
            "listen = \"127.0.0.1:0\"",
            "listen = \"here\"",
            "holdfast.toml:2: supervisor.listen: expected ip:port to listen on",
        ),
        (
            "token_file = \"secret\"",
            "token_file = \"none\"",
            "holdfast.toml:3: supervisor.token_file: cannot read the secret file",
        ),
        (
            "127.0.0.1:6380\"]",
            "127.0.0.1:6379\"]",
            "holdfast.toml:16: redis.servers[1]: 127.0.0.1:6379 is there twice",
        ),
        (
            "[\"127.0.0.1:6379\", \"127.0.0.1:6380\"]",
            "[]",
            "holdfast.toml:16: redis.servers: expected 1 to 16 addresses, found 0",
        ),
        (
            "127.0.0.1:6380\"]",
            "127.0.0.1:6380\"]\npromotion = { prefer = [\"127.0.0.1:7\"] }",
            "holdfast.toml:17: redis.promotion.prefer[0]: 127.0.0.1:7 is none of redis.servers",
        ),
        (
            "127.0.0.1:6380\"]",
            "127.0.0.1:6380\"]\npromotion = { never = [\"127.0.0.1:6379\", \"127.0.0.1:6380\"] }",
            "holdfast.toml:17: redis.promotion.never: expected at least one server that may be the primary",
        ),
        (
            "0 */6 * * *",
            "0 */6",
            "holdfast.toml:27: backup.schedule: \"0 */6\" is not a cron expression",
        ),
        (
            "ops@example.org",
            "ops",
            "holdfast.toml:32: notify.email.to[0]: expected a mail address, found \"ops\"",
        ),
        (
            "http://127.0.0.1:9999/hook",
            "9999",
            "holdfast.toml:35: notify.webhook[0].url: expected a URL (http, https)",
        ),
        (
            "chatnode-crash",
            "chatnode-fire",
            "holdfast.toml:38: drills.schedule[0].scenario: expected one of chatnode-crash, redis-primary-crash, slow-upstream",
        ),
        ("ws://127", "http://127", "holdfast.toml:22: canary.url: expected a URL (ws)"),
    ] {
        let text = read(&[(from, to)]).unwrap_err();
        assert!(
            text.starts_with(expected),
            "{from} -> {to}\nfound:    {text}\nexpected: {expected}"
        );
    }
}

#[test]
fn all_faults_are_reported_together() {
    let text = read(&[
        ("state_dir = \"state\"", "state_dir = \"state\"\n[guards]\nmax_out_share = 2.0\nreturn_steps = [0.5, 0.1]\n[scrape]\ninterval = \"1s\"\ntimeout = \"2s\""),
        ("ops@example.org", "ops"),
    ])
    .unwrap_err();
    let keys: Vec<_> = text.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(
        keys,
        ["scrape.timeout", "guards.max_out_share", "guards.return_steps", "notify.email.to[0]"]
    );
}

#[test]
fn sections_that_need_each_other_say_so() {
    let text =
        read(&[("[redis]\nservers = [\"127.0.0.1:6379\", \"127.0.0.1:6380\"]\n", "")]).unwrap_err();
    assert!(text.contains("sentinel: expected a [redis] section"), "{text}");
    assert!(text.contains("backup: expected a [redis] section"), "{text}");
}

#[test]
fn passwords_and_certificates_are_read_when_the_settings_are() {
    let sentinel = "[sentinel]\nlisten = \"127.0.0.1:0\"";
    let servers = "127.0.0.1:6380\"]";
    for (from, more, expected) in [
        (
            sentinel,
            "username = \"chat\"",
            "holdfast.toml:20: sentinel.username: expected password_file beside it",
        ),
        (
            sentinel,
            "password_file = \"none\"",
            "holdfast.toml:20: sentinel.password_file: cannot read the secret file",
        ),
        (
            sentinel,
            "tls = { certificate_file = \"none.pem\", key_file = \"none.key\" }",
            "holdfast.toml:20: sentinel.tls: cannot use none.pem",
        ),
        (
            sentinel,
            "tls = { certificate_file = \"secret\", key_file = \"none.key\" }",
            "holdfast.toml:20: sentinel.tls: secret holds no certificate",
        ),
        (
            sentinel,
            "peer_tls = { ca_file = \"none.pem\" }",
            "holdfast.toml:20: sentinel.peer_tls.ca_file: cannot read none.pem",
        ),
        (
            servers,
            "manager = \"sentinel\"\nsentinels = [\"127.0.0.1:26379\"]\nsentinel_tls = true",
            "holdfast.toml:19: redis.sentinel_tls: expected the tls section of this Redis",
        ),
        (
            servers,
            "tls = { ca_file = \"none.pem\" }",
            "holdfast.toml:17: redis.tls.ca_file: cannot read none.pem",
        ),
        (
            servers,
            "tls = { ca_file = \"secret\" }",
            "holdfast.toml:17: redis.tls.ca_file: expected certificates in PEM in secret",
        ),
    ] {
        let text = read(&[(from, &format!("{from}\n{more}"))]).unwrap_err();
        assert!(text.starts_with(expected), "{more}\nfound:    {text}\nexpected: {expected}");
    }
    let more = format!("{sentinel}\nannounce = \"10.0.0.5:26379\"\npassword_file = \"secret\"");
    let config = read(&[(sentinel, &more)]).unwrap().sentinel.unwrap();
    assert_eq!(config.announce.unwrap().to_string(), "10.0.0.5:26379");
    assert_eq!(config.login.unwrap().password.expose(), "s3cret");
}

#[test]
fn several_redis_have_names_and_servers_of_their_own() {
    let one = "[redis]\nservers = [\"127.0.0.1:6379\", \"127.0.0.1:6380\"]\n";
    let two = |name: &str, servers: &str, backup: &str| {
        let several = format!(
            "[[redis]]\nservers = [\"127.0.0.1:6379\"]\n[[redis]]\nname = \"{name}\"\nservers = [\"{servers}\"]\n"
        );
        let backup = format!("dir = \"backups\"{backup}");
        read(&[(one, &several), ("dir = \"backups\"", &backup)])
    };
    let config = two("cache", "127.0.0.1:6380", "\nredis = \"cache\"").unwrap();
    let names: Vec<_> = config.redis.iter().map(|redis| redis.name.as_str()).collect();
    assert_eq!(names, ["main", "cache"]);
    assert_eq!(config.backup.unwrap().redis, "cache");
    for (name, servers, backup, expected) in [
        (
            "main",
            "127.0.0.1:6380",
            "\nredis = \"main\"",
            "holdfast.toml:18: redis[1].name: \"main\" is the name of another Redis already",
        ),
        (
            "cache",
            "127.0.0.1:6379",
            "\nredis = \"main\"",
            "holdfast.toml:19: redis[1].servers[0]: 127.0.0.1:6379 is there twice",
        ),
        ("cache", "x", "", "holdfast.toml:19: redis[1].servers: expected host:port, found \"x\""),
        (
            "cache",
            "127.0.0.1:6380",
            "",
            "holdfast.toml:28: backup.redis: expected one of main, cache, found nothing",
        ),
        (
            "cache",
            "127.0.0.1:6380",
            "\nredis = \"queue\"",
            "holdfast.toml:30: backup.redis: expected one of main, cache, found \"queue\"",
        ),
    ] {
        assert_eq!(two(name, servers, backup).unwrap_err(), expected);
    }
    let number = "redis = 1\n[supervisor]\n";
    let text = read(&[(one, ""), ("[supervisor]\n", number)]).unwrap_err();
    assert!(text.contains("expected a section [redis], or several [[redis]]"), "{text}");
}

#[test]
fn scraping_is_switched_off_only_where_something_else_has_the_series() {
    let state = "state_dir = \"state\"";
    let with = |text: &str| read(&[(state, &format!("{state}\n{text}"))]);
    let off = "[scrape]\nenabled = false\n";
    let text = with(off).unwrap_err();
    let expected = "holdfast.toml:6: scrape.enabled: expected true, or metrics.backend";
    assert!(text.starts_with(expected), "{text}");
    let remote =
        "[metrics]\nbackend = \"prometheus\"\n[metrics.prometheus]\nurl = \"http://127.0.0.1:9\"\n";
    let config = with(&format!("{off}{remote}")).unwrap();
    assert!(!config.scrape.enabled && config.metrics.remote.is_some());
    let job = "[[scrape.job]]\nname = \"a\"\ntargets = [\"a:1\"]\n";
    let text = with(&format!("{off}{job}{remote}")).unwrap_err();
    assert!(text.contains("scrape.job: expected no jobs"), "{text}");
}

#[test]
fn secrets_do_not_print_themselves() {
    assert!(!format!("{:?}", read(&[]).unwrap()).contains("s3cret"));
}

#[test]
fn hooks_restarts_and_the_synchronous_mode_are_checked() {
    let servers = "127.0.0.1:6380\"]\n";
    let with = |text: &str| {
        let text = format!("{servers}{text}");
        read(&[(servers, text.as_str())])
    };
    let good = "[[redis.hook]]\non = \"before_fence\"\ncommand = [\"/bin/true\"]\non_timeout = \"stop\"\n\
                [redis.synchronous]\nreplicas = 1\n[redis.restart]\nshutdown = true\n";
    let redis = with(good).unwrap().redis.remove(0);
    assert_eq!(redis.hooks[0].on_timeout, crate::config::OnTimeout::Stop);
    assert_eq!(redis.synchronous.unwrap().replicas, 1);
    assert_eq!(redis.restart.unwrap().by, crate::config::RestartBy::Shutdown);
    for (text, expected) in [
        (
            "[[redis.hook]]\non = \"done\"\ncommand = [\"/bin/true\"]\non_timeout = \"go\"\n",
            "redis.hook[0].on_timeout: only a `before_fence` hook can stop anything",
        ),
        (
            "[[redis.hook]]\non = \"done\"\ncommand = [\"true\"]\n",
            "redis.hook[0].command: expected the absolute path of a program",
        ),
        (
            "[[redis.hook]]\non = \"before_fence\"\ncommand = [\"/bin/true\"]\ntimeout = \"1m\"\n",
            "redis.hook[0].timeout: expected more than 0s and at most 30s",
        ),
        (
            "[redis.synchronous]\nreplicas = 2\n",
            "redis.synchronous.replicas: expected 1 to 1, found 2",
        ),
        (
            "[redis.synchronous]\nreplicas = 1\nmax_lag = \"500ms\"\n",
            "redis.synchronous.max_lag: expected whole seconds",
        ),
        ("[redis.restart]\ntimeout = \"1m\"\n", "redis.restart.command: expected `command` or"),
    ] {
        let fault = with(text).unwrap_err();
        assert!(fault.contains(expected), "{text}\nfound:    {fault}\nexpected: {expected}");
    }
}

#[test]
fn other_managers_of_redis_are_checked() {
    let servers = "servers = [\"127.0.0.1:6379\", \"127.0.0.1:6380\"]";
    let with = |text: &str| read(&[(servers, &format!("{servers}\n{text}"))]);
    let sentinels = "sentinels = [\"127.0.0.1:26379\", \"127.0.0.1:26380\"]";
    let config =
        with(&format!("manager = \"sentinel\"\n{sentinels}\nsentinel_password_file = \"secret\""));
    let redis = config.unwrap().redis.remove(0);
    assert_eq!(redis.manager, crate::cluster::Manager::Sentinel);
    let found = redis.sentinels.unwrap();
    assert_eq!((found.addresses.len(), found.password.is_some()), (2, true));
    for (text, expected) in [
        ("manager = \"sentinel\"", "redis.sentinels: expected 1 to 15 addresses with manager"),
        (sentinels, "redis.sentinels: expected only with manager = \"sentinel\""),
        (
            "manager = \"sentinel\"\nsentinels = [\"a:1\", \"a:1\"]",
            "redis.sentinels[1]: a:1 is there twice",
        ),
        (
            "manager = \"sentinel\"\nsentinels = [\"a:1\"]\nsentinel_username = \"u\"",
            "redis.sentinel_username: expected redis.sentinel_password_file beside it",
        ),
        ("manager = \"patroni\"", "expected one of `holdfast`, `sentinel`, `none`"),
        ("manage = true", "unknown field `manage`"),
    ] {
        let error = with(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn values_that_nobody_can_mean_are_refused() {
    for (from, to, expected) in [
        (
            "[notify.email]",
            "[notify]\nrepeat_interval = \"0s\"\n[notify.email]",
            "holdfast.toml:30: notify.repeat_interval: expected at least 1m",
        ),
        (
            "[sentinel]",
            "probe_timeout = \"0s\"\n[sentinel]",
            "holdfast.toml:18: redis.probe_timeout: expected more than 0",
        ),
        (
            "[[node]]",
            "[traces]\notlp_endpoint = \"x\"\n[[node]]",
            "traces.otlp_endpoint: expected a URL (http, https), found \"x\"",
        ),
    ] {
        let fault = read(&[(from, to)]).unwrap_err();
        assert!(fault.contains(expected), "{fault}");
    }
}
