//! Rates, by the generic cell rate algorithm: one number per key, the time at which everything counted so far has worn off. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{Allowance, Rate};

#[derive(Default)]
pub(super) struct Rates {
    /// When everything counted so far has worn off; bounded by the keys used within their rate's memory.
    arrival: HashMap<Box<str>, Instant>,
}

impl Rates {
    pub(super) fn take(&mut self, now: Instant, key: &str, rate: Rate, cost: u32) -> Allowance {
        let known = self.arrival.get(key).copied().unwrap_or(now).max(now);
        let next = known + rate.every * cost;
        let allowed_at = next.checked_sub(rate.every * rate.burst).unwrap_or(now);
        if allowed_at > now {
            return Allowance { allowed: false, retry_after: allowed_at - now };
        }
        self.arrival.insert(key.into(), next);
        Allowance { allowed: true, retry_after: Duration::ZERO }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.arrival.retain(|_, arrival| *arrival > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let rate = Rate { burst: 2, every: Duration::from_secs(1) };
        let mut take = |ms, cost| {
            let allowance = rates.take(start + Duration::from_millis(ms), "a", rate, cost);
            allowance.allowed.then_some(()).ok_or(allowance.retry_after.as_millis())
        };
        assert_eq!((take(0, 1), take(0, 1), take(0, 1)), (Ok(()), Ok(()), Err(1000)));
        assert_eq!((take(999, 1), take(1000, 1), take(1000, 1)), (Err(1), Ok(()), Err(1000)));
        assert_eq!(
            (take(9000, 3), take(9000, 2)),
            (Err(1000), Ok(())),
            "no more than the burst is saved up"
        );
        rates.sweep(start + Duration::from_secs(20));
        assert!(rates.arrival.is_empty());
    }
}
