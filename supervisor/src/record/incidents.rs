//! Which incident does an event belong to?
//!
//! There is at most one open incident per subject. The first event that opens a cause for its subject begins it, every event about that
//! subject joins it, and the event that closes the last open cause ends it. Causes are a set, not a count: a rule that fires again while
//! it is firing opens nothing new, and a close that nothing opened closes nothing. Rejected: one incident per alert, because a dead
//! node then makes five of them and none tells the whole story.
//!
//! Causes that were open when the supervisor stopped are *unconfirmed* until somebody opens them again: what they stood for may have
//! ended while nobody watched, and then nobody would ever close them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::event::{Draft, Incident};

/// The open incidents, by subject.
#[derive(Debug)]
pub(super) struct Incidents {
    /// Bounded by the number of subjects: nodes, Redis, balancer and the like.
    open: BTreeMap<String, Incident>,
    next_id: u64,
    /// Subject and cause.
    unconfirmed: BTreeSet<(String, String)>,
}

impl Incidents {
    /// Takes over what was `open` at the last stop; new incidents count from `next_id`.
    pub(super) fn restore(open: impl IntoIterator<Item = Incident>, next_id: u64) -> Self {
        let open: BTreeMap<_, _> = open.into_iter().map(|i| (i.subject.clone(), i)).collect();
        let unconfirmed = open
            .values()
            .flat_map(|i| i.causes.iter().map(|cause| (i.subject.clone(), cause.clone())))
            .collect();
        Self { open, next_id, unconfirmed }
    }

    /// Finds or begins the incident of an event, ends it if the event calls for that, and returns it as it now stands.
    pub(super) fn assign(&mut self, draft: &Draft, now: DateTime<Utc>) -> Option<Incident> {
        if let Some(cause) = &draft.opens {
            self.unconfirmed.remove(&(draft.subject.clone(), cause.clone()));
            if !self.open.contains_key(&draft.subject) {
                let incident = self.begin(draft, now);
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
        if closed_one && incident.causes.is_empty() {
            incident.closed = Some(now);
            return self.open.remove(&draft.subject);
        }
        Some(incident.clone())
    }

    fn begin(&mut self, draft: &Draft, now: DateTime<Utc>) -> Incident {
        let id = self.next_id;
        self.next_id += 1;
        Incident {
            id,
            subject: draft.subject.clone(),
            title: draft.message.clone(),
            severity: draft.severity,
            opened: now,
            closed: None,
            causes: BTreeSet::new(),
            events: 0,
        }
    }

    /// The open incidents, in no meaningful order.
    pub(super) fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Subject and cause of everything that was open at the last stop and was not heard of since.
    pub(super) fn unconfirmed(&self) -> Vec<(String, String)> {
        self.unconfirmed.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Kind, Severity};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn firing(subject: &str, cause: &str) -> Draft {
        let text = format!("{cause} is firing");
        Draft::new(Kind::AlertFiring, Severity::Warning, subject, text).opens(cause)
    }

    fn resolved(subject: &str, cause: &str) -> Draft {
        let text = format!("{cause} is over");
        Draft::new(Kind::AlertResolved, Severity::Info, subject, text).closes(cause)
    }

    fn action(subject: &str, severity: Severity) -> Draft {
        Draft::new(Kind::ActionTaken, severity, subject, "drained")
    }

    #[test]
    fn an_incident_lasts_from_the_first_cause_to_the_last() {
        let mut incidents = Incidents::restore([], 7);
        assert_eq!(incidents.assign(&action("node-1", Severity::Info), at(0)), None);

        let first = incidents.assign(&firing("node-1", "NodeDown"), at(1)).unwrap();
        assert_eq!((first.id, first.opened, first.closed), (7, at(1), None));
        assert_eq!(first.title, "NodeDown is firing");

        let joined = incidents.assign(&action("node-1", Severity::Critical), at(2)).unwrap();
        assert_eq!((joined.id, joined.events, joined.severity), (7, 2, Severity::Critical));

        let second = incidents.assign(&firing("node-1", "HighLatency"), at(3)).unwrap();
        assert_eq!(second.causes.len(), 2);
        let half = incidents.assign(&resolved("node-1", "NodeDown"), at(4)).unwrap();
        assert_eq!(half.closed, None);
        let end = incidents.assign(&resolved("node-1", "HighLatency"), at(5)).unwrap();
        assert_eq!((end.id, end.closed, end.events), (7, Some(at(5)), 5));
        assert_eq!(incidents.count(), 0);

        assert_eq!(incidents.assign(&action("node-1", Severity::Info), at(6)), None);
        assert_eq!(incidents.assign(&firing("node-1", "NodeDown"), at(7)).unwrap().id, 8);
    }

    #[test]
    fn causes_are_a_set() {
        let mut incidents = Incidents::restore([], 1);
        incidents.assign(&firing("node-1", "NodeDown"), at(0)).unwrap();
        incidents.assign(&firing("node-1", "NodeDown"), at(1)).unwrap();
        let other = incidents.assign(&resolved("node-1", "NeverFired"), at(2)).unwrap();
        assert_eq!(other.closed, None);
        let end = incidents.assign(&resolved("node-1", "NodeDown"), at(3)).unwrap();
        assert_eq!(end.closed, Some(at(3)));
        assert_eq!(incidents.assign(&resolved("node-1", "NodeDown"), at(4)), None);
    }

    #[test]
    fn subjects_do_not_mix() {
        let mut incidents = Incidents::restore([], 1);
        incidents.assign(&firing("node-1", "NodeDown"), at(0)).unwrap();
        assert_eq!(incidents.assign(&action("node-2", Severity::Info), at(1)), None);
        let other = incidents.assign(&firing("redis/main", "primary-down"), at(2)).unwrap();
        assert_eq!((other.id, incidents.count()), (2, 2));
    }

    #[test]
    fn what_was_open_at_the_last_stop_goes_on_once_it_is_seen_again() {
        let mut before = Incidents::restore([], 1);
        before.assign(&firing("node-1", "NodeDown"), at(0)).unwrap();
        let left = before.assign(&firing("node-1", "HighLatency"), at(1)).unwrap();

        let mut incidents = Incidents::restore([left], 2);
        let seen_again = incidents.assign(&firing("node-1", "NodeDown"), at(9)).unwrap();
        assert_eq!((seen_again.id, seen_again.opened), (1, at(0)));
        assert_eq!(incidents.unconfirmed(), [("node-1".to_owned(), "HighLatency".to_owned())]);
        incidents.assign(&resolved("node-1", "HighLatency"), at(10)).unwrap();
        assert!(incidents.unconfirmed().is_empty());
        assert_eq!(incidents.count(), 1);
    }
}
