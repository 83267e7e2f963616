use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::DateTime;

use super::*;
use crate::cluster::{
    BalancerStatus, Managed, NodeStatus, RedisRole, RedisServerStatus, ServerState, ServerStatus,
};
use crate::record::Severity;

/// A chat node that is up and in the pool.
pub(in crate::rehearse) fn node(name: &str, connections: Option<f64>) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        metrics: "127.0.0.1:9001".parse().unwrap(),
        up: Some(true),
        error: None,
        cpu_cores: None,
        memory_bytes: None,
        connections,
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

/// Two nodes behind a balancer.
pub(in crate::rehearse) fn servers() -> ServersStatus {
    ServersStatus {
        nodes: vec![node("chatnode-1", Some(3.0)), node("chatnode-2", Some(5.0))],
        balancer: Some(BalancerStatus {
            admin: "127.0.0.1:9801".parse().unwrap(),
            up: Some(true),
            error: None,
            pool: "chat".to_owned(),
        }),
    }
}

/// A primary on port 7001 and a replica on port 7002.
pub(in crate::rehearse) fn redis() -> RedisStatus {
    let server = |port, role, link_up| RedisServerStatus {
        address: crate::cluster::Address::new("127.0.0.1", port),
        up: Some(true),
        error: None,
        role: Some(role),
        offset: Some(1),
        replid: None,
        link_up,
        lag_bytes: None,
        version: Some("7.0.15".to_owned()),
    };
    RedisStatus {
        name: "main".to_owned(),
        state: RedisState::Healthy,
        reason: None,
        primary: Some("127.0.0.1:7001".parse().unwrap()),
        epoch: 1,
        servers: vec![
            server(7001, RedisRole::Primary, None),
            server(7002, RedisRole::Replica, Some(true)),
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
    }
}

struct World {
    servers: ServersStatus,
    redis: RedisStatus,
    canary: CanaryStatus,
    recent: WindowReport,
    alerts: Vec<AlertStatus>,
    incidents: Vec<Incident>,
}

impl World {
    fn well() -> Self {
        let canary = CanaryStatus {
            ok: Some(true),
            error: None,
            // A minute that began badly is no obstacle.
            availability_ratio: Some(0.9),
            ack_seconds: None,
            delivery_seconds: None,
            sent: 10,
            acked: 9,
            lost: 0,
        };
        let recent = WindowReport {
            sent: 5,
            acked: 5,
            failed: 0,
            lost: 0,
            unsettled: 0,
            longest_gap: Duration::ZERO,
            first_ack_after: None,
        };
        let (alerts, incidents) = (Vec::new(), Vec::new());
        Self { servers: servers(), redis: redis(), canary, recent, alerts, incidents }
    }

    fn view(&self) -> View<'_> {
        View {
            servers: &self.servers,
            redis: std::slice::from_ref(&self.redis),
            canary: &self.canary,
            recent: &self.recent,
            alerts: &self.alerts,
            incidents: &self.incidents,
        }
    }
}

#[test]
fn a_well_cluster_has_nothing_against_it() {
    assert_eq!(unmet_before(World::well().view()), Vec::<String>::new());
}

#[test]
fn each_thing_that_is_wrong_or_unknown_is_one_sentence() {
    type Change = fn(&mut World);
    let cases: [(Change, &str); 11] = [
        (|w| w.servers.nodes[1].up = None, "chat node chatnode-2 does not answer"),
        (|w| w.servers.nodes[0].server = None, "the balancer does not send users to chatnode-1"),
        (|w| w.servers.balancer.as_mut().unwrap().up = None, "the balancer does not answer"),
        (|w| w.servers.nodes.clear(), "no chat node is known"),
        (|w| w.redis.state = RedisState::Electing, "Redis main is electing"),
        (|w| w.redis.primary = None, "Redis main has no primary"),
        (|w| w.redis.servers[0].up = Some(false), "Redis server 127.0.0.1:7001 does not answer"),
        (
            |w| w.redis.servers[1].link_up = None,
            "no replica of Redis main is linked to the primary",
        ),
        (|w| w.canary.ok = None, "the canary's messages are not acknowledged"),
        (|w| w.recent.acked = 0, "the canary's messages are not acknowledged"),
        (|w| w.recent.failed = 2, "2 of the canary's last messages failed"),
    ];
    for (change, sentence) in cases {
        let mut world = World::well();
        change(&mut world);
        assert_eq!(unmet_after(world.view()), [sentence]);
        assert_eq!(unmet_before(world.view()), [sentence]);
    }
}

#[test]
fn what_looks_back_counts_only_before_the_fault() {
    let mut world = World::well();
    world.servers.nodes[0].circuit = CircuitState::HalfOpen;
    for severity in ["critical", "warning"] {
        world.alerts.push(AlertStatus {
            name: format!("Alert-{severity}"),
            state: AlertState::Firing,
            labels: BTreeMap::from([("severity".to_owned(), severity.to_owned())]),
            annotations: BTreeMap::new(),
            active_at: DateTime::UNIX_EPOCH,
            fired_at: None,
            resolved_at: None,
            value: 1.0,
        });
    }
    world.incidents.push(Incident {
        id: 7,
        subject: "redis/main".to_owned(),
        title: String::new(),
        severity: Severity::Warning,
        opened: DateTime::UNIX_EPOCH,
        closed: None,
        causes: BTreeSet::new(),
        events: 1,
    });
    assert_eq!(
        unmet_before(world.view()),
        [
            "incident 7 (redis/main) is open",
            "the critical alert Alert-critical is firing",
            "the circuit of chatnode-1 is not closed",
        ]
    );
    assert_eq!(unmet_after(world.view()), Vec::<String>::new());
}
