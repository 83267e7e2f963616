//! May this member stand for election?
//!
//! Whoever stands raises the term, and a leader that meets a higher term steps back, however well it led. A member that was cut off,
//! frozen or just started would so end a leadership that works, only because it did not hear of it. So it stands only when a majority of
//! the voters, itself included, hears no leader either. Each says so in its reports, which come with every heartbeat, so that the word is
//! there before the library's timer has run out and an election takes no longer for it. Words older than the lease count for nothing: a
//! member that hears nobody does not stand, and one that comes back hears that there is a leader first.
//!
//! Rejected: asking for the votes beforehand in a round of its own (a round trip more in each election, for what everybody has said
//! already), and counting the members that answer us (the one whose leader cannot reach *it* is answered by all).

use std::sync::Arc;

use tokio::time::Instant;

use super::handle::Inner;
use super::lease::majority_since;
use super::ledger::MemberId;
use super::types::RaftMetrics;

impl Inner {
    /// Whether no leader is heard here, so that another one may have our vote. A leader hears itself while a majority answers it.
    pub(super) fn is_leaderless(&self) -> bool {
        let Some(running) = self.running() else { return false };
        let timing = self.settings.timing;
        let metrics = running.raft.metrics().borrow().clone();
        if metrics.state == openraft::ServerState::Leader {
            let since = self.leads_since().map_or(running.since, |(_, since)| since);
            return since.elapsed() >= timing.lease();
        }
        let heard = self.contacts.leader().map_or(running.since, |at| at.max(running.since));
        let has_ended = metrics.current_leader.is_some_and(|leader| self.contacts.is_gone(leader));
        let patience = if has_ended { timing.heartbeat * 2 } else { timing.lease() };
        heard.elapsed() >= patience
    }

    /// Whether this member hears no leader, and a majority of the voters, with it, has said so lately. One by itself asks nobody.
    pub(super) fn may_stand(&self, metrics: &RaftMetrics, own: MemberId) -> bool {
        if metrics.membership_config.voter_ids().count() > 1 && !self.is_leaderless() {
            return false;
        }
        let voters = metrics.membership_config.membership().get_joint_config();
        let reports = Arc::clone(&self.reports.borrow());
        let said_so = |member: MemberId| {
            let heard = reports.get(&member).filter(|heard| heard.report.leaderless);
            heard.map(|heard| heard.at)
        };
        let now = Instant::now().into_std();
        majority_since(voters, own, now, said_so)
            .is_some_and(|since| now < since + self.settings.timing.lease())
    }

    /// Whether the leader is known to have ended, and it is this member's turn to stand for election.
    pub(super) fn has_lost_leader(&self, metrics: &RaftMetrics, own: MemberId) -> bool {
        let Some(leader) = metrics.current_leader.filter(|leader| *leader != own) else {
            return false;
        };
        let Some(heard) = self.contacts.leader().filter(|_| self.contacts.is_gone(leader)) else {
            return false;
        };
        let voters = metrics.membership_config.voter_ids();
        let rank = voters.filter(|voter| *voter != leader && *voter < own).count();
        Instant::now().into_std() >= self.settings.timing.stands_at(heard, rank)
    }
}
