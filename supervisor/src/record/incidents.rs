//! Which incident does an event belong to?
//!
//! There is at most one open incident per subject. The first event that opens a cause for its subject begins it, every event about that
//! subject joins it, and the event that closes the last open cause ends it. Causes are a set, not a count: a rule that fires again while
//! it is firing opens nothing new, and a close that nothing opened closes nothing. Rejected: one incident per alert, because a dead
//! node then makes five of them and none tells the whole story.
//!
//! Causes that were open when the supervisor stopped are *unconfirmed* until somebody opens them again: what they stood for may have
//! ended while nobody watched, and then nobody would ever close them.
//!
//! In a group the leader begins and ends incidents and the group agrees on them (`common`); members that follow remember what they see
//! themselves, so that whoever leads next goes on from there.

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, Utc};

use super::event::{Draft, Incident, Severity};

pub use common::{Agreed, Part, Standing};

/// Subject and cause.
type Cause = (String, String);

/// The open incidents, by subject.
#[derive(Debug)]
pub(super) struct Incidents {
    /// Bounded by the number of subjects: nodes, Redis, balancer and the like.
    open: BTreeMap<String, Incident>,
    /// The highest number that was ever seen.
    last_id: u64,
    /// Nobody has opened these again since the last stop, or since another member led: and since when that is so.
    unconfirmed: BTreeMap<Cause, DateTime<Utc>>,
    /// What this member is to the group.
    part: Part,
    /// What this member sees itself, whoever leads.
    seen: BTreeMap<Cause, Seen>,
    /// Incidents of our own that the group does not know: begun while no majority was heard, or about what only we see.
    private: BTreeSet<u64>,
    /// What the group has agreed on, as taken over last.
    adopted: Agreed,
    /// Changed since the group agreed on them last, by number.
    unshared: BTreeMap<u64, Incident>,
    /// Events recorded while following that belong to no incident yet, oldest first.
    loose: VecDeque<common::Loose>,
}

/// A cause as this member saw it begin.
#[derive(Debug, Clone)]
struct Seen {
    title: String,
    severity: Severity,
    since: DateTime<Utc>,
    /// When it ended; kept for a while, as the group may not have noticed.
    over: Option<DateTime<Utc>>,
}

impl Incidents {
    /// Takes over what was `open` at the last stop, found at `now`; new incidents count from after `last_id`.
    pub(super) fn restore(
        open: impl IntoIterator<Item = Incident>,
        last_id: u64,
        now: DateTime<Utc>,
    ) -> Self {
        let open: BTreeMap<_, _> = open.into_iter().map(|i| (i.subject.clone(), i)).collect();
        let unconfirmed = causes(open.values()).map(|cause| (cause, now)).collect();
        let unshared = open.values().map(|incident| (incident.id, incident.clone())).collect();
        Self {
            open,
            last_id,
            unconfirmed,
            part: Part::default(),
            seen: BTreeMap::new(),
            private: BTreeSet::new(),
            adopted: Agreed::new(),
            unshared,
            loose: VecDeque::new(),
        }
    }

    /// Finds or begins the incident of an event, ends it if the event calls for that, and returns it as it now stands.
    pub(super) fn assign(&mut self, draft: &Draft, now: DateTime<Utc>) -> Option<Incident> {
        self.see(draft, now);
        if self.part.standing == Standing::Follows
            && !self.open.get(&draft.subject).is_some_and(|it| self.private.contains(&it.id))
        {
            // The leader counts and ends it.
            return self.open.get(&draft.subject).cloned();
        }
        if let Some(cause) = &draft.opens {
            self.unconfirmed.remove(&(draft.subject.clone(), cause.clone()));
            if !self.open.contains_key(&draft.subject) {
                let id = self.next_id();
                let incident = begin(id, draft.subject.clone(), draft.message.clone(), now);
                self.open.insert(draft.subject.clone(), incident);
            }
        }
        let incident = self.open.get_mut(&draft.subject)?;
        incident.events += 1;
        incident.severity = incident.severity.max(draft.severity);
        if let Some(cause) = &draft.opens {
            incident.causes.insert(cause.clone());
        }
        let closed_one = draft.closes.as_ref().is_some_and(|cause| {
            self.unconfirmed.remove(&(draft.subject.clone(), cause.clone()));
            incident.causes.remove(cause)
        });
        if let Some(cause) = &draft.closes {
            self.seen.remove(&(draft.subject.clone(), cause.clone()));
        }
        let is_over = closed_one && incident.causes.is_empty();
        if is_over {
            incident.closed = Some(now);
        }
        let incident = incident.clone();
        if is_over {
            self.open.remove(&draft.subject);
            self.private.remove(&incident.id);
        }
        self.note_unshared(incident.clone());
        Some(incident)
    }

    /// The open incidents, in no meaningful order.
    pub(super) fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Subject and cause of everything that has been unconfirmed since `before` or longer.
    pub(super) fn unconfirmed(&self, before: DateTime<Utc>) -> Vec<Cause> {
        let long = self.unconfirmed.iter().filter(|(_, since)| **since <= before);
        long.map(|(cause, _)| cause.clone()).collect()
    }
}

fn begin(id: u64, subject: String, title: String, now: DateTime<Utc>) -> Incident {
    Incident {
        id,
        subject,
        title,
        severity: Severity::Info,
        opened: now,
        closed: None,
        causes: BTreeSet::new(),
        events: 0,
    }
}

/// Every cause of these incidents.
fn causes<'a>(incidents: impl Iterator<Item = &'a Incident>) -> impl Iterator<Item = Cause> {
    incidents.flat_map(|it| it.causes.iter().map(|cause| (it.subject.clone(), cause.clone())))
}

#[cfg(test)]
mod tests;
