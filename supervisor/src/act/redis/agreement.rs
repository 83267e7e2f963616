//! The way to the group's agreement on one Redis primary, and to what the other members see of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::group::{Entry, Group, Ledger, Members, ProposeError, Reports, Seat};
use crate::judge::redis::{Council, Opinion, Place, Witness};
use crate::plan::failover::lease::Contact;
use crate::plan::failover::{RedisEntry, Register};

/// What is agreed on, and how to agree on more.
pub(super) struct Agreement {
    group: Group,
    /// Name of the primary.
    name: String,
    ledger: watch::Receiver<Arc<Ledger>>,
    members: watch::Receiver<Arc<Members>>,
    reports: watch::Receiver<Arc<Reports>>,
    seat: watch::Receiver<Seat>,
}

impl Agreement {
    /// The agreement of `group` on the primary called `name`.
    pub(super) fn new(group: Group, name: String) -> Self {
        let (ledger, members) = (group.ledger(), group.members());
        let (reports, seat) = (group.reports(), group.seat());
        Self { group, name, ledger, members, reports, seat }
    }

    /// What is agreed on, as far as it is known here.
    pub(super) fn register(&self) -> Register {
        self.ledger.borrow().redis.get(&self.name).cloned().unwrap_or_default()
    }

    /// Waits until something is agreed on or reported, or our place in the group changes.
    ///
    /// # Cancel safety
    /// Nothing is lost: what changed is looked at afresh by whoever waits next.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.ledger.changed() => {}
            Ok(()) = self.reports.changed() => {}
            Ok(()) = self.seat.changed() => {}
            // The group has ended, and the process is about to.
            else => std::future::pending().await,
        }
    }

    /// What the other members report.
    pub(super) fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.reports.clone()
    }

    /// Has the members agree on `entry`; when this returns it is kept and applied here.
    ///
    /// # Errors
    /// It was refused, could not be kept, or nobody confirmed it in time.
    pub(super) async fn propose(&self, entry: RedisEntry) -> Result<(), ProposeError> {
        let name = self.name.clone();
        self.group.propose(Entry::Redis { name, entry }).await.map(drop)
    }

    /// As [`Self::propose`], if there is anything to propose.
    pub(super) async fn propose_some(&self, entry: Option<RedisEntry>) -> Result<(), ProposeError> {
        match entry {
            Some(entry) => self.propose(entry).await,
            None => Ok(()),
        }
    }

    /// Whether we lead at this very moment.
    pub(super) fn leads(&self) -> bool {
        self.group.leading().is_some()
    }

    /// What the other members say, and our place among them.
    pub(super) fn council(&self) -> Council {
        let members = Arc::clone(&self.members.borrow());
        let reports = Arc::clone(&self.reports.borrow());
        let name_of = |id| members.all.get(&id).map_or_else(|| id.to_string(), |m| m.name.clone());
        let place = if self.leads() {
            Place::Leads
        } else {
            match &*self.seat.borrow() {
                Seat::Following { leader } => Place::Follows(leader.map(name_of)),
                // It has led until a moment ago.
                Seat::Leading { .. } => Place::Follows(None),
                Seat::Minority { .. } | Seat::Outside | Seat::Failed { .. } => Place::Minority,
            }
        };
        let mut contacts = BTreeMap::new();
        for heard in reports.values() {
            for (member, milliseconds) in &heard.report.heard {
                let age = std::time::Duration::from_millis(*milliseconds);
                let at = heard.at.checked_sub(age);
                let newest = contacts.entry(*member).or_insert(at);
                *newest = at.max(*newest);
            }
        }
        let witnesses = members.others().filter(|(id, _)| members.is_voter(*id)).map(|(id, _)| {
            let heard = reports.get(&id);
            let heard_at = heard.map(|heard| heard.at);
            Witness {
                name: name_of(id),
                heard_at,
                contact_at: contacts.get(&id).copied().flatten().max(heard_at),
                opinion: heard.and_then(|heard| heard.report.redis.get(&self.name).cloned()),
            }
        });
        let size = members.voters.iter().map(std::collections::BTreeSet::len).max().unwrap_or(1);
        let clients = self.group.clients();
        Council { place, size, witnesses: witnesses.collect(), clients }
    }

    /// How many members see the primary down, we included, and how many make a majority.
    pub(super) fn quorum(&self) -> (usize, usize) {
        let council = self.council();
        let sees_it = |witness: &&Witness| {
            witness.opinion.as_ref().is_some_and(|it| it.verdict.calls_for_failover())
        };
        (1 + council.witnesses.iter().filter(sees_it).count(), council.size / 2 + 1)
    }

    /// Who has answered us when; `None` for a supervisor by itself, which has nobody to lose.
    pub(super) fn contact(&self) -> Option<Contact> {
        let members = Arc::clone(&self.members.borrow());
        let size = members.voters.iter().map(std::collections::BTreeSet::len).max().unwrap_or(1);
        if size <= 1 {
            return None;
        }
        let reports = Arc::clone(&self.reports.borrow());
        let answered = members
            .others()
            .filter(|(id, _)| members.is_voter(*id))
            .map(|(id, _)| reports.get(&id).and_then(|heard| heard.acknowledged))
            .collect();
        let has_majority = !matches!(
            *self.seat.borrow(),
            Seat::Minority { .. } | Seat::Outside | Seat::Failed { .. }
        );
        Some(Contact { size, answered, has_majority, failsafe: self.group.settings().failsafe })
    }

    /// Our lease over the servers beside us.
    pub(super) fn lease(&self) -> std::time::Duration {
        self.group.settings().timing.self_fence()
    }

    /// Tells the other members what we see.
    pub(super) fn share(&self, opinion: Option<Opinion>) {
        self.group.share_redis(&self.name, opinion);
    }
}
