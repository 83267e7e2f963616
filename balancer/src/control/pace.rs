//! So many per second, a few at a time.

use std::time::Duration;

use crate::config::Pace;

/// A pace that is kept by asking how many are due now.
#[derive(Debug)]
pub(super) struct Allowance {
    pace: f64,
    due: f64,
}

impl Allowance {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace: pace.per_second().into(), due: 0.0 }
    }

    /// How many are due when `passed` is over since the last time; what is not used then is lost.
    pub(super) fn take(&mut self, passed: Duration) -> usize {
        self.due += self.pace * passed.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let whole = self.due as usize;
        self.due -= whole as f64;
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_however_often_it_is_asked() {
        for (pace, step_ms, steps) in [(1, 50, 200), (7, 50, 200), (50, 50, 200), (5_000, 50, 20)] {
            let mut allowance = Allowance::new(Pace::try_new(pace).unwrap());
            let total: usize =
                (0..steps).map(|_| allowance.take(Duration::from_millis(step_ms))).sum();
            let expected = f64::from(pace) * step_ms as f64 * f64::from(steps) / 1_000.0;
            assert!((total as f64 - expected).abs() <= 1.0, "{pace}/s: {total}");
        }
    }

    #[test]
    fn a_late_look_catches_up() {
        let mut allowance = Allowance::new(Pace::try_new(100).unwrap());
        assert_eq!(allowance.take(Duration::from_millis(500)), 50);
        assert_eq!(allowance.take(Duration::ZERO), 0);
        assert_eq!(allowance.take(Duration::from_millis(10)), 1);
    }
}
