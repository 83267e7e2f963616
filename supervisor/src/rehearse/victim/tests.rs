use super::*;
use crate::rehearse::conditions::tests::{node, redis, servers};

/// Settings of a cluster as `conditions` knows it; `chatnode-1` and the replica have no pid file.
pub(in crate::rehearse) fn config() -> Config {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
    let text = r#"
[supervisor]
listen = "127.0.0.1:0"
token_file = "secret"
state_dir = "state"
[[node]]
name = "chatnode-1"
metrics = "127.0.0.1:9001"
[[node]]
name = "chatnode-2"
metrics = "127.0.0.1:9002"
pid_file = "chatnode-2.pid"
[balancer]
admin = "127.0.0.1:9801"
token_file = "secret"
pool = "chat"
[redis]
servers = ["127.0.0.1:7001", "127.0.0.1:7002"]
pid_files = ["redis-1.pid", ""]
[canary]
url = "ws://127.0.0.1:8000/connection/websocket"
hmac_secret_file = "secret"
"#;
    let path = dir.path().join("holdfast.toml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path).unwrap()
}

#[test]
fn the_busiest_node_and_the_present_primary_are_struck() {
    let (config, servers, redis) = (config(), servers(), redis());
    let node = Victim::choose(Role::BusiestNode, &config, &servers, &[]).unwrap();
    assert_eq!((node.name.as_str(), node.program), ("chatnode-2", "holdfast-chatnode"));
    let primary =
        Victim::choose(Role::RedisPrimary, &config, &servers, std::slice::from_ref(&redis))
            .unwrap();
    assert_eq!((primary.name.as_str(), primary.program), ("127.0.0.1:7001", "redis-server"));
    let Fault::Kill { pid_file, .. } = primary.crash().unwrap() else { panic!("no death") };
    assert!(pid_file.ends_with("redis-1.pid"));
}

#[test]
fn a_victim_out_of_reach_is_named() {
    let (config, mut servers, mut redis) = (config(), servers(), redis());
    servers.nodes[0].connections = Some(9.0);
    redis.primary = Some("127.0.0.1:7002".parse().unwrap());
    for (role, name, key) in [
        (Role::BusiestNode, "chatnode-1", "pid_file"),
        (Role::RedisPrimary, "127.0.0.1:7002", "redis.pid_files"),
    ] {
        let victim = Victim::choose(role, &config, &servers, std::slice::from_ref(&redis));
        let error = victim.unwrap().crash().unwrap_err();
        let text = format!("the settings name no pid file for {name} ({key}), ");
        assert!(error.starts_with(&text), "{error}");
    }
    let error = Victim::choose(Role::RedisPrimary, &config, &servers, &[]).unwrap_err();
    assert_eq!(error, "no Redis primary is known");
    servers.nodes.clear();
    let error = Victim::choose(Role::BusiestNode, &config, &servers, &[]).unwrap_err();
    assert_eq!(error, "no chat node is known yet");
}

#[test]
fn of_equally_busy_nodes_the_first_is_struck() {
    let nodes = ["a", "b", "c"].map(|name| node(name, None)).to_vec();
    assert_eq!(busiest(&ServersStatus { nodes, balancer: None }).unwrap(), "a");
}

#[test]
fn only_what_cannot_come_from_the_fault_is_unrelated() {
    let config = config();
    for (role, victim, subject, expected) in [
        (Role::BusiestNode, "chatnode-2", "chatnode-2", false),
        (Role::BusiestNode, "chatnode-2", "chatnode-1", true),
        (Role::BusiestNode, "chatnode-2", "redis/main", true),
        (Role::BusiestNode, "chatnode-2", "canary", false),
        (Role::BusiestNode, "chatnode-2", "127.0.0.1:9801", true),
        (Role::RedisPrimary, "127.0.0.1:7001", "redis/main", false),
        (Role::RedisPrimary, "127.0.0.1:7001", "chatnode-1", false),
        (Role::RedisPrimary, "127.0.0.1:7001", "backup", true),
    ] {
        let is_unrelated = is_unrelated(role, victim, &config, subject);
        assert_eq!(is_unrelated, expected, "{role:?} {subject}");
    }
}
