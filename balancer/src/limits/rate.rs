//! How many events of one client pass in a given time: the generic cell rate algorithm (GCRA, ITU-T I.371).
//!
//! A client's state is one number, the time at which its bucket is full again. It fills by itself, so nothing has to be refilled, and a
//! client whose time has passed can be forgotten without anybody noticing: its next event is treated as a newcomer's. A counter per
//! second was rejected: it lets twice the rate pass around the turn of a second.
//!
//! Times are nanoseconds since a moment of the caller's choice.

use std::time::Duration;

/// Events per second, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time in which one event is earned.
    interval: u64,
    /// What a client may be ahead of its rate, in time.
    tolerance: u64,
}

impl Rate {
    /// The lowest rate: one event in 1,000 seconds.
    pub const PER_SECOND_MIN: f64 = 0.001;
    /// The highest: beyond it the interval would be shorter than the clock is exact.
    pub const PER_SECOND_MAX: f64 = 1_000_000.0;
    /// The largest burst; with the lowest rate its time still fits easily.
    pub const BURST_MAX: u32 = 1_000_000;

    /// `None` unless both are within their limits and `burst` is not 0.
    pub fn try_new(per_second: f64, burst: u32) -> Option<Self> {
        let known = (Self::PER_SECOND_MIN..=Self::PER_SECOND_MAX).contains(&per_second);
        if !known || !(1..=Self::BURST_MAX).contains(&burst) {
            return None;
        }
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let interval = u64::try_from(interval.as_nanos()).ok()?.max(1);
        Some(Self { interval, tolerance: interval * u64::from(burst - 1) })
    }

    /// `events` within `period`, all of which may come at once; both above 0.
    pub fn within(events: u32, period: Duration) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let events = u64::from(events.max(1));
        let interval = (period / events).max(1);
        Self { interval, tolerance: interval.saturating_mul(events - 1) }
    }

    /// Takes one event at `now` from a client whose bucket is full again at `full`: when it is full then.
    ///
    /// # Errors
    /// It comes too early; in this time the next one passes.
    pub fn take(&self, full: u64, now: u64) -> Result<u64, Duration> {
        let full = full.max(now);
        let early = (full - now).saturating_sub(self.tolerance);
        if early > 0 { Err(Duration::from_nanos(early)) } else { Ok(full + self.interval) }
    }

    /// Time in which one event is earned, in nanoseconds.
    pub fn interval(&self) -> u64 {
        self.interval
    }

    /// What an empty bucket needs until it is full, in nanoseconds.
    pub fn depth(&self) -> u64 {
        self.tolerance.saturating_add(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::try_new(10.0, 5).unwrap();
        let mut full = 0;
        for _ in 0..5 {
            full = rate.take(full, SECOND).unwrap();
        }
        assert_eq!(rate.take(full, SECOND), Err(Duration::from_millis(100)));
        // Steadily at the rate, all pass; a little faster, every eleventh does not.
        let (mut passed, mut now) = (0, SECOND);
        for _ in 0..1_100 {
            now += SECOND / 11;
            if let Ok(next) = rate.take(full, now) {
                full = next;
                passed += 1;
            }
        }
        assert!((998..=1_001).contains(&passed), "{passed}");
    }

    #[test]
    fn what_comes_when_the_refusal_says_passes() {
        let rate = Rate::try_new(3.0, 2).unwrap();
        let (mut full, mut now) = (0, 0);
        for _ in 0..100 {
            match rate.take(full, now) {
                Ok(next) => full = next,
                Err(wait) => {
                    now += u64::try_from(wait.as_nanos()).unwrap();
                    full = rate.take(full, now).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_client_long_gone_is_as_a_new_one() {
        let rate = Rate::try_new(1.0, 3).unwrap();
        let mut full = 0;
        while let Ok(next) = rate.take(full, 0) {
            full = next;
        }
        assert_eq!(full, rate.depth());
        assert_eq!(rate.take(full, full), rate.take(0, full));
    }

    #[test]
    fn only_rates_that_can_be_kept_are_taken() {
        for (per_second, burst) in
            [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (2e6, 1), (f64::INFINITY, 1), (1.0, 0)]
        {
            assert_eq!(Rate::try_new(per_second, burst), None, "{per_second} {burst}");
        }
        let slowest = Rate::try_new(Rate::PER_SECOND_MIN, Rate::BURST_MAX).unwrap();
        assert!(slowest.depth() < u64::MAX / 8);
        assert_eq!(Rate::within(20, Duration::from_mins(1)).interval(), 3 * SECOND);
    }
}
