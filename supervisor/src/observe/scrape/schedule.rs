//! When a target is scraped, and which instant its samples get.
//!
//! Slots are multiples of the interval plus a phase that follows from the target's name: the same in every run, spread over the targets.
//! A scrape a little late still gets its slot as timestamp, because equal steps cost one bit a sample and uneven ones nine.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Lateness that is not worth a timestamp of its own: what a timer and a busy machine add. Nobody reads a chart that closely.
const TOLERANCE_MAX_MS: i64 = 10;

/// The slots of one target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    interval_ms: i64,
    phase_ms: i64,
}

impl Schedule {
    /// Slots every `interval`, at a phase that `name` gives.
    pub(super) fn new(name: &str, interval: Duration) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let phase_ms = i64::try_from(hasher.finish() >> 1).unwrap_or(0) % interval_ms;
        Self { interval_ms, phase_ms }
    }

    /// The first slot after `now_ms`.
    pub(super) fn next(self, now_ms: i64) -> i64 {
        now_ms + self.interval_ms - (now_ms - self.phase_ms).rem_euclid(self.interval_ms)
    }

    /// The slot after `slot_ms`, which was used: the first after `now_ms`, or one later if the clock is so slow that it is `slot_ms` again.
    pub(super) fn after(self, slot_ms: i64, now_ms: i64) -> i64 {
        let next = self.next(now_ms);
        if next == slot_ms { next + self.interval_ms } else { next }
    }

    /// The timestamp of what was scraped at `now_ms` for `slot_ms`.
    pub(super) fn timestamp(self, slot_ms: i64, now_ms: i64) -> i64 {
        let tolerance = TOLERANCE_MAX_MS.min(self.interval_ms / 100);
        if (now_ms - slot_ms).abs() <= tolerance { slot_ms } else { now_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_spaced_and_after_now() {
        for name in ["a:1", "b:2", "c:3"] {
            let schedule = Schedule::new(name, Duration::from_secs(5));
            let first = schedule.next(1_700_000_000_123);
            assert!(first > 1_700_000_000_123 && first <= 1_700_000_005_123);
            assert_eq!(schedule.next(first), first + 5000);
            assert_eq!(schedule.next(first + 4999), first + 5000);
            assert_eq!(schedule.next(first + 12_000), first + 15_000, "missed slots are left out");
        }
    }

    #[test]
    fn a_slot_is_used_once() {
        let schedule = Schedule::new("a", Duration::from_secs(1));
        let slot = schedule.next(1_700_000_000_123);
        assert_eq!(schedule.after(slot, slot - 1), slot + 1000, "woken early");
        assert_eq!(schedule.after(slot, slot + 3), slot + 1000);
        let hour = 3_600_000;
        assert_eq!(schedule.after(slot, slot - hour), slot - hour + 1000, "the clock was set back");
    }

    #[test]
    fn a_little_late_keeps_the_slot() {
        let schedule = Schedule::new("a", Duration::from_secs(1));
        assert_eq!(schedule.timestamp(1000, 1010), 1000);
        assert_eq!(schedule.timestamp(1000, 1011), 1011);
        let quick = Schedule::new("a", Duration::from_millis(100));
        assert_eq!(quick.timestamp(1000, 1002), 1002);
    }
}
