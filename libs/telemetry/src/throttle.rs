//! When may an expensive figure be read again?
//!
//! Figures are read when somebody asks for them, so an idle process costs nothing; a throttle keeps several askers from
//! multiplying the cost.

use std::time::{Duration, Instant};

/// Lets one caller through per period.
#[derive(Debug)]
pub(crate) struct Throttle {
    period: Duration,
    last: Option<Instant>,
}

impl Throttle {
    /// The first call passes.
    pub(crate) fn new(period: Duration) -> Self {
        Self { period, last: None }
    }

    /// Whether the period has passed since the last call that was let through.
    pub(crate) fn pass(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.period);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// The clock for throttles, read at the edge only.
#[expect(clippy::disallowed_methods, reason = "collectors are the edge that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_once_per_period() {
        let start = now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let passed: Vec<bool> = [0, 1, 999, 1000, 1500, 2500, 2600]
            .iter()
            .map(|ms| throttle.pass(start + Duration::from_millis(*ms)))
            .collect();
        assert_eq!(passed, [true, false, false, true, false, true, false]);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_pass() {
        let start = now() + Duration::from_mins(1);
        let mut throttle = Throttle::new(Duration::from_secs(1));
        assert!(throttle.pass(start));
        assert!(!throttle.pass(start.checked_sub(Duration::from_secs(5)).unwrap()));
    }
}
