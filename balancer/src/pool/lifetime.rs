//! What a server's connections that live long are told when they begin, published for the data path.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Lifetime;

/// The rules for connections that begin now.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// In milliseconds; 0 for no limit.
    age_max: AtomicU64,
    /// In thousandths of it.
    age_jitter: AtomicU16,
    close_code: AtomicU16,
}

impl Published {
    /// Puts `rules` in force.
    pub(super) fn set(&self, rules: &Lifetime) {
        let age = rules.age_max.map_or(0, |age| age.as_millis());
        self.age_max.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share between 0 and 0.5"
        )]
        self.age_jitter.store((rules.age_jitter * 1_000.0) as u16, Ordering::Relaxed);
        self.close_code.store(rules.close_code, Ordering::Relaxed);
    }

    /// What a Close frame says.
    pub(crate) fn close_code(&self) -> u16 {
        self.close_code.load(Ordering::Relaxed)
    }

    /// How old one connection may grow; `draw` is a random number from 0 to 1.
    pub(crate) fn draw_age(&self, draw: f64) -> Option<Duration> {
        let age = self.age_max.load(Ordering::Relaxed);
        if age == 0 {
            return None;
        }
        let jitter = f64::from(self.age_jitter.load(Ordering::Relaxed)) / 1_000.0;
        Some(Duration::from_millis(age).mul_f64(1.0 + jitter * (draw * 2.0 - 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_drawn_around_the_limit() {
        let published = Published::default();
        assert_eq!(published.draw_age(0.5), None);
        published.set(&Lifetime {
            age_max: Some(Duration::from_secs(1_000)),
            age_jitter: 0.1,
            ..Lifetime::default()
        });
        let ages = [0.0, 0.5, 1.0].map(|draw| published.draw_age(draw).unwrap().as_secs());
        assert_eq!(ages, [900, 1_000, 1_100]);
        assert_eq!(published.close_code(), 1012);
    }
}
