//! Who was heard, and when: the evidence behind a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::lease::majority_since;
use super::ledger::MemberId;
use super::types::Vote;

/// What the transport has seen since the start.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By member: the newest message of ours, as the leader by this vote, that it has answered, and when that was sent.
    answered: BTreeMap<MemberId, (Vote, Instant)>,
    /// By member: when the newest report of ours was sent that it has confirmed.
    confirmed: BTreeMap<MemberId, Instant>,
    /// When a leader was heard last.
    leader: Option<Instant>,
    /// Members whose host said, after their last word, that nobody listens there any more.
    gone: BTreeSet<MemberId>,
}

impl Contacts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has answered what we sent as the leader by `vote`.
    pub(super) fn answered(&self, member: MemberId, vote: Vote, sent: Instant) {
        let mut inner = self.lock();
        let newest = inner.answered.entry(member).or_insert((vote, sent));
        if newest.0 != vote || newest.1 < sent {
            *newest = (vote, sent);
        }
    }

    /// A member has confirmed a report of ours.
    pub(super) fn confirmed(&self, member: MemberId, sent: Instant) {
        let mut inner = self.lock();
        inner.gone.remove(&member);
        let newest = inner.confirmed.entry(member).or_insert(sent);
        *newest = sent.max(*newest);
    }

    /// A member's host says that nobody listens at its address: its process has ended.
    pub(super) fn refused(&self, member: MemberId) {
        self.lock().gone.insert(member);
    }

    /// Whether a member's process is known to have ended.
    pub(super) fn is_gone(&self, member: MemberId) -> bool {
        self.lock().gone.contains(&member)
    }

    /// A leader was heard.
    pub(super) fn heard_leader(&self, now: Instant) {
        self.lock().leader = Some(now);
    }

    /// When a leader was heard last.
    pub(super) fn leader(&self) -> Option<Instant> {
        self.lock().leader
    }

    /// When the newest report was sent that `member` has confirmed.
    pub(super) fn confirmed_by(&self, member: MemberId) -> Option<Instant> {
        self.lock().confirmed.get(&member).copied()
    }

    /// See [`majority_since`]; only answers to the leader by `vote` count.
    pub(super) fn majority_since(
        &self,
        configs: &[BTreeSet<MemberId>],
        own: MemberId,
        vote: Vote,
        now: Instant,
    ) -> Option<Instant> {
        let inner = self.lock();
        majority_since(configs, own, now, |member| {
            inner.answered.get(&member).filter(|(by, _)| *by == vote).map(|(_, sent)| *sent)
        })
    }
}
