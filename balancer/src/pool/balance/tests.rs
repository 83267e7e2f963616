use super::*;

/// Candidates with these shares; a share of 0 is no candidate.
fn candidates(shares: &[u32], active: &[u64]) -> Vec<Candidate> {
    let candidate = |(index, share): (usize, &u32)| Candidate {
        index,
        share: *share,
        active: active.get(index).copied().unwrap_or(0),
        key: hash(format!("server-{index}").as_bytes()),
    };
    shares.iter().enumerate().map(candidate).filter(|c| c.share > 0).collect()
}

fn count(picks: impl Iterator<Item = usize>, servers: usize) -> Vec<usize> {
    picks.fold(vec![0; servers], |mut counts, pick| {
        counts[pick] += 1;
        counts
    })
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let shares = candidates(&[5_000, 1_000, 1_000], &[]);
    let mut turn = RoundRobin::default();
    let picks: Vec<_> = (0..7).map(|_| turn.next(shares.iter().copied()).unwrap()).collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    let counts = count((0..7_000).map(|_| turn.next(shares.iter().copied()).unwrap()), 3);
    assert_eq!(counts, [5_000, 1_000, 1_000]);
}

#[test]
fn nothing_is_picked_from_nobody() {
    assert_eq!(RoundRobin::default().next(std::iter::empty()), None);
    assert_eq!(least_connections(std::iter::empty(), 0, 5), None);
    assert_eq!(rendezvous(std::iter::empty(), 5), None);
}

#[test]
fn least_connections_fills_in_proportion_to_the_weights() {
    let mut active = [0_u64; 3];
    for turn in 0..700 {
        let now = candidates(&[100_000, 200_000, 400_000], &active);
        active[least_connections(now.into_iter(), 3, turn).unwrap()] += 1;
    }
    assert_eq!(active, [100, 200, 400]);
}

#[test]
fn least_connections_rotates_among_equals() {
    let idle = candidates(&[100_000, 100_000, 100_000], &[]);
    let picks = count((0..300).map(|t| least_connections(idle.iter().copied(), 3, t).unwrap()), 3);
    assert_eq!(picks, [100, 100, 100]);
}

#[test]
fn hash_moves_only_the_sources_of_a_server_that_goes() {
    let all = candidates(&[100_000; 4], &[]);
    let without: Vec<_> = all.iter().copied().filter(|c| c.index != 2).collect();
    for n in 0..10_000_u32 {
        let source = hash(&n.to_be_bytes());
        let before = rendezvous(all.iter().copied(), source).unwrap();
        let after = rendezvous(without.iter().copied(), source).unwrap();
        assert!(before == after || before == 2, "source {n} moved from {before} to {after}");
    }
}

#[test]
fn the_hash_never_changes() {
    // Balancers of different versions must agree; these values are part of the contract.
    assert_eq!(hash(b"chatnode-1"), hash(b"chatnode-1"));
    assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
    assert_ne!(hash(b"chatnode-1"), hash(b"chatnode-2"));
}

/// Picks of each connection algorithm.
const PICKS: u32 = 100_000;
/// Weights of a pool as it may look in practice, as shares.
const SHARES: [u32; 5] = [100_000, 100_000, 50_000, 200_000, 25_000];
/// With 4 degrees of freedom chi-square exceeds this once in a thousand runs; the seed is fixed, so the test does not.
const CHI_SQUARE_MAX: f64 = 18.47;

fn expected(shares: &[u32]) -> Vec<f64> {
    let total: u32 = shares.iter().sum();
    shares.iter().map(|share| f64::from(PICKS) * f64::from(*share) / f64::from(total)).collect()
}

fn chi_square(counts: &[usize]) -> f64 {
    let each = counts.iter().zip(expected(&SHARES));
    each.map(|(count, expected)| (*count as f64 - expected).powi(2) / expected).sum()
}

/// Every pick opens a connection that stays.
fn held(mut pick: impl FnMut(&[Candidate]) -> usize) -> Vec<usize> {
    let mut pool = candidates(&SHARES, &[]);
    for _ in 0..PICKS {
        let picked = pick(&pool);
        pool[picked].active += 1;
    }
    pool.iter().map(|server| usize::try_from(server.active).unwrap()).collect()
}

#[test]
fn algorithms_without_chance_keep_to_the_shares_to_the_connection() {
    let mut turn = RoundRobin::default();
    let in_turn = held(|pool| turn.next(pool.iter().copied()).unwrap());
    let mut rotation = 0;
    let least = held(|pool| {
        rotation += 1;
        least_connections(pool.iter().copied(), SHARES.len(), rotation).unwrap()
    });
    for counts in [in_turn, least] {
        for (count, expected) in counts.iter().zip(expected(&SHARES)) {
            assert!((*count as f64 - expected).abs() <= 1.0, "{counts:?}");
        }
    }
}

#[test]
fn two_choices_keep_to_the_shares_with_and_without_load() {
    let mut random = fastrand::Rng::with_seed(1);
    let idle = candidates(&SHARES, &[]);
    let pick =
        |_| two_choices(idle.iter().copied(), [random.u64(..), random.u64(..)], load).unwrap();
    let counts = count((0..PICKS).map(pick), SHARES.len());
    assert!(chi_square(&counts) < CHI_SQUARE_MAX, "{counts:?}");
    // Connections that stay pull the shares together far below what chance alone would leave.
    let mut random = fastrand::Rng::with_seed(2);
    let counts = held(|pool| {
        two_choices(pool.iter().copied(), [random.u64(..), random.u64(..)], load).unwrap()
    });
    for (count, expected) in counts.iter().zip(expected(&SHARES)) {
        assert!((*count as f64 - expected).abs() <= 25.0, "{counts:?}");
    }
}

#[test]
fn peak_ewma_keeps_to_the_shares_among_equals_and_leaves_a_slow_server_alone() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut servers = [PeakEwma::default(); SHARES.len()];
    let now = Duration::from_secs(1);
    for server in &mut servers {
        server.observe(now, Duration::from_millis(10));
    }
    let counts = held(|pool| {
        let cost = |candidate: &Candidate| servers[candidate.index].cost(now, candidate);
        two_choices(pool.iter().copied(), [random.u64(..), random.u64(..)], cost).unwrap()
    });
    for (count, expected) in counts.iter().zip(expected(&SHARES)) {
        assert!((*count as f64 - expected).abs() / expected < 0.02, "{counts:?}");
    }
    // One response of half a second, and of two drawn the other is taken.
    servers[3].observe(now, Duration::from_millis(500));
    let idle = candidates(&SHARES, &[]);
    let cost = |candidate: &Candidate| servers[candidate.index].cost(now, candidate);
    let pick =
        |_| two_choices(idle.iter().copied(), [random.u64(..), random.u64(..)], cost).unwrap();
    assert_eq!(count((0..10_000).map(pick), SHARES.len())[3], 0);
}

#[test]
fn a_latency_rises_at_once_falls_slowly_and_fades() {
    let at = Duration::from_secs;
    let mut server = PeakEwma::default();
    let busy = candidates(&[1_000], &[1])[0];
    let idle = candidates(&[1_000], &[0])[0];
    assert!(server.cost(at(0), &idle) == 0.0 && server.cost(at(0), &busy) > 0.0);
    server.observe(at(100), Duration::from_millis(10));
    let before = server.cost(at(100), &idle);
    server.observe(at(100), Duration::from_millis(100));
    let peak = server.cost(at(100), &idle);
    assert!((peak / before - 10.0).abs() < 1e-9);
    server.observe(at(101), Duration::from_millis(10));
    let after = server.cost(at(101), &idle);
    assert!(after < peak && after > 0.8 * peak, "{after} after {peak}");
    assert!(server.cost(at(160), &idle) < 0.01 * peak);
}

#[test]
fn hash_keeps_to_the_shares() {
    let pool = candidates(&SHARES, &[]);
    let pick = |n: u32| rendezvous(pool.iter().copied(), hash(&n.to_be_bytes())).unwrap();
    let counts = count((0..PICKS).map(pick), SHARES.len());
    assert!(chi_square(&counts) < CHI_SQUARE_MAX, "{counts:?}");
}

#[test]
fn hash_moves_the_share_of_a_server_that_comes_or_goes_and_nothing_else() {
    // K keys on n equal servers: with one more, K / (n + 1) move, all of them to it.
    let all = candidates(&[100_000; 10], &[]);
    let fewer = &all[..9];
    let owner = |pool: &[Candidate], n: u32| {
        rendezvous(pool.iter().copied(), hash(&n.to_be_bytes())).unwrap()
    };
    let moved: Vec<_> = (0..PICKS)
        .map(|n| (owner(fewer, n), owner(&all, n)))
        .filter(|(before, after)| before != after)
        .collect();
    assert!(moved.iter().all(|(_, after)| *after == 9));
    let share = f64::from(PICKS) / 10.0;
    // Within four standard deviations of a binomial count.
    let deviation = (share * 0.9).sqrt();
    assert!((moved.len() as f64 - share).abs() < 4.0 * deviation, "{} moved", moved.len());
}
