//! Which server gets the next connection: the algorithms, without sockets or clocks.
//!
//! Every algorithm sees the same candidates: servers that may take a connection now, with their share (effective weight in
//! thousandths, so that a ramp has steps even at weight 1), their connections in use and a hash of their name.
//!
//! - **Round robin** is the smooth one: each candidate earns its share per turn, the richest is taken and pays the sum. Picks of a
//!   heavy server are spread between the others instead of coming in a row. Shares that change in mid-turn need no reset.
//! - **Least connections** compares `(in use + 1) / share`, exactly, by cross-multiplication; ties rotate, or the first server of an
//!   idle pool would take every connection that is closed before the next one comes.
//! - **Random two choices** draws two servers, each by its share, and takes the one with fewer connections per share: nearly as even as
//!   least connections, and several balancers that do not know of each other do not all choose the same server at once.
//! - **Peak EWMA** ([`PeakEwma`]) is the same draw, judged by what a response costs there: its latency, times those that wait.
//! - **Hash** is weighted rendezvous hashing: each candidate draws a number from hash(key, name) and the best score `-share / ln(u)`
//!   wins. When a server goes, only its own keys move; when one comes or grows, it takes only its share: the least there can be. A hash
//!   modulo the number of servers was rejected (it moves nearly everybody); so were a ring (it needs hundreds of points per server to
//!   be even) and a table as Maglev has it (it moves a little more than it must), which are quicker with thousands of servers only.

use std::time::Duration;

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

/// Two candidates drawn by their shares with `draws`, two random numbers, and of them the one with the lower `cost`. The first drawn wins
/// a tie, so that a pool in which nothing happens is spread by its shares. A pool of one needs no second.
pub fn two_choices(
    candidates: impl Iterator<Item = Candidate> + Clone,
    draws: [u64; 2],
    cost: impl Fn(&Candidate) -> f64,
) -> Option<usize> {
    let total: u64 = candidates.clone().map(|candidate| u64::from(candidate.share)).sum();
    let first = draw(candidates.clone(), total, draws[0])?;
    let rest = candidates.filter(|candidate| candidate.index != first.index);
    let Some(second) = draw(rest, total - u64::from(first.share), draws[1]) else {
        return Some(first.index);
    };
    Some(if cost(&second) < cost(&first) { second.index } else { first.index })
}

/// The candidate at a random place on a line on which each has its share.
fn draw(
    mut candidates: impl Iterator<Item = Candidate>,
    total: u64,
    random: u64,
) -> Option<Candidate> {
    // The modulus favours low places by less than one part in 2^32, for shares add up to less than that.
    let mut place = random.checked_rem(total)?;
    candidates.find(|candidate| {
        let share = u64::from(candidate.share);
        let found = place < share;
        place = place.saturating_sub(share);
        found
    })
}

/// Connections in use per share.
pub fn load(candidate: &Candidate) -> f64 {
    candidate.active as f64 / f64::from(candidate.share)
}

/// Latency of one server, remembered with a weight that halves every seven seconds or so: a worse one counts at once, a better one bit
/// by bit, so that a server that begins to stall is left alone from its first slow response on (the method of Finagle and linkerd).
#[derive(Debug, Clone, Copy, Default)]
pub struct PeakEwma {
    seconds: f64,
    at: Duration,
}

/// Time in which a latency's weight falls to 1/e.
const MEMORY: Duration = Duration::from_secs(10);
/// Taken for the latency of a server that has not answered anything yet but has something to answer: it gets its next request only after
/// the others have answered theirs.
const UNKNOWN_SECONDS: f64 = 1.0;

impl PeakEwma {
    /// Takes in the latency of a response that came at `now`, counted from any fixed moment.
    pub fn observe(&mut self, now: Duration, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let known = self.faded(now);
        self.seconds = if seconds > known {
            seconds
        } else {
            let weight = self.weight(now);
            self.seconds * weight + seconds * (1.0 - weight)
        };
        self.at = now;
    }

    /// What a further request is expected to cost: seconds, times all that would wait, per share.
    pub fn cost(&self, now: Duration, candidate: &Candidate) -> f64 {
        let mut seconds = self.faded(now);
        if seconds <= 0.0 {
            if candidate.active == 0 {
                // Never asked: try it, once.
                return 0.0;
            }
            seconds = UNKNOWN_SECONDS;
        }
        seconds * (candidate.active + 1) as f64 / f64::from(candidate.share)
    }

    /// A latency of long ago says little; without new ones the server is slowly forgiven.
    fn faded(&self, now: Duration) -> f64 {
        self.seconds * self.weight(now)
    }

    fn weight(&self, now: Duration) -> f64 {
        (-(now.saturating_sub(self.at).as_secs_f64()) / MEMORY.as_secs_f64()).exp()
    }
}

/// The candidate that owns `source` (a [`hash`] of what keys the choice).
pub fn rendezvous(candidates: impl Iterator<Item = Candidate>, source: u64) -> Option<usize> {
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
mod tests;
