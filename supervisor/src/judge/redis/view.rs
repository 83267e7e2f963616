//! What is known of each Redis server: the input of the verdict. Plain data, filled in by `observe`, made up by tests.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Address, RedisRole};

/// State of the one connection kept open to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not tried yet.
    Untried,
    /// Open.
    Open,
    /// The other end closed or reset it; the next attempt is under way.
    Closed(String),
    /// The host answered that nobody listens there.
    Refused,
    /// No connection for another reason: nothing came back, no route, no such name.
    Unreachable(String),
}

/// What a fresh connection found while the kept one was silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// The host took the connection, the server said nothing: the network works, the process does not.
    Silent,
    /// The server answered there.
    Answered,
    /// Nobody listens any more.
    Refused,
    /// No connection came about.
    Unreachable(String),
}

/// What the kernel of its host says about a server's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs, or would if it were given a processor.
    Runnable,
    /// It waits for something to do.
    Asleep,
    /// A signal has stopped it.
    Stopped,
    /// It waits for disk or memory and cannot be interrupted.
    Blocked,
    /// It is ending: it runs no code of its own any more, though its sockets may be open yet.
    Exiting,
    /// There is no such process any more.
    Gone,
}

/// The process of a server on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// How it is.
    pub state: ProcessState,
    /// When it was first seen to be so.
    pub since: Instant,
    /// Processor time it has used, in the kernel's clock ticks.
    pub ticks: u64,
    /// When it was last looked at.
    pub looked_at: Instant,
    /// When it was last seen at work: runnable, or with more processor time than before.
    pub worked_at: Instant,
}

/// What a server said about itself when it last answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When the answer came.
    pub at: Instant,
    /// Its role.
    pub role: RedisRole,
    /// New with every start of the process.
    pub run_id: String,
    /// Identifier of the history its offset counts in.
    pub replid: String,
    /// The history it continued, if it was promoted or restarted.
    pub replid2: Option<String>,
    /// How much of the history it continued it had then.
    pub forked_at: Option<u64>,
    /// Bytes of that history it has applied.
    pub offset: u64,
    /// Replicas: whether the link to the primary is up.
    pub link_up: Option<bool>,
    /// Replicas: a whole copy is being received.
    pub syncing: bool,
    /// Replicas: whom they follow.
    pub follows: Option<Address>,
    /// Replicas: seconds since the primary was last heard.
    pub quiet_seconds: Option<u64>,
    /// Replicas: `replica-priority`; 0 means never promote.
    pub priority: u32,
    /// A dataset is being loaded.
    pub loading: bool,
    /// Replicas connected to it.
    pub replicas: u32,
    /// Redis version.
    pub version: String,
}

/// One server as we see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView {
    /// Where it is.
    pub address: Address,
    /// The kept connection.
    pub link: Link,
    /// Since when it is in that state.
    pub link_since: Instant,
    /// A probe was sent then and is unanswered. Our own lateness is already taken off.
    pub waiting_since: Option<Instant>,
    /// The newest answer to a probe.
    pub answered_at: Option<Instant>,
    /// The answer was an error (`LOADING …`, `BUSY …`): alive, but not at work.
    pub complaint: Option<String>,
    /// What it said about itself.
    pub sample: Option<Sample>,
    /// Its offset last moved between these two looks at it.
    pub moved: Option<(Instant, Instant)>,
    /// What a fresh connection found, and when.
    pub fresh: Option<(Instant, Fresh)>,
    /// Time from probe to answer.
    pub probe_time: Option<Duration>,
    /// Its process, if it is on this host and known to be its.
    pub process: Option<Process>,
}

impl ServerView {
    /// A server nothing is known of.
    pub fn new(address: Address, now: Instant) -> Self {
        Self {
            address,
            link: Link::Untried,
            link_since: now,
            waiting_since: None,
            answered_at: None,
            complaint: None,
            sample: None,
            moved: None,
            fresh: None,
            probe_time: None,
            process: None,
        }
    }

    /// Whether it can be talked to: connected, and its last answer is not overdue by more than `patience`.
    pub fn is_reachable(&self, now: Instant, patience: Duration) -> bool {
        self.link == Link::Open
            && self.answered_at.is_some()
            && self
                .waiting_since
                .is_none_or(|since| now.saturating_duration_since(since) < patience)
    }

    /// Its last word about itself, if it can be talked to.
    pub fn present(&self, now: Instant, patience: Duration) -> Option<&Sample> {
        self.sample.as_ref().filter(|_| self.is_reachable(now, patience))
    }

    /// Why it does not answer, in words; `None` if it does.
    pub fn fault(&self) -> Option<String> {
        match &self.link {
            Link::Untried => Some("not tried yet".to_owned()),
            Link::Open => self.complaint.clone(),
            Link::Closed(error) => Some(format!("connection lost: {error}")),
            Link::Refused => Some("connection refused".to_owned()),
            Link::Unreachable(error) => Some(error.clone()),
        }
    }
}

/// The history of the primary clients were told about: what a successor must continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The process that wrote it; `None` if only its saved state is known.
    pub run_id: Option<String>,
    /// Its replication id.
    pub replid: String,
    /// The id before the last promotion or restart: replicas that have not reconnected since still carry it.
    pub replid2: Option<String>,
    /// How far that went in it.
    pub forked_at: Option<u64>,
    /// How far it had come when last seen.
    pub offset: u64,
}

impl Lineage {
    /// The history of a primary that answers.
    pub fn of(sample: &Sample) -> Self {
        Self {
            run_id: Some(sample.run_id.clone()),
            replid: sample.replid.clone(),
            replid2: sample.replid2.clone(),
            forked_at: sample.forked_at,
            offset: sample.offset,
        }
    }

    /// 0: the same history; 1: the one before it; `None`: another.
    pub fn distance(&self, sample: &Sample) -> Option<u8> {
        if sample.replid == self.replid {
            Some(0)
        } else if self.replid2.as_ref() == Some(&sample.replid)
            || sample.replid2.as_ref() == Some(&self.replid)
        {
            Some(1)
        } else {
            None
        }
    }
}
