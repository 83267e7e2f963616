use std::collections::BTreeMap;

use super::*;
use crate::cluster::{
    Address, BalancerStatus, GroupBrief, Managed, MemberBrief, RedisRole, RedisServerStatus,
    ServerStatus,
};

fn node(name: &str) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        metrics: Address::new("127.0.0.1", 9811),
        up: Some(true),
        error: None,
        cpu_cores: None,
        memory_bytes: None,
        connections: None,
        scrape_seconds: None,
        server: Some(ServerStatus {
            name: name.to_owned(),
            address: "127.0.0.1:8001".to_owned(),
            state: ServerState::Ready,
            weight: 100,
            health: "up".to_owned(),
            usable: true,
            active_connections: 0,
        }),
        circuit: CircuitState::Closed,
        circuit_reason: None,
    }
}

fn redis_server(port: u16, role: RedisRole) -> RedisServerStatus {
    RedisServerStatus {
        address: Address::new("127.0.0.1", port),
        up: Some(true),
        error: None,
        role: Some(role),
        offset: Some(1),
        replid: None,
        link_up: (role == RedisRole::Replica).then_some(true),
        lag_bytes: None,
        version: None,
    }
}

fn alert(name: &str, severity: &str, state: AlertState) -> AlertStatus {
    AlertStatus {
        name: name.to_owned(),
        state,
        labels: BTreeMap::from([("severity".to_owned(), severity.to_owned())]),
        annotations: BTreeMap::from([("summary".to_owned(), format!("{name} it is"))]),
        active_at: DateTime::UNIX_EPOCH,
        fired_at: None,
        resolved_at: None,
        value: 1.0,
    }
}

type Change<T> = fn(&mut T);

/// A cluster where everything is well.
fn well() -> Parts {
    Parts {
        name: "supervisor-1".to_owned(),
        observe_only: false,
        group: None,
        servers: ServersStatus {
            nodes: vec![node("chatnode-1"), node("chatnode-2")],
            balancer: Some(BalancerStatus {
                admin: Address::new("127.0.0.1", 9801),
                up: Some(true),
                error: None,
                pool: "chat".to_owned(),
            }),
        },
        redis: vec![RedisStatus {
            name: "main".to_owned(),
            state: RedisState::Healthy,
            reason: None,
            primary: Some(Address::new("127.0.0.1", 6379)),
            epoch: 1,
            servers: vec![
                redis_server(6379, RedisRole::Primary),
                redis_server(6380, RedisRole::Replica),
            ],
            candidate: None,
            loss_estimate_bytes: None,
            last_failover: None,
            pause: None,
            switchover: None,
            awaits_approval: false,
            managed: Managed::default(),
            has_majority: true,
            expected_seconds: None,
            wait_safe_replicas: 0,
            restart: None,
        }],
        canary: Some(CanaryStatus {
            ok: Some(true),
            error: None,
            availability_ratio: Some(1.0),
            ack_seconds: None,
            delivery_seconds: None,
            sent: 1,
            acked: 1,
            lost: 0,
        }),
        backup: None,
        drill: None,
        alerts: Vec::new(),
    }
}

/// Health and problems of [`well`] after `change`.
fn judged(change: impl FnOnce(&mut Parts)) -> (Health, Vec<String>) {
    let mut parts = well();
    change(&mut parts);
    let status = assemble(parts, DateTime::UNIX_EPOCH);
    (status.health, status.problems)
}

fn problem(change: impl FnOnce(&mut Parts)) -> (Health, String) {
    let (health, mut problems) = judged(change);
    assert_eq!(problems.len(), 1, "{problems:?}");
    (health, problems.remove(0))
}

#[test]
fn a_cluster_that_is_well_has_no_problem() {
    assert_eq!(judged(|_| {}), (Health::Ok, vec![]));
}

#[test]
fn what_is_unknown_is_not_well() {
    let unknown: [(Change<Parts>, &str); 5] = [
        (|p| p.servers.nodes[0].up = None, "chatnode-1 has not been heard of yet"),
        (
            |p| p.servers.balancer.as_mut().unwrap().up = None,
            "The balancer has not been heard of yet",
        ),
        (|p| p.redis[0].state = RedisState::Unknown, "Redis main has not been heard of yet"),
        (|p| p.redis[0].servers[1].up = None, "Redis 127.0.0.1:6380 has not been heard of yet"),
        (|p| p.canary.as_mut().unwrap().ok = None, "The canary has not sent a message yet"),
    ];
    for (change, text) in unknown {
        assert_eq!(problem(change), (Health::Degraded, text.to_owned()));
    }
}

#[test]
fn one_node_less_is_degraded_and_says_why() {
    let cases: [(Change<NodeStatus>, &str); 6] = [
        (
            |n| (n.up, n.error) = (Some(false), Some("connection refused".to_owned())),
            "chatnode-1 does not answer: connection refused",
        ),
        (
            |n| {
                n.circuit = CircuitState::Open;
                n.circuit_reason = Some("HighLatency".to_owned());
            },
            "chatnode-1 is held back by its circuit: HighLatency",
        ),
        (|n| n.circuit = CircuitState::HalfOpen, "chatnode-1 is returning step by step"),
        (
            |n| n.server.as_mut().unwrap().health = "down".to_owned(),
            "chatnode-1 fails the balancer's health checks",
        ),
        (|n| n.server.as_mut().unwrap().state = ServerState::Drain, "chatnode-1 is drained"),
        (|n| n.server.as_mut().unwrap().weight = 0, "chatnode-1 has weight 0"),
    ];
    for (change, text) in cases {
        let found = problem(|parts| change(&mut parts.servers.nodes[0]));
        assert_eq!(found, (Health::Degraded, text.to_owned()));
    }
}

#[test]
fn the_canary_decides_whether_users_are_served() {
    let failing = |share| {
        move |parts: &mut Parts| {
            let canary = parts.canary.as_mut().unwrap();
            (canary.ok, canary.availability_ratio) = (Some(false), share);
            canary.error = Some("timed out".to_owned());
        }
    };
    let down = (Health::Down, "The canary cannot send messages: timed out".to_owned());
    assert_eq!(problem(failing(Some(0.2))), down);
    assert_eq!(problem(failing(None)), down);
    let shaky = (Health::Degraded, "The canary's last message failed: timed out".to_owned());
    assert_eq!(problem(failing(Some(0.9))), shaky);

    let redis_down = |parts: &mut Parts| parts.redis[0].state = RedisState::Electing;
    let text = "Redis main is being failed over (electing)".to_owned();
    assert_eq!(problem(redis_down), (Health::Degraded, text.clone()));
    let without_canary = |parts: &mut Parts| {
        parts.canary = None;
        redis_down(parts);
    };
    assert_eq!(problem(without_canary), (Health::Down, text));
}

#[test]
fn no_node_left_is_down_and_comes_first() {
    let (health, problems) = judged(|parts| {
        parts.canary = None;
        for node in &mut parts.servers.nodes {
            node.up = Some(false);
        }
    });
    assert_eq!(health, Health::Down);
    assert_eq!(problems[0], "No chat node can take connections");
    assert_eq!(problems.len(), 3);
}

#[test]
fn a_replica_that_does_not_follow_is_degraded() {
    let found = problem(|parts| parts.redis[0].servers[1].link_up = Some(false));
    let text = "Redis replica 127.0.0.1:6380 does not follow its primary";
    assert_eq!(found, (Health::Degraded, text.to_owned()));
}

#[test]
fn firing_alerts_are_problems_by_severity() {
    let mut parts = well();
    parts.alerts = vec![
        alert("Slow", "warning", AlertState::Firing),
        alert("Note", "info", AlertState::Firing),
        alert("Soon", "critical", AlertState::Pending),
        alert("Dead", "critical", AlertState::Firing),
        alert("Over", "critical", AlertState::Resolved),
    ];
    let status = assemble(parts, DateTime::UNIX_EPOCH);
    assert_eq!(status.problems, ["Alert Dead: Dead it is", "Alert Slow: Slow it is"]);
    assert_eq!(status.health, Health::Degraded);
    assert_eq!(status.alerts.len(), 4);
}

#[test]
fn a_supervisor_that_only_watches_says_so_and_names_who_is_silent() {
    let member = |name: &str, is_self, heard_seconds| MemberBrief {
        name: name.to_owned(),
        is_self,
        leads: false,
        votes: true,
        heard_seconds,
        behind: None,
    };
    let group = GroupBrief {
        state: "minority".to_owned(),
        reason: Some("no majority heard for 7.0 s".to_owned()),
        leader: None,
        term: 3,
        tolerates: 1,
        members: vec![
            member("a", true, Some(0.0)),
            member("b", false, Some(0.1)),
            member("c", false, Some(7.0)),
        ],
    };
    let status = assemble(Parts { group: Some(group), ..well() }, DateTime::UNIX_EPOCH);
    assert_eq!(status.health, Health::Degraded);
    assert_eq!(
        status.problems,
        [
            "This supervisor hears no majority of its group (no majority heard for 7.0 s): it only watches, and changes nothing",
            "Supervisor c is not heard",
        ]
    );
}
