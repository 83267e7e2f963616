//! What the planner keeps from one look to the next: what was agreed on, what the primary said of itself, what was tried.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Planner, RETRY_AFTER, RETRY_AFTER_MAX, Register};
use crate::cluster::Address;
use crate::judge::redis::{Lineage, Sample, ServerView};

impl Planner {
    /// Takes over what the group has agreed on; true if it is another primary, or the same under another epoch. `utc` is `now` on the
    /// calendar: how long ago the last change was is known only from there.
    pub fn follow(
        &mut self,
        now: Instant,
        utc: DateTime<Utc>,
        register: &Register,
        views: &[ServerView],
    ) -> bool {
        let before = std::mem::replace(&mut self.register, register.clone());
        if before.changed_at != register.changed_at {
            let age = register.changed_at.map(|at| (utc - at).to_std().unwrap_or_default());
            self.last_failover = age.and_then(|age| now.checked_sub(age));
        }
        if (before.epoch, &before.primary) == (register.epoch, &register.primary) {
            self.is_loaded = true;
            return false;
        }
        let sample = register.primary.as_ref().and_then(|primary| {
            views.iter().find(|view| view.address == *primary)?.sample.as_ref()
        });
        self.lineage = register.lineage.clone().or_else(|| sample.map(Lineage::of));
        // Whatever it was before, its silence counts once it has answered as the primary.
        self.confirmed = false;
        // What changes while we run was found or made by a leader that looks at the servers too.
        self.found = std::mem::replace(&mut self.is_loaded, true);
        self.repaired.clear();
        self.asked = None;
        (self.down_since, self.changed_at) = (None, Some(now));
        (self.failures, self.retry) = (0, None);
        true
    }

    /// The history of the primary has another name than the one agreed on: the group should know.
    pub fn renamed(&self) -> Option<&Lineage> {
        let agreed = self.register.lineage.as_ref().map(|lineage| &lineage.replid);
        self.lineage.as_ref().filter(|own| self.confirmed && agreed != Some(&own.replid))
    }

    /// A run did not end well; the next attempt waits.
    pub fn failed(&mut self, now: Instant, error: String) {
        let pause = RETRY_AFTER * 2_u32.saturating_pow(self.failures.min(10));
        self.failures += 1;
        self.last_failure = Some(now);
        self.retry = Some((now + pause.min(RETRY_AFTER_MAX), error));
    }

    /// A server whose answer is overdue by this much cannot be chosen.
    pub(super) fn patience(&self) -> Duration {
        self.settings.probe_timeout.min(self.settings.hang_after / 2)
    }

    pub(super) fn present<'v>(&self, now: Instant, view: &'v ServerView) -> Option<&'v Sample> {
        view.present(now, self.patience())
    }

    /// Keeps the history of a primary that answers.
    pub(super) fn primary_answers(&mut self, primary: &Address, views: &[ServerView]) {
        let view = views.iter().find(|view| view.address == *primary);
        if let Some(sample) = view.and_then(|view| view.sample.as_ref()) {
            self.lineage = Some(Lineage::of(sample));
            self.confirmed = true;
            self.retry = None;
            self.failures = 0;
        }
    }
}
