//! What keeps an action that is called for from being taken, each with its words.

use std::time::Instant;

use super::orders::Approval;
use super::{Choice, Planner};
use crate::cluster::Address;
use crate::judge::redis::{Council, Place, ServerView, Verdict};
use crate::record::Reason;

impl Planner {
    /// What must not be changed now, in words.
    pub fn forbidden(&self) -> Option<String> {
        self.observes_only().or_else(|| self.settings.manager.forbids().map(str::to_owned))
    }

    /// Why this supervisor changes nothing at all, in words.
    pub fn observes_only(&self) -> Option<String> {
        self.settings.observe_only.then(|| "this supervisor is set to observe only".to_owned())
    }

    /// Why nothing is done by ourselves for now, in words.
    pub(super) fn paused(&self) -> Option<String> {
        let pause = self.register.orders.pause.as_ref()?;
        Some(format!("automatic changes are paused ({}, by {})", pause.reason, pause.by))
    }

    /// Whether a failover waits for an operator, by what we or the leader made of it.
    pub fn awaits_approval(&self) -> bool {
        self.asks() || (self.register.asks && !self.register.approved)
    }

    /// Whether we have asked an operator for a failover that is still called for.
    pub fn asks(&self) -> bool {
        self.asked.is_some() && !self.register.approved
    }

    /// Why this server is not promoted without an operator: more would be lost than the settings allow.
    pub fn too_much_lost(&self, choice: &Choice) -> Option<String> {
        let max = self.settings.loss_bytes_max?;
        match choice.lacks_bytes {
            Some(bytes) if bytes <= max => None,
            Some(bytes) => Some(format!(
                "{} lacks {bytes} bytes of what the primary had, and `redis.loss_bytes_max` is {max}",
                choice.address
            )),
            None => Some(format!("how much {} lacks is not known", choice.address)),
        }
    }

    /// Why a failover that is called for does not happen now.
    pub(super) fn hold(
        &self,
        now: Instant,
        verdict: Verdict,
        candidate: &Result<Choice, Vec<Reason>>,
        council: &Council,
    ) -> Option<String> {
        if let Some(why) = self.forbidden().or_else(|| self.paused()) {
            return Some(why);
        }
        let Ok(choice) = candidate else {
            return Some("no server can take its place".to_owned());
        };
        if let Some(why) = self.too_much_lost(choice) {
            return Some(why);
        }
        if let Some((_, error)) = self.retry.as_ref().filter(|(at, _)| now < *at) {
            return Some(format!("the last attempt failed and is repeated soon ({error})"));
        }
        let cooldown = self.settings.failover_cooldown;
        let end = self.last_failover.map(|at| at + cooldown);
        if end.is_some_and(|end| now < end) && !verdict.is_proven() {
            return Some(format!(
                "the last failover is less than {} s ago, and within that time only proof counts",
                cooldown.as_secs()
            ));
        }
        let primary = self.register.primary.as_ref()?;
        super::lease::running(now, primary, verdict, council)
    }

    /// Why a failover that nothing else holds back waits for an operator.
    pub(super) fn unapproved(&mut self, now: Instant) -> Option<String> {
        let limit = self.settings.approval?;
        if self.register.approved {
            return None;
        }
        let count = Approval::ask(&mut self.asked, now, limit);
        let asked = if count > 1 { format!(", asked {count} times") } else { String::new() };
        Some(format!("it waits for an operator's approval{asked}"))
    }

    /// A server that is preferred to the present primary and has caught up with it.
    pub(super) fn preferred(
        &self,
        now: Instant,
        primary: &Address,
        views: &[ServerView],
    ) -> Option<Choice> {
        let rule = |address| self.settings.standings.get(address).map(|s| s.promotion);
        let own = rule(primary).unwrap_or_default();
        let cooldown = self.settings.failover_cooldown;
        let settled = self.confirmed
            && self.last_failover.is_none_or(|at| at + cooldown <= now)
            && self.last_failure.is_none_or(|at| at + cooldown <= now)
            && self.started + cooldown <= now;
        if !settled || self.forbidden().is_some() || self.paused().is_some() {
            return None;
        }
        let mut better: Vec<_> = views
            .iter()
            .map(|view| (rule(&view.address).unwrap_or_default(), view))
            .filter(|(promotion, view)| {
                let linked = view.sample.as_ref().is_some_and(|s| s.link_up == Some(true));
                *promotion < own && linked && !view.sample.as_ref().is_some_and(|s| s.syncing)
            })
            .collect();
        better.sort_by_key(|(promotion, _)| *promotion);
        better.into_iter().find_map(|(_, view)| {
            self.candidate(now, views, Some(primary), Some(&view.address)).ok()
        })
    }
}

/// Why we, as a member of the group, leave a failover that is called for to others.
pub(super) fn not_ours(council: &Council) -> Option<String> {
    match &council.place {
        Place::Leads => None,
        Place::Follows(Some(leader)) => Some(format!("supervisor {leader} decides")),
        Place::Follows(None) => Some("the supervisors are electing a leader".to_owned()),
        Place::Minority => Some("a majority of the supervisors is not heard".to_owned()),
    }
}
