//! What became of messages: the one place that decides whether any was lost, doubled or silently left out.
//!
//! Three things are compared at the end of a run: what was acknowledged to its sender, what the channel's history holds, and what every
//! subscriber saw, in order. The rules:
//! - an acknowledged message is in the history; if not, it is **lost**;
//! - no message is in the history twice, nor delivered to a subscriber twice; else it is **doubled**;
//! - acknowledged messages of one sender, which waits for each acknowledgement, stand in the order they were sent, and every subscriber
//!   sees messages in the order of the history; else they are **disordered**;
//! - a subscriber, who subscribed before the first message, sees every message of the history, unless a subscription answered `recovered: false`
//!   after the last message it saw before and before the first it saw afterwards. Else it is a **silent gap**: the client believes that it
//!   knows everything and does not.
//!
//! A message that was not acknowledged may be in the history or not: its sender knows that it does not know.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Something a subscriber saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// A message, by its id.
    Message(String),
    /// It was told that messages are missing from here on, up to the next one it sees.
    Unrecovered,
}

/// Everything known about a run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Acknowledged ids of each sender, in the order they were sent.
    pub acked: BTreeMap<String, Vec<String>>,
    /// Ids in the history, oldest first.
    pub history: Vec<String>,
    /// What each subscriber saw.
    pub seen: BTreeMap<String, Vec<Sight>>,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Acknowledged and not in the history.
    Lost {
        /// The message.
        id: String,
    },
    /// More than once in the history.
    Doubled {
        /// The message.
        id: String,
        /// How often.
        times: usize,
    },
    /// Delivered more than once to one subscriber.
    DoublyDelivered {
        /// The message.
        id: String,
        /// To whom.
        subscriber: String,
    },
    /// In the history, before a message the same sender had acknowledged earlier.
    Disordered {
        /// The message.
        id: String,
    },
    /// Delivered after a later one.
    DeliveredLate {
        /// The message.
        id: String,
        /// To whom.
        subscriber: String,
    },
    /// Never delivered, and the subscriber was not told.
    SilentGap {
        /// The message.
        id: String,
        /// To whom.
        subscriber: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { id } => write!(f, "lost: {id} was acknowledged and is not in the history"),
            Self::Doubled { id, times } => {
                write!(f, "doubled: {id} is {times} times in the history")
            }
            Self::DoublyDelivered { id, subscriber } => {
                write!(f, "doubled: {id} was delivered to {subscriber} more than once")
            }
            Self::Disordered { id } => write!(f, "disordered: {id} stands before an earlier one"),
            Self::DeliveredLate { id, subscriber } => {
                write!(f, "disordered: {id} was delivered to {subscriber} after a later one")
            }
            Self::SilentGap { id, subscriber } => {
                write!(f, "silent gap: {id} was never delivered to {subscriber}, who was not told")
            }
        }
    }
}

impl Finding {
    /// Whether a message is gone.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// Whether a message is there too often.
    pub fn is_doubled(&self) -> bool {
        matches!(self, Self::Doubled { .. } | Self::DoublyDelivered { .. })
    }

    /// Whether somebody believes something about the channel that is not so: not told of a gap, or told in a wrong order.
    pub fn is_silent_gap(&self) -> bool {
        !self.is_lost() && !self.is_doubled()
    }
}

impl Ledger {
    /// Every broken promise.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let places = self.check_history(&mut findings);
        self.check_order(&places, &mut findings);
        for (subscriber, sights) in &self.seen {
            self.check_subscriber(subscriber, sights, &places, &mut findings);
        }
        findings
    }

    /// Finds what is in the history too often or not at all, and returns the place of each id.
    fn check_history(&self, findings: &mut Vec<Finding>) -> HashMap<&str, usize> {
        let mut times = BTreeMap::<&str, usize>::new();
        for id in &self.history {
            *times.entry(id).or_default() += 1;
        }
        let doubled = times.iter().filter(|(_, times)| **times > 1);
        findings.extend(
            doubled.map(|(id, times)| Finding::Doubled { id: (*id).to_owned(), times: *times }),
        );
        let acked = self.acked.values().flatten();
        let lost = acked.filter(|id| !times.contains_key(id.as_str()));
        findings.extend(lost.map(|id| Finding::Lost { id: id.clone() }));
        self.history.iter().enumerate().rev().map(|(place, id)| (id.as_str(), place)).collect()
    }

    fn check_order(&self, places: &HashMap<&str, usize>, findings: &mut Vec<Finding>) {
        for ids in self.acked.values() {
            let mut last = None;
            for id in ids {
                let Some(place) = places.get(id.as_str()) else { continue };
                if last > Some(*place) {
                    findings.push(Finding::Disordered { id: id.clone() });
                }
                last = last.max(Some(*place));
            }
        }
    }

    fn check_subscriber(
        &self,
        subscriber: &str,
        sights: &[Sight],
        places: &HashMap<&str, usize>,
        findings: &mut Vec<Finding>,
    ) {
        let to = || subscriber.to_owned();
        let gap = |id: &String| Finding::SilentGap { id: id.clone(), subscriber: to() };
        let mut seen = HashSet::new();
        // The place after the last message seen.
        let mut next = 0;
        let mut told = false;
        for sight in sights {
            let Sight::Message(id) = sight else {
                told = true;
                continue;
            };
            if !seen.insert(id.as_str()) {
                findings.push(Finding::DoublyDelivered { id: id.clone(), subscriber: to() });
                continue;
            }
            // Delivered, but not acknowledged and not kept: its sender knows that it does not know.
            let Some(&place) = places.get(id.as_str()) else { continue };
            if place < next {
                findings.push(Finding::DeliveredLate { id: id.clone(), subscriber: to() });
                continue;
            }
            if !told {
                findings.extend(self.history[next..place].iter().map(gap));
            }
            next = place + 1;
            told = false;
        }
        if !told {
            findings.extend(self.history[next..].iter().map(gap));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// `-` stands for "told that something is missing".
    fn check(acked: &str, history: &str, seen: &str) -> Vec<String> {
        let sight =
            |word: String| if word == "-" { Sight::Unrecovered } else { Sight::Message(word) };
        let ledger = Ledger {
            acked: [("a".to_owned(), ids(acked))].into(),
            history: ids(history),
            seen: [("s".to_owned(), ids(seen).into_iter().map(sight).collect())].into(),
        };
        let kind = |finding: Finding| {
            let text = finding.to_string();
            let id = text.split(": ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            format!("{} {id}", text.split(':').next().unwrap())
        };
        ledger.check().into_iter().map(kind).collect()
    }

    #[test]
    fn what_is_kept_and_delivered_once_and_in_order_is_fine() {
        assert_eq!(check("1 2 3", "1 2 3", "1 2 3"), [""; 0]);
        // Number 2 was never acknowledged; it may be there or not.
        assert_eq!(check("1 3", "1 2 3", "1 2 3"), [""; 0]);
        assert_eq!(check("1 3", "1 3", "1 2 3"), [""; 0]);
    }

    #[test]
    fn every_kind_of_broken_promise_is_found() {
        assert_eq!(check("1 2", "1", "1"), ["lost 2"]);
        assert_eq!(check("1 2", "1 2 2", "1 2")[..1], ["doubled 2"]);
        assert_eq!(check("1 2", "1 2", "1 2 1"), ["doubled 1"]);
        assert_eq!(check("1 2", "2 1", "2 1"), ["disordered 2"]);
        assert_eq!(check("1 2 3", "1 2 3", "1 3"), ["silent gap 2"]);
        assert_eq!(check("1 2 3", "1 2 3", "1 2"), ["silent gap 3"]);
        assert_eq!(check("1 2 3", "1 2 3", "1 3 2"), ["silent gap 2", "disordered 2"]);
        assert_eq!(check("1 2", "1 2", "2"), ["silent gap 1"]);
        assert_eq!(check("1", "1", ""), ["silent gap 1"]);
    }

    #[test]
    fn a_gap_that_was_told_of_is_honest_and_only_that_one() {
        assert_eq!(check("1 2 3", "1 2 3", "1 - 3"), [""; 0]);
        assert_eq!(check("1 2 3", "1 2 3", "1 2 -"), [""; 0]);
        assert_eq!(check("1 2 3 4 5", "1 2 3 4 5", "1 - 3 5"), ["silent gap 4"]);
        assert_eq!(check("1 2 3 4", "1 2 3 4", "1 3 - 4"), ["silent gap 2"]);
    }
}
