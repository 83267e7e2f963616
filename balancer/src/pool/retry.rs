//! How much may be asked again: retries help while few things fail, and finish off a pool in which much does.
//!
//! Two allowances, as linkerd and Envoy have them between them: the retries under way may be a share of all that is under way, so their load
//! is bounded whatever happens, and a few per second are free beyond it, so that a quiet pool can retry at all. What is under way is
//! counted anyway, so a request that needs no retry pays nothing. Rejected: linkerd's deposit per request, one more shared counter on the
//! way of every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::admission::Admission;
use crate::config::RetryRules;

/// What of the free ones may be saved up: clients come in crowds, and the first failure takes a server out anyway.
const SAVED: Duration = Duration::from_secs(10);

/// What a pool has under way again.
#[derive(Debug)]
pub struct Budget {
    under_way: Arc<AtomicU64>,
    free: Admission,
}

impl Budget {
    /// A budget by `rules`.
    pub fn new(rules: &RetryRules) -> Self {
        let budget = Self { under_way: Arc::default(), free: Admission::with_burst(SAVED) };
        budget.set_rules(rules);
        budget
    }

    /// Puts other rules in force.
    pub fn set_rules(&self, rules: &RetryRules) {
        self.free.set_rate(Some(f64::from(rules.per_second)));
    }

    /// Permission for one retry while `active` requests and connections are under way, if there is any left.
    pub fn permit(&self, now: Duration, active: u64, rules: &RetryRules) -> Option<Permit> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(&self.under_way));
        let in_share = (before as f64) < rules.share * active as f64;
        let allowed = in_share || (rules.per_second > 0 && self.free.take(now));
        allowed.then_some(permit)
    }
}

/// A retry under way; dropping it ends it.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU64>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(share: f64, per_second: u32) -> RetryRules {
        RetryRules { servers_max: 5, share, per_second, hedge_after: None }
    }

    #[test]
    fn retries_under_way_are_a_share_of_what_is_under_way() {
        let rules = rules(0.2, 0);
        let budget = Budget::new(&rules);
        let now = Duration::ZERO;
        let permits: Vec<_> = (0..100).map_while(|_| budget.permit(now, 50, &rules)).collect();
        assert_eq!(permits.len(), 10);
        assert!(budget.permit(now, 50, &rules).is_none());
        drop(permits);
        assert!(budget.permit(now, 50, &rules).is_some());
        assert!(budget.permit(now, 0, &rules).is_none());
    }

    #[test]
    fn a_few_are_free_and_no_more() {
        let rules = rules(0.0, 10);
        let budget = Budget::new(&rules);
        let granted = |from: u64| {
            (0..1_000)
                .filter(|ms| budget.permit(Duration::from_millis(from + ms), 0, &rules).is_some())
                .count()
        };
        assert!((109..=111).contains(&granted(0)), "ten seconds are saved up");
        assert!((9..=11).contains(&granted(1_000)));
        assert!((59..=61).contains(&granted(7_000)), "five more seconds");
    }
}
