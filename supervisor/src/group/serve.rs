//! What a member answers to the others, and the reports it sends them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::raft::AppendEntriesResponse;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::handle::{Group, Inner, Running};
use super::ledger::MemberId;
use super::report::{ClientWord, Heard, Report};
use super::transport::{Handler, MemberFacts, Reply, Request, StatusReply, TransportError};
use super::types::{Member, Snapshot};

/// Time between two looks at the other members for the metrics.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Answers the other members.
pub(super) struct Desk(pub(super) Group);

impl Handler for Desk {
    fn facts(&self) -> MemberFacts {
        MemberFacts { identity: self.0.inner.running().map(|running| running.identity) }
    }

    async fn handle(&self, request: Request) -> Reply {
        let inner = &self.0.inner;
        let failed = |error: &dyn std::fmt::Display| Reply::Failed(error.to_string());
        let Some(Running { raft, .. }) = inner.running() else {
            return Reply::Failed("it is of no group now".to_owned());
        };
        match request {
            Request::Append(rpc) => match raft.append_entries(rpc).await {
                Ok(answer) => {
                    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                        inner.contacts.heard_leader(Instant::now().into_std());
                    }
                    Reply::Append(answer)
                }
                Err(error) => failed(&error),
            },
            Request::Vote(rpc) => match raft.vote(rpc).await {
                Ok(answer) => Reply::Vote(answer),
                Err(error) => failed(&error),
            },
            Request::Snapshot { vote, meta, ledger } => {
                let snapshot = Snapshot { meta, snapshot: Box::new(ledger.into_bytes()) };
                match raft.install_full_snapshot(vote, snapshot).await {
                    Ok(answer) => {
                        inner.contacts.heard_leader(Instant::now().into_std());
                        Reply::Snapshot(answer)
                    }
                    Err(error) => failed(&error),
                }
            }
            Request::Report { from, member, report } => self.take_report(from, member, report),
            Request::Join(member) => self.0.admit(member).await,
            Request::Leave { name } => self.0.dismiss(&name).await,
            Request::Stand => match raft.trigger().elect().await {
                Ok(()) => Reply::Done,
                Err(error) => failed(&error),
            },
            Request::Deeds { after } => self.0.own_deeds(after).await,
            Request::Status => {
                let metrics = raft.metrics().borrow().clone();
                let applied = metrics.last_applied.map(|applied| applied.index);
                Reply::Status(StatusReply { last_log: metrics.last_log_index, applied })
            }
        }
    }
}

impl Desk {
    fn take_report(&self, from: MemberId, member: Member, report: Report) -> Reply {
        let inner = &self.0.inner;
        let members = Arc::clone(&inner.members.borrow());
        let Some(known) = members.all.get(&from) else { return Reply::Stranger };
        if *known != member {
            self.0.moved(from, member);
        }
        let heard = Heard {
            name: known.name.clone(),
            report,
            at: Instant::now().into_std(),
            acknowledged: inner.contacts.confirmed_by(from),
        };
        inner.reports.send_modify(|reports| {
            let reports = Arc::make_mut(reports);
            reports.retain(|id, _| members.all.contains_key(id));
            reports.insert(from, heard);
        });
        Reply::Heard
    }
}

/// A round of a report to one member.
struct Round {
    to: MemberId,
    sent: Instant,
    reply: Result<Reply, TransportError>,
}

/// Sends this member's report to all others, at once when it changes and with every heartbeat; to each only one at a time, so that a
/// slow one gets fewer and newer. What changes while a report is on its way follows as soon as that is answered.
pub(super) async fn exchange_reports(inner: Arc<Inner>, shutdown: CancellationToken) {
    let mut report = inner.own_report.subscribe();
    let mut tick = interval(inner.settings.timing.heartbeat);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut figures = interval(FIGURES_EVERY);
    figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds: JoinSet<Round> = JoinSet::new();
    let mut under_way = HashSet::new();
    // Members that have not been sent the newest.
    let mut due = HashSet::new();
    // A member that is stopped is asked again after this long.
    let limit = inner.settings.timing.lease().max(Duration::from_millis(100));
    loop {
        let is_news = tokio::select! {
            () = shutdown.cancelled() => break,
            // The sender is ours.
            _ = report.changed() => true,
            _ = tick.tick() => true,
            _ = figures.tick() => {
                if let Some(brief) = (Group { inner: Arc::clone(&inner) }).brief() {
                    inner.metrics.set_others(&brief);
                }
                continue;
            }
            Some(Ok(round)) = rounds.join_next() => {
                under_way.remove(&round.to);
                note_round(&inner, &round);
                false
            }
        };
        let Some(identity) = inner.running().map(|running| running.identity) else { continue };
        let members = Arc::clone(&inner.members.borrow());
        if is_news {
            due = members.others().map(|(id, _)| id).collect();
        }
        if due.is_subset(&under_way) {
            continue;
        }
        let mut current = report.borrow_and_update().clone();
        current.heard = inner
            .reports
            .borrow()
            .iter()
            .map(|(id, heard)| (*id, millis(heard.at.elapsed())))
            .collect();
        current.leaderless = inner.is_leaderless();
        current.applied = inner.published.applied.borrow().map(|applied| applied.index);
        let words = Arc::clone(&inner.clients.borrow());
        let word = |(up, at): &(bool, std::time::Instant)| ClientWord {
            up: *up,
            age: millis(at.elapsed()),
        };
        current.clients = words.iter().map(|(name, said)| (name.clone(), word(said))).collect();
        for (to, member) in members.others() {
            let Some(address) = member.address.clone() else { continue };
            if under_way.contains(&to) || !due.remove(&to) {
                continue;
            }
            under_way.insert(to);
            let (peers, from) = (Arc::clone(&inner.peers), identity.member);
            let request = Request::Report {
                from,
                member: inner.settings.own.clone(),
                report: current.clone(),
            };
            rounds.spawn(async move {
                let sent = Instant::now();
                let target = (address, Some(to));
                let reply = peers.ask(Some(identity), &target, request, limit, |_| {}).await;
                Round { to, sent, reply }
            });
        }
    }
}

fn note_round(inner: &Inner, round: &Round) {
    match &round.reply {
        Ok(Reply::Heard) => {
            let sent = round.sent.into_std();
            inner.contacts.confirmed(round.to, sent);
            inner.reports.send_if_modified(|reports| {
                if !reports.contains_key(&round.to) {
                    return false;
                }
                if let Some(heard) = Arc::make_mut(reports).get_mut(&round.to) {
                    heard.acknowledged = Some(sent);
                }
                true
            });
        }
        Ok(Reply::Stranger) => {
            tracing::debug!(member = round.to, "a member does not know us (yet, or any more)");
        }
        Ok(_) => tracing::debug!(member = round.to, "a member gave no answer to a report"),
        Err(error) => {
            if error.is_refused() {
                inner.contacts.refused(round.to);
            }
            tracing::debug!(member = round.to, %error, "a report did not arrive");
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
