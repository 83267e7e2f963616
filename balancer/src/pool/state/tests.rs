use super::*;
use crate::config::{CheckKind, Lifetime, OutlierRules, RetryRules, TcpRules};

const MS: fn(u64) -> Duration = Duration::from_millis;

#[expect(clippy::disallowed_methods, reason = "tests take one instant and add to it")]
fn start() -> Instant {
    Instant::now()
}

fn rules(check: bool) -> PoolRules {
    let checks = CheckRules {
        kind: CheckKind::Tcp,
        port: None,
        tls: true,
        interval: MS(500),
        timeout: MS(400),
        jitter: 0.1,
        rise: 2,
        fall: 3,
    };
    PoolRules {
        algorithm: Algorithm::LeastConnections,
        connect_timeout: MS(1_000),
        response_timeout: MS(1_000),
        fails_max: 2,
        fail_timeout: MS(2_000),
        slow_start: MS(10_000),
        panic_threshold: 0.0,
        key: None,
        sticky_cookie: None,
        stick: None,
        server_connections_max: None,
        queue_max: 0,
        queue_timeout: MS(0),
        send_proxy: None,
        tls: None,
        check: check.then_some(checks),
        agent: None,
        outliers: None,
        retries: RetryRules { servers_max: 5, share: 0.2, per_second: 10, hedge_after: None },
        server_rate_max: None,
        lifetime: Lifetime::default(),
        tcp: TcpRules::default(),
    }
}

fn state() -> ServerState {
    ServerState::new(Weight::try_new(200).unwrap(), false)
}

/// Feeds results one by one and returns the changes with their positions.
fn feed(state: &mut ServerState, results: &[CheckResult]) -> Vec<(usize, Change)> {
    let rules = rules(true).check.unwrap();
    let now = start();
    let mut changes = Vec::new();
    for (i, result) in results.iter().enumerate() {
        changes.extend(state.handle_check(now, *result, &rules).map(|change| (i, change)));
    }
    changes
}

/// Results of checks, and the changes they make by position.
type Case = (&'static [CheckResult], &'static [(usize, Change)]);

#[test]
fn the_first_check_decides_then_streaks_do() {
    use CheckResult::{Fail, Pass, Silent};
    let down = Change::Down { silent: false };
    let hung = Change::Down { silent: true };
    let cases: [Case; 6] = [
        (&[Pass], &[(0, Change::Up)]),
        (&[Fail], &[(0, Change::Down { silent: false })]),
        (&[Pass, Fail, Fail, Pass, Fail, Fail], &[(0, Change::Up)]),
        (&[Pass, Fail, Silent, Fail], &[(0, Change::Up), (3, Change::Down { silent: false })]),
        (&[Pass, Silent, Silent, Silent], &[(0, Change::Up), (3, Change::Down { silent: true })]),
        (&[Fail, Pass, Fail, Pass, Pass], &[(0, Change::Down { silent: false }), (4, Change::Up)]),
    ];
    assert_ne!(down, hung);
    for (results, expected) in cases {
        assert_eq!(feed(&mut state(), results), expected, "{results:?}");
    }
}

#[test]
fn unknown_is_usable_only_where_nothing_is_checked() {
    let mut state = state();
    assert!(state.is_usable(&rules(false)));
    assert!(!state.is_usable(&rules(true)));
    feed(&mut state, &[CheckResult::Pass]);
    assert!(state.is_usable(&rules(true)));
}

#[test]
fn failures_in_a_row_eject_for_a_time_and_a_ramp_follows() {
    let (mut state, rules, now) = (state(), rules(false), start());
    assert_eq!(state.handle_failure(now, &rules), None);
    state.handle_success();
    assert_eq!(state.handle_failure(now, &rules), None);
    // The second comes after the window of the first.
    assert_eq!(state.handle_failure(now + MS(2_001), &rules), None);
    assert_eq!(
        state.handle_failure(now + MS(3_000), &rules),
        Some(Change::Ejected(Cause::Failures))
    );
    assert!(!state.is_usable(&rules) && state.may_be_tried());
    // Traffic of a pool in panic fails on: out for longer, but counted once.
    assert_eq!(state.handle_failure(now + MS(4_000), &rules), None);
    assert_eq!(state.tick(now + MS(5_999)), None);
    assert_eq!(state.tick(now + MS(6_000)), Some(Change::Readmitted));
    assert!(state.is_usable(&rules));
    let weights: Vec<_> = [6_000, 8_500, 11_000, 16_000, 60_000]
        .map(|ms| state.effective_weight(now + MS(ms), &rules))
        .to_vec();
    assert_eq!(weights, [20.0, 50.0, 100.0, 200.0, 200.0]);
    assert!(state.is_waiting(now + MS(15_000), rules.slow_start));
    assert!(!state.is_waiting(now + MS(16_001), rules.slow_start));
}

#[test]
fn marking_can_be_switched_off() {
    let (mut state, mut rules) = (state(), rules(false));
    rules.fails_max = 0;
    assert_eq!(state.handle_failure(start(), &rules), None);
    assert!(state.is_usable(&rules));
}

#[test]
fn the_operator_has_the_last_word() {
    let (mut state, rules, now) = (state(), rules(true), start());
    feed(&mut state, &[CheckResult::Pass]);
    assert!((state.effective_weight(now, &rules) - 200.0).abs() < 1e-9, "no ramp at the start");
    state.set_admin(now, AdminState::Drain);
    assert!(!state.is_usable(&rules) && !state.may_be_tried());
    assert_eq!(state.health(), Health::Up);
    state.set_admin(now, AdminState::Maintenance);
    assert_eq!(state.health(), Health::Unknown);
    assert_eq!(feed(&mut state, &[CheckResult::Fail]), []);
    state.set_admin(now, AdminState::Ready);
    assert!(!state.is_usable(&rules), "not before a check has passed");
    feed(&mut state, &[CheckResult::Pass]);
    assert!(state.is_usable(&rules));
    assert!(state.effective_weight(now, &rules) < 200.0, "it returns with a ramp");
    state.set_weight(Weight::try_new(0).unwrap());
    assert!(!state.is_usable(&rules));
    assert!(state.effective_weight(now, &rules).abs() < 1e-9);
}

#[test]
fn plain_round_robin_knows_no_weights() {
    let (state, mut rules) = (state(), rules(false));
    rules.algorithm = Algorithm::RoundRobin;
    assert!((state.effective_weight(start(), &rules) - 100.0).abs() < 1e-9);
}

fn outliers() -> OutlierRules {
    OutlierRules {
        interval: MS(10_000),
        ejection_base: MS(30_000),
        ejection_max: MS(100_000),
        ejected_share_max: 0.34,
        errors_in_row: None,
        servers_min: 3,
        requests_min: 50,
        deviations: 1.9,
        latency_factor: 3.0,
        latency_min: MS(100),
    }
}

#[test]
fn ejections_in_a_row_grow_and_time_spent_well_makes_up_for_them() {
    let rules = PoolRules { outliers: Some(outliers()), ..rules(false) };
    let (mut state, start) = (state(), start());
    let mut now = start;
    let mut times = Vec::new();
    // Ejected again as soon as it is back, then after a minute, then after ten.
    for pause in [0, 0, 0, 60_000, 600_000] {
        now += MS(pause);
        let change = state.eject(now, Cause::Latency, &rules);
        assert_eq!(change, Some(Change::Ejected(Cause::Latency)));
        let until = state.ejection().unwrap().until;
        times.push((until - now).as_secs());
        assert_eq!(state.tick(until.checked_sub(MS(1)).unwrap()), None);
        now = until;
        assert_eq!(state.tick(now), Some(Change::Readmitted));
    }
    assert_eq!(times, [30, 60, 90, 60, 30]);
}

#[test]
fn failures_of_a_server_that_is_out_never_shorten_its_time() {
    let rules = PoolRules { outliers: Some(outliers()), ..rules(false) };
    let (mut state, now) = (state(), start());
    state.eject(now, Cause::Latency, &rules);
    let until = state.ejection().unwrap().until;
    for _ in 0..5 {
        assert_eq!(state.handle_failure(now, &rules), None);
    }
    assert_eq!(state.ejection().unwrap().until, until);
}

#[test]
fn the_nodes_own_word_counts_like_the_others() {
    let (mut state, rules, now) = (state(), rules(false), start());
    let say =
        |state: &mut ServerState, text: &[u8]| state.handle_agent(now, &Word::read(text).unwrap());
    assert!(say(&mut state, b"50%").is_some());
    assert!((state.effective_weight(now, &rules) - 100.0).abs() < 1e-9);
    assert_eq!(say(&mut state, b"up 50%"), None, "nothing new");
    say(&mut state, b"down");
    assert!(!state.is_usable(&rules) && state.may_be_tried());
    say(&mut state, b"up drain");
    assert!(!state.is_usable(&rules) && !state.may_be_tried());
    say(&mut state, b"ready 200%");
    assert!(state.is_usable(&rules));
    assert!(
        (state.effective_weight(now, &rules) - 25.6).abs() < 1e-9,
        "no more than 256, on a ramp"
    );
    state.forget_agent();
    assert!((state.effective_weight(now + MS(60_000), &rules) - 200.0).abs() < 1e-9);
}

#[test]
fn another_process_goes_on_with_an_ejection() {
    let (rules, now) = (rules(false), start());
    let mut before = state();
    assert_eq!(before.ejection_left(now), None);
    before.handle_failure(now, &rules);
    before.handle_failure(now, &rules);
    let left = before.ejection_left(now + MS(500)).unwrap();
    assert_eq!((left.cause, left.left), (Cause::Failures, MS(1_500)));
    let mut after = state();
    let later = now + MS(60_000);
    after.assume_ejection(later, &left);
    assert!(!after.is_usable(&rules));
    assert_eq!(after.tick(later + MS(1_499)), None);
    assert_eq!(after.tick(later + MS(1_500)), Some(Change::Readmitted));
    assert!(after.is_usable(&rules));
}
