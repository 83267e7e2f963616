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
    let mut incidents = Incidents::restore([], 6, at(0));
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
    let mut incidents = Incidents::restore([], 0, at(0));
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
    let mut incidents = Incidents::restore([], 0, at(0));
    incidents.assign(&firing("node-1", "NodeDown"), at(0)).unwrap();
    assert_eq!(incidents.assign(&action("node-2", Severity::Info), at(1)), None);
    let other = incidents.assign(&firing("redis/main", "primary-down"), at(2)).unwrap();
    assert_eq!((other.id, incidents.count()), (2, 2));
}

#[test]
fn what_was_open_at_the_last_stop_goes_on_once_it_is_seen_again() {
    let mut before = Incidents::restore([], 0, at(0));
    before.assign(&firing("node-1", "NodeDown"), at(0)).unwrap();
    let left = before.assign(&firing("node-1", "HighLatency"), at(1)).unwrap();

    let mut incidents = Incidents::restore([left], 1, at(0));
    let seen_again = incidents.assign(&firing("node-1", "NodeDown"), at(9)).unwrap();
    assert_eq!((seen_again.id, seen_again.opened), (1, at(0)));
    assert_eq!(incidents.unconfirmed(at(0)), [("node-1".to_owned(), "HighLatency".to_owned())]);
    incidents.assign(&resolved("node-1", "HighLatency"), at(10)).unwrap();
    assert!(incidents.unconfirmed(at(0)).is_empty());
    assert_eq!(incidents.count(), 1);
}

/// Members of a group with a ledger between them, as `supervise/incidents.rs` runs them.
struct Members {
    agreed: Agreed,
    members: Vec<Incidents>,
}

impl Members {
    fn of_three() -> Self {
        let members = (0..3).map(|_| Incidents::restore([], 0, at(0))).collect();
        Self { agreed: Agreed::new(), members }
    }

    /// One look of each member that is alive; `leader` agrees with the others on what it has.
    fn look(&mut self, leader: Option<usize>, alive: &[usize], now: DateTime<Utc>) {
        for &index in alive {
            let standing = if Some(index) == leader { Standing::Leads } else { Standing::Follows };
            let part = Part { standing, member: Some(index as u64 + 1) };
            self.members[index].reconcile(part, &self.agreed, now);
            for incident in self.members[index].unshared(&self.agreed) {
                self.agreed.insert(incident.id, incident.clone());
                self.members[index].shared(&incident);
            }
        }
        for &index in alive.iter().filter(|index| Some(**index) != leader) {
            let part = Part { standing: Standing::Follows, member: Some(index as u64 + 1) };
            self.members[index].reconcile(part, &self.agreed, now);
        }
    }

    fn see(&mut self, members: &[usize], draft: &Draft, now: DateTime<Utc>) {
        for &index in members {
            self.members[index].assign(draft, now);
        }
    }

    fn open(&self, member: usize) -> Vec<(u64, String)> {
        let open = self.members[member].open();
        open.map(|incident| (incident.id, incident.subject.clone())).collect()
    }
}

#[test]
fn all_members_have_the_leaders_incidents_under_its_numbers() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[1, 0, 2], &firing("node-1", "NodeDown"), at(1));
    group.look(Some(0), &[0, 1, 2], at(2));
    for member in 0..3 {
        assert_eq!(group.open(member), [(1, "node-1".to_owned())]);
    }
    group.see(&[2, 0, 1], &resolved("node-1", "NodeDown"), at(3));
    group.look(Some(0), &[0, 1, 2], at(4));
    assert!((0..3).all(|member| group.open(member).is_empty()));
    let all: Vec<_> = group.agreed.values().map(|it| (it.id, it.closed)).collect();
    assert_eq!(all, [(1, Some(at(3)))]);
}

#[test]
fn a_new_leader_goes_on_with_what_is_open_and_ends_it() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[0, 1, 2], &firing("node-1", "NodeDown"), at(1));
    group.see(&[0], &firing("node-2", "OnlyTheLeaderSaw"), at(1));
    group.look(Some(0), &[0, 1, 2], at(2));
    let before = group.open(1);
    group.look(Some(1), &[1, 2], at(3));
    assert_eq!(group.open(1), before, "nothing is lost and nothing begins twice");
    assert_eq!(
        group.members[1].unconfirmed(at(3)),
        [("node-2".to_owned(), "OnlyTheLeaderSaw".to_owned())]
    );
    group.see(&[1, 2], &resolved("node-1", "NodeDown"), at(4));
    group.look(Some(1), &[1, 2], at(5));
    assert_eq!(group.open(2).len(), 1);
    // The former leader comes back and follows.
    group.look(Some(1), &[0, 1, 2], at(6));
    assert_eq!(group.open(0), group.open(1));
}

#[test]
fn what_began_and_ended_while_nobody_led_is_told_once() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    // The leader dies with the primary; the next one fails over before it has looked at its incidents.
    group.see(&[1, 2], &firing("redis/main", "down"), at(1));
    group.see(&[1, 2], &resolved("redis/main", "down"), at(2));
    group.look(Some(1), &[1, 2], at(2));
    let all: Vec<_> = group.agreed.values().map(|it| (it.opened, it.closed)).collect();
    assert_eq!(all, [(at(1), Some(at(2)))]);
    group.look(Some(2), &[2], at(3));
    assert_eq!(group.agreed.len(), 1, "another leader does not tell it again");
}

#[test]
fn an_incident_that_was_not_agreed_on_ends_in_that_of_the_next_leader() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[0, 1, 2], &firing("node-1", "NodeDown"), at(1));
    group.look(Some(1), &[1, 2], at(2));
    assert_eq!(group.open(0), [(1, "node-1".to_owned())], "it died before the group knew");
    assert_eq!(group.open(1), [(2, "node-1".to_owned())], "another number");
    let part = Part { standing: Standing::Follows, member: Some(1) };
    let changes = group.members[0].reconcile(part, &group.agreed, at(3));
    let ended: Vec<_> = changes.incidents.iter().map(|it| (it.id, it.closed)).collect();
    assert_eq!(ended, [(2, None), (1, Some(at(3)))]);
    assert_eq!(group.open(0), group.open(1));
}

#[test]
fn what_only_a_follower_sees_becomes_its_own_incident_after_a_while() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[2], &firing("supervisor", "disk"), at(1));
    group.look(Some(0), &[0, 1, 2], at(60));
    assert!(group.open(2).is_empty());
    group.look(Some(0), &[0, 1, 2], at(61));
    assert_eq!(group.open(2), [(3, "supervisor".to_owned())]);
    assert!(group.open(0).is_empty());
    let end = group.members[2].assign(&resolved("supervisor", "disk"), at(70)).unwrap();
    assert_eq!((end.id, end.closed), (3, Some(at(70))));
    group.look(Some(2), &[1, 2], at(71));
    assert!(group.agreed.is_empty(), "it has been told already: {:?}", group.agreed);
}

#[test]
fn events_that_came_before_their_incident_find_it() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    assert_eq!(group.members[1].assign(&firing("node-1", "NodeDown"), at(1)), None);
    group.members[1].note_loose(77, "node-1", at(1));
    group.members[1].note_loose(78, "node-9", at(1));
    group.see(&[0], &firing("node-1", "NodeDown"), at(2));
    group.look(Some(0), &[0], at(3));
    let part = Part { standing: Standing::Follows, member: Some(2) };
    let changes = group.members[1].reconcile(part, &group.agreed, at(4));
    assert_eq!(changes.attached, [(77, 1)]);
}

#[test]
fn a_minority_goes_on_by_itself_and_comes_back() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[0, 1, 2], &firing("node-1", "NodeDown"), at(1));
    group.look(Some(0), &[0, 1, 2], at(2));
    let alone = Part { standing: Standing::Alone, member: Some(3) };
    group.members[2].reconcile(alone, &group.agreed, at(3));
    let new = group.members[2].assign(&firing("group", "no-majority"), at(4)).unwrap();
    assert_eq!(new.id, 3);
    group.members[2].assign(&resolved("node-1", "NodeDown"), at(5)).unwrap();
    assert_eq!(group.open(2).len(), 1);
    group.look(Some(0), &[0, 1, 2], at(6));
    assert_eq!(group.open(2).len(), 2, "what the group has open is open again");
    group.see(&[2], &resolved("group", "no-majority"), at(7));
    assert_eq!(group.open(2), group.open(0));
}

#[test]
fn what_a_new_leader_has_seen_end_is_over() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[0, 1, 2], &firing("node-1", "NodeDown"), at(1));
    group.look(Some(0), &[0, 1, 2], at(2));
    // It ends, and the leader dies before the others are told.
    group.see(&[1, 2], &resolved("node-1", "NodeDown"), at(3));
    group.look(Some(1), &[1, 2], at(4));
    let all: Vec<_> = group.agreed.values().map(|it| (it.id, it.closed)).collect();
    assert_eq!(all, [(1, Some(at(3)))]);
    assert!(group.members[1].unconfirmed(at(9)).is_empty());
}

#[test]
fn one_by_itself_believes_its_own_journal() {
    let mut incidents = Incidents::restore([], 4, at(0));
    let alone = Part { standing: Standing::Leads, member: None };
    let opened = incidents.assign(&firing("node-1", "NodeDown"), at(1)).unwrap();
    incidents.reconcile(alone, &Agreed::new(), at(1));
    let agreed = Agreed::from([(opened.id, opened)]);
    incidents.assign(&resolved("node-1", "NodeDown"), at(2)).unwrap();
    // It was stopped before the end was agreed on, and starts again.
    let mut again = Incidents::restore([], 5, at(3));
    again.reconcile(alone, &agreed, at(3));
    assert_eq!(again.count(), 0);
    assert_eq!(again.assign(&firing("node-1", "NodeDown"), at(4)).unwrap().id, 6);
}

#[test]
fn a_second_outage_soon_after_the_first_is_another_incident() {
    let mut group = Members::of_three();
    group.look(Some(0), &[0, 1, 2], at(0));
    group.see(&[0, 1, 2], &firing("redis/main", "down"), at(1));
    group.see(&[0, 1, 2], &resolved("redis/main", "down"), at(2));
    group.look(Some(0), &[0, 1, 2], at(3));
    // The leader dies with the next primary; the next leader has failed over before it looks.
    group.see(&[1, 2], &firing("redis/main", "down"), at(6));
    group.members[1].note_loose(9, "redis/main", at(6));
    group.see(&[1, 2], &resolved("redis/main", "down"), at(7));
    let part = Part { standing: Standing::Leads, member: Some(2) };
    let changes = group.members[1].reconcile(part, &group.agreed, at(8));
    assert_eq!(changes.attached, [(9, 2)]);
    group.look(Some(1), &[1, 2], at(8));
    let all: Vec<_> = group.agreed.values().map(|it| (it.opened, it.closed)).collect();
    assert_eq!(all, [(at(1), Some(at(2))), (at(6), Some(at(7)))]);
}
