//! What do the members of the group hold true together?
//!
//! The ledger is a state machine: every member applies the same entries in the same order and comes to the same state. It reads no clock;
//! the time of an entry is the leader's, and is part of it. An entry that may not be is refused here, the same everywhere: it then stands
//! in the log and changes nothing, and whoever proposed it is told.
//!
//! Every leadership begins with an entry of its own, which gives it its **term**: the second it began, and at least one more than the
//! term before. So one number fences everything a leader does, at the balancer too, also against a supervisor that was installed anew and
//! knows nothing of what was before it. Entries carry the term they were proposed in; one that comes too late is refused. Rejected:
//! taking the consensus protocol's own term, which says nothing to a balancer that has outlived the group's files.

mod incidents;
mod silences;
mod told;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cluster::CircuitState;
use crate::plan::failover::{RedisEntry, Register};
use crate::record::{Agreed, Incident};

#[cfg(test)]
use silences::SILENCES_MAX;
pub use silences::{NewSilence, Silence, SilenceMatcher, Silences, parse_matcher};
pub use told::{Told, ToldAlerts};

/// A member's number; never given twice in a group.
pub type MemberId = u64;

/// The number of the member that forms a group.
pub(super) const FOUNDER: MemberId = 1;

/// Redis primaries kept, those that are not in the settings any more included.
const REDIS_MAX: usize = 100;

/// Circuits kept: one per server of a pool.
const CIRCUITS_MAX: usize = 1_000;

/// An entry as it stands in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The term it was proposed in.
    pub term: u64,
    /// When, by the leader's clock.
    pub at: DateTime<Utc>,
    /// What is to be.
    pub entry: Entry,
}

/// A change of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A member leads from here on. Only the group itself proposes this.
    Lead {
        /// Which.
        member: MemberId,
        /// Its name.
        name: String,
    },
    /// A number for a new member. Only the group itself proposes this.
    Number,
    /// A server's circuit is in this state.
    Circuit {
        /// The server's name.
        server: String,
        /// Its circuit; `None`: the server is gone.
        circuit: Option<CircuitRecord>,
    },
    /// Alerts are not to be told for a while.
    Silence(NewSilence),
    /// What is agreed on about a Redis primary goes on.
    Redis {
        /// Its name.
        name: String,
        /// How.
        entry: RedisEntry,
    },
    /// An incident is like this.
    Incident(Incident),
    /// People were told of alerts.
    Told {
        /// Of these, that they fire.
        firing: Vec<Told>,
        /// Of these, by their keys, that they are over.
        over: Vec<String>,
    },
    /// End a silence now.
    Unsilence {
        /// Which.
        id: u64,
    },
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It changed the ledger.
    Done,
    /// The leadership has this term.
    Led {
        /// The term.
        term: u64,
    },
    /// A number: a new member's, or a new silence's.
    Numbered(u64),
    /// It may not be, and changed nothing.
    Refused(String),
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// Its term.
    pub term: u64,
    /// The leader.
    pub member: MemberId,
    /// The leader's name.
    pub name: String,
    /// Since when, by its own clock.
    pub since: DateTime<Utc>,
}

/// A server's circuit as the leader has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CircuitRecord {
    /// Its state.
    pub state: CircuitState,
    /// Share of the weight its rule calls for, per cent; `None`: drained.
    pub percent: Option<u8>,
    /// Why it is not closed.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// The state all members share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Who leads, by the last entry that says so.
    pub leadership: Option<Leadership>,
    /// The number the next member gets.
    pub next_member: MemberId,
    /// Circuits that are not closed, by server.
    pub circuits: BTreeMap<String, CircuitRecord>,
    /// Redis primaries, by name.
    pub redis: BTreeMap<String, Register>,
    /// Alerts that are not told.
    pub silences: Silences,
    /// Open incidents, and the newest that are over, by number.
    #[serde(default)]
    pub incidents: Agreed,
    /// Alerts people know to fire.
    #[serde(default)]
    pub told: ToldAlerts,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            leadership: None,
            next_member: FOUNDER + 1,
            circuits: BTreeMap::new(),
            redis: BTreeMap::new(),
            silences: Silences::default(),
            incidents: Agreed::new(),
            told: ToldAlerts::default(),
        }
    }
}

impl Ledger {
    /// The present term; 0 before the first leadership.
    pub fn term(&self) -> u64 {
        self.leadership.as_ref().map_or(0, |leadership| leadership.term)
    }

    /// Takes in the entry at `index` of the log.
    pub fn apply(&mut self, index: u64, command: Command) -> Applied {
        let Command { term, at, entry } = command;
        if let Entry::Lead { member, name } = entry {
            let clock = u64::try_from(at.timestamp()).unwrap_or_default();
            let term = clock.max(self.term() + 1);
            self.leadership = Some(Leadership { term, member, name, since: at });
            self.silences.forget(at);
            return Applied::Led { term };
        }
        if term != self.term() {
            let now = self.term();
            return Applied::Refused(format!("it is of term {term}, and the term is {now} now"));
        }
        match entry {
            Entry::Lead { .. } => unreachable!("it returned above"),
            Entry::Number => {
                let number = self.next_member;
                self.next_member += 1;
                Applied::Numbered(number)
            }
            Entry::Circuit { server, circuit } => self.set_circuit(server, circuit),
            Entry::Silence(silence) => match self.silences.add(index, silence, at) {
                Ok(()) => Applied::Numbered(index),
                Err(why) => Applied::Refused(why),
            },
            Entry::Incident(incident) => incidents::take_in(&mut self.incidents, incident),
            Entry::Told { firing, over } => {
                self.told.note(firing, &over);
                Applied::Done
            }
            Entry::Redis { name, entry } => self.redis(term, name, entry),
            Entry::Unsilence { id } => match self.silences.end(id, at) {
                Ok(()) => Applied::Done,
                Err(why) => Applied::Refused(why),
            },
        }
    }

    fn redis(&mut self, term: u64, name: String, entry: RedisEntry) -> Applied {
        if self.redis.len() >= REDIS_MAX && !self.redis.contains_key(&name) {
            return Applied::Refused(format!("{REDIS_MAX} Redis primaries are kept already"));
        }
        match self.redis.entry(name).or_default().apply(term, entry) {
            Ok(()) => Applied::Done,
            Err(refused) => Applied::Refused(refused.to_string()),
        }
    }

    fn set_circuit(&mut self, server: String, circuit: Option<CircuitRecord>) -> Applied {
        match circuit.filter(|circuit| circuit.state != CircuitState::Closed) {
            None => {
                self.circuits.remove(&server);
            }
            Some(_)
                if self.circuits.len() >= CIRCUITS_MAX && !self.circuits.contains_key(&server) =>
            {
                return Applied::Refused(format!("{CIRCUITS_MAX} circuits are kept already"));
            }
            Some(circuit) => {
                self.circuits.insert(server, circuit);
            }
        }
        Applied::Done
    }
}

#[cfg(test)]
mod tests;
