//! What the consensus library carries for us.

use serde::{Deserialize, Serialize};

use super::ledger::{Applied, Command, MemberId};
use crate::cluster::Address;

/// Where a member is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in its settings.
    pub name: String,
    /// Where the others reach it; `None`: a group of one that listens nowhere.
    pub address: Option<Address>,
    /// Where people and the other members reach its HTTP listener, `http://host:port`.
    pub url: String,
    /// Where clients of Redis ask it for the primary.
    pub sentinel: Option<Address>,
}

openraft::declare_raft_types!(
    /// Our types in place of the library's.
    pub(super) Types:
        D = Command,
        R = Applied,
        NodeId = MemberId,
        Node = Member,
        Entry = openraft::Entry<Types>,
        SnapshotData = Vec<u8>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(super) type LogId = openraft::LogId<MemberId>;
pub(super) type LogEntry = openraft::Entry<Types>;
pub(super) type Vote = openraft::Vote<MemberId>;
pub(super) type Membership = openraft::StoredMembership<MemberId, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<MemberId, Member>;
pub(super) type Snapshot = openraft::Snapshot<Types>;
pub(super) type Raft = openraft::Raft<Types>;
pub(super) type RaftMetrics = openraft::RaftMetrics<MemberId, Member>;
pub(super) type StorageError = openraft::StorageError<MemberId>;
