//! One supervisor: the real planner behind probes, reports and a carried-out decision that take their time.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::group::Answer;
use super::network::Network;
use super::servers::{Order, Servers};
use super::{Guard, LEASE, STEP, address, index};
use crate::cluster::Address;
use crate::judge::redis::{
    Council, Fenced, Fresh, Lineage, Link, Opinion, Place, Process, ProcessState, ServerView,
    Verdict, Witness,
};
use crate::plan::failover::lease::Contact;
use crate::plan::failover::{
    Barrier, Change, Choice, Drain, Fork, Planner, RedisEntry, Register, Resume, Settings,
};

/// A round that comes this much later was held up on our side, as in the controller.
const LATE: Duration = Duration::from_millis(250);

/// Silence until a fresh connection has been tried.
const FRESH_AFTER: Duration = Duration::from_millis(100);

/// When another member's report came, what it thinks, and when it had heard each.
pub(super) type Heard = (Instant, Opinion, Vec<Option<Instant>>);

pub(super) struct Member {
    pub(super) up: bool,
    /// It is not scheduled until then.
    pub(super) stalled_until: u64,
    /// Its calendar is off by so much.
    pub(super) clock_off: i64,
    pub(super) planner: Planner,
    pub(super) register: Register,
    pub(super) views: Vec<ServerView>,
    forgiven: Option<Instant>,
    last_round: Instant,
    pub(super) heard: Vec<Option<Heard>>,
    /// When the newest word of each was sent.
    pub(super) sent: Vec<Option<Instant>>,
    pub(super) answered: Vec<Option<Instant>>,
    pub(super) opinion: Option<Opinion>,
    pub(super) run: Option<Run>,
    pub(super) verdict: Option<Verdict>,
    /// Writes it has taken from the server beside it.
    pub(super) fences: Option<Fenced>,
}

/// A change being carried out.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) epoch: u64,
    pub(super) term: u64,
    pub(super) from: usize,
    pub(super) verdict: Verdict,
    pub(super) choice: Option<Choice>,
    /// Who was named to the group.
    pub(super) named: Option<usize>,
    pub(super) barrier: Barrier,
    pub(super) stage: Stage,
    pub(super) lineage: Option<Lineage>,
    pub(super) handover: bool,
    /// Servers whose state the choice was made from.
    pub(super) asked: Vec<usize>,
    /// The replicas have left the old primary.
    pub(super) detached: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Beginning,
    Draining,
    Naming,
    Promoting { at: u64 },
    Ending,
    Resuming,
    Adopting,
}

impl Member {
    pub(super) fn new(settings: Settings, servers: usize, members: usize, now: Instant) -> Self {
        let mut planner = Planner::new(settings, now);
        planner.follow(now, DateTime::UNIX_EPOCH, &Register::default(), &[]);
        Self {
            up: true,
            stalled_until: 0,
            clock_off: 0,
            planner,
            register: Register::default(),
            views: (0..servers).map(|at| ServerView::new(address(at), now)).collect(),
            forgiven: None,
            last_round: now,
            heard: vec![None; members],
            sent: vec![None; members],
            answered: vec![None; members],
            opinion: None,
            run: None,
            verdict: None,
            fences: None,
        }
    }

    /// What the probes of this tick bring to light.
    pub(super) fn look(
        &mut self,
        own: usize,
        now: Instant,
        servers: &Servers,
        network: &Network,
        mut late: impl FnMut() -> bool,
    ) {
        for at in 0..self.views.len() {
            let (path, alive, late) = (network.both(own, at), servers.list[at].alive, late());
            let view = &mut self.views[at];
            if own == at {
                view.process = Some(process(servers, at, now));
            }
            let refused = path && !alive;
            let broken = !path && view.link != Link::Open;
            let link = if refused {
                Link::Refused
            } else if broken {
                Link::Unreachable("no route".to_owned())
            } else {
                Link::Open
            };
            if std::mem::discriminant(&view.link) != std::mem::discriminant(&link) {
                (view.link_since, view.waiting_since, view.answered_at) = (now, None, None);
                view.fresh = None;
            }
            view.link = link;
            if view.link != Link::Open {
                continue;
            }
            if !path || servers.list[at].hung || !alive {
                let since = *view.waiting_since.get_or_insert(now);
                if now - since > FRESH_AFTER {
                    let silent = if path {
                        Fresh::Silent
                    } else {
                        Fresh::Unreachable("no route".to_owned())
                    };
                    view.fresh = Some((now, silent));
                }
                continue;
            }
            if late {
                view.waiting_since.get_or_insert(now);
                continue;
            }
            self.take(at, now, servers);
        }
    }

    /// A server answers.
    pub(super) fn take(&mut self, at: usize, now: Instant, servers: &Servers) {
        let view = &mut self.views[at];
        let sample = servers.sample(at, now);
        (view.waiting_since, view.answered_at, view.fresh) = (None, Some(now), None);
        if let Some(before) = &view.sample
            && (before.offset, &before.replid) != (sample.offset, &sample.replid)
        {
            view.moved = Some((before.at, now));
        }
        view.sample = Some(sample);
    }

    /// The servers as seen, with the silence that was its own taken off.
    pub(super) fn seen(&self) -> Vec<ServerView> {
        let mut views = self.views.clone();
        if let Some(forgiven) = self.forgiven {
            for view in &mut views {
                view.waiting_since = view.waiting_since.map(|since| since.max(forgiven));
                view.link_since = view.link_since.max(forgiven);
            }
        }
        views
    }

    /// Begins a round: how late it is.
    pub(super) fn begin_round(&mut self, now: Instant) -> Duration {
        let gap = now - std::mem::replace(&mut self.last_round, now);
        if gap >= LATE {
            self.forgiven = Some(now);
        }
        gap.saturating_sub(STEP)
    }

    /// Takes over what was agreed on.
    pub(super) fn follow(&mut self, now: Instant, utc: DateTime<Utc>) {
        let utc = utc + chrono::TimeDelta::seconds(self.clock_off);
        let views = self.seen();
        self.planner.follow(now, utc, &self.register, &views);
    }

    pub(super) fn council(&self, own: usize, place: Place, guard: Guard) -> Council {
        // Broken on purpose: everybody is taken to say what we say.
        let yes = self.opinion.clone().filter(|_| guard == Guard::NoMajority);
        let yes = yes.map(|opinion| (self.last_round, opinion, Vec::new()));
        let witness = |other: usize| {
            let heard = yes.as_ref().or(self.heard[other].as_ref());
            let relayed = self.heard.iter().flatten().filter_map(|(_, _, heard)| heard[other]);
            let heard_at = heard.map(|(at, ..)| *at);
            Witness {
                name: other.to_string(),
                heard_at,
                contact_at: relayed.chain(heard_at).max(),
                opinion: heard.map(|(_, opinion, _)| opinion.clone()),
            }
        };
        let others = (0..self.heard.len()).filter(|other| *other != own);
        let size = self.heard.len();
        Council { place, size, witnesses: others.map(witness).collect(), clients: Vec::new() }
    }

    /// What it tells the others.
    pub(super) fn report(
        &self,
        own: usize,
        late: Duration,
        judged: &crate::plan::failover::Decision,
    ) -> Option<Opinion> {
        let primary = self.planner.primary()?.clone();
        let mut opinion = Opinion::of(judged.own.as_ref()?, primary.clone(), self.planner.epoch());
        opinion.beside = self.beside(own).into_iter().collect();
        let view = self.views.iter().find(|view| view.address == primary);
        opinion.process = view.and_then(|view| view.process).map(|process| process.state);
        opinion.late_milliseconds = u64::try_from(late.as_millis()).unwrap();
        opinion.fenced = self.fences;
        opinion.lease_milliseconds = u64::try_from(LEASE.as_millis()).unwrap();
        Some(opinion)
    }

    fn beside(&self, own: usize) -> Option<Address> {
        (own < self.views.len()).then(|| address(own))
    }

    /// Fences the server beside it while nobody answers, and frees it when it may serve.
    pub(super) fn mind_lease(
        &mut self,
        own: usize,
        now: Instant,
        in_touch: bool,
        servers: &mut Servers,
    ) -> Option<&'static str> {
        if own >= self.views.len() || self.heard.len() == 1 {
            return None;
        }
        let answered = (0..self.answered.len()).filter(|other| *other != own);
        let contact = Contact {
            size: self.heard.len(),
            answered: answered.map(|other| self.answered[other]).collect(),
            has_majority: in_touch,
            failsafe: false,
        };
        let is_over = contact.is_over(now, LEASE);
        let fences = |change: &&Change| index(&change.from) == own && !change.is_planned;
        let change = self.register.change.as_ref().filter(fences);
        let wanted = match (is_over, change) {
            (true, _) => Some(Fenced::Lease),
            (false, Some(change)) => Some(Fenced::Change(change.epoch)),
            (false, None) if self.register.primary.as_ref() != Some(&address(own)) => self.fences,
            (false, None) => None,
        };
        if servers.list[own].follows.is_some() {
            self.fences = None;
            return None;
        }
        let stands = !servers.runs(own) || servers.list[own].fenced == wanted.is_some();
        if wanted == self.fences && stands {
            return None;
        }
        self.fences = wanted;
        servers.order(own, Order::Fence(wanted.is_some()));
        Some(if wanted.is_some() {
            "fences the server beside it"
        } else {
            "frees the server beside it"
        })
    }

    /// One look of the drain barrier at those that can be asked; true when they are at rest.
    pub(super) fn drain(
        &mut self,
        own: usize,
        now: Instant,
        servers: &Servers,
        network: &Network,
    ) -> Option<Result<(), String>> {
        let run = self.run.as_mut()?;
        let asked: Vec<_> = (0..servers.list.len())
            .filter(|at| *at != run.from && servers.runs(*at) && network.both(own, *at))
            .collect();
        let samples: Vec<_> =
            asked.iter().map(|at| (address(*at), servers.sample(*at, now))).collect();
        let drained = run.barrier.look(now, &samples);
        let Drain::Shut { link_lost } = drained else {
            return None;
        };
        run.asked.clone_from(&asked);
        if run.verdict == Verdict::PrimaryDead && !link_lost {
            return Some(Err("its replicas still hear it".to_owned()));
        }
        for at in 0..self.views.len() {
            if asked.contains(&at) {
                self.take(at, now, servers);
            } else {
                self.views[at].answered_at = None;
            }
        }
        Some(Ok(()))
    }
}

fn process(servers: &Servers, at: usize, now: Instant) -> Process {
    let server = &servers.list[at];
    let state = match (server.alive, server.hung) {
        (false, _) => ProcessState::Gone,
        (true, true) if server.works => ProcessState::Runnable,
        (true, true) => ProcessState::Stopped,
        (true, false) => ProcessState::Asleep,
    };
    let pid = u32::try_from(server.run).unwrap();
    // It works now and then.
    let idle = server.hung && !server.works;
    let worked_at = if idle { now.checked_sub(LATE).unwrap_or(now) } else { now };
    // How long it has been so is told by its silence.
    Process { pid, state, since: now, ticks: 0, looked_at: now, worked_at }
}

/// What the end of a run is told as.
pub(super) fn done(
    run: &Run,
    to: usize,
    servers: &Servers,
    now: Instant,
    utc: DateTime<Utc>,
) -> RedisEntry {
    let choice = run.choice.as_ref();
    let fork = choice.map(|choice| Fork { replid: choice.replid.clone(), offset: choice.offset });
    let lineage = Lineage::of(&servers.sample(to, now));
    RedisEntry::Done { epoch: run.epoch, to: address(to), lineage, fork, at: utc }
}

/// What to tell the group of a change that was left behind.
pub(super) fn resumed(resume: &Resume, epoch: u64, to: &Address, utc: DateTime<Utc>) -> RedisEntry {
    match resume {
        Resume::Finish { sample, fork } => RedisEntry::Done {
            epoch,
            to: to.clone(),
            lineage: Lineage::of(sample),
            fork: fork.clone(),
            at: utc,
        },
        Resume::Abort { .. } => RedisEntry::Aborted { epoch },
    }
}

/// Whether a proposal went through.
pub(super) fn agreed(answer: &Answer) -> bool {
    *answer == Answer::Agreed
}
