//! How members come and go: one at a time, each through a joint majority of the old and the new group.
//!
//! A new member first only listens, until it has what the others have; then it votes. Whoever leaves while it leads hands over first. A
//! member is known by its name in its settings and by its address; both must be new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::metrics::WaitError;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::handle::{Group, Inner, Running};
use super::ledger::{Applied, Entry, MemberId};
use super::member::{Order, seated};
use super::store::{Identity, StoreError};
use super::transport::{Reply, Request, Target};
use super::types::{Member, Raft, RaftMetrics};
use super::{MembershipError, ProposeError, Seat};
use crate::cluster::Address;
use crate::record::{Draft, Kind, Severity};

/// Members of a group; more make it slower and no safer.
const MEMBERS_MAX: usize = 9;
/// A request to another member about members may take this long: it waits for two agreements.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// A new member must have caught up within this time.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// A change of the membership must be agreed on within this time.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A member that this many entries are missing from votes from then on: they arrive with the next message.
const BEHIND_MAX: u64 = 5;
/// Times a request is passed on to whoever leads now.
const HOPS_MAX: usize = 8;

impl Group {
    /// Forms a group with this member as the first.
    ///
    /// # Errors
    /// It belongs to one already, or the disk refused.
    pub async fn form(&self) -> Result<(), MembershipError> {
        self.must_be_outside()?;
        self.order(Order::Form).await?;
        self.wait_for(|seat| matches!(seat, Seat::Leading { .. })).await
    }

    /// Joins the group of the member at `address`; returns when this member votes.
    ///
    /// # Errors
    /// It belongs to a group already, the others refuse, or nobody leads there.
    pub async fn join(&self, address: Address) -> Result<(), MembershipError> {
        self.must_be_outside()?;
        let own = self.inner.settings.own.clone();
        let Reply::Joined(identity) =
            self.ask_leader(Some((address, None)), Request::Join(own)).await?
        else {
            return Err(MembershipError::Failed("the group gave no sensible answer".to_owned()));
        };
        self.order(|reply| Order::Become(identity, reply)).await?;
        let mut members = self.members();
        let votes = members.wait_for(|members| members.is_voter(identity.member));
        match timeout(CATCH_UP_TIMEOUT + CHANGE_TIMEOUT, votes).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(MembershipError::Failed(
                "it was taken in, but does not vote yet; `holdfast group status` shows how far it is"
                    .to_owned(),
            )),
        }
    }

    /// Has the member called `name` leave, or this one. A member that leads hands over first.
    ///
    /// # Errors
    /// There is no such member, or nobody leads.
    pub async fn leave(&self, name: Option<&str>) -> Result<(), MembershipError> {
        let own = self.inner.name();
        let name = name.unwrap_or(&own).to_owned();
        let is_self = name == own;
        if is_self && self.inner.members.borrow().all.len() <= 1 {
            let why = "it is the last member; stop it and move its file away instead";
            return Err(MembershipError::Refused(why.to_owned()));
        }
        if is_self && matches!(&*self.inner.seat.borrow(), Seat::Leading { .. }) {
            self.hand_over().await?;
        }
        self.ask_leader(None, Request::Leave { name }).await?;
        if is_self {
            self.order(Order::Forget).await?;
            self.wait_for(|seat| matches!(seat, Seat::Outside | Seat::Failed { .. })).await?;
        }
        Ok(())
    }

    fn must_be_outside(&self) -> Result<(), MembershipError> {
        let seat = self.inner.seat.borrow().clone();
        match seat {
            Seat::Outside => Ok(()),
            Seat::Failed { why } => Err(MembershipError::Failed(why)),
            _ if self.inner.settings.credentials.is_none() => Err(MembershipError::Refused(
                "expected a [group] section in the settings".to_owned(),
            )),
            _ => Err(MembershipError::Refused("this supervisor is of a group already".to_owned())),
        }
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Order,
    ) -> Result<(), MembershipError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || MembershipError::Failed("the supervisor is ending".to_owned());
        self.inner.orders.send(order(reply)).await.map_err(|_| stopped())?;
        let written = answer.await.map_err(|_| stopped())?;
        written.map_err(|error| {
            MembershipError::Failed(holdfast_telemetry::errors::Chain(&error).to_string())
        })
    }

    async fn wait_for(&self, is_it: impl Fn(&Seat) -> bool) -> Result<(), MembershipError> {
        let is_seated = seated(&mut self.seat(), CHANGE_TIMEOUT, is_it).await;
        if is_seated { Ok(()) } else { Err(MembershipError::NoLeader) }
    }

    /// Asks the leader, beginning at `first` (this member's own leader if `None`) and going where it is sent.
    async fn ask_leader(
        &self,
        first: Option<Target>,
        request: Request,
    ) -> Result<Reply, MembershipError> {
        let begun = Instant::now();
        let mut next = first.clone();
        for _ in 0..HOPS_MAX {
            let reply = match next.take().or_else(|| self.leader()) {
                None if self.leading().is_some() => self.answer(&request).await,
                None => Reply::Elsewhere(None),
                Some(target) => {
                    let from = self.inner.running().map(|running| running.identity);
                    let request = request.clone();
                    self.inner.peers.ask(from, &target, request, ASK_TIMEOUT, |_| {}).await?
                }
            };
            match reply {
                Reply::Elsewhere(Some(member)) => {
                    next = member.address.map(|address| (address, None));
                }
                // An election takes a moment.
                Reply::Elsewhere(None) if begun.elapsed() < CHANGE_TIMEOUT => {
                    sleep(self.inner.settings.timing.election).await;
                    next.clone_from(&first);
                }
                Reply::Elsewhere(None) => return Err(MembershipError::NoLeader),
                Reply::Failed(why) => return Err(MembershipError::Refused(why)),
                reply => return Ok(reply),
            }
        }
        Err(MembershipError::NoLeader)
    }

    async fn answer(&self, request: &Request) -> Reply {
        match request {
            Request::Join(member) => self.admit(member.clone()).await,
            Request::Leave { name } => self.dismiss(name).await,
            _ => Reply::Failed("it is not for the leader".to_owned()),
        }
    }

    /// Where the leader is, if that is another member.
    fn leader(&self) -> Option<Target> {
        let Seat::Following { leader: Some(leader) } = *self.inner.seat.borrow() else {
            return None;
        };
        let address = self.inner.members.borrow().all.get(&leader)?.address.clone()?;
        Some((address, Some(leader)))
    }

    fn elsewhere(&self) -> Reply {
        let members = Arc::clone(&self.inner.members.borrow());
        let leader = match &*self.inner.seat.borrow() {
            Seat::Following { leader } => *leader,
            _ => None,
        };
        Reply::Elsewhere(leader.and_then(|leader| members.all.get(&leader).cloned()))
    }

    /// Takes in a member: the leader's part.
    pub(super) async fn admit(&self, member: Member) -> Reply {
        let Some((Running { raft, identity, .. }, _)) = self.inner.running().zip(self.leading())
        else {
            return self.elsewhere();
        };
        let Ok(changing) = timeout(CHANGE_TIMEOUT, self.inner.changing.lock()).await else {
            return Reply::Failed("another member is just coming or going".to_owned());
        };
        if let Err(why) = check_new(&member, &self.inner.members.borrow().all) {
            return Reply::Failed(why);
        }
        let id = match self.propose(Entry::Number).await {
            Ok(Applied::Numbered(id)) => id,
            Ok(_) => return Reply::Failed("no number was given".to_owned()),
            Err(ProposeError::NotLeading { .. }) => return self.elsewhere(),
            Err(error) => return Reply::Failed(error.to_string()),
        };
        let name = member.name.clone();
        let added = timeout(CHANGE_TIMEOUT, raft.add_learner(id, member, false)).await;
        if let Some(why) = fault(added) {
            return Reply::Failed(why);
        }
        drop(changing);
        // The new member starts when it has the answer; its vote comes later.
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { let_vote(&inner, &raft, id, &name).await });
        Reply::Joined(Identity { group: identity.group, member: id })
    }

    /// Has a member go: the leader's part.
    pub(super) async fn dismiss(&self, name: &str) -> Reply {
        let Some((Running { raft, .. }, _)) = self.inner.running().zip(self.leading()) else {
            return self.elsewhere();
        };
        let Ok(_changing) = timeout(CHANGE_TIMEOUT, self.inner.changing.lock()).await else {
            return Reply::Failed("another member is just coming or going".to_owned());
        };
        let members = Arc::clone(&self.inner.members.borrow());
        let Some((id, _)) = members.all.iter().find(|(_, member)| member.name == name) else {
            return Reply::Failed(format!("there is no member {name} in the group"));
        };
        if Some(*id) == members.own {
            let why = "it leads; have it leave by itself (`holdfast group leave` there), so that it hands over first";
            return Reply::Failed(why.to_owned());
        }
        let ids = BTreeSet::from([*id]);
        if members.is_voter(*id) {
            let change = raft.change_membership(ChangeMembers::RemoveVoters(ids), false);
            if let Some(why) = fault(timeout(CHANGE_TIMEOUT, change).await) {
                return Reply::Failed(why);
            }
        } else {
            let change = raft.change_membership(ChangeMembers::RemoveNodes(ids), false);
            if let Some(why) = fault(timeout(CHANGE_TIMEOUT, change).await) {
                return Reply::Failed(why);
            }
        }
        tell(&self.inner, Severity::Info, format!("{name} left the supervisors' group"));
        Reply::Done
    }

    /// Has another member elected: falls silent until the others may vote, and asks the one that has most to stand.
    ///
    /// # Errors
    /// Nobody took over in time; this member then leads on.
    pub async fn hand_over(&self) -> Result<(), MembershipError> {
        let Some(Running { raft, identity, .. }) = self.inner.running() else { return Ok(()) };
        let metrics = raft.metrics().borrow().clone();
        let behind = metrics.replication.unwrap_or_default();
        let members = Arc::clone(&self.inner.members.borrow());
        let heir = behind
            .iter()
            .filter(|(id, _)| **id != identity.member && members.is_voter(**id))
            .max_by_key(|(_, matched)| matched.map(|log| log.index));
        let Some(heir) = heir.and_then(|(id, _)| members.all.get(id).map(|it| (*id, it.clone())))
        else {
            return Ok(());
        };
        raft.runtime_config().heartbeat(false);
        sleep(self.inner.settings.timing.lease()).await;
        if let (id, Member { address: Some(address), .. }) = heir {
            let target = (address, Some(id));
            let limit = self.inner.settings.timing.election;
            let asked =
                self.inner.peers.ask(Some(identity), &target, Request::Stand, limit, |_| {});
            if let Err(error) = asked.await {
                tracing::info!(%error, "the heir could not be asked; the others elect by themselves");
            }
        }
        let followed = self.wait_for(|seat| matches!(seat, Seat::Following { leader: Some(_) }));
        let followed = followed.await;
        raft.runtime_config().heartbeat(true);
        followed
    }

    /// A member is not where the group thinks: the leader puts that right.
    pub(super) fn moved(&self, id: MemberId, member: Member) {
        let Some((Running { raft, .. }, _)) = self.inner.running().zip(self.leading()) else {
            return;
        };
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { relocate(&inner, &raft, id, member).await });
    }
}

/// Writes down where a member is now, unless another change is under way: it will come again.
pub(super) async fn relocate(inner: &Inner, raft: &Raft, id: MemberId, member: Member) {
    let Ok(_changing) = inner.changing.try_lock() else { return };
    if inner.members.borrow().all.get(&id) == Some(&member) {
        return;
    }
    tracing::info!(member = member.name, address = ?member.address, "a member is elsewhere now");
    let change = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
    if let Some(why) = fault(timeout(CHANGE_TIMEOUT, raft.change_membership(change, true)).await) {
        tracing::warn!(why, "where a member is now could not be agreed on");
    }
}

/// A new member votes once it has what the others have; one that never comes up is taken out again.
async fn let_vote(inner: &Inner, raft: &Raft, id: MemberId, name: &str) {
    let _changing = inner.changing.lock().await;
    let is_caught_up = |metrics: &RaftMetrics| {
        let last = metrics.last_log_index.unwrap_or_default();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        matched.is_some_and(|matched| matched.index + BEHIND_MAX >= last)
    };
    let waiting = raft.wait(Some(CATCH_UP_TIMEOUT));
    let caught_up = waiting.metrics(is_caught_up, "a new member's log");
    let ids = BTreeSet::from([id]);
    let why = match caught_up.await {
        Ok(_) => {
            let change = raft.change_membership(ChangeMembers::AddVoterIds(ids.clone()), true);
            fault(timeout(CHANGE_TIMEOUT, change).await)
        }
        Err(WaitError::ShuttingDown) => return,
        Err(WaitError::Timeout(..)) => {
            Some(format!("it did not catch up within {} s", CATCH_UP_TIMEOUT.as_secs()))
        }
    };
    let Some(why) = why else {
        tell(inner, Severity::Info, format!("{name} joined the supervisors' group"));
        return;
    };
    tell(inner, Severity::Warning, format!("{name} could not join the supervisors' group: {why}"));
    let change = raft.change_membership(ChangeMembers::RemoveNodes(ids), true);
    if let Some(why) = fault(timeout(CHANGE_TIMEOUT, change).await) {
        tracing::warn!(member = name, why, "a member that did not come up could not be taken out");
    }
}

fn check_new(member: &Member, present: &BTreeMap<MemberId, Member>) -> Result<(), String> {
    if present.len() >= MEMBERS_MAX {
        return Err(format!("the group has {MEMBERS_MAX} members already"));
    }
    if member.address.is_none() {
        return Err("expected the address of the new member's group listener".to_owned());
    }
    if present.values().any(|it| it.name == member.name) {
        return Err(format!(
            "{} is the name of a member already: give this one another `supervisor.name`, or `holdfast group leave {}` first",
            member.name, member.name
        ));
    }
    if let Some(other) = present.values().find(|it| it.address == member.address) {
        return Err(format!("{} has that address already", other.name));
    }
    if present.values().any(|it| it.address.is_none()) {
        return Err("the member here has no [group] section".to_owned());
    }
    Ok(())
}

fn fault<T, E: std::fmt::Display>(
    outcome: Result<Result<T, E>, tokio::time::error::Elapsed>,
) -> Option<String> {
    match outcome {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!(
            "a majority did not agree within {} s; it may still come",
            CHANGE_TIMEOUT.as_secs()
        )),
    }
}

fn tell(inner: &Inner, severity: Severity, text: String) {
    tracing::info!(text, "the group's members changed");
    (inner.sink)(Draft::new(Kind::Group, severity, "group", text));
}
