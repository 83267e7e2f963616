//! The journal of a member of a group: what it takes over from the others, and what it has for them.
//!
//! Incidents come from what the group has agreed on. Of events, each member keeps its own (what it saw itself) and those by which a leader
//! tells what it did; these are fetched from the other members one after the other, so that whoever was away has them later.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Journal, Shared, State};
use crate::record::event::{Draft, Event, Incident, Kind, Origin, Severity};
use crate::record::filter::Filter;
use crate::record::incidents::{Agreed, Part};

/// Events handed to another member at once: with a failover's account of some ten kilobytes in each still far below a message's limit.
const DEEDS_MAX: usize = 50;

/// What a member did while it led.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Deeds {
    /// Oldest first, numbered as in its journal.
    pub events: Vec<Event>,
    /// Everything up to here has been looked through.
    pub upto: u64,
}

impl Journal {
    /// Takes in our part in the group and the incidents the group has agreed on.
    pub fn reconcile(&self, part: Part, agreed: &Agreed, now: DateTime<Utc>) {
        self.shared.reconcile(part, agreed, now);
    }

    /// The incidents the group does not know yet as they are, oldest first, if we lead it.
    pub fn unshared(&self, agreed: &Agreed) -> Vec<Incident> {
        self.shared.lock().incidents.unshared(agreed)
    }

    /// The group has agreed on this.
    pub fn shared(&self, incident: &Incident) {
        self.shared.lock().incidents.shared(incident);
    }

    /// What this member did as the leader, after the event `after`. May read the disk.
    pub fn deeds(&self, after: u64) -> Deeds {
        let last = self.last_id();
        // A journal that was begun anew counts from the start again.
        let after = if after > last { 0 } else { after };
        let filter = Filter {
            since_id: Some(after),
            is_common: true,
            limit: DEEDS_MAX,
            ..Filter::default()
        };
        let events = self.events(&filter);
        let is_all = events.len() < DEEDS_MAX;
        let upto = if is_all { last } else { events.last().map_or(last, |event| event.id) };
        Deeds { events, upto }
    }

    /// Closes what was taken over from an earlier run or another member by `before`, and was not seen since: every rule and probe must
    /// have had its say.
    pub fn close_unconfirmed(&self, before: DateTime<Utc>, now: DateTime<Utc>) {
        let unconfirmed = self.shared.lock().incidents.unconfirmed(before);
        for (subject, cause) in unconfirmed {
            let text = format!("{cause} is over: not seen again since the supervisor took it over");
            let draft = Draft::new(Kind::AlertResolved, Severity::Info, subject, text);
            self.append(draft.closes(cause), now);
        }
    }

    /// The newest event that was copied from `member`; 0 before the first.
    pub fn copied(&self, member: &str) -> u64 {
        self.shared.lock().copied.get(member).copied().unwrap_or(0)
    }

    /// Keeps events of another member beside our own.
    pub fn copy(&self, member: &str, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let mut state = self.shared.lock();
            let id = state.next_event;
            state.copied.insert(member.to_owned(), event.id);
            let origin = Some(Origin { member: member.to_owned(), id: event.id });
            self.shared.record(state, Event { id, origin, is_common: false, ..event });
        }
    }
}

impl State {
    /// Whether nothing is left to write.
    pub(super) fn is_written(&self) -> bool {
        self.pending.is_empty() && self.changed.is_empty() && self.attached.is_empty()
    }
}

impl Shared {
    fn reconcile(&self, part: Part, agreed: &Agreed, now: DateTime<Utc>) {
        let mut state = self.lock();
        let changes = state.incidents.reconcile(part, agreed, now);
        if changes.incidents.is_empty() && changes.attached.is_empty() {
            return;
        }
        state.changed.extend(changes.incidents.into_iter().map(|it| (it.id, it)));
        for (event, incident) in changes.attached {
            state.attached.insert(event, incident);
            let pending = state.pending.iter_mut().find(|pending| pending.id == event);
            if let Some(pending) = pending {
                Arc::make_mut(pending).incident = Some(incident);
            }
        }
        self.metrics.open.set(super::gauge(state.incidents.count()));
        drop(state);
        self.work.notify_one();
    }
}
