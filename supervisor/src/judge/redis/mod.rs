//! How is the Redis primary doing, and how do we know?
//!
//! The verdict rests on evidence, not on a timer alone. A refused connection proves that nobody serves there, and is acted on at once.
//! Silence proves nothing by itself: it counts after `hang_after`, only if the primary had answered since it became the primary, and
//! only if what the replicas see agrees. A fresh connection tells a stopped process (its host still accepts) from a broken path (nothing
//! comes back); when the replicas still hear the primary, the broken path is ours, and that is no reason to act. An error is an answer:
//! a primary that loads or runs a long script is busy, not dead. A primary that answers but has lost its past (it was restarted without
//! its data) is as good as dead, and dangerous besides: its replicas would copy the loss.
//!
//! Rejected: a plain time-out as Redis Sentinel uses. Below a second it fires on forks and slow commands; above, it wastes the time in
//! which a crash is already proven.

mod council;
mod view;

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use council::{Client, Council, Fenced, LEASE_MARGIN, Matter, Opinion, Place, Witness, confer};
pub use view::{Fresh, Lineage, Link, Process, ProcessState, Sample, ServerView};

use crate::cluster::{Address, RedisRole};
use crate::record::Reason;

/// A replica that has heard nothing for this long has a dead link, whatever it says: Redis pings its replicas every 10 s by default.
const QUIET_SECONDS_MAX: u64 = 12;

/// A claim of a replica that its link is up counts against a death only if it was made this long after it; before, the replica may
/// not have noticed. Its kernel tells it within a millisecond on a healthy network.
const NOTICE: Duration = Duration::from_millis(300);

/// What a primary sent before it fell silent may reach its replicas this much later.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// A process that was runnable or used processor time within this time is at work: the kernel counts in steps of 10 ms, and we look every
/// 10 ms. One that waits for a processor on a saturated host is at work too.
const AT_WORK: Duration = Duration::from_millis(50);

/// A primary that works on one command for this long is as bad as one that hangs.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// What is the matter with the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not enough is known.
    Unknown,
    /// It answers and is the only primary.
    PrimaryHealthy,
    /// A probe is late or the connection was lost; nothing is proven.
    PrimarySuspect,
    /// It answers with errors (loading, or busy with a script), or its process is at work on something long.
    PrimaryBusy,
    /// Nobody listens at its address any more.
    PrimaryDead,
    /// Its process, on this host, is ending or gone.
    PrimaryExiting,
    /// Connected or connectable, but silent, and its replicas hear nothing either.
    PrimaryHung,
    /// Silent to us only: its replicas or other supervisors still hear it.
    PrimaryUnreachableFromHere,
    /// Nothing comes from it by any way we see, but its replicas have not given up their links: the host may be gone.
    PrimaryQuiet,
    /// Down as far as we see, and too few supervisors are heard to be sure.
    QuorumLost,
    /// It was restarted and does not have the data its replicas have.
    EmptyRestart,
    /// It answers as a replica: somebody else changed its role.
    PrimaryDemoted,
    /// It answers, and another server says it is a primary too.
    TwoPrimaries,
    /// It answers, but no replica follows it.
    ReplicationBroken,
}

impl Verdict {
    /// The name in metrics, logs and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::PrimaryHealthy => "primary_healthy",
            Self::PrimarySuspect => "primary_suspect",
            Self::PrimaryBusy => "primary_busy",
            Self::PrimaryDead => "primary_dead",
            Self::PrimaryExiting => "primary_exiting",
            Self::PrimaryHung => "primary_hung",
            Self::PrimaryUnreachableFromHere => "primary_unreachable_from_here",
            Self::PrimaryQuiet => "primary_quiet",
            Self::QuorumLost => "quorum_lost",
            Self::EmptyRestart => "empty_restart",
            Self::PrimaryDemoted => "primary_demoted",
            Self::TwoPrimaries => "two_primaries",
            Self::ReplicationBroken => "replication_broken",
        }
    }

    /// Whether it calls for another primary.
    pub fn calls_for_failover(self) -> bool {
        matches!(
            self,
            Self::PrimaryDead
                | Self::PrimaryExiting
                | Self::PrimaryHung
                | Self::EmptyRestart
                | Self::PrimaryDemoted
        )
    }

    /// Whether it rests on proof rather than on silence.
    pub fn is_proven(self) -> bool {
        matches!(
            self,
            Self::PrimaryDead | Self::PrimaryExiting | Self::EmptyRestart | Self::PrimaryDemoted
        )
    }

    /// Whether clients can write.
    pub fn serves(self) -> bool {
        matches!(self, Self::PrimaryHealthy | Self::TwoPrimaries | Self::ReplicationBroken)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not enough is known of the primary",
            Self::PrimaryHealthy => "the primary answers",
            Self::PrimarySuspect => "the primary may be down",
            Self::PrimaryBusy => "the primary is busy",
            Self::PrimaryDead => "the primary is dead",
            Self::PrimaryExiting => "the primary's process is ending",
            Self::PrimaryHung => "the primary hangs",
            Self::PrimaryUnreachableFromHere => "the primary cannot be reached from here",
            Self::PrimaryQuiet => "nothing comes from the primary",
            Self::QuorumLost => {
                "the primary seems down, and a majority of the supervisors is not heard"
            }
            Self::EmptyRestart => "the primary was restarted without its data",
            Self::PrimaryDemoted => "the primary has become a replica",
            Self::TwoPrimaries => "two servers say they are the primary",
            Self::ReplicationBroken => "no replica follows the primary",
        })
    }
}

/// A verdict with what speaks for and against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// `favours`: evidence that something is wrong; otherwise against.
    pub reasons: Vec<Reason>,
}

/// Everything but the views that the verdict depends on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The present.
    pub now: Instant,
    /// The server clients are told.
    pub primary: &'a Address,
    /// Its history, if it is known.
    pub lineage: Option<&'a Lineage>,
    /// It has answered since it became the primary; before, only proof counts.
    pub confirmed: bool,
    /// A probe without answer for this long is late.
    pub probe_timeout: Duration,
    /// Silence counts from here on.
    pub hang_after: Duration,
    /// No other supervisor sees what we see.
    pub alone: bool,
}

/// Judges the primary.
pub fn judge(views: &[ServerView], context: &Context<'_>) -> Judgement {
    let Some(primary) = views.iter().find(|view| view.address == *context.primary) else {
        return Case::new().conclude(Verdict::Unknown);
    };
    let others: Vec<_> = views.iter().filter(|view| view.address != *context.primary).collect();
    let mut case = Case::new();
    if let Some(process) = &primary.process
        && matches!(process.state, ProcessState::Exiting | ProcessState::Gone)
    {
        case.favours(format!(
            "process {} of {} on this host is ending or gone: it acknowledges nothing more",
            process.pid, primary.address
        ));
        return case.conclude(Verdict::PrimaryExiting);
    }
    match &primary.link {
        Link::Untried => case.conclude(Verdict::Unknown),
        Link::Refused => {
            case.favours(format!("{} refuses connections: nobody listens there", primary.address));
            refused(primary.link_since, &others, context, case)
        }
        Link::Closed(error) => {
            case.favours(format!("{} closed its connection ({error})", primary.address));
            case.against("whether it still listens is being tried");
            case.conclude(Verdict::PrimarySuspect)
        }
        Link::Unreachable(error) => {
            case.favours(format!("{}: {error}", primary.address));
            silent(primary, primary.link_since, &others, context, case)
        }
        Link::Open => match primary.waiting_since {
            Some(since) if context.now.saturating_duration_since(since) >= late(context) => {
                silent(primary, since, &others, context, case)
            }
            _ if primary.answered_at.is_none() => case.conclude(Verdict::Unknown),
            _ => answering(primary, &others, context, case),
        },
    }
}

/// A probe is late after the probe's time-out, and in any case before silence counts.
fn late(context: &Context<'_>) -> Duration {
    context.probe_timeout.min(context.hang_after / 2)
}

fn refused(
    since: Instant,
    others: &[&ServerView],
    context: &Context<'_>,
    mut case: Case,
) -> Judgement {
    let claims: Vec<_> = followers(others, context)
        .map(|(view, sample)| (view, sample.at >= since + NOTICE && hears(sample)))
        .collect();
    if !claims.is_empty() && claims.iter().all(|(_, hears)| *hears) {
        for (view, _) in claims {
            case.against(format!("{} still hears the primary", view.address));
        }
        return case.conclude(Verdict::PrimaryUnreachableFromHere);
    }
    case.conclude(Verdict::PrimaryDead)
}

fn silent(
    primary: &ServerView,
    since: Instant,
    others: &[&ServerView],
    context: &Context<'_>,
    mut case: Case,
) -> Judgement {
    // A process that is stopped has been silent from then on, whenever it was asked.
    let stopped = primary.process.filter(|process| process.state == ProcessState::Stopped);
    let since = stopped.map_or(since, |process| since.min(process.since));
    let silence = context.now.saturating_duration_since(since);
    let fresh = primary.fresh.as_ref().filter(|(at, _)| *at >= since).map(|(_, fresh)| fresh);
    case.favours(format!(
        "{} has been silent for {} ms, the limit is {} ms",
        primary.address,
        silence.as_millis(),
        context.hang_after.as_millis()
    ));
    match fresh {
        Some(Fresh::Refused) => {
            case.favours("a fresh connection is refused: nobody listens there");
            return refused(since, others, context, case);
        }
        Some(Fresh::Answered) => {
            case.against("it answers on a fresh connection");
            return case.conclude(Verdict::PrimaryBusy);
        }
        Some(Fresh::Silent) => case.favours("its host accepts a fresh connection, it says nothing"),
        Some(Fresh::Unreachable(error)) => {
            case.favours(format!("a fresh connection fails: {error}"));
        }
        None => {}
    }
    // Ours may be the look that is late on a busy machine: what counts is what it saw. One look may find a process at work waiting for a
    // page or a lock of its memory.
    let at_work = primary.process.filter(|process| {
        let idle = process.looked_at.saturating_duration_since(process.worked_at);
        process.state != ProcessState::Stopped && idle < AT_WORK && silence < BUSY_MAX
    });
    // The others count from when they asked, and learn from us what the process does: this is said before their time is up.
    if at_work.is_some() {
        case.against("its process on this host is at work on something long");
        return case.conclude(Verdict::PrimaryBusy);
    }
    if silence < context.hang_after {
        case.against("it may still answer in time");
        return case.conclude(Verdict::PrimarySuspect);
    }
    if let Some(process) = &primary.process {
        case.favours(match process.state {
            ProcessState::Stopped => "its process on this host is stopped",
            ProcessState::Blocked => "its process on this host waits for its disk",
            _ => "its process on this host does nothing",
        });
    }
    if !context.confirmed {
        case.against(
            "it has not answered since it became the primary: only proof counts until then",
        );
        return case.conclude(Verdict::PrimarySuspect);
    }
    let accepts = fresh == Some(&Fresh::Silent);
    if primary.link == Link::Open && fresh.is_none() {
        case.against("a fresh connection is still being tried");
        return case.conclude(Verdict::PrimarySuspect);
    }
    // Whoever is cut off together with a replica sees the same as when the primary's host is gone.
    let answering = present(others, context).count();
    let path_is_gone = !accepts && (primary.link != Link::Open || fresh.is_some());
    if context.alone && path_is_gone && answering * 2 <= others.len() + 1 {
        case.against(format!(
            "no path to it, and only {answering} of {} servers answer: we may be the one that is cut off",
            others.len() + 1
        ));
        return case.conclude(Verdict::PrimaryUnreachableFromHere);
    }
    let mut received = false;
    let mut linked = false;
    let mut asked = false;
    for (view, sample) in followers(others, context) {
        asked = true;
        // Said before the silence, it says nothing about it; said long ago, nothing about the present: paths do not all break at once.
        let moved = view.moved.filter(|(after, _)| *after >= since + IN_FLIGHT);
        let is_fed = moved.is_some_and(|(_, at)| context.now < at + context.hang_after);
        let was_moving = view.moved.is_some_and(|(_, at)| since < at + context.hang_after);
        if !hears(sample) {
            case.favours(format!("{} has lost its link to it", view.address));
        } else if is_fed {
            received = true;
            case.against(format!("{} has received from it since", view.address));
        } else if accepts || (was_moving && moved.is_none()) {
            case.favours(format!("{} has received nothing from it since", view.address));
        } else {
            // A quiet primary and a dead path look the same from there.
            linked = true;
            case.against(format!("{} keeps its link to it", view.address));
        }
    }
    if linked && !received && !context.alone {
        return case.conclude(Verdict::PrimaryQuiet);
    }
    if received || linked {
        return case.conclude(Verdict::PrimaryUnreachableFromHere);
    }
    if !asked {
        case.against("no replica can be asked");
        return case.conclude(if accepts {
            Verdict::PrimaryHung
        } else {
            Verdict::PrimaryUnreachableFromHere
        });
    }
    case.conclude(Verdict::PrimaryHung)
}

fn answering(
    primary: &ServerView,
    others: &[&ServerView],
    context: &Context<'_>,
    mut case: Case,
) -> Judgement {
    let restarted = match (&primary.sample, context.lineage) {
        (Some(sample), Some(lineage)) => lineage.run_id.as_ref() != Some(&sample.run_id),
        _ => false,
    };
    if let Some(complaint) = &primary.complaint {
        case.against(format!("{} answers: {complaint}", primary.address));
        // A restarted server that loads is a new process: the old one's death is proven, and its replicas are ready now.
        if !(restarted && complaint.starts_with("LOADING")) {
            let alive = ["LOADING", "BUSY", "MISCONF", "MASTERDOWN"];
            let busy = alive.iter().any(|word| complaint.starts_with(word));
            return case.conclude(if busy { Verdict::PrimaryBusy } else { Verdict::Unknown });
        }
    }
    let Some(sample) = &primary.sample else { return case.conclude(Verdict::Unknown) };
    if sample.role == RedisRole::Replica {
        case.favours(match &sample.follows {
            Some(address) => format!("{} says it is a replica of {address}", primary.address),
            None => format!("{} says it is a replica", primary.address),
        });
        return case.conclude(Verdict::PrimaryDemoted);
    }
    if let (true, Some(lineage)) = (restarted, context.lineage)
        && let Some(verdict) = restart(primary, sample, lineage, others, context, &mut case)
    {
        return case.conclude(verdict);
    }
    let rivals: Vec<_> = present(others, context)
        .filter(|(_, sample)| sample.role == RedisRole::Primary && !sample.loading)
        .collect();
    for (view, _) in &rivals {
        case.favours(format!("{} says it is a primary too", view.address));
    }
    if !rivals.is_empty() {
        return case.conclude(Verdict::TwoPrimaries);
    }
    if !others.is_empty() && sample.replicas == 0 {
        case.favours(format!("{} has no replica", primary.address));
        return case.conclude(Verdict::ReplicationBroken);
    }
    case.conclude(Verdict::PrimaryHealthy)
}

/// A new process at the primary's address: has it the data?
fn restart(
    primary: &ServerView,
    sample: &Sample,
    lineage: &Lineage,
    others: &[&ServerView],
    context: &Context<'_>,
    case: &mut Case,
) -> Option<Verdict> {
    case.favours(match &lineage.run_id {
        Some(_) => format!("{} is a new process", primary.address),
        None => format!("{} is only known from our saved state", primary.address),
    });
    // While it is still on the history we know, what lies on the one before it says nothing: whoever is further there is a former primary
    // that wrote on alone past the point where this one left it.
    let continues = !sample.loading && sample.replid == lineage.replid;
    let best = present(others, context)
        .filter(|(_, other)| lineage.distance(other).is_some_and(|by| by == 0 || !continues))
        .filter(|(_, other)| !other.loading)
        .max_by_key(|(_, other)| other.offset);
    let Some((view, best)) = best else {
        case.against(if continues {
            "it is still on the history we know"
        } else {
            "no other server has its former data either"
        });
        return None;
    };
    if sample.loading {
        case.favours(format!("it is loading, {} has the data now", view.address));
        return Some(Verdict::EmptyRestart);
    }
    if lineage.distance(sample).is_none() {
        case.favours(format!("it began a new history, {} has the old one", view.address));
        return Some(Verdict::EmptyRestart);
    }
    if sample.offset < best.offset {
        case.favours(format!(
            "its data ends at offset {}, that of {} at {}",
            sample.offset, view.address, best.offset
        ));
        return Some(Verdict::EmptyRestart);
    }
    case.against("it has all its data");
    None
}

/// Servers that can be talked to, with what they say.
fn present<'v>(
    others: &[&'v ServerView],
    context: &Context<'_>,
) -> impl Iterator<Item = (&'v ServerView, &'v Sample)> {
    let (now, patience) = (context.now, late(context));
    others.iter().filter_map(move |view| Some((*view, view.present(now, patience)?)))
}

/// Those of them that are replicas.
fn followers<'v>(
    others: &[&'v ServerView],
    context: &Context<'_>,
) -> impl Iterator<Item = (&'v ServerView, &'v Sample)> {
    present(others, context).filter(|(_, sample)| sample.role == RedisRole::Replica)
}

/// Whether a replica has a live link to its primary.
fn hears(sample: &Sample) -> bool {
    sample.link_up == Some(true) && sample.quiet_seconds.is_none_or(|s| s <= QUIET_SECONDS_MAX)
}

/// Reasons as they are found.
struct Case {
    reasons: Vec<Reason>,
}

impl Case {
    fn new() -> Self {
        Self { reasons: Vec::new() }
    }

    fn favours(&mut self, text: impl Into<String>) {
        self.reasons.push(Reason { favours: true, text: text.into() });
    }

    fn against(&mut self, text: impl Into<String>) {
        self.reasons.push(Reason { favours: false, text: text.into() });
    }

    fn conclude(self, verdict: Verdict) -> Judgement {
        Judgement { verdict, reasons: self.reasons }
    }
}

#[cfg(test)]
mod tests;
