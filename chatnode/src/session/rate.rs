//! How many commands a client may send: a bucket that fills by the second and holds a burst.

use std::time::{Duration, Instant};

use crate::config::CommandRate;

/// A token bucket that is asked, not ticked.
#[derive(Debug)]
pub struct Bucket {
    /// When the bucket was, or will be, empty: the later, the less is left.
    empty_at: Instant,
    every: Duration,
    /// Time it takes to fill.
    depth: Duration,
}

impl Bucket {
    /// A full bucket; `None` if there is no limit.
    pub fn full(rate: CommandRate, now: Instant) -> Option<Self> {
        let every = Duration::from_secs(1).checked_div(rate.per_second)?;
        Some(Self { empty_at: now, every, depth: every * rate.burst.max(1) })
    }

    /// Takes one command out, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let next = self.empty_at.max(now) + self.every;
        let allowed = next - now <= self.depth;
        if allowed {
            self.empty_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn a_burst_is_followed_by_the_rate() {
        let start = Instant::now();
        let rate = CommandRate { per_second: 10, burst: 3 };
        let mut bucket = Bucket::full(rate, start).unwrap();
        let taken = |bucket: &mut Bucket, at: Instant| (0..10).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(100)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_mins(1)), 3);
        assert!(Bucket::full(CommandRate { per_second: 0, burst: 3 }, start).is_none());
    }
}
