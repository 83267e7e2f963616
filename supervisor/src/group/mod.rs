//! The supervisors as one group: who leads, what they hold true together, what each of them sees.
//!
//! ```text
//!  propose ──▶ log (openraft, redb, majority) ──▶ Ledger, the same at every member ──▶ watch
//!  share ──▶ report ──▶ every other member's newest, and when it came
//! ```
//!
//! Three questions are kept apart. What must be agreed on (epochs, orders, silences, circuits) goes through the replicated log into the
//! [`Ledger`], a pure state machine. What is only seen goes past the log as a [`Report`]: agreeing on what is milliseconds old would only
//! make it older. Who may act is asked at the moment of acting ([`Group::leading`]): the leader, while a majority has answered it within
//! the lease (`lease`).
//!
//! A supervisor without a `[group]` section is a group of one: the same log and the same ledger on its own disk, no listener, a majority
//! of one. A minority watches, answers reads, and changes nothing. A member whose disk refuses to write steps back, and comes back by
//! itself; one whose file is damaged does not start (`store`).
//!
//! Rejected: agreeing on observations too (an fsync per probe), a fixed leader with a standby (two of them agree on nothing when they
//! cannot see each other), and a lease in Redis or etcd (one is what we guard, the other one more thing to keep alive).

mod contacts;
mod deeds;
mod elections;
mod handle;
mod lease;
mod ledger;
mod member;
mod membership;
mod metrics;
mod network;
mod report;
mod serve;
mod status;
mod store;
mod transport;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

pub use handle::Group;
pub use lease::Timing;
pub use ledger::{
    Applied, CircuitRecord, Command, Entry, Leadership, Ledger, MemberId, NewSilence, Silence,
    SilenceMatcher, Silences, Told, ToldAlerts, parse_matcher,
};
pub use member::Keeper;
pub use report::{ClientWord, ClientWords, Heard, Report, Reports};
pub use status::{GroupStatus, MemberStatus};
pub use store::StoreError;
pub use transport::{Credentials, CredentialsError, TlsFiles, TransportError};
pub use types::Member;

/// Name of the group's file in the state folder.
pub const FILE: &str = "group.redb";

/// What a member needs to know of itself.
#[derive(Clone)]
pub struct Settings {
    /// Where its file is.
    pub state_dir: PathBuf,
    /// Itself, as the others will know it.
    pub own: Member,
    /// What it shows the others; `None`: it is alone.
    pub credentials: Option<Credentials>,
    /// How fast the group is.
    pub timing: Timing,
    /// A leader that has lost the log's majority but reaches every member keeps what runs running.
    pub failsafe: bool,
    /// What this member did as the leader, after an event of its journal; `None`: nothing is kept.
    pub deeds: Option<Doings>,
}

/// Where the others' question for a leader's deeds is answered from. May read the disk.
pub type Doings = std::sync::Arc<dyn Fn(u64) -> crate::record::Deeds + Send + Sync>;

impl Settings {
    /// A group of one, with its file in `state_dir`.
    pub fn alone(state_dir: PathBuf, name: impl Into<String>) -> Self {
        Self {
            state_dir,
            own: Member { name: name.into(), ..Member::default() },
            credentials: None,
            timing: Timing::default(),
            failsafe: false,
            deeds: None,
        }
    }
}

/// What this member is to the group now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seat {
    /// It leads, and a majority was heard within the lease.
    Leading {
        /// The leadership's term.
        term: u64,
    },
    /// It hears a leader, or an election is under way.
    Following {
        /// Who leads, if that is known.
        leader: Option<MemberId>,
    },
    /// It hears no majority and no leader.
    Minority {
        /// Since when.
        since: Instant,
    },
    /// It belongs to no group yet: `holdfast group init` or `holdfast group join` is awaited.
    Outside,
    /// Its disk does not take what the group agrees on.
    Failed {
        /// Why.
        why: String,
    },
}

impl Seat {
    /// The name in metrics and status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leading { .. } => "leading",
            Self::Following { .. } => "following",
            Self::Minority { .. } => "minority",
            Self::Outside => "outside",
            Self::Failed { .. } => "failed",
        }
    }

    /// All names, for metrics.
    pub const NAMES: [&'static str; 5] = ["leading", "following", "minority", "outside", "failed"];
}

/// Who belongs to the group, as of the newest membership in this member's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// This member; `None`: of no group yet.
    pub own: Option<MemberId>,
    /// Sets of voters: one, or two while the membership changes; each decides by majority.
    pub voters: Vec<BTreeSet<MemberId>>,
    /// Everybody, also those that only listen yet.
    pub all: BTreeMap<MemberId, Member>,
}

impl Members {
    /// Whether a member votes.
    pub fn is_voter(&self, member: MemberId) -> bool {
        self.voters.iter().any(|voters| voters.contains(&member))
    }

    /// The members besides this one.
    pub fn others(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        let others = self.all.iter().filter(|(id, _)| Some(**id) != self.own);
        others.map(|(id, member)| (*id, member))
    }
}

/// Why an entry was not agreed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead.
    #[error("this supervisor does not lead the group")]
    NotLeading {
        /// Who does, if that is known.
        leader: Option<MemberId>,
    },
    /// The ledger does not allow it.
    #[error("{0}")]
    Refused(String),
    /// A majority did not confirm it in time. It may still be agreed on later.
    #[error("no majority of the group confirmed it within {} ms", .0.as_millis())]
    Late(std::time::Duration),
    /// This member's own file cannot be written.
    #[error("{0}")]
    Disk(String),
}

/// Why the group cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings do not fit the file.
    #[error("{0}")]
    Settings(String),
}

/// Why a member could not be added, or removed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It may not be.
    #[error("{0}")]
    Refused(String),
    /// Nobody leads whom one could ask.
    #[error("the group has no leader now")]
    NoLeader,
    /// The other member did not answer as hoped.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests;
