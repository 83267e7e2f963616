//! May this process be given work?
//!
//! Whoever builds a part of the program takes a [`Condition`] for it, named for operators, and says when it is met. The process is
//! ready when all are met and it is not shutting down. A condition starts unmet: a part that was never heard of must not count as
//! healthy. Rejected: one boolean set at the end of start-up, because `/health/ready` could then not say what is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Reason of a condition that nobody has reported on yet.
const NOT_YET: &str = "not reported yet";

/// All conditions of one process; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    shared: Arc<Shared>,
}

/// One thing that must hold; clones report on the same one.
#[derive(Clone, Debug)]
pub struct Condition {
    shared: Arc<Shared>,
    index: usize,
}

#[derive(Debug, Default)]
struct Shared {
    /// Name, and the reason why it is not met. Bounded by the number of [`Readiness::condition`] calls, made at start-up.
    conditions: Mutex<Vec<(&'static str, Option<String>)>>,
    shutting_down: AtomicBool,
}

impl Readiness {
    /// Without a condition; ready until one is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, not met until it is reported to be.
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut conditions = self.shared.lock();
        conditions.push((name, Some(NOT_YET.to_owned())));
        Condition { shared: Arc::clone(&self.shared), index: conditions.len() - 1 }
    }

    /// Whether every condition is met and the process is not shutting down.
    pub fn is_ready(&self) -> bool {
        !self.shared.shutting_down.load(Ordering::Acquire)
            && self.shared.lock().iter().all(|(_, reason)| reason.is_none())
    }

    /// Conditions not met, with the reason, in the order they were added; `shutdown` first once it has begun.
    pub fn unmet(&self) -> Vec<(&'static str, String)> {
        let shutdown = self.shared.shutting_down.load(Ordering::Acquire);
        let shutdown = shutdown.then(|| ("shutdown", "shutting down".to_owned()));
        let conditions = self.shared.lock();
        let unmet = conditions.iter().filter_map(|(name, reason)| Some((*name, reason.clone()?)));
        shutdown.into_iter().chain(unmet).collect()
    }

    /// From now on never ready again, whatever the conditions say.
    pub fn begin_shutdown(&self) {
        self.shared.shutting_down.store(true, Ordering::Release);
    }
}

impl Condition {
    /// Reports the condition as met.
    pub fn met(&self) {
        self.shared.lock()[self.index].1 = None;
    }

    /// Reports the condition as not met, and why, in words for the operator.
    pub fn unmet(&self, why: impl Into<String>) {
        self.shared.lock()[self.index].1 = Some(why.into());
    }
}

impl Shared {
    /// A panic while the lock is held cannot leave a half-written entry, so poison carries no news.
    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, Option<String>)>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_condition_is_met() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let redis = readiness.condition("redis");
        let config = readiness.condition("config");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.unmet(), [("redis", NOT_YET.into()), ("config", NOT_YET.into())]);

        redis.met();
        config.clone().met();
        assert!(readiness.is_ready());
        assert!(readiness.unmet().is_empty());

        redis.unmet("connection refused");
        assert!(!readiness.clone().is_ready());
        assert_eq!(readiness.unmet(), [("redis", "connection refused".to_owned())]);
    }

    #[test]
    fn shutdown_is_final() {
        let readiness = Readiness::new();
        let redis = readiness.condition("redis");
        redis.met();
        readiness.begin_shutdown();
        redis.met();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.unmet(), [("shutdown", "shutting down".to_owned())]);
    }
}
