//! What do the other supervisors see, and what follows from it together?
//!
//! One supervisor alone cannot tell a primary that is down from a path that is broken. In a group each member judges by itself and tells
//! the others; whoever leads weighs their words with its own. Down counts when a majority of all members (of those set up, not of those
//! heard) sees it. Two things need no majority, because no broken path can feign them: the word of the member on the primary's host that
//! its process is ending or stopped, and the primary's own answer that it has lost its data or its role. A primary from which
//! nothing comes while its replicas keep their links is down when the member on its host is silent too. Rejected: counting only the
//! members that are heard, which lets the smaller side of a partition decide.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Case, Judgement, ProcessState, ServerView, Verdict};
use crate::cluster::Address;

/// Words older than this count for nothing: five times the pause between two reports.
const WORD_AGE_MAX: Duration = Duration::from_millis(500);

/// How much longer than the lease of the member beside the primary the others wait: it needs a round and an order to fence it.
pub const LEASE_MARGIN: Duration = Duration::from_millis(100);

/// Members learn of a death within milliseconds of each other, of a hang within a probe's interval. Only a disagreement that lasts longer
/// is one.
const DISAGREEMENT_AFTER: Duration = Duration::from_millis(250);

/// A member whose own rounds come this late cannot tell who is silent.
const LATE_MILLISECONDS_MAX: u64 = 250;

/// A chat node notices within this time that its own messages do not come back from Redis; what it said before says nothing.
const CLIENT_NOTICE: Duration = Duration::from_secs(2);

/// Longest reason that is passed on to the other members.
const REASON_CHARS_MAX: usize = 200;

/// What one member of the group thinks of the primary, from its own probes alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opinion {
    /// The server it speaks of.
    pub primary: Address,
    /// The epoch that server is the primary of.
    pub epoch: u64,
    /// Its verdict.
    pub verdict: Verdict,
    /// What weighs most in it.
    pub because: String,
    /// The servers that run on its host.
    pub beside: Vec<Address>,
    /// The primary's process, if it is one of them.
    pub process: Option<ProcessState>,
    /// How late its last round was.
    pub late_milliseconds: u64,
    /// It keeps the primary from taking writes: for this change, or because its lease is over.
    pub fenced: Option<Fenced>,
    /// Its lease: it takes writes away from the servers on its host when no majority has answered it for so long.
    pub lease_milliseconds: u64,
}

/// Why a member keeps the server on its host from taking writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fenced {
    /// It has not heard a majority for the lease.
    Lease,
    /// The change of this epoch replaces it.
    Change(u64),
}

impl Opinion {
    /// What a member passes on of its own judgement.
    pub fn of(own: &Judgement, primary: Address, epoch: u64) -> Self {
        let said = own.reasons.iter().find(|reason| reason.favours).or_else(|| own.reasons.first());
        let because = said.map_or("", |reason| &reason.text).chars().take(REASON_CHARS_MAX);
        Self {
            primary,
            epoch,
            verdict: own.verdict,
            because: because.collect(),
            beside: Vec::new(),
            process: None,
            late_milliseconds: 0,
            fenced: None,
            lease_milliseconds: 0,
        }
    }
}

/// Another member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name.
    pub name: String,
    /// When we last heard it.
    pub heard_at: Option<Instant>,
    /// When anybody of those we hear last heard it, we included.
    pub contact_at: Option<Instant>,
    /// What it said then.
    pub opinion: Option<Opinion>,
}

impl Witness {
    /// What it says now; `None` if it has been silent for too long.
    fn word(&self, now: Instant) -> Option<(Instant, &Opinion)> {
        let at = self.heard_at.filter(|at| now.saturating_duration_since(*at) <= WORD_AGE_MAX)?;
        Some((at, self.opinion.as_ref()?))
    }

    /// It runs on the primary's host, and nobody has heard it for longer than its lease lets that server take writes.
    fn is_gone_with(&self, matter: &Matter<'_>) -> bool {
        let Some(opinion) = self.beside(&matter.primary.address) else { return false };
        let patience = Duration::from_millis(opinion.lease_milliseconds) + LEASE_MARGIN;
        self.contact_at.is_none_or(|at| matter.now >= at + patience)
    }

    /// What it said last, however long ago, if it is on the host of `server`.
    pub fn beside(&self, server: &Address) -> Option<&Opinion> {
        self.opinion.as_ref().filter(|opinion| opinion.beside.contains(server))
    }
}

/// Our place in the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// We decide.
    Leads,
    /// Another member does, by this name if it is known.
    Follows(Option<String>),
    /// Too few members are heard for anybody here to decide.
    Minority,
}

/// What a client of the primary says: a chat node, by its own metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// When it said so.
    pub at: Instant,
    /// Whether its own messages come back from Redis.
    pub up: bool,
}

/// Everybody who has a word in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Council {
    /// Our place.
    pub place: Place,
    /// Members of the group, we included.
    pub size: usize,
    /// The others.
    pub witnesses: Vec<Witness>,
    /// Chat nodes.
    pub clients: Vec<Client>,
}

impl Council {
    /// A supervisor by itself.
    pub fn of_one() -> Self {
        Self { place: Place::Leads, size: 1, witnesses: Vec::new(), clients: Vec::new() }
    }

    /// The member on the host of `server` that reaches it as the primary, so that it can fence it, and whether it says that it has.
    pub fn neighbour(&self, now: Instant, server: &Address) -> Option<(&str, Option<Fenced>)> {
        self.witnesses.iter().find_map(|witness| {
            let (_, opinion) = witness.word(now)?;
            let reaches = opinion.primary == *server && opinion.verdict.serves();
            let is_beside = opinion.beside.contains(server);
            (is_beside && reaches).then_some((witness.name.as_str(), opinion.fenced))
        })
    }

    /// Whether so many are more than half of the members.
    pub fn is_majority(&self, members: usize) -> bool {
        members * 2 > self.size
    }
}

/// What a verdict is about, and what the words of others are measured against.
#[derive(Debug, Clone, Copy)]
pub struct Matter<'a> {
    /// The present.
    pub now: Instant,
    /// The primary as we see it.
    pub primary: &'a ServerView,
    /// The epoch it is told under.
    pub epoch: u64,
    /// For how long our own verdict has called for another primary.
    pub down_for: Duration,
}

/// The verdict of the group as far as it is heard, from our own and the words of the others.
pub fn confer(own: Judgement, matter: &Matter<'_>, council: &Council) -> Judgement {
    let own = with_clients(own, matter, council);
    if council.size <= 1 {
        return own;
    }
    let words: Vec<Word<'_>> =
        council.witnesses.iter().filter_map(|witness| Word::of(witness, matter)).collect();
    let mut case = Case { reasons: own.reasons };
    if let Some(word) = words.iter().find(|word| word.is_proof_of_end(matter)) {
        case.favours(word.says());
        return case.conclude(Verdict::PrimaryExiting);
    }
    let mut verdict = own.verdict;
    if is_silent(verdict)
        && let Some(beside) = council.witnesses.iter().find(|w| w.is_gone_with(matter))
    {
        let silent = |word: &&Word<'_>| is_silent(word.opinion.verdict) && !word.is_late();
        let agree: Vec<_> = words.iter().filter(silent).collect();
        if council.is_majority(agree.len() + 1) {
            for word in agree {
                case.favours(word.says());
            }
            case.favours(format!(
                "supervisor {} on its host is not heard either: the host is cut off or gone",
                beside.name
            ));
            return case.conclude(Verdict::PrimaryHung);
        }
    }
    if verdict == Verdict::PrimaryQuiet {
        verdict = Verdict::PrimaryUnreachableFromHere;
    }
    let sees_down = verdict.calls_for_failover();
    if verdict.serves() || matches!(verdict, Verdict::PrimaryBusy) {
        return case.conclude(verdict);
    }
    if sees_down && !matches!(verdict, Verdict::PrimaryDead | Verdict::PrimaryHung) {
        // Its own word, or its kernel's.
        return case.conclude(verdict);
    }
    // Whoever looks at its process knows more than any number of those who wait for an answer.
    let at_work = words.iter().find(|word| word.is_at_work(matter));
    if matches!(verdict, Verdict::PrimaryHung | Verdict::PrimarySuspect)
        && let Some(word) = at_work
    {
        case.against(word.says());
        return case.conclude(Verdict::PrimaryBusy);
    }
    if verdict == Verdict::PrimaryHung
        && let Some(word) = words.iter().find(|word| word.is_proof_of_stop(matter))
    {
        case.favours(word.says());
        return case.conclude(Verdict::PrimaryHung);
    }
    // It knows from the kernel since when the process has been stopped; we only since when we have been waiting.
    if verdict == Verdict::PrimarySuspect
        && matter.primary.waiting_since.is_some()
        && let Some(word) = words.iter().find(|word| word.is_proof_of_hang(matter))
    {
        case.favours(word.says());
        return case.conclude(Verdict::PrimaryHung);
    }
    let (agree, differ): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.sees_down());
    let count = agree.len() + usize::from(sees_down);
    for word in &agree {
        case.favours(word.says());
    }
    for word in &differ {
        case.against(word.says());
    }
    if council.is_majority(count) {
        let dead = |word: &&Word<'_>| word.opinion.verdict != Verdict::PrimaryHung;
        let verdict = match verdict {
            Verdict::PrimaryDead | Verdict::PrimaryHung => verdict,
            _ if agree.iter().any(dead) => Verdict::PrimaryDead,
            _ if at_work.is_some() => Verdict::PrimaryBusy,
            _ => Verdict::PrimaryHung,
        };
        // It answers again, and its first answers are on their way to the others.
        let is_heard = || differ.iter().any(|word| word.is_answered(matter));
        if verdict == Verdict::PrimaryHung && matter.down_for < DISAGREEMENT_AFTER && is_heard() {
            return case.conclude(Verdict::PrimarySuspect);
        }
        return case.conclude(verdict);
    }
    if !sees_down {
        return case.conclude(verdict);
    }
    for witness in &council.witnesses {
        if !words.iter().any(|word| word.name == witness.name) {
            case.against(format!("supervisor {} is not heard", witness.name));
        }
    }
    case.against(format!("{count} of {} supervisors see it down, no majority", council.size));
    case.conclude(if matter.down_for < DISAGREEMENT_AFTER {
        Verdict::PrimarySuspect
    } else if differ.is_empty() {
        Verdict::QuorumLost
    } else {
        Verdict::PrimaryUnreachableFromHere
    })
}

/// Chat nodes that still reach a primary which is merely silent to us speak against a hang; those that do not, for it. Where we have no
/// path at all their words are told and decide nothing: the other supervisors do.
fn with_clients(own: Judgement, matter: &Matter<'_>, council: &Council) -> Judgement {
    let is_doubtful = is_silent(own.verdict) || own.verdict == Verdict::PrimaryUnreachableFromHere;
    if !is_doubtful {
        return own;
    }
    let since = matter.primary.waiting_since.unwrap_or(matter.primary.link_since);
    let mut case = Case { reasons: own.reasons };
    let (up, down): (Vec<_>, Vec<_>) =
        council.clients.iter().filter(|client| client.at >= since).partition(|client| client.up);
    let up: Vec<_> = up.into_iter().filter(|client| client.at >= since + CLIENT_NOTICE).collect();
    for client in &down {
        case.favours(format!("chat node {} does not reach Redis either", client.name));
    }
    for client in &up {
        case.against(format!("chat node {} still reaches Redis", client.name));
    }
    case.conclude(match own.verdict {
        Verdict::PrimaryHung if up.len() > down.len() => Verdict::PrimaryUnreachableFromHere,
        verdict => verdict,
    })
}

/// Silence, whatever the replicas make of it.
fn is_silent(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::PrimaryHung | Verdict::PrimaryQuiet)
}

/// What a member says now about the same primary of the same epoch.
struct Word<'a> {
    name: &'a str,
    at: Instant,
    opinion: &'a Opinion,
}

impl<'a> Word<'a> {
    fn of(witness: &'a Witness, matter: &Matter<'_>) -> Option<Self> {
        let (at, opinion) = witness.word(matter.now)?;
        let same = opinion.primary == matter.primary.address && opinion.epoch == matter.epoch;
        same.then_some(Self { name: &witness.name, at, opinion })
    }

    fn says(&self) -> String {
        let Opinion { verdict, because, late_milliseconds, .. } = self.opinion;
        let comma = if because.is_empty() { "" } else { ", " };
        let late = if self.is_late() {
            format!(" (it is {late_milliseconds} ms late itself)")
        } else {
            String::new()
        };
        format!("supervisor {} says: {verdict}{comma}{because}{late}", self.name)
    }

    fn is_late(&self) -> bool {
        self.opinion.late_milliseconds > LATE_MILLISECONDS_MAX
    }

    /// Whether it counts towards a majority that sees the primary down.
    fn sees_down(&self) -> bool {
        let verdict = self.opinion.verdict;
        verdict.calls_for_failover() && (verdict != Verdict::PrimaryHung || !self.is_late())
    }

    fn process(&self, matter: &Matter<'_>) -> Option<ProcessState> {
        self.opinion.process.filter(|_| self.opinion.beside.contains(&matter.primary.address))
    }

    /// The process ended, and the server has not answered us since we heard so.
    fn is_proof_of_end(&self, matter: &Matter<'_>) -> bool {
        let ended =
            matches!(self.process(matter), Some(ProcessState::Exiting | ProcessState::Gone));
        let answered =
            matter.primary.answered_at.filter(|_| matter.primary.waiting_since.is_none());
        ended && answered.is_none_or(|at| at < self.at)
    }

    fn is_proof_of_stop(&self, matter: &Matter<'_>) -> bool {
        matches!(self.process(matter), Some(ProcessState::Stopped | ProcessState::Blocked))
    }

    /// The process has been stopped for as long as counts as a hang.
    fn is_proof_of_hang(&self, matter: &Matter<'_>) -> bool {
        self.is_proof_of_stop(matter)
            && self.opinion.verdict == Verdict::PrimaryHung
            && !self.is_late()
    }

    /// It is on the primary's host and has its answers.
    fn is_answered(&self, matter: &Matter<'_>) -> bool {
        self.opinion.beside.contains(&matter.primary.address) && self.opinion.verdict.serves()
    }

    fn is_at_work(&self, matter: &Matter<'_>) -> bool {
        self.process(matter).is_some() && self.opinion.verdict == Verdict::PrimaryBusy
    }
}

#[cfg(test)]
mod tests;
