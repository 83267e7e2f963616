use std::num::NonZeroU32;
use std::time::Duration;

use holdfast_telemetry::{Registry, metrics};

use super::*;
use crate::config::{Address, Lifetime, RetryRules, TcpRules, Weight};
use crate::pool::state::AdminState;

fn pool(algorithm: Algorithm, weights: &[u16]) -> (Registry, Pool) {
    let servers = weights.iter().enumerate().map(|(i, weight)| {
        let address = Address::try_new("127.0.0.1:9").unwrap();
        ServerConfig::new(&format!("s{i}"), address, Weight::try_new(*weight).unwrap())
    });
    let rules = PoolRules {
        algorithm,
        key: None,
        sticky_cookie: None,
        stick: None,
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        fails_max: 1,
        fail_timeout: Duration::from_mins(1),
        slow_start: Duration::ZERO,
        panic_threshold: 0.34,
        server_connections_max: None,
        queue_max: 0,
        queue_timeout: Duration::ZERO,
        send_proxy: None,
        tls: None,
        check: None,
        agent: None,
        outliers: None,
        retries: RetryRules { servers_max: 5, share: 0.2, per_second: 10, hedge_after: None },
        server_rate_max: None,
        lifetime: Lifetime::default(),
        tcp: TcpRules::default(),
    };
    let config = PoolConfig { name: "p".into(), rules, servers: servers.collect() };
    let registry = Registry::new();
    let pool = Pool::new(&config, &Metrics::register(&registry));
    (registry, pool)
}

fn names(pool: &Pool, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| {
            pool.pick(&Ask { source: 7, ..Ask::default() }, &Tried::default())
                .map_or_else(|| "-".to_owned(), |lease| lease.name().to_string())
        })
        .collect()
}

#[test]
fn a_lease_counts_while_it_lives() {
    let (_, pool) = pool(Algorithm::LeastConnections, &[100, 100]);
    let leases: Vec<_> =
        (0..10).map(|_| pool.pick(&Ask::default(), &Tried::default()).unwrap()).collect();
    assert_eq!(pool.members().iter().map(|server| server.active()).collect::<Vec<_>>(), [5, 5]);
    drop(leases);
    assert_eq!(pool.members().iter().map(|server| server.active()).sum::<u64>(), 0);
}

#[test]
fn an_ejected_server_is_left_out_and_a_tried_one_not_tried_again() {
    let (_, pool) = pool(Algorithm::RoundRobin, &[100, 100, 100]);
    pool.handle_failure(&pool.members()[1]);
    assert_eq!(names(&pool, 4), ["s0", "s2", "s0", "s2"]);
    let mut tried = Tried::default();
    tried.add(&pool.members()[0]);
    tried.add(&pool.members()[2]);
    assert!(pool.pick(&Ask::default(), &tried).is_none());
}

#[test]
fn below_the_threshold_everybody_is_tried_the_usable_first_after_a_failure() {
    let (_, pool) = pool(Algorithm::RoundRobin, &[100, 100, 100]);
    pool.handle_failure(&pool.members()[0]);
    pool.handle_failure(&pool.members()[1]);
    assert_eq!(names(&pool, 3), ["s0", "s1", "s2"]);
    let mut tried = Tried::default();
    tried.add(&pool.members()[0]);
    assert_eq!(&**pool.pick(&Ask::default(), &tried).unwrap().name(), "s2");
    tried.add(&pool.members()[2]);
    assert_eq!(&**pool.pick(&Ask::default(), &tried).unwrap().name(), "s1");
}

#[test]
fn the_operator_is_obeyed_even_in_panic() {
    let (_, pool) = pool(Algorithm::RoundRobin, &[100, 0]);
    let drained = Arc::clone(&pool.members()[0]);
    pool.change(&drained, |record, now| record.state.set_admin(now, AdminState::Drain));
    assert_eq!(names(&pool, 2), ["-", "-"]);
}

#[test]
fn the_series_of_a_removed_server_go_with_its_last_connection() {
    let (registry, pool) = pool(Algorithm::RoundRobin, &[100, 100]);
    let lease = pool.pick(&Ask::default(), &Tried::default()).unwrap();
    let server = pool.member("s0").unwrap();
    pool.remove(&server);
    assert!(metrics::encode(&registry).contains("server=\"s0\""));
    drop(lease);
    pool.tick();
    let text = metrics::encode(&registry);
    assert!(!text.contains("server=\"s0\"") && text.contains("server=\"s1\""), "{text}");
    assert_eq!(names(&pool, 2), ["s1", "s1"]);
}

#[test]
fn a_server_that_was_taken_out_is_not_shown_as_usable_again() {
    let (_, pool) = pool(Algorithm::RoundRobin, &[100]);
    let lease = pool.pick(&Ask::default(), &Tried::default()).unwrap();
    let server = Arc::clone(&pool.members()[0]);
    pool.remove(&server);
    // A request that was under way fails, and a late change arrives.
    pool.handle_failure(&lease);
    pool.change(&server, |record, _| record.state.set_weight(Weight::try_new(7).unwrap()));
    assert!(!server.is_usable());
    assert_eq!(server.metrics.usable.get(), 0);
}

#[test]
fn a_client_returns_to_its_server_as_long_as_that_is_usable() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::RandomTwo, Algorithm::PeakEwma] {
        let (_, pool) = pool(algorithm, &[100, 100, 100]);
        let server = pool.member("s1").unwrap();
        let ask = Ask { sticky: Some(server.key()), ..Ask::default() };
        for _ in 0..10 {
            assert_eq!(&**pool.pick(&ask, &Tried::default()).unwrap().name(), "s1");
        }
        pool.change(&server, |record, now| record.state.set_admin(now, AdminState::Drain));
        for _ in 0..10 {
            assert_ne!(&**pool.pick(&ask, &Tried::default()).unwrap().name(), "s1");
        }
    }
}

#[test]
fn a_server_takes_no_more_than_it_may() {
    let (_, pool) = pool(Algorithm::LeastConnections, &[100, 50]);
    let rules = PoolRules { server_connections_max: NonZeroU32::new(2), ..(*pool.rules()).clone() };
    pool.set_rules(rules);
    let pick = || pool.pick(&Ask::default(), &Tried::default());
    let leases: Vec<_> = (0..4).map(|_| pick().unwrap()).collect();
    assert_eq!(pool.members().iter().map(|server| server.active()).collect::<Vec<_>>(), [2, 2]);
    assert!(pick().is_none() && pool.lacks_room(&Tried::default()));
    drop(leases);
    assert!(pick().is_some());
}
