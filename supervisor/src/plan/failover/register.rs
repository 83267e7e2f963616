//! What a group of supervisors has agreed on about one Redis primary: the state clients are told from.
//!
//! Every change goes through the group's log, so each member applies the same entries in the same order, and whoever leads next finds a
//! change that was begun and not ended. An epoch stands for one change: it is spent when the change begins, whatever becomes of it, so no
//! two servers are ever the primary of one epoch. An entry that comes too late (of a former term, for an epoch that is over) is refused
//! here, after it was agreed on, and changes nothing: who proposed it learns that from the answer.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Fork, Orders};
use crate::cluster::{Address, Appointment, Pause};
use crate::judge::redis::Lineage;
use crate::plan::rolling::RollingPlan;

/// The agreed state of one Redis primary and its replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The server clients are told; `None` until one was found.
    pub primary: Option<Address>,
    /// The epoch it is told under; 0 before the first.
    pub epoch: u64,
    /// The highest epoch that was ever begun.
    pub spent: u64,
    /// The last epoch whose primary was found instead of made: somebody else had moved it, or it was the first.
    #[serde(default)]
    pub found: u64,
    /// The primary's history when it was last recorded.
    pub lineage: Option<Lineage>,
    /// Where it left the history of its predecessor.
    pub fork: Option<Fork>,
    /// A change that was begun and has not ended.
    pub change: Option<Change>,
    /// When the last failover or switchover ended, if no operator has acknowledged it since.
    pub changed_at: Option<DateTime<Utc>>,
    /// What operators have ordered.
    pub orders: Orders,
    /// An operator has agreed to the failover that waits.
    pub approved: bool,
    /// A failover waits for an operator.
    #[serde(default)]
    pub asks: bool,
    /// The rolling restart that goes on, or the last one.
    #[serde(default)]
    pub rolling: Option<RollingPlan>,
}

/// A change of the primary between its beginning and its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The epoch it is made under.
    pub epoch: u64,
    /// The term of the leader that began it.
    pub term: u64,
    /// The primary to replace.
    pub from: Address,
    /// The server that is to take its place.
    pub to: Address,
    /// The primary works and its writes are paused for the change, so that nobody has to fence it.
    pub is_planned: bool,
}

/// One step of the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RedisEntry {
    /// This server was found to be the primary; nothing was changed.
    Adopt {
        /// Which.
        primary: Address,
        /// Its history, if it is known.
        lineage: Option<Lineage>,
    },
    /// The primary's history has a new name: it was restarted with its data.
    Renamed {
        /// The epoch it is the primary of.
        epoch: u64,
        /// Its history from now on.
        lineage: Lineage,
    },
    /// A change begins. Said again under the same epoch and term, it names another server.
    Begin {
        /// The next epoch.
        epoch: u64,
        /// The primary to replace.
        from: Address,
        /// The server that is to take its place.
        to: Address,
        /// The primary works, and its writes are paused meanwhile.
        is_planned: bool,
    },
    /// The change was made.
    Done {
        /// The epoch it began under.
        epoch: u64,
        /// The new primary.
        to: Address,
        /// Its history.
        lineage: Lineage,
        /// Where it left its predecessor's.
        fork: Option<Fork>,
        /// When.
        at: DateTime<Utc>,
    },
    /// The change was not made.
    Aborted {
        /// The epoch it began under.
        epoch: u64,
    },
    /// Automatic changes are paused, or not any more.
    Pause(Option<Pause>),
    /// A switchover is to come, or not any more.
    Appoint(Option<Appointment>),
    /// An operator agrees to the failover that waits, or it is not called for any more.
    Approve(bool),
    /// A failover waits for an operator, or not any more.
    Ask(bool),
    /// A rolling restart is this far.
    Rolling(RollingPlan),
    /// An operator has looked at the last failover: its cool-down ends.
    Acknowledge,
}

/// Why an entry changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// It was proposed for another epoch than is due.
    #[error("epoch {found} is not due, {due} is")]
    Epoch {
        /// The epoch that is.
        due: u64,
        /// The epoch it names.
        found: u64,
    },
    /// Another change is under way.
    #[error("the change of epoch {0} has not ended")]
    UnderWay(u64),
    /// The change it speaks of is over, or was never begun.
    #[error("no change of epoch {0} is under way")]
    NotUnderWay(u64),
    /// A newer leader has taken the change over.
    #[error("the change belongs to term {holder}, this is of term {found}")]
    Term {
        /// The term that may change it.
        holder: u64,
        /// The term of the entry.
        found: u64,
    },
    /// It replaces a server that is not the primary.
    #[error("{0} is not the primary")]
    NotPrimary(Address),
    /// It ends with another server than was named.
    #[error("{found} was not to be the primary, {named} was")]
    NotNamed {
        /// Who was.
        named: Address,
        /// Who is said to be.
        found: Address,
    },
}

impl Register {
    /// The epoch of the next change.
    pub fn next_epoch(&self) -> u64 {
        self.epoch.max(self.spent) + 1
    }

    /// Takes in an entry that the group has agreed on; `term` is that of the leader that proposed it.
    ///
    /// # Errors
    /// It comes too late or does not fit: nothing has changed.
    pub fn apply(&mut self, term: u64, entry: RedisEntry) -> Result<(), Refused> {
        match entry {
            RedisEntry::Adopt { primary, lineage } => self.adopt(primary, lineage),
            RedisEntry::Renamed { epoch, lineage } if epoch == self.epoch => {
                self.lineage = Some(lineage);
                Ok(())
            }
            RedisEntry::Renamed { epoch, .. } => {
                Err(Refused::Epoch { due: self.epoch, found: epoch })
            }
            RedisEntry::Begin { epoch, from, to, is_planned } => {
                self.begin(Change { epoch, term, from, to, is_planned })
            }
            RedisEntry::Done { epoch, to, lineage, fork, at } => {
                let change = self.open(term, epoch)?;
                if change.to != to {
                    return Err(Refused::NotNamed { named: change.to.clone(), found: to });
                }
                self.change = None;
                (self.primary, self.epoch) = (Some(to), epoch);
                (self.lineage, self.fork) = (Some(lineage), fork);
                (self.changed_at, self.approved, self.asks) = (Some(at), false, false);
                Ok(())
            }
            RedisEntry::Aborted { epoch } => {
                self.open(term, epoch)?;
                self.change = None;
                Ok(())
            }
            RedisEntry::Pause(pause) => {
                self.orders.pause = pause;
                Ok(())
            }
            RedisEntry::Appoint(appointment) => {
                self.orders.appointment = appointment;
                Ok(())
            }
            RedisEntry::Approve(approved) => {
                self.approved = approved;
                Ok(())
            }
            RedisEntry::Ask(asks) => {
                self.asks = asks;
                Ok(())
            }
            RedisEntry::Rolling(plan) => {
                self.rolling = Some(plan);
                Ok(())
            }
            RedisEntry::Acknowledge => {
                self.changed_at = None;
                Ok(())
            }
        }
    }

    fn adopt(&mut self, primary: Address, lineage: Option<Lineage>) -> Result<(), Refused> {
        if let Some(change) = &self.change {
            return Err(Refused::UnderWay(change.epoch));
        }
        if self.primary.as_ref() != Some(&primary) {
            self.epoch = self.next_epoch();
            (self.spent, self.found) = (self.epoch, self.epoch);
            self.primary = Some(primary);
            self.fork = None;
        }
        self.lineage = lineage;
        Ok(())
    }

    fn begin(&mut self, begun: Change) -> Result<(), Refused> {
        if self.primary.as_ref() != Some(&begun.from) {
            return Err(Refused::NotPrimary(begun.from));
        }
        match &mut self.change {
            // The leader that began it has found a better server.
            Some(change) if (change.epoch, change.term) == (begun.epoch, begun.term) => {
                change.to = begun.to;
                return Ok(());
            }
            Some(change) => return Err(Refused::UnderWay(change.epoch)),
            None => {}
        }
        let due = self.next_epoch();
        if begun.epoch != due {
            return Err(Refused::Epoch { due, found: begun.epoch });
        }
        self.spent = begun.epoch;
        self.change = Some(begun);
        Ok(())
    }

    /// The change of `epoch`, if a leader of `term` may end it: its own, or one that a former leader has left behind.
    fn open(&self, term: u64, epoch: u64) -> Result<&Change, Refused> {
        let change = self.change.as_ref().filter(|change| change.epoch == epoch);
        let change = change.ok_or(Refused::NotUnderWay(epoch))?;
        if change.term > term {
            return Err(Refused::Term { holder: change.term, found: term });
        }
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::new("h", port)
    }

    fn lineage(replid: &str) -> Lineage {
        Lineage {
            run_id: None,
            replid: replid.to_owned(),
            replid2: None,
            forked_at: None,
            offset: 1,
        }
    }

    fn adopted() -> Register {
        let mut register = Register::default();
        let entry = RedisEntry::Adopt { primary: address(1), lineage: Some(lineage("a")) };
        register.apply(1, entry).unwrap();
        register
    }

    fn begin(epoch: u64, from: u16, to: u16) -> RedisEntry {
        RedisEntry::Begin { epoch, from: address(from), to: address(to), is_planned: false }
    }

    fn done(epoch: u64, to: u16) -> RedisEntry {
        let at = DateTime::UNIX_EPOCH;
        RedisEntry::Done { epoch, to: address(to), lineage: lineage("b"), fork: None, at }
    }

    #[test]
    fn a_change_begins_and_ends_once() {
        let mut register = adopted();
        assert_eq!((register.epoch, register.next_epoch()), (1, 2));
        assert_eq!(register.apply(3, done(2, 2)), Err(Refused::NotUnderWay(2)));
        assert_eq!(register.apply(3, begin(3, 1, 2)), Err(Refused::Epoch { due: 2, found: 3 }));
        assert_eq!(register.apply(3, begin(2, 2, 3)), Err(Refused::NotPrimary(address(2))));
        register.apply(3, begin(2, 1, 2)).unwrap();
        register.apply(3, begin(2, 1, 3)).unwrap();
        let wrong = Refused::NotNamed { named: address(3), found: address(2) };
        assert_eq!(register.apply(3, done(2, 2)), Err(wrong));
        register.apply(3, RedisEntry::Approve(true)).unwrap();
        register.apply(3, done(2, 3)).unwrap();
        assert_eq!((register.primary.as_ref(), register.epoch), (Some(&address(3)), 2));
        assert_eq!(register.found, 1, "it was made, not found");
        assert!(!register.approved && register.change.is_none());
        assert_eq!(register.apply(3, done(2, 3)), Err(Refused::NotUnderWay(2)));
    }

    #[test]
    fn what_waits_for_an_operator_waits_over_a_change_of_the_leader_and_ends_with_the_failover() {
        let mut register = adopted();
        register.apply(3, RedisEntry::Ask(true)).unwrap();
        register.apply(4, RedisEntry::Approve(true)).unwrap();
        assert!(register.asks && register.approved);
        register.apply(4, begin(2, 1, 2)).unwrap();
        register.apply(4, done(2, 2)).unwrap();
        assert!(!register.asks && !register.approved);
    }

    #[test]
    fn a_new_leader_ends_what_the_last_one_began_and_not_the_other_way_round() {
        let mut register = adopted();
        register.apply(3, begin(2, 1, 2)).unwrap();
        assert_eq!(register.apply(4, begin(2, 1, 3)), Err(Refused::UnderWay(2)));
        assert_eq!(register.apply(4, begin(3, 1, 3)), Err(Refused::UnderWay(2)));
        let stale = Refused::Term { holder: 3, found: 2 };
        assert_eq!(register.apply(2, done(2, 2)), Err(stale));
        register.apply(4, RedisEntry::Aborted { epoch: 2 }).unwrap();
        assert_eq!(register.apply(3, done(2, 2)), Err(Refused::NotUnderWay(2)));
        assert_eq!((register.primary.as_ref(), register.epoch), (Some(&address(1)), 1));
        assert_eq!(register.next_epoch(), 3, "an epoch is not used twice");
    }

    #[test]
    fn what_is_found_gets_an_epoch_of_its_own_only_if_it_is_new() {
        let mut register = adopted();
        let adopt = |port| RedisEntry::Adopt { primary: address(port), lineage: None };
        register.apply(1, adopt(1)).unwrap();
        assert_eq!(register.epoch, 1);
        register.apply(1, adopt(2)).unwrap();
        assert_eq!((register.epoch, register.found), (2, 2));
        register.apply(1, begin(3, 2, 1)).unwrap();
        assert_eq!(register.apply(1, adopt(1)), Err(Refused::UnderWay(3)));
        let renamed = |epoch| RedisEntry::Renamed { epoch, lineage: lineage("c") };
        assert_eq!(register.apply(1, renamed(1)), Err(Refused::Epoch { due: 2, found: 1 }));
        register.apply(1, renamed(2)).unwrap();
        assert_eq!(register.lineage.unwrap().replid, "c");
    }
}
