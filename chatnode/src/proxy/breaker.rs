//! Whether a back end is asked at all: a circuit breaker.
//!
//! A back end that does not answer makes every client wait for its time-out, and is kept from recovering by being asked. After a few
//! failures in a row it is left alone for a while; then one request goes through, and its outcome decides. Time is an argument.

use std::time::{Duration, Instant};

/// Settings of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Failures in a row after which the back end is left alone.
    pub failures: u32,
    /// For how long.
    pub pause: Duration,
}

/// The breaker of one back end.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    failures: u32,
    /// Nothing is asked until then, and then one request.
    closed_again_at: Option<Instant>,
}

impl Breaker {
    /// Closed: everything goes through.
    pub fn new(limits: Limits) -> Self {
        Self { limits, failures: 0, closed_again_at: None }
    }

    /// Whether a request may go through now. Each one that may must be followed by [`Self::handle_success`] or
    /// [`Self::handle_failure`]; one whose outcome never comes costs a pause.
    pub fn may_ask(&mut self, now: Instant) -> bool {
        match self.closed_again_at {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                // This one tries; the others wait for it.
                self.closed_again_at = Some(now + self.limits.pause);
                true
            }
        }
    }

    /// The back end answered.
    pub fn handle_success(&mut self) {
        (self.failures, self.closed_again_at) = (0, None);
    }

    /// The back end did not answer, or not with an answer.
    pub fn handle_failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.limits.failures {
            self.closed_again_at = Some(now + self.limits.pause);
        }
    }

    /// Whether the back end is left alone.
    pub fn is_open(&self) -> bool {
        self.closed_again_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try_after_the_pause() {
        let now = tokio::time::Instant::now().into_std();
        let mut breaker = Breaker::new(Limits { failures: 3, pause: PAUSE });
        for _ in 0..2 {
            assert!(breaker.may_ask(now));
            breaker.handle_failure(now);
        }
        breaker.handle_success();
        for _ in 0..3 {
            assert!(breaker.may_ask(now));
            breaker.handle_failure(now);
        }
        assert!(breaker.is_open() && !breaker.may_ask(now + PAUSE / 2));
        assert!(breaker.may_ask(now + PAUSE));
        assert!(!breaker.may_ask(now + PAUSE), "one at a time");
        breaker.handle_failure(now + PAUSE);
        assert!(!breaker.may_ask(now + PAUSE));
        assert!(breaker.may_ask(now + PAUSE * 2));
        breaker.handle_success();
        assert!(!breaker.is_open() && breaker.may_ask(now + PAUSE * 2));
    }

    #[test]
    fn a_try_without_outcome_is_followed_by_another() {
        let now = tokio::time::Instant::now().into_std();
        let mut breaker = Breaker::new(Limits { failures: 1, pause: PAUSE });
        breaker.handle_failure(now);
        assert!(breaker.may_ask(now + PAUSE));
        assert!(breaker.may_ask(now + PAUSE * 2));
    }
}
