//! How do the members of a group come to the same incidents, whoever leads and whoever dies?
//!
//! The leader begins and ends incidents; its list is agreed on by the group and taken over by the others' journals under the same numbers.
//! A member that follows begins none: it remembers what it sees itself. When it comes to lead, it goes on with the list that was agreed
//! on, adds what it sees and the list lacks, and asks for confirmation of what the list has and it does not see. So a change of the
//! leader neither loses an incident nor begins it twice. Two exceptions, both said by numbers the others do not have: a member that hears
//! no majority begins incidents by itself, and so does one whose leader does not see within a minute what it sees (its own disk).
//!
//! Numbers never clash, also between members that do not hear each other: in a group each takes every sixteenth one. Rejected: having the
//! group agree on an incident before its number is known, which would keep the journal waiting for the network while Redis is down.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Incidents, Seen, begin, causes};
use crate::record::event::{Draft, Incident};

/// The leader has this long to see what a member that follows sees: longer than any round of scrapes and rules.
const LEADER_PATIENCE: TimeDelta = TimeDelta::minutes(1);
/// Two members see the same thing begin or end within this time.
const SAME_WITHIN: TimeDelta = TimeDelta::minutes(1);
/// The clocks of two members differ by at most this much.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(1);
/// An event waits this long for the incident it belongs to.
const LOOSE_FOR: TimeDelta = TimeDelta::minutes(5);
/// Such events, at a few dozen bytes each.
const LOOSE_MAX: usize = 512;
/// Incidents that wait to be agreed on; while no majority is heard, the oldest of them stay this member's own.
const UNSHARED_MAX: usize = 200;
/// Every member of a group has one number in so many; there are at most nine members.
const LANES: u64 = 16;

/// What the group has agreed on: the open incidents and the newest that are over, by number.
pub type Agreed = BTreeMap<u64, Incident>;

/// What a member is to the group's incidents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is by itself, or hears no majority: its incidents are its own.
    #[default]
    Alone,
    /// It begins and ends them for all.
    Leads,
    /// Another member does, or will once it is elected.
    Follows,
}

/// A member's part in the group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// What it is to the incidents.
    pub standing: Standing,
    /// Its number in the group, if there are others.
    pub member: Option<u64>,
}

/// What comes of a look at the group.
#[derive(Debug, Default)]
pub(in crate::record) struct Changes {
    /// Incidents as they now stand.
    pub(in crate::record) incidents: Vec<Incident>,
    /// Events and the incidents they turn out to belong to.
    pub(in crate::record) attached: Vec<(u64, u64)>,
}

/// An event without an incident.
#[derive(Debug, Clone)]
pub(super) struct Loose {
    event: u64,
    subject: String,
    at: DateTime<Utc>,
}

impl Incidents {
    /// Our part in the group.
    pub(in crate::record) fn part(&self) -> Part {
        self.part
    }

    /// Takes in our part in the group and what the group has agreed on.
    pub(in crate::record) fn reconcile(
        &mut self,
        part: Part,
        agreed: &Agreed,
        now: DateTime<Utc>,
    ) -> Changes {
        let mut changes = Changes::default();
        let was = std::mem::replace(&mut self.part, part).standing;
        self.last_id = self.last_id.max(agreed.keys().next_back().copied().unwrap_or(0));
        // Without others our own journal is newer than what was agreed on.
        let nothing = Agreed::new();
        let agreed = if part.member.is_some() { agreed } else { &nothing };
        let follows = part.standing == Standing::Follows;
        if follows || (part.standing == Standing::Leads && was != Standing::Leads) {
            self.follow(agreed, now, &mut changes);
        }
        if follows {
            if was != Standing::Follows {
                let (open, private) = (&self.open, &self.private);
                let is_ours =
                    |subject: &String| open.get(subject).is_some_and(|it| private.contains(&it.id));
                self.unconfirmed.retain(|(subject, _), _| is_ours(subject));
                self.unshared.clear();
            }
            self.begin_overdue(now, &mut changes);
        } else {
            if was != part.standing {
                self.doubt(now, &mut changes);
            }
            self.begin_seen(agreed, now, &mut changes);
        }
        self.seen.retain(|_, seen| seen.over.is_none_or(|over| over + LEADER_PATIENCE > now));
        self.attach(agreed, now, &mut changes);
        changes
    }

    /// Incidents the leader has to have agreed on, oldest first.
    pub(in crate::record) fn unshared(&mut self, agreed: &Agreed) -> Vec<Incident> {
        self.unshared.retain(|id, incident| agreed.get(id) != Some(incident));
        if self.part.standing != Standing::Leads {
            return Vec::new();
        }
        self.unshared.values().cloned().collect()
    }

    /// The group has agreed on this.
    pub(in crate::record) fn shared(&mut self, incident: &Incident) {
        if self.unshared.get(&incident.id) == Some(incident) {
            self.unshared.remove(&incident.id);
        }
    }

    /// An event was recorded that belongs to no incident yet.
    pub(in crate::record) fn note_loose(&mut self, event: u64, subject: &str, at: DateTime<Utc>) {
        if self.part.standing != Standing::Follows {
            return;
        }
        if self.loose.len() == LOOSE_MAX {
            self.loose.pop_front();
        }
        self.loose.push_back(Loose { event, subject: subject.to_owned(), at });
    }

    /// Remembers what this member sees itself.
    pub(super) fn see(&mut self, draft: &Draft, now: DateTime<Utc>) {
        let key = |cause: &String| (draft.subject.clone(), cause.clone());
        if let Some(cause) = &draft.opens {
            let new = || Seen {
                title: draft.message.clone(),
                severity: draft.severity,
                since: now,
                over: None,
            };
            let seen = self.seen.entry(key(cause)).or_insert_with(new);
            if seen.over.is_some() {
                *seen = new();
            }
            seen.severity = seen.severity.max(draft.severity);
        }
        if let Some(cause) = &draft.closes
            && let Some(seen) = self.seen.get_mut(&key(cause))
        {
            seen.over.get_or_insert(now);
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        let next = self.last_id + 1;
        self.last_id = match self.part.member {
            None => next,
            Some(member) => next + (member % LANES + LANES - next % LANES) % LANES,
        };
        self.last_id
    }

    pub(super) fn note_unshared(&mut self, incident: Incident) {
        if self.part.standing == Standing::Follows {
            return;
        }
        self.unshared.insert(incident.id, incident);
        if self.unshared.len() > UNSHARED_MAX {
            self.unshared.pop_first();
        }
    }

    /// Takes over what was agreed on. What we have open beside it stays ours, unless the group has an incident of the same subject.
    fn follow(&mut self, agreed: &Agreed, now: DateTime<Utc>, changes: &mut Changes) {
        if self.adopted != *agreed {
            let is_new = |incident: &&Incident| self.adopted.get(&incident.id) != Some(*incident);
            changes.incidents.extend(agreed.values().filter(is_new).cloned());
            self.adopted.clone_from(agreed);
        }
        let open = agreed.values().filter(|incident| incident.closed.is_none());
        let open = open.map(|incident| (incident.subject.clone(), incident.clone())).collect();
        for (subject, incident) in std::mem::replace(&mut self.open, open) {
            if agreed.contains_key(&incident.id) {
                continue;
            }
            if self.open.contains_key(&subject) {
                self.private.remove(&incident.id);
                changes.incidents.push(Incident { closed: Some(now), ..incident });
            } else {
                self.private.insert(incident.id);
                self.open.insert(subject, incident);
            }
        }
    }

    /// What only we see becomes an incident of our own.
    fn begin_overdue(&mut self, now: DateTime<Utc>, changes: &mut Changes) {
        let overdue: Vec<_> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.over.is_none() && seen.since + LEADER_PATIENCE <= now)
            .filter(|((subject, _), _)| !self.open.contains_key(subject))
            .map(|(key, seen)| (key.clone(), seen.clone()))
            .collect();
        for ((subject, cause), seen) in overdue {
            let incident = self.begin_as_seen(&subject, cause, &seen);
            self.private.insert(incident.id);
            changes.incidents.push(incident);
        }
    }

    fn begin_as_seen(&mut self, subject: &str, cause: String, seen: &Seen) -> Incident {
        let id = match self.open.get(subject) {
            Some(incident) => incident.id,
            None => self.next_id(),
        };
        let new = || begin(id, subject.to_owned(), seen.title.clone(), seen.since);
        let incident = self.open.entry(subject.to_owned()).or_insert_with(new);
        incident.severity = incident.severity.max(seen.severity);
        incident.causes.insert(cause);
        incident.clone()
    }

    /// What is open and not seen by us has to be confirmed; what we have seen end meanwhile is over.
    fn doubt(&mut self, now: DateTime<Utc>, changes: &mut Changes) {
        self.private.clear();
        for mut incident in std::mem::take(&mut self.open).into_values() {
            let mut last_end = None;
            for cause in causes([&incident].into_iter()).collect::<Vec<_>>() {
                match self.seen.get(&cause).map(|seen| seen.over) {
                    Some(None) => {}
                    Some(Some(over)) => {
                        incident.causes.remove(&cause.1);
                        self.seen.remove(&cause);
                        last_end = last_end.max(Some(over));
                    }
                    None => {
                        self.unconfirmed.entry(cause).or_insert(now);
                    }
                }
            }
            if let Some(end) = last_end {
                incident.closed = incident.causes.is_empty().then_some(end);
                changes.incidents.push(incident.clone());
            }
            self.note_unshared(incident.clone());
            if incident.closed.is_none() {
                self.open.insert(incident.subject.clone(), incident);
            }
        }
    }

    /// What we see and no incident has is begun now, as of when we saw it; what we saw begin and end before anybody led is told as well.
    fn begin_seen(&mut self, agreed: &Agreed, now: DateTime<Utc>, changes: &mut Changes) {
        let lacks = |(subject, cause): &(String, String)| {
            self.open.get(subject).is_none_or(|incident| !incident.causes.contains(cause))
        };
        let lacking: Vec<_> = self
            .seen
            .iter()
            .filter(|(key, _)| lacks(key))
            .map(|(key, seen)| (key.clone(), seen.clone()))
            .collect();
        for ((subject, cause), seen) in lacking {
            let end = seen.over.unwrap_or(now);
            let mut known = agreed.values().filter(|incident| incident.subject == subject);
            let is_open = self.open.contains_key(&subject);
            let is_recent = |it: &Incident| it.closed.is_none_or(|at| at + LEADER_PATIENCE > now);
            let is_same = |it: &Incident| overlaps(it, seen.since, end) && is_recent(it);
            if !is_open && known.any(is_same) {
                // The former leader saw it end; ours will, or counts anew once that is too long ago.
                continue;
            }
            if seen.over.is_some() {
                self.seen.remove(&(subject.clone(), cause.clone()));
            }
            match seen.over {
                // It is part of something that goes on.
                Some(_) if is_open => {}
                Some(over) => {
                    let id = self.next_id();
                    let whole = begin(id, subject, seen.title, seen.since);
                    let severity = seen.severity;
                    let incident = Incident { closed: Some(over), severity, ..whole };
                    self.note_unshared(incident.clone());
                    changes.incidents.push(incident);
                }
                None => {
                    let incident = self.begin_as_seen(&subject, cause, &seen);
                    self.note_unshared(incident.clone());
                    changes.incidents.push(incident);
                }
            }
        }
    }

    /// Events that were recorded while nobody had begun their incident.
    fn attach(&mut self, agreed: &Agreed, now: DateTime<Utc>, changes: &mut Changes) {
        let (open, begun) = (&self.open, &changes.incidents);
        let attached = &mut changes.attached;
        self.loose.retain(|loose| {
            let known = open.values().chain(begun).chain(agreed.values());
            let of = known.filter(|incident| incident.subject == loose.subject);
            let of = of.filter(|incident| covers(incident, loose.at));
            let Some(incident) = of.max_by_key(|incident| incident.opened) else {
                return loose.at + LOOSE_FOR > now;
            };
            attached.push((loose.event, incident.id));
            false
        });
    }
}

/// Whether something we saw from `since` to `end` is what this incident is about.
fn overlaps(incident: &Incident, since: DateTime<Utc>, end: DateTime<Utc>) -> bool {
    incident.opened <= end + CLOCKS_DIFFER
        && incident.closed.is_none_or(|closed| since <= closed + CLOCKS_DIFFER)
}

/// Whether something another member saw at that time may be the same thing.
fn covers(incident: &Incident, at: DateTime<Utc>) -> bool {
    incident.opened - SAME_WITHIN <= at
        && incident.closed.is_none_or(|closed| at <= closed + SAME_WITHIN)
}
