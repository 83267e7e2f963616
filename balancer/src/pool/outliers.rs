//! Which servers are not like the others, by the traffic itself.
//!
//! Checks ask whether a server works; clients may see that it does not. A server is compared with its peers of the same interval, each
//! judged by the *others*: in the pools of three and five servers that chat runs on, one bad server would otherwise raise the very mean
//! and deviation it is held against (among three, nobody can be more than 1.4 standard deviations from the mean of all).
//!
//! - **Success rate**: lower than the others' mean by more than `deviations` of their standard deviations (Envoy's rule), and by more than
//!   [`RATE_MARGIN`], below which a difference is no illness.
//! - **Latency**: a moving average of the mean time to the response; more than `latency_factor` times the others' median, and above
//!   `latency_min`.
//! - **Errors in a row** are counted where they happen by the data path and need no comparison.
//!
//! At most a share of the pool is out at a time, the worst first: when many are bad at once, the cause is not in them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::state::Cause;
use crate::config::OutlierRules;

/// How much lower than the others' a success rate has to be at least.
pub const RATE_MARGIN: f64 = 0.05;
/// Weight of the newest interval in the moving average of latencies: half, so that one slow interval alone decides only if it is very slow.
const NEWEST: f64 = 0.5;

/// What was seen of one server since the last comparison; written by the data path without a lock.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: AtomicU64,
    failures: AtomicU64,
    responses: AtomicU64,
    micros: AtomicU64,
    errors_in_row: AtomicU32,
}

impl Tally {
    /// Notes a response and says how many errors in a row it is the last of.
    pub(crate) fn note(&self, error: bool, latency: Duration) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.responses.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        if error {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return self.errors_in_row.fetch_add(1, Ordering::Relaxed) + 1;
        }
        if self.errors_in_row.load(Ordering::Relaxed) > 0 {
            self.errors_in_row.store(0, Ordering::Relaxed);
        }
        0
    }

    /// Notes a request without a response.
    pub(crate) fn note_failure(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins again from zero errors in a row.
    pub(crate) fn forget_row(&self) {
        self.errors_in_row.store(0, Ordering::Relaxed);
    }

    /// What was seen, and begins again.
    pub(crate) fn take(&self) -> Seen {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let (responses, micros) = (take(&self.responses), take(&self.micros));
        let latency = micros.checked_div(responses).map(Duration::from_micros);
        Seen { requests: take(&self.requests), failures: take(&self.failures), latency }
    }
}

/// What was seen of one server in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Requests and connections.
    pub requests: u64,
    /// Of them, how many had no response or an error.
    pub failures: u64,
    /// Mean time to the response, if there was one.
    pub latency: Option<Duration>,
}

/// One server in a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Which one.
    pub server: u64,
    /// Whether it is out already.
    pub out: bool,
    /// What was seen of it.
    pub seen: Seen,
}

/// Compares the servers of one pool, interval by interval.
#[derive(Debug, Default)]
pub struct Detector {
    /// Moving averages of latency in seconds.
    averages: HashMap<u64, f64>,
}

impl Detector {
    /// Whom to eject after an interval in which `sights` were seen, and why; the worst first, no more than may be out.
    pub fn sweep(&mut self, rules: &OutlierRules, sights: &[Sight]) -> Vec<(u64, Cause)> {
        self.averages.retain(|server, _| sights.iter().any(|sight| sight.server == *server));
        let judged: Vec<_> = sights
            .iter()
            .filter(|sight| !sight.out && sight.seen.requests >= rules.requests_min)
            .copied()
            .collect();
        for sight in sights {
            if sight.out {
                // What it was like says nothing about what it is like when it comes back.
                self.averages.remove(&sight.server);
            }
        }
        for sight in &judged {
            if let Some(latency) = sight.seen.latency {
                let newest = latency.as_secs_f64();
                let average = self.averages.entry(sight.server).or_insert(newest);
                *average = NEWEST * newest + (1.0 - NEWEST) * *average;
            }
        }
        if judged.len() < rules.servers_min {
            return Vec::new();
        }
        let mut found: Vec<(f64, u64, Cause)> = Vec::new();
        for (at, sight) in judged.iter().enumerate() {
            let others =
                || judged.iter().enumerate().filter(move |(n, _)| *n != at).map(|(_, s)| s);
            let excess = [
                (self.too_failing(rules, sight, others()), Cause::SuccessRate),
                (self.too_slow(rules, sight, others()), Cause::Latency),
            ];
            let worst = excess.into_iter().filter_map(|(by, cause)| Some((by?, cause)));
            if let Some((by, cause)) = worst.reduce(|a, b| if b.0 > a.0 { b } else { a }) {
                found.push((by, sight.server, cause));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.truncate(places(rules, sights.len(), sights.iter().filter(|s| s.out).count()));
        found.into_iter().map(|(_, server, cause)| (server, cause)).collect()
    }

    /// By how much more than allowed its success rate is below the others', if it is: 1 at the limit.
    #[expect(clippy::unused_self, reason = "beside the other rule")]
    fn too_failing<'a>(
        &self,
        rules: &OutlierRules,
        sight: &Sight,
        others: impl Iterator<Item = &'a Sight>,
    ) -> Option<f64> {
        if rules.deviations <= 0.0 {
            return None;
        }
        let rate = |sight: &Sight| 1.0 - sight.seen.failures as f64 / sight.seen.requests as f64;
        let rates: Vec<_> = others.map(rate).collect();
        let count = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / count;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
        let allowed = (rules.deviations * variance.sqrt()).max(RATE_MARGIN);
        let excess = (mean - rate(sight)) / allowed;
        (excess > 1.0).then_some(excess)
    }

    /// How many times slower than allowed it is, if it is.
    fn too_slow<'a>(
        &self,
        rules: &OutlierRules,
        sight: &Sight,
        others: impl Iterator<Item = &'a Sight>,
    ) -> Option<f64> {
        if rules.latency_factor <= 0.0 {
            return None;
        }
        let own = *self.averages.get(&sight.server)?;
        let mut peers: Vec<_> =
            others.filter_map(|other| self.averages.get(&other.server).copied()).collect();
        if peers.len() + 1 < rules.servers_min {
            return None;
        }
        peers.sort_by(f64::total_cmp);
        // The lower of two in the middle: with two peers, of which one is ill as well, the healthy one is the standard.
        let median = peers[(peers.len() - 1) / 2];
        let allowed = (rules.latency_factor * median).max(rules.latency_min.as_secs_f64());
        (own > allowed).then(|| own / allowed)
    }
}

/// How many more of `servers` may be ejected while `out` are: a share of them, one at least, and never the last.
pub fn places(rules: &OutlierRules, servers: usize, out: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of servers"
    )]
    let share = (servers as f64 * rules.ejected_share_max) as usize;
    share.max(1).min(servers.saturating_sub(1)).saturating_sub(out)
}

#[cfg(test)]
mod tests;
