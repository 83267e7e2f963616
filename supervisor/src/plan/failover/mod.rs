//! What to do about Redis: nothing, repair a straggler, fail over, or hold back and say why.
//!
//! What the supervisors have agreed on (which server clients are told, under which epoch) is the [`Register`]. The [`Planner`] is the rest
//! of the memory behind a decision: what history the primary wrote, since when it is down, what was tried last. [`Planner::decide`] looks
//! at all views and at the words of the other supervisors afresh each time; nothing depends on how often or why it is called. It changes
//! nothing outside itself: the controller carries the decision out, has it agreed on, and hands the new register back. Every member of a
//! group decides all the time, so that whoever leads next knows as much; only who leads gets anything to do.
//!
//! Guards: a primary that is merely silent is not replaced twice within the cool-down (a proven death is); a failed attempt is repeated
//! with growing pauses; another manager and observe-only hold everything back. Whatever is held back has a reason.

mod adopt;
mod barrier;
mod candidate;
mod guards;
pub mod lease;
mod memory;
mod orders;
mod others;
mod readiness;
mod register;
mod repairs;
mod resume;
mod steps;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use adopt::{Found, find};
pub use barrier::{Barrier, DRAIN_LIMIT, Drain};
pub use candidate::{Choice, Promotion, Search, Standing, choose};
pub use orders::{Due, Orders};
pub use readiness::{Readiness, healthy_replicas};
pub use register::{Change, RedisEntry, Refused, Register};
pub use resume::{Resume, resume};
pub use steps::{Event, next};

use orders::Approval;

use crate::cluster::{Address, Manager};
use crate::judge::redis::{
    Context, Council, Judgement, Lineage, Matter, Place, ServerView, Verdict, confer, judge,
};
use crate::record::Reason;

/// The same server is not repaired again within this time: a replica needs some of it to reconnect.
const REPAIR_EVERY: Duration = Duration::from_secs(2);

/// Pause after the first failed attempt; it doubles with each further one up to the maximum.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// The settings decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who changes roles.
    pub manager: Manager,
    /// The supervisor changes nothing at all.
    pub observe_only: bool,
    /// A probe without answer for this long is late.
    pub probe_timeout: Duration,
    /// Silence counts from here on.
    pub hang_after: Duration,
    /// No second failover on silence within this time.
    pub failover_cooldown: Duration,
    /// No failover by ourselves if it would lose more than this.
    pub loss_bytes_max: Option<u64>,
    /// A failover by ourselves waits for an operator's approval, at most this long.
    pub approval: Option<Duration>,
    /// Who may be promoted, and how gladly.
    pub standings: HashMap<Address, Standing>,
}

/// The point at which a promoted server left its predecessor's history. Whatever that history holds beyond it is lost to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The predecessor's replication id.
    pub replid: String,
    /// The promoted server's offset at that moment.
    pub offset: u64,
}

/// A server other than the primary that needs a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Which.
    pub server: Address,
    /// It says it is a primary: it becomes a replica.
    pub demote: bool,
    /// It has something that the present primary never had: from here on.
    pub diverged: Option<Diverged>,
    /// Why.
    pub reason: String,
}

/// What a server has beyond the point where the present primary left their common history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diverged {
    /// That point.
    pub fork: Fork,
    /// How much it had when last seen.
    pub bytes: u64,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Take this server for the primary and tell clients so.
    Adopt {
        /// Which.
        primary: Address,
        /// Why.
        why: String,
    },
    /// Replace the primary.
    FailOver,
    /// End a change that was begun and left behind.
    Resume(Resume),
    /// Hand over to a server that is preferred and has caught up.
    HandOver(Choice),
    /// Bring stragglers in line.
    Repair(Vec<Repair>),
}

/// A decision with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What moves the state machine.
    pub event: Event,
    /// The verdict behind it; `None` before a primary is known.
    pub verdict: Option<Verdict>,
    /// What we see ourselves, without the words of others.
    pub own: Option<Judgement>,
    /// In one line, when things are not simply well.
    pub summary: Option<String>,
    /// Everything for and against.
    pub reasons: Vec<Reason>,
    /// What to do.
    pub action: Action,
    /// An action was called for, and this kept it from being taken.
    pub withheld: Option<String>,
    /// Who would follow the primary now.
    pub candidate: Option<Choice>,
}

/// The memory behind the decisions.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact that holds or does not")]
pub struct Planner {
    settings: Settings,
    started: Instant,
    /// What the group has agreed on.
    register: Register,
    /// What was agreed on before we started has been taken over.
    is_loaded: bool,
    /// The agreed primary was compared with the servers since we started.
    found: bool,
    lineage: Option<Lineage>,
    /// The primary has answered since it became the primary.
    confirmed: bool,
    /// It has come back without its data.
    is_empty: bool,
    /// When we learned that it is the primary.
    changed_at: Option<Instant>,
    /// Since when our own verdict calls for another primary.
    down_since: Option<Instant>,
    last_failover: Option<Instant>,
    last_failure: Option<Instant>,
    failures: u32,
    /// When the next attempt may be made, and why the last one failed.
    retry: Option<(Instant, String)>,
    repaired: HashMap<Address, Instant>,
    /// An operator was asked to approve a failover.
    asked: Option<Approval>,
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            started: now,
            register: Register::default(),
            is_loaded: false,
            found: false,
            lineage: None,
            confirmed: false,
            is_empty: false,
            changed_at: None,
            down_since: None,
            last_failover: None,
            last_failure: None,
            failures: 0,
            retry: None,
            repaired: HashMap::new(),
            asked: None,
        }
    }

    /// What the group has agreed on.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The server clients are told.
    pub fn primary(&self) -> Option<&Address> {
        self.register.primary.as_ref()
    }

    /// Silence counts after this long from now on.
    pub fn set_hang_after(&mut self, to: Duration) {
        self.settings.hang_after = to;
    }

    /// The epoch it is told under.
    pub fn epoch(&self) -> u64 {
        self.register.epoch
    }

    /// Its history.
    pub fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    /// Looks at everything and decides.
    pub fn decide(&mut self, now: Instant, views: &[ServerView], council: &Council) -> Decision {
        if !self.found
            && let Some(decision) = self.look_for_primary(now, views, council)
        {
            return decision;
        }
        let Some(primary) = self.register.primary.clone() else {
            return Decision::nothing(Event::Lost, None);
        };
        let own = self.judge(now, &primary, views, council.size <= 1);
        let Judgement { verdict, mut reasons } =
            self.confer(now, &primary, views, own.clone(), council);
        self.is_empty = verdict == Verdict::EmptyRestart;
        let candidate = self.candidate(now, views, Some(&primary), None);
        let leads = council.place == Place::Leads;
        if leads && self.forbidden().is_none() {
            let present = |view| self.present(now, view);
            if let Some(resume) = resume(&self.register, views, present) {
                let action = Action::Resume(resume);
                let event = Event::Doubted;
                let (verdict, own) = (Some(verdict), Some(own));
                return Decision { verdict, own, action, ..Decision::nothing(event, None) };
            }
        }
        if verdict.calls_for_failover() && self.settings.manager != Manager::Holdfast {
            let judgement = Judgement { verdict, reasons };
            let decision = self.left_to_others(now, views, judgement, candidate.ok());
            let action = if leads { decision.action } else { Action::Nothing };
            return Decision { own: Some(own), action, ..decision };
        }
        if verdict.calls_for_failover() {
            let others = guards::not_ours(council);
            let follows = matches!(council.place, Place::Follows(_));
            let withheld = others
                .or_else(|| self.hold(now, verdict, &candidate, council))
                .or_else(|| self.unapproved(now));
            reasons.extend(match &candidate {
                Ok(choice) => choice.reasons.clone(),
                Err(reasons) => reasons.clone(),
            });
            let act = withheld.is_none();
            let summary = Some(match &withheld {
                Some(why) => format!("{verdict}, but {why}"),
                None => verdict.to_string(),
            });
            // That another member decides is how it should be.
            let withheld = withheld.filter(|_| !follows);
            if let Some(text) = &withheld {
                reasons.push(Reason { favours: false, text: text.clone() });
            }
            return Decision {
                event: if act || follows { Event::Down } else { Event::Withheld },
                verdict: Some(verdict),
                own: Some(own),
                summary,
                reasons,
                action: if act { Action::FailOver } else { Action::Nothing },
                withheld,
                candidate: candidate.ok(),
            };
        }
        let mut action = Action::Nothing;
        let mut withheld = (verdict == Verdict::QuorumLost).then(|| verdict.to_string());
        if verdict.serves() {
            self.asked = None;
            self.primary_answers(&primary, views);
            if leads {
                (action, withheld) = self.upkeep(now, verdict, &primary, views);
            }
        }
        Decision {
            event: match verdict {
                Verdict::Unknown => Event::Lost,
                Verdict::QuorumLost => Event::Withheld,
                verdict if verdict.serves() => Event::Answered,
                _ => Event::Doubted,
            },
            verdict: Some(verdict),
            own: Some(own),
            summary: (verdict != Verdict::PrimaryHealthy).then(|| verdict.to_string()),
            reasons,
            action,
            withheld,
            candidate: candidate.ok(),
        }
    }

    /// The best successor of `from` among what is seen.
    ///
    /// # Errors
    /// There is none; the reasons say why for each server.
    pub fn candidate(
        &self,
        now: Instant,
        views: &[ServerView],
        from: Option<&Address>,
        wanted: Option<&Address>,
    ) -> Result<Choice, Vec<Reason>> {
        choose(
            views,
            &Search {
                now,
                patience: self.patience(),
                from,
                lineage: self.lineage.as_ref(),
                last_resort: self.is_empty,
                wanted,
                standings: &self.settings.standings,
            },
        )
    }

    fn judge(
        &mut self,
        now: Instant,
        primary: &Address,
        views: &[ServerView],
        alone: bool,
    ) -> Judgement {
        let context = Context {
            now,
            primary,
            lineage: self.lineage.as_ref(),
            confirmed: self.confirmed,
            probe_timeout: self.settings.probe_timeout,
            hang_after: self.settings.hang_after,
            alone,
        };
        let mut own = judge(views, &context);
        let view = views.iter().find(|view| view.address == *primary);
        let said_at = view.and_then(|view| view.sample.as_ref()).map(|sample| sample.at);
        if own.verdict == Verdict::PrimaryDemoted && said_at < self.changed_at {
            // That is what it was before it became the primary.
            own.verdict = Verdict::PrimarySuspect;
            let text = "it has not said so since it became the primary".to_owned();
            own.reasons.push(Reason { favours: false, text });
        }
        let since = self.down_since.unwrap_or(now);
        self.down_since = own.verdict.calls_for_failover().then_some(since);
        own
    }

    fn confer(
        &self,
        now: Instant,
        primary: &Address,
        views: &[ServerView],
        own: Judgement,
        council: &Council,
    ) -> Judgement {
        let Some(primary) = views.iter().find(|view| view.address == *primary) else { return own };
        let down_for = self.down_since.map_or(Duration::ZERO, |since| now - since);
        let epoch = self.register.epoch;
        let mut judgement = confer(own, &Matter { now, primary, epoch, down_for }, council);
        if council.place == Place::Minority
            && judgement.verdict.calls_for_failover()
            && let Some(text) = guards::not_ours(council)
        {
            judgement.verdict = Verdict::QuorumLost;
            judgement.reasons.push(Reason { favours: false, text });
        }
        judgement
    }

    /// What to do while the primary serves, and why something is not done.
    fn upkeep(
        &mut self,
        now: Instant,
        verdict: Verdict,
        primary: &Address,
        views: &[ServerView],
    ) -> (Action, Option<String>) {
        let repairs = self.repairs(now, primary, views);
        if !repairs.is_empty() {
            return match self.forbidden().or_else(|| self.paused()) {
                Some(why) => (Action::Nothing, Some(format!("{}; {why}", repairs[0].reason))),
                None => (Action::Repair(repairs), None),
            };
        }
        let choice = (verdict == Verdict::PrimaryHealthy)
            .then(|| self.preferred(now, primary, views))
            .flatten();
        (choice.map_or(Action::Nothing, Action::HandOver), None)
    }

    /// Compares what was agreed on with the servers, once; `None` when that is done.
    fn look_for_primary(
        &mut self,
        now: Instant,
        views: &[ServerView],
        council: &Council,
    ) -> Option<Decision> {
        let (primary, why) = match find(views, &self.register, &self.settings, self.started, now) {
            Found::Primary { address, why, .. } => (address, why),
            Found::Waiting => return Some(Decision::nothing(Event::Lost, None)),
            Found::Doubt(why) => {
                let why = format!("the primary is not known: {why}");
                return Some(Decision::nothing(Event::Withheld, Some(why)));
            }
        };
        if self.register.primary.as_ref() == Some(&primary) {
            self.found = true;
            return None;
        }
        let leads = council.place == Place::Leads;
        let action = if leads { Action::Adopt { primary, why } } else { Action::Nothing };
        Some(Decision { action, ..Decision::nothing(Event::Lost, None) })
    }
}

impl Decision {
    fn nothing(event: Event, withheld: Option<String>) -> Self {
        Self {
            event,
            verdict: None,
            own: None,
            summary: withheld.clone(),
            reasons: Vec::new(),
            action: Action::Nothing,
            withheld,
            candidate: None,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
