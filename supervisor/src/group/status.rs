//! The group as people see it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::handle::Group;
use super::ledger::MemberId;
use super::transport::{Reply, Request};
use super::types::Member;
use super::{Members, Seat};
use crate::cluster::{Address, GroupBrief, MemberBrief};

/// A member that does not answer within this time is shown without its figures.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The group as one member sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// `leading`, `following`, `minority`, `outside` or `failed`.
    pub state: String,
    /// What the state does not say.
    pub reason: Option<String>,
    /// The leader's name.
    pub leader: Option<String>,
    /// The present term; 0 before the first.
    pub term: u64,
    /// How many members may fail: half of the voters, rounded down to less than half.
    pub tolerates: usize,
    /// Everybody, by number.
    pub members: Vec<MemberStatus>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its number.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: Option<Address>,
    /// Its HTTP listener.
    pub url: String,
    /// Whether it is the one that answers.
    pub is_self: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it votes; a new one only listens at first.
    pub votes: bool,
    /// Seconds since it was heard; `None`: never, or it is this one.
    pub heard_seconds: Option<f64>,
    /// Last entry of its log; `None`: it does not answer.
    pub last_log: Option<u64>,
    /// Last entry it has applied.
    pub applied: Option<u64>,
}

impl Group {
    /// Asks every member how far it is.
    pub async fn status(&self) -> GroupStatus {
        let seat = self.inner.seat.borrow().clone();
        let ledger = Arc::clone(&self.inner.published.ledger.borrow());
        let members = Arc::clone(&self.inner.members.borrow());
        let leader = leader_of(&seat, &members);
        let asked = members.all.keys().map(|id| self.member_status(&members, *id, leader));
        GroupStatus {
            state: seat.name().to_owned(),
            reason: reason(seat),
            leader: leader.and_then(|id| members.all.get(&id)).map(|member| member.name.clone()),
            term: ledger.term(),
            tolerates: tolerates(&members),
            members: join_all(asked).await,
        }
    }

    /// The same in short, without asking the others; `None` for a supervisor by itself.
    pub fn brief(&self) -> Option<GroupBrief> {
        self.inner.settings.credentials.as_ref()?;
        let seat = self.inner.seat.borrow().clone();
        let members = Arc::clone(&self.inner.members.borrow());
        let reports = Arc::clone(&self.inner.reports.borrow());
        let own = self.inner.published.applied.borrow().map(|applied| applied.index);
        let newest = reports.values().filter_map(|heard| heard.report.applied).max().max(own);
        let leader = leader_of(&seat, &members);
        let member = |(id, member): (&MemberId, &Member)| {
            let (is_self, heard) = (members.own == Some(*id), reports.get(id));
            let applied = if is_self { own } else { heard.and_then(|it| it.report.applied) };
            let silence = heard.map(|heard| heard.at.elapsed().as_secs_f64());
            MemberBrief {
                name: member.name.clone(),
                is_self,
                leads: leader == Some(*id),
                votes: members.is_voter(*id),
                heard_seconds: if is_self { Some(0.0) } else { silence },
                behind: newest.zip(applied).map(|(newest, applied)| newest - applied),
            }
        };
        Some(GroupBrief {
            state: seat.name().to_owned(),
            leader: leader.and_then(|id| members.all.get(&id)).map(|member| member.name.clone()),
            term: self.inner.published.ledger.borrow().term(),
            tolerates: tolerates(&members),
            members: members.all.iter().map(member).collect(),
            reason: reason(seat),
        })
    }

    async fn member_status(
        &self,
        members: &Members,
        id: MemberId,
        leader: Option<MemberId>,
    ) -> MemberStatus {
        let member = &members.all[&id];
        let is_self = members.own == Some(id);
        let running = self.inner.running();
        let (last_log, applied) = if let Some(running) = running.as_ref().filter(|_| is_self) {
            let metrics = running.raft.metrics().borrow().clone();
            (metrics.last_log_index, metrics.last_applied.map(|applied| applied.index))
        } else if let Some(address) = &member.address {
            let from = running.map(|running| running.identity);
            let target = (address.clone(), Some(id));
            let asked =
                self.inner.peers.ask(from, &target, Request::Status, ASK_TIMEOUT, |_| {}).await;
            match asked {
                Ok(Reply::Status(status)) => (status.last_log, status.applied),
                _ => (None, None),
            }
        } else {
            (None, None)
        };
        let heard = self.inner.reports.borrow().get(&id).map(|heard| heard.at);
        MemberStatus {
            id,
            name: member.name.clone(),
            address: member.address.clone(),
            url: member.url.clone(),
            is_self,
            leads: leader == Some(id),
            votes: members.is_voter(id),
            heard_seconds: heard.map(|at| at.elapsed().as_secs_f64()),
            last_log,
            applied,
        }
    }
}

fn leader_of(seat: &Seat, members: &Members) -> Option<MemberId> {
    match seat {
        Seat::Leading { .. } => members.own,
        Seat::Following { leader } => *leader,
        _ => None,
    }
}

fn tolerates(members: &Members) -> usize {
    let voters = members.voters.iter().map(std::collections::BTreeSet::len).min().unwrap_or(0);
    voters.saturating_sub(1) / 2
}

fn reason(seat: Seat) -> Option<String> {
    match seat {
        Seat::Failed { why } => Some(why),
        Seat::Outside => Some("`holdfast group init` or `holdfast group join` is awaited".into()),
        Seat::Minority { since } => {
            Some(format!("no majority heard for {:.1} s", since.elapsed().as_secs_f64()))
        }
        Seat::Leading { .. } | Seat::Following { .. } => None,
    }
}
