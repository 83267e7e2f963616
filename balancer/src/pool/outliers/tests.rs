use std::num::NonZeroU32;

use fastrand::Rng;

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn rules() -> OutlierRules {
    OutlierRules {
        interval: Duration::from_secs(10),
        ejection_base: Duration::from_secs(30),
        ejection_max: Duration::from_mins(5),
        ejected_share_max: 0.34,
        errors_in_row: NonZeroU32::new(5),
        servers_min: 3,
        requests_min: 50,
        deviations: 1.9,
        latency_factor: 3.0,
        latency_min: MS(100),
    }
}

/// One simulated server: its share of failures and its mean latency, around which single requests vary.
#[derive(Clone, Copy)]
struct Model {
    failing: f64,
    latency: Duration,
}

const HEALTHY: Model = Model { failing: 0.01, latency: Duration::from_millis(60) };

/// An interval of traffic, as the data path would have tallied it.
fn interval(rng: &mut Rng, models: &[Model], out: &[bool], requests: u64) -> Vec<Sight> {
    models
        .iter()
        .enumerate()
        .map(|(server, model)| {
            let tally = Tally::default();
            for _ in 0..if out[server] { 0 } else { requests } {
                // From a half to one and a half of the mean, with a tail of ten times that.
                let factor = if rng.f64() < 0.01 { 10.0 } else { 0.5 + rng.f64() };
                tally.note(rng.f64() < model.failing, model.latency.mul_f64(factor));
            }
            Sight { server: server as u64, out: out[server], seen: tally.take() }
        })
        .collect()
}

/// Who is found within `intervals`, and in which; those found stay out.
fn simulate(seed: u64, models: &[Model], intervals: usize) -> Vec<(usize, u64, Cause)> {
    let (mut rng, mut detector) = (Rng::with_seed(seed), Detector::default());
    let mut out = vec![false; models.len()];
    let mut found = Vec::new();
    for at in 0..intervals {
        let sights = interval(&mut rng, models, &out, 200);
        for (server, cause) in detector.sweep(&rules(), &sights) {
            out[usize::try_from(server).unwrap()] = true;
            found.push((at, server, cause));
        }
    }
    found
}

#[test]
fn servers_alike_are_left_alone() {
    for seed in 0..200 {
        for count in [3, 5, 9] {
            let found = simulate(seed, &vec![HEALTHY; count], 30);
            assert_eq!(found, [], "seed {seed}, {count} servers");
        }
    }
}

#[test]
fn a_server_that_fails_a_fifth_is_found_at_once() {
    for seed in 0..100 {
        for count in [3, 5, 9] {
            let mut models = vec![HEALTHY; count];
            models[1].failing = 0.2;
            let found = simulate(seed, &models, 3);
            assert_eq!(found, [(0, 1, Cause::SuccessRate)], "seed {seed}, {count} servers");
        }
    }
}

#[test]
fn a_server_five_times_as_slow_is_found_at_once_and_a_little_slower_never() {
    for seed in 0..100 {
        let mut models = vec![HEALTHY; 3];
        models[2].latency = MS(300);
        assert_eq!(simulate(seed, &models, 3), [(0, 2, Cause::Latency)], "seed {seed}");
        models[2].latency = MS(120);
        assert_eq!(simulate(seed, &models, 30), [], "seed {seed}");
    }
    // Slow by comparison, yet nobody would notice.
    let mut quick = vec![Model { latency: MS(5), ..HEALTHY }; 3];
    quick[0].latency = MS(40);
    assert_eq!(simulate(1, &quick, 10), []);
}

#[test]
fn one_slow_interval_counts_half() {
    let mut detector = Detector::default();
    let sights = |slow: u64| {
        [60, 60, slow]
            .iter()
            .enumerate()
            .map(|(server, ms)| {
                let seen = Seen { requests: 100, failures: 0, latency: Some(MS(*ms)) };
                Sight { server: server as u64, out: false, seen }
            })
            .collect::<Vec<_>>()
    };
    for _ in 0..5 {
        assert_eq!(detector.sweep(&rules(), &sights(60)), []);
    }
    assert_eq!(detector.sweep(&rules(), &sights(280)), [], "an average of 170 ms");
    assert_eq!(detector.sweep(&rules(), &sights(280)), [(2, Cause::Latency)]);
}

#[test]
fn no_more_than_a_share_is_out_and_never_all() {
    let rules = rules();
    for (servers, out, expected) in
        [(1, 0, 0), (2, 0, 1), (2, 1, 0), (3, 0, 1), (3, 1, 0), (9, 0, 3), (9, 2, 1), (9, 5, 0)]
    {
        assert_eq!(places(&rules, servers, out), expected, "{servers} servers, {out} out");
    }
    // Three of nine are as bad as can be, a fourth a little less: the worst go, one stays.
    let mut models = vec![HEALTHY; 9];
    for (n, latency) in [(0, 2_000), (3, 3_000), (5, 4_000), (7, 1_000)] {
        models[n].latency = MS(latency);
    }
    let found = simulate(3, &models, 2);
    let servers: Vec<_> = found.iter().map(|(_, server, _)| *server).collect();
    assert_eq!(servers, [5, 3, 0]);
}

#[test]
fn too_few_servers_or_requests_are_no_standard() {
    let mut models = vec![HEALTHY; 2];
    models[0] = Model { failing: 0.9, latency: MS(5_000) };
    assert_eq!(simulate(1, &models, 5), []);
    let mut detector = Detector::default();
    let bad = Seen { requests: 49, failures: 49, latency: Some(MS(5_000)) };
    let good = Seen { requests: 500, failures: 0, latency: Some(MS(50)) };
    let sights: Vec<_> = [bad, good, good, good]
        .into_iter()
        .enumerate()
        .map(|(server, seen)| Sight { server: server as u64, out: false, seen })
        .collect();
    assert_eq!(detector.sweep(&rules(), &sights), []);
}

#[test]
fn each_rule_can_be_switched_off() {
    let mut models = vec![HEALTHY; 3];
    models[0] = Model { failing: 0.9, latency: MS(5_000) };
    let off = OutlierRules { deviations: 0.0, latency_factor: 0.0, ..rules() };
    let sights = interval(&mut Rng::with_seed(1), &models, &[false; 3], 200);
    assert_eq!(Detector::default().sweep(&off, &sights), []);
}

#[test]
fn errors_in_a_row_are_counted_until_something_works() {
    let tally = Tally::default();
    let row: Vec<_> = [true, true, false, true].map(|error| tally.note(error, MS(1))).to_vec();
    assert_eq!(row, [1, 2, 0, 1]);
    tally.note_failure();
    let seen = tally.take();
    assert_eq!((seen.requests, seen.failures, seen.latency), (5, 4, Some(MS(1))));
    assert_eq!(tally.take(), Seen::default());
}
