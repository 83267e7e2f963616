//! Which server gets the next connection: the four algorithms, without sockets or clocks.
//!
//! Every algorithm sees the same candidates: servers that may take a connection now, with their share (effective weight in
//! thousandths, so that a ramp has steps even at weight 1), their connections in use and a hash of their name.
//!
//! - **Round robin** is the smooth one: each candidate earns its share per turn, the richest is taken and pays the sum. Picks of a
//!   heavy server are spread between the others instead of coming in a row. Shares that change in mid-turn need no reset.
//! - **Least connections** compares `(in use + 1) / share`, exactly, by cross-multiplication; ties rotate, or the first server of an
//!   idle pool would take every connection that is closed before the next one comes.
//! - **Source hash** is weighted rendezvous hashing: each candidate draws a number from hash(source, name) and the best score
//!   `-share / ln(u)` wins. When a server goes, only its own sources move; when one comes, it takes only its share. A hash modulo
//!   the number of servers was rejected (it moves nearly everybody), a ring as well (it needs hundreds of points to be even).

/// A server that may take a connection now.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Position in the pool.
    pub index: usize,
    /// Effective weight in thousandths, above 0.
    pub share: u32,
    /// Connections in use.
    pub active: u64,
    /// [`hash`] of the server's name.
    pub key: u64,
}

/// Smooth weighted round robin: what each server has earned so far, by position.
#[derive(Debug, Default)]
pub struct RoundRobin {
    earned: Vec<i64>,
}

impl RoundRobin {
    /// The next in turn; `None` without candidates.
    pub fn next(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for candidate in candidates {
            if self.earned.len() <= candidate.index {
                self.earned.resize(candidate.index + 1, 0);
            }
            let share = i64::from(candidate.share);
            total += share;
            self.earned[candidate.index] += share;
            if best.is_none_or(|best| self.earned[candidate.index] > self.earned[best]) {
                best = Some(candidate.index);
            }
        }
        if let Some(best) = best {
            self.earned[best] -= total;
        }
        best
    }
}

/// The candidate with the fewest connections per share. `rotation` counts up with each call and breaks ties.
pub fn least_connections(
    candidates: impl Iterator<Item = Candidate>,
    servers: usize,
    rotation: usize,
) -> Option<usize> {
    // Distance from the position whose turn it is; the nearest wins a tie.
    let distance = |index: usize| (index + servers - rotation % servers.max(1)) % servers.max(1);
    let better = |a: &Candidate, b: &Candidate| {
        let (cost_a, cost_b) =
            ((a.active + 1) * u64::from(b.share), (b.active + 1) * u64::from(a.share));
        cost_a < cost_b || (cost_a == cost_b && distance(a.index) < distance(b.index))
    };
    candidates.reduce(|best, next| if better(&next, &best) { next } else { best }).map(|c| c.index)
}

/// The candidate that owns `source` (a [`hash`] of the client's address).
pub fn source_hash(candidates: impl Iterator<Item = Candidate>, source: u64) -> Option<usize> {
    let score = |candidate: &Candidate| {
        // 53 bits, moved off zero, fill the open interval (0, 1) evenly.
        let drawn = ((mix(source ^ candidate.key) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(candidate.share) / drawn.ln()
    };
    candidates
        .map(|candidate| (score(&candidate), candidate.index))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, index)| index)
}

/// A stable 64-bit hash (FNV-1a, then a mixer): the same in every process and version, so that two balancers choose alike.
pub fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// The finaliser of `SplitMix64`: every input bit reaches every output bit, which FNV alone does not do for short inputs.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(source_hash(std::iter::empty(), 5), None);
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
        let picks =
            count((0..300).map(|t| least_connections(idle.iter().copied(), 3, t).unwrap()), 3);
        assert_eq!(picks, [100, 100, 100]);
    }

    #[test]
    fn source_hash_keeps_to_the_weights() {
        let shares = candidates(&[100_000, 100_000, 200_000], &[]);
        let pick = |n: u32| source_hash(shares.iter().copied(), hash(&n.to_be_bytes())).unwrap();
        let counts = count((0..40_000).map(pick), 3);
        for (count, expected) in counts.iter().zip([10_000.0, 10_000.0, 20_000.0]) {
            let off = (*count as f64 - expected).abs() / expected;
            assert!(off < 0.03, "{counts:?}");
        }
    }

    #[test]
    fn source_hash_moves_only_the_sources_of_a_server_that_goes() {
        let all = candidates(&[100_000; 4], &[]);
        let without: Vec<_> = all.iter().copied().filter(|c| c.index != 2).collect();
        for n in 0..10_000_u32 {
            let source = hash(&n.to_be_bytes());
            let before = source_hash(all.iter().copied(), source).unwrap();
            let after = source_hash(without.iter().copied(), source).unwrap();
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
}
