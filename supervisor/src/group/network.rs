//! The consensus library's messages over our transport.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    Fatal, InstallSnapshotError, NetworkError, RPCError, RaftError, ReplicationClosed,
    StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use tokio::time::Instant;

use super::contacts::Contacts;
use super::ledger::MemberId;
use super::store::Identity;
use super::transport::{Peers, Reply, Request, Target, TransportError};
use super::types::{Member, Snapshot, Types, Vote};

/// A snapshot may take this long; it is small, but the other end writes it to its disk.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(4);

/// Makes links to members.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) identity: Identity,
    pub(super) peers: Arc<Peers>,
    pub(super) contacts: Arc<Contacts>,
    /// Wait before a member is tried again that could not be reached.
    pub(super) retry: Duration,
}

/// The way to one member.
pub(super) struct Link {
    network: Network,
    member: MemberId,
    /// `None`: it listens nowhere.
    target: Option<Target>,
}

type Failure<E> = RPCError<MemberId, Member, E>;

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, member: MemberId, node: &Member) -> Link {
        let target = node.address.clone().map(|address| (address, Some(member)));
        Link { network: self.clone(), member, target }
    }
}

impl Link {
    async fn ask<E: std::error::Error>(
        &self,
        request: Request,
        limit: Duration,
        note: impl FnOnce(&Reply) + Send + 'static,
    ) -> Result<Reply, Failure<E>> {
        let Some(target) = &self.target else {
            let why = AnyError::error("it has no address");
            return Err(RPCError::Unreachable(Unreachable::new(&why)));
        };
        let network = &self.network;
        let asked = network.peers.ask(Some(network.identity), target, request, limit, note).await;
        match asked {
            Ok(Reply::Failed(why)) => Err(failed(&AnyError::error(why))),
            Ok(reply) => Ok(reply),
            Err(error @ (TransportError::Connect { .. } | TransportError::Refused { .. })) => {
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

fn failed<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> Failure<E> {
    RPCError::Network(NetworkError::new(error))
}

fn unexpected<E: std::error::Error>() -> Failure<E> {
    failed(&AnyError::error("it gave another answer than expected"))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, Failure<RaftError<MemberId>>> {
        let (vote, sent, member) = (rpc.vote, Instant::now().into_std(), self.member);
        let contacts = Arc::clone(&self.network.contacts);
        let note = move |reply: &Reply| {
            // Whoever answers with another vote does not take us for the leader.
            if let Reply::Append(answer) = reply
                && !matches!(answer, AppendEntriesResponse::HigherVote(_))
            {
                contacts.answered(member, vote, sent);
            }
        };
        match self.ask(Request::Append(rpc), option.hard_ttl(), note).await? {
            Reply::Append(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<MemberId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, Failure<RaftError<MemberId>>> {
        match self.ask(Request::Vote(rpc), option.hard_ttl(), |_| {}).await? {
            Reply::Vote(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<MemberId>, Failure<RaftError<MemberId, InstallSnapshotError>>>
    {
        Err(failed(&AnyError::error("snapshots are sent as a whole")))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<Types, Fatal<MemberId>>> {
        let ledger = String::from_utf8(*snapshot.snapshot)
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let request = Request::Snapshot { vote, meta: snapshot.meta, ledger };
        let asked = self.ask::<Fatal<MemberId>>(request, SNAPSHOT_TIMEOUT, |_| {});
        let reply = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            reply = asked => reply,
        };
        match reply {
            Ok(Reply::Snapshot(answer)) => Ok(answer),
            Ok(_) => {
                let why = AnyError::error("it gave another answer than expected");
                Err(StreamingError::Network(NetworkError::new(&why)))
            }
            Err(RPCError::Unreachable(error)) => Err(StreamingError::Unreachable(error)),
            Err(error) => Err(StreamingError::Network(NetworkError::new(&error))),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.retry))
    }
}
