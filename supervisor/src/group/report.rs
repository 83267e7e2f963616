//! What members tell each other all the time, past the log: what each of them sees now.
//!
//! Observations age in milliseconds and the newest replaces the one before; agreeing on them would only make them late. So every member
//! sends its report to every other one as soon as it changes and with every heartbeat, and keeps the others' newest beside the time it
//! came. A report that is answered also shows that the way there *and* back works.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ledger::MemberId;
use crate::judge::redis::Opinion;

/// One member's newest observations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Milliseconds since each other member was last heard, as of sending; filled in by the group.
    pub heard: BTreeMap<MemberId, u64>,
    /// What it sees of each Redis primary, by name.
    pub redis: BTreeMap<String, Opinion>,
    /// The last entry of the log it has applied; filled in by the group.
    #[serde(default)]
    pub applied: Option<u64>,
    /// It hears no leader, and would vote for another one; filled in by the group.
    #[serde(default)]
    pub leaderless: bool,
    /// What chat nodes told it of Redis, by node; filled in by the group.
    #[serde(default)]
    pub clients: BTreeMap<String, ClientWord>,
}

/// What a chat node said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientWord {
    /// Whether its own messages come back from Redis.
    pub up: bool,
    /// Milliseconds since it said so, as of sending.
    pub age: u64,
}

/// What chat nodes said to this member, by node, and when.
pub type ClientWords = BTreeMap<String, (bool, Instant)>;

/// The newest that came from a member. It stays while the member is silent.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// The member's name.
    pub name: String,
    /// Its observations.
    pub report: Report,
    /// When they came.
    pub at: Instant,
    /// When the newest of *our* reports was sent that this member has confirmed.
    pub acknowledged: Option<Instant>,
}

/// The newest of every other member that has been heard since the start.
pub type Reports = BTreeMap<MemberId, Heard>;
