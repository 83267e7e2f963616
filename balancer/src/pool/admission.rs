//! How many new connections per second: a token bucket in one number.
//!
//! When a node dies, its clients come back within a second, and the emptiest server would take them all: the one that has just returned.
//! A rate in front of each server lets it build up what it keeps per connection at its own pace; slow start ([`super::state`]) lowers the
//! rate of one that returns in the same steps as its weight. Whoever finds no token waits in the pool's line or is told when to come again.
//!
//! The bucket is kept as the moment from which it would be full again (the generic cell rate algorithm): taking a token is one
//! compare-and-swap, nothing has to refill it, and a rate may change at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Tokens that may be saved up, in time: small, because what a storm does to a server it does in less than a second.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket. Times count from any fixed moment.
#[derive(Debug)]
pub struct Admission {
    /// What may be saved up, in nanoseconds.
    burst: u64,
    /// Nanoseconds between two tokens; 0 for no limit.
    gap: AtomicU64,
    /// When the bucket is full again, in nanoseconds.
    full_at: AtomicU64,
}

impl Default for Admission {
    fn default() -> Self {
        Self::with_burst(BURST)
    }
}

impl Admission {
    /// A bucket that holds the tokens of so much time, or one if that is more; without a rate yet.
    pub fn with_burst(burst: Duration) -> Self {
        Self { burst: nanos(burst), gap: AtomicU64::new(0), full_at: AtomicU64::new(0) }
    }

    /// Sets the rate in tokens per second; `None` for no limit.
    pub fn set_rate(&self, rate: Option<f64>) {
        let gap = rate.map_or(Duration::ZERO, |rate| {
            // Slower than once an hour would overflow nothing, but help nobody.
            Duration::from_secs_f64(1.0 / rate.max(1.0 / 3_600.0))
        });
        self.gap.store(nanos(gap).max(u64::from(rate.is_some())), Ordering::Relaxed);
    }

    /// Whether there is a limit at all.
    pub fn is_limited(&self) -> bool {
        self.gap.load(Ordering::Relaxed) > 0
    }

    /// How many tokens there are at `now`; the largest number without a limit.
    pub fn tokens(&self, now: Duration) -> u64 {
        let gap = self.gap.load(Ordering::Relaxed);
        if gap == 0 {
            return u64::MAX;
        }
        let full_at = self.full_at.load(Ordering::Relaxed).max(nanos(now));
        self.horizon(now, gap).saturating_sub(full_at) / gap
    }

    /// Takes a token if there is one.
    pub fn take(&self, now: Duration) -> bool {
        let gap = self.gap.load(Ordering::Relaxed);
        if gap == 0 {
            return true;
        }
        let horizon = self.horizon(now, gap);
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            // Of a bucket that has been full for long no more is left than fits into it.
            let next = full_at.max(nanos(now)).saturating_add(gap);
            (next <= horizon).then_some(next)
        });
        taken.is_ok()
    }

    /// The latest moment at which the bucket may be full again. It holds one token at least, however slow they come.
    fn horizon(&self, now: Duration, gap: u64) -> u64 {
        nanos(now).saturating_add(self.burst.max(gap))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Tokens taken by somebody who asks a thousand times a second for `seconds`, from `from` on.
    fn taken(admission: &Admission, from: Duration, seconds: u64) -> usize {
        (0..seconds * 1_000).filter(|ms| admission.take(from + MS(*ms))).count()
    }

    #[test]
    fn no_more_pass_than_the_rate_and_one_burst() {
        for rate in [1.0, 7.0, 100.0, 500.0] {
            let admission = Admission::default();
            admission.set_rate(Some(rate));
            let expected = rate * 10.0;
            let burst = (rate * BURST.as_secs_f64()).max(1.0);
            // After a long rest no more than a burst is saved.
            let count = taken(&admission, MS(3_600_000), 10) as f64;
            assert!(count >= expected - 1.0 && count <= expected + burst + 1.0, "{rate}: {count}");
        }
    }

    #[test]
    fn a_crowd_gets_a_burst_and_the_rest_must_wait() {
        let admission = Admission::default();
        admission.set_rate(Some(50.0));
        let now = MS(1_000);
        assert_eq!(admission.tokens(now), 5);
        let crowd = (0..1_000).filter(|_| admission.take(now)).count();
        assert_eq!(crowd, 5);
        assert_eq!(admission.tokens(now), 0);
        assert!(!admission.take(now + MS(19)) && admission.take(now + MS(20)));
    }

    #[test]
    fn without_a_rate_everybody_passes_and_a_rate_may_change() {
        let admission = Admission::default();
        assert!(!admission.is_limited());
        assert_eq!(taken(&admission, MS(0), 1), 1_000);
        admission.set_rate(Some(100.0));
        assert!(admission.is_limited());
        let before = taken(&admission, MS(10_000), 1);
        admission.set_rate(Some(10.0));
        let after = taken(&admission, MS(11_000), 1);
        assert!((99..=111).contains(&before) && (9..=12).contains(&after), "{before} {after}");
        admission.set_rate(None);
        assert_eq!(taken(&admission, MS(12_000), 1), 1_000);
    }
}
