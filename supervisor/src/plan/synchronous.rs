//! How many replicas a primary shall demand for its writes: as many as are wanted, but never more than are well.
//!
//! A demand that nobody can meet stops all writes, so it is lowered the moment a replica is lost, and raised only once the replica that
//! came back has stayed for a while. `strict` demands what is wanted whatever is well: rather no writes than writes on one server.

use std::time::{Duration, Instant};

use crate::config::Synchronous;

/// A replica must be well for this long before it is counted on: longer than a reconnection that fails right away.
const RAISE_AFTER: Duration = Duration::from_secs(3);

/// The demand, as it follows the replicas that are well.
#[derive(Debug, Clone)]
pub struct Demand {
    settings: Synchronous,
    present: u32,
    /// More replicas have been well since then.
    more_since: Option<Instant>,
}

impl Demand {
    /// Begins with none: a primary that was just found, or has just become one, has no replica that is sure.
    pub fn new(settings: Synchronous) -> Self {
        Self { settings, present: 0, more_since: None }
    }

    /// A replica that the primary has not heard for this long does not count for it.
    pub fn max_lag(&self) -> Duration {
        self.settings.max_lag
    }

    /// What to demand now that this many replicas are well.
    pub fn follow(&mut self, now: Instant, healthy: u32) -> u32 {
        if self.settings.strict {
            return self.settings.replicas;
        }
        let possible = healthy.min(self.settings.replicas);
        let is_more = possible > self.present;
        let since = *self.more_since.get_or_insert(now);
        if !is_more || now.saturating_duration_since(since) >= RAISE_AFTER {
            (self.present, self.more_since) = (possible, None);
        }
        self.present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(strict: bool) -> Demand {
        Demand::new(Synchronous { replicas: 2, max_lag: Duration::from_secs(10), strict })
    }

    #[test]
    fn the_demand_is_lowered_at_once_and_raised_after_a_while() {
        let begin = tokio::time::Instant::now().into_std();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut demand = demand(false);
        let steps = [
            (0, 2, 0),
            (2_999, 2, 0),
            (3_000, 2, 2),
            (3_001, 1, 1),
            (3_002, 3, 1),
            (4_000, 1, 1),
            (6_100, 3, 1),
            (9_100, 3, 2),
            (9_101, 0, 0),
        ];
        for (time, healthy, expected) in steps {
            assert_eq!(demand.follow(at(time), healthy), expected, "at {time} ms");
        }
    }

    #[test]
    fn a_strict_demand_is_always_the_same() {
        let now = tokio::time::Instant::now().into_std();
        let mut demand = demand(true);
        assert_eq!([demand.follow(now, 0), demand.follow(now, 5)], [2, 2]);
    }
}
