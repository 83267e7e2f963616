//! The messages and their frames: four bytes of length, then JSON.

use std::io;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::group::ledger::MemberId;
use crate::group::report::Report;
use crate::group::store::Identity;
use crate::group::types::{Member, SnapshotMeta, Types, Vote};
use crate::record::Deeds;

/// Version of these messages; both ends must have the same.
pub(super) const VERSION: u32 = 1;
/// Largest message: a snapshot with every silence, circuit, incident and told alert there may be stays below five megabytes.
pub(super) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest message from somebody who has not proven anything yet.
pub(super) const HELLO_BYTES_MAX: usize = 4 * 1024;

/// The first message of whoever connects.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    /// Who speaks; `None`: somebody who wants to join.
    pub(super) from: Option<Identity>,
    /// Who is meant; `None`: whoever is there.
    pub(super) to: Option<MemberId>,
    /// Proof of the secret, in hexadecimal digits; empty if certificates prove enough.
    pub(super) proof: String,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Welcome {
    /// Go on.
    Proven {
        /// As in the greeting.
        proof: String,
    },
    /// No.
    Refused(String),
}

/// What one member asks of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::group) enum Request {
    /// Entries from the leader, or its heartbeat.
    Append(AppendEntriesRequest<Types>),
    /// A candidate wants a vote.
    Vote(VoteRequest<MemberId>),
    /// The ledger as a whole, from the leader.
    Snapshot { vote: Vote, meta: SnapshotMeta, ledger: String },
    /// What the sender sees, and where it is now.
    Report { from: MemberId, member: Member, report: Report },
    /// Become one of us.
    Join(Member),
    /// Have a member leave, by name.
    Leave { name: String },
    /// Stand for election: the leader hands over.
    Stand,
    /// What the member knows of the group.
    Status,
    /// What the member did as the leader, after this event of its journal.
    Deeds { after: u64 },
}

/// The reply.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::group) enum Reply {
    Append(AppendEntriesResponse<MemberId>),
    Vote(VoteResponse<MemberId>),
    Snapshot(SnapshotResponse<MemberId>),
    /// The report was taken in.
    Heard,
    /// The sender is not, or no longer, of this group.
    Stranger,
    /// The new member's identity.
    Joined(Identity),
    /// Done.
    Done,
    /// Ask the leader.
    Elsewhere(Option<Member>),
    Status(StatusReply),
    Deeds(Deeds),
    /// It did not work.
    Failed(String),
}

/// What a member knows of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::group) struct StatusReply {
    /// The last entry of its log.
    pub(in crate::group) last_log: Option<u64>,
    /// The last entry it has applied.
    pub(in crate::group) applied: Option<u64>,
}

/// Something about the member that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::group) struct MemberFacts {
    /// Who it is; `None`: of no group yet.
    pub(in crate::group) identity: Option<Identity>,
}

/// Sends a message.
pub(super) async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(io::Error::other)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes is too large")));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Receives a message of at most `bytes_max`; `None` if the other end has closed between two messages.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > bytes_max {
        let text = format!("a message of {length} bytes, where at most {bytes_max} may come");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let parsed = serde_json::from_slice(&body);
    parsed.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
