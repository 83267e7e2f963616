//! When may a silent primary be replaced, and when must a supervisor keep the one beside it from taking writes?
//!
//! A primary cut off together with its clients cannot be fenced over the network. The supervisor on its host can do it: when it has not
//! had a majority's answer for its lease, it takes writes away from the primary itself. The majority, in turn, promotes another one only
//! when that lease, as that supervisor has told it, must be over. Both sides count from round trips: the member beside it from when it *sent* what was answered last, the
//! majority from when it *received* what was sent, so the lease ends on its side first however long the path is. Where death is proven
//! there is nothing to wait for. Assumed: clocks that run at the same rate within a third, and a supervisor that runs; one that is stopped
//! together with its host does not serve clients either.

use std::time::{Duration, Instant};

use crate::cluster::Address;
use crate::judge::redis::{Council, LEASE_MARGIN, Verdict};

/// Why `primary` must not be replaced yet; `None` if nothing stands against it.
pub fn running(
    now: Instant,
    primary: &Address,
    verdict: Verdict,
    council: &Council,
) -> Option<String> {
    if verdict.is_proven() {
        return None;
    }
    council.witnesses.iter().find_map(|witness| {
        let milliseconds = witness.beside(primary)?.lease_milliseconds;
        let lease = Duration::from_millis(milliseconds);
        // One that is heard can be asked to fence it; one that nobody hears has to fence it by itself.
        let is_silent = witness.heard_at.is_none_or(|at| now >= at + lease);
        let may_hold = witness.contact_at.is_some_and(|at| now < at + lease + LEASE_MARGIN);
        (is_silent && may_hold).then(|| {
            format!(
                "supervisor {} beside it is not heard, and its lease of {milliseconds} ms may not be over",
                witness.name
            )
        })
    })
}

/// What a member knows of the others' answers.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Members of the group, we included.
    pub size: usize,
    /// For each other member: when we sent what it has answered last.
    pub answered: Vec<Option<Instant>>,
    /// The group's log has a leader and a majority, as far as we know.
    pub has_majority: bool,
    /// As long as every member answers directly, a log without a majority is no reason to stop.
    pub failsafe: bool,
}

impl Contact {
    /// Whether the lease of the server beside us is over: it must not take writes.
    pub fn is_over(&self, now: Instant, lease: Duration) -> bool {
        let fresh = |at: &&Option<Instant>| at.is_some_and(|at| now < at + lease);
        let answering = self.answered.iter().filter(fresh).count() + 1;
        let hears_majority = answering * 2 > self.size;
        let hears_all = answering >= self.size;
        let log_counts = self.has_majority || (self.failsafe && hears_all);
        !(hears_majority && log_counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::redis::{Judgement, Opinion, Place, Witness};

    const LEASE: Duration = Duration::from_millis(300);

    #[expect(clippy::disallowed_methods, reason = "tests begin at some instant")]
    fn start() -> Instant {
        Instant::now()
    }

    fn milliseconds(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_majority_waits_for_the_lease_of_a_silent_member_beside_a_silent_primary() {
        let start = start();
        let primary = Address::new("h", 1);
        let judgement = Judgement { verdict: Verdict::PrimaryHealthy, reasons: Vec::new() };
        let mut opinion = Opinion::of(&judgement, primary.clone(), 1);
        opinion.beside.push(primary.clone());
        opinion.lease_milliseconds = 300;
        let mut council = Council {
            place: Place::Leads,
            size: 3,
            witnesses: vec![Witness {
                name: "b".to_owned(),
                heard_at: Some(start),
                contact_at: Some(start),
                opinion: Some(opinion),
            }],
            clients: Vec::new(),
        };
        let held = |council: &Council, verdict, after| {
            running(start + milliseconds(after), &primary, verdict, council).is_some()
        };
        assert!(held(&council, Verdict::PrimaryHung, 399));
        assert!(!held(&council, Verdict::PrimaryHung, 400));
        assert!(!held(&council, Verdict::PrimaryDead, 0), "a proven death waits for nothing");
        // Somebody else has heard it since, so its lease may have been renewed.
        council.witnesses[0].contact_at = Some(start + milliseconds(200));
        assert!(held(&council, Verdict::PrimaryHung, 599));
        council.witnesses[0].heard_at = Some(start + milliseconds(500));
        assert!(!held(&council, Verdict::PrimaryHung, 599), "it can be asked to fence");
        council.witnesses[0].heard_at = Some(start);
        council.witnesses[0].opinion.as_mut().unwrap().beside.clear();
        assert!(!held(&council, Verdict::PrimaryHung, 399), "it is on another host");
    }

    #[test]
    fn a_lease_is_over_without_a_majority_of_answers() {
        let start = start();
        let at = |after| Some(start + milliseconds(after));
        let mut contact =
            Contact { size: 3, answered: vec![at(0), None], has_majority: true, failsafe: false };
        assert!(!contact.is_over(start + milliseconds(299), LEASE));
        assert!(contact.is_over(start + milliseconds(300), LEASE));
        contact.has_majority = false;
        assert!(contact.is_over(start, LEASE), "the log has no majority");
        contact.failsafe = true;
        assert!(contact.is_over(start, LEASE), "one does not answer");
        contact.answered[1] = at(0);
        assert!(!contact.is_over(start, LEASE), "failsafe: all answer");
        contact.size = 5;
        contact.has_majority = true;
        assert!(!contact.is_over(start, LEASE));
        contact.answered[1] = None;
        assert!(contact.is_over(start, LEASE));
        let alone = Contact { size: 1, answered: Vec::new(), has_majority: true, failsafe: false };
        assert!(!alone.is_over(start, LEASE));
    }
}
