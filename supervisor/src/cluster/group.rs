//! The supervisors' group in short: who leads, who is heard, who is behind.

use serde::{Deserialize, Serialize};

/// A member that was not heard for this long is told of, seconds: a hundred times the pause between two reports.
pub const SILENT_SECONDS: f64 = 5.0;

/// The group as one member sees it, without asking the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupBrief {
    /// `leading`, `following`, `minority`, `outside` or `failed`.
    pub state: String,
    /// What the state does not say.
    pub reason: Option<String>,
    /// The leader's name.
    pub leader: Option<String>,
    /// The present term; 0 before the first.
    pub term: u64,
    /// How many members may fail.
    pub tolerates: usize,
    /// Everybody, by number.
    pub members: Vec<MemberBrief>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberBrief {
    /// Its name.
    pub name: String,
    /// Whether it is the one that speaks.
    pub is_self: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it votes; a new one only listens at first.
    pub votes: bool,
    /// Seconds since it was heard; `None`: never.
    pub heard_seconds: Option<f64>,
    /// Entries of the log that it had not applied when it was heard last; `None`: not known.
    pub behind: Option<u64>,
}

impl MemberBrief {
    /// Whether it has been silent for too long.
    pub fn is_silent(&self) -> bool {
        !self.is_self && self.heard_seconds.is_none_or(|seconds| seconds > SILENT_SECONDS)
    }
}

impl GroupBrief {
    /// Why nothing is changed from here, whatever happens; `None` if this member leads or knows who does.
    pub fn watches_only(&self) -> Option<String> {
        let why = self.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        Some(match (self.state.as_str(), &self.leader) {
            ("minority", _) => format!("This supervisor hears no majority of its group{why}"),
            ("failed", _) => format!("This supervisor takes no part in its group{why}"),
            ("outside", _) => format!("This supervisor belongs to no group yet{why}"),
            ("following", None) => "The supervisors have no leader now".to_owned(),
            _ => return None,
        })
    }
}
