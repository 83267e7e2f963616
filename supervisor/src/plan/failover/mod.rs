//! What to do about Redis: nothing, repair a straggler, fail over, or hold back and say why.
//!
//! The [`Planner`] is the memory behind that decision: which server clients are told is the primary, under which epoch, what history it
//! wrote, and what was tried last. [`Planner::decide`] looks at all views afresh each time; nothing depends on how often or why it is
//! called. It changes nothing outside itself: the controller carries the decision out and reports back.
//!
//! Guards: a primary that is merely silent is not replaced twice within the cool-down (a proven death is); a failed attempt is repeated
//! with growing pauses; another manager and observe-only hold everything back. Whatever is held back has a reason.

mod adopt;
mod candidate;
mod orders;
mod others;
mod readiness;
mod steps;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use adopt::{Found, find};
pub use candidate::{Choice, Promotion, Search, Standing, choose};
pub use orders::{Due, Orders};
pub use readiness::{Readiness, healthy_replicas};
pub use steps::{Event, next};

use orders::Approval;

use crate::cluster::{Address, Manager, Pause, RedisRole};
use crate::judge::redis::{Context, Judgement, Lineage, ServerView, Verdict, judge};
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

/// What survives our own restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Name of the primary.
    pub name: String,
    /// The epoch the primary is told under.
    pub epoch: u64,
    /// The epoch the next change will be made under. Kept beforehand, so that no change has to wait for the disk, and no epoch is used
    /// twice: after a restart this one counts as used.
    pub reserved: u64,
    /// The primary under it.
    pub primary: Address,
    /// Its replication id when last seen; empty if never.
    pub replid: String,
    /// The id it continued.
    pub replid2: Option<String>,
    /// Its offset when saved.
    pub offset: u64,
    /// Where it left the history of its predecessor.
    pub fork: Option<Fork>,
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
pub struct Planner {
    settings: Settings,
    started: Instant,
    saved: Option<Saved>,
    primary: Option<Address>,
    epoch: u64,
    /// The highest epoch that may have been used.
    spent: u64,
    lineage: Option<Lineage>,
    fork: Option<Fork>,
    /// The primary has answered since it became the primary.
    confirmed: bool,
    last_failover: Option<Instant>,
    last_failure: Option<Instant>,
    failures: u32,
    /// When the next attempt may be made, and why the last one failed.
    retry: Option<(Instant, String)>,
    repaired: HashMap<Address, Instant>,
    /// Automatic changes are paused, for this reason.
    pause: Option<String>,
    approval: Option<Approval>,
}

impl Planner {
    /// A planner that remembers what was `saved`.
    pub fn new(settings: Settings, saved: Option<Saved>, now: Instant) -> Self {
        Self {
            settings,
            started: now,
            primary: None,
            epoch: saved.as_ref().map_or(0, |saved| saved.epoch),
            spent: saved.as_ref().map_or(0, |saved| saved.reserved),
            lineage: None,
            fork: saved.as_ref().and_then(|saved| saved.fork.clone()),
            confirmed: false,
            last_failover: None,
            last_failure: None,
            failures: 0,
            retry: None,
            repaired: HashMap::new(),
            pause: None,
            approval: None,
            saved,
        }
    }

    /// The server clients are told.
    pub fn primary(&self) -> Option<&Address> {
        self.primary.as_ref()
    }

    /// The epoch it is told under.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch of the next change.
    pub fn next_epoch(&self) -> u64 {
        self.epoch.max(self.spent) + 1
    }

    /// Its history.
    pub fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    /// Looks at everything and decides.
    pub fn decide(&mut self, now: Instant, views: &[ServerView]) -> Decision {
        let Some(primary) = self.primary.clone() else { return self.look_for_primary(now, views) };
        let context = Context {
            now,
            primary: &primary,
            lineage: self.lineage.as_ref(),
            confirmed: self.confirmed,
            probe_timeout: self.settings.probe_timeout,
            hang_after: self.settings.hang_after,
        };
        let Judgement { verdict, mut reasons } = judge(views, &context);
        let candidate = self.candidate(now, views, Some(&primary), None);
        if verdict.calls_for_failover() && self.settings.manager != Manager::Holdfast {
            return self.left_to_others(now, views, Judgement { verdict, reasons }, candidate.ok());
        }
        if verdict.calls_for_failover() {
            let withheld = self.hold(now, verdict, &candidate).or_else(|| self.unapproved(now));
            reasons.extend(match &candidate {
                Ok(choice) => choice.reasons.clone(),
                Err(reasons) => reasons.clone(),
            });
            if let Some(text) = &withheld {
                reasons.push(Reason { favours: false, text: text.clone() });
            }
            let act = withheld.is_none();
            return Decision {
                event: if act { Event::Down } else { Event::Withheld },
                verdict: Some(verdict),
                summary: Some(match &withheld {
                    Some(why) => format!("{verdict}, but {why}"),
                    None => verdict.to_string(),
                }),
                reasons,
                action: if act { Action::FailOver } else { Action::Nothing },
                withheld,
                candidate: candidate.ok(),
            };
        }
        let mut action = Action::Nothing;
        let mut withheld = None;
        if verdict.serves() {
            self.approval = None;
            self.primary_answers(&primary, views);
            let repairs = self.repairs(now, &primary, views);
            if !repairs.is_empty() {
                match self.forbidden().or_else(|| self.paused()) {
                    Some(why) => withheld = Some(format!("{}; {why}", repairs[0].reason)),
                    None => action = Action::Repair(repairs),
                }
            } else if verdict == Verdict::PrimaryHealthy
                && let Some(choice) = self.preferred(now, &primary, views)
            {
                action = Action::HandOver(choice);
            }
        }
        Decision {
            event: match verdict {
                Verdict::Unknown => Event::Lost,
                verdict if verdict.serves() => Event::Answered,
                _ => Event::Doubted,
            },
            verdict: Some(verdict),
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
        let patience = self.settings.probe_timeout.min(self.settings.hang_after / 2);
        choose(
            views,
            &Search {
                now,
                patience,
                from,
                lineage: self.lineage.as_ref(),
                wanted,
                standings: &self.settings.standings,
            },
        )
    }

    /// What must not be changed now, in words.
    pub fn forbidden(&self) -> Option<String> {
        self.observes_only().or_else(|| self.settings.manager.forbids().map(str::to_owned))
    }

    /// Why this supervisor changes nothing at all, in words.
    pub fn observes_only(&self) -> Option<String> {
        self.settings.observe_only.then(|| "this supervisor is set to observe only".to_owned())
    }

    /// Why nothing is done by ourselves for now, in words.
    fn paused(&self) -> Option<String> {
        self.pause.as_ref().map(|why| format!("automatic changes are paused ({why})"))
    }

    /// Operators paused automatic changes, or not any more.
    pub fn set_pause(&mut self, pause: Option<&Pause>) {
        self.pause = pause.map(|pause| format!("{}, by {}", pause.reason, pause.by));
    }

    /// An operator agrees to the failover that waits.
    ///
    /// # Errors
    /// None waits.
    pub fn approve(&mut self) -> Result<(), &'static str> {
        let approval = self.approval.as_mut().filter(|approval| approval.is_pending());
        approval.ok_or("no failover waits for approval")?.grant();
        Ok(())
    }

    /// Whether a failover waits for an operator.
    pub fn awaits_approval(&self) -> bool {
        self.approval.is_some_and(|approval| approval.is_pending())
    }

    /// An operator has looked at the last failover: the cool-down after it ends.
    ///
    /// # Errors
    /// There was none.
    pub fn acknowledge(&mut self) -> Result<(), &'static str> {
        self.last_failover.take().map(drop).ok_or("there is no failover to acknowledge")
    }

    /// Why this server is not promoted without an operator: more would be lost than the settings allow.
    pub fn too_much_lost(&self, choice: &Choice) -> Option<String> {
        let max = self.settings.loss_bytes_max?;
        match choice.lacks_bytes {
            Some(bytes) if bytes <= max => None,
            Some(bytes) => Some(format!(
                "{} lacks {bytes} bytes of what the primary had, and `redis.loss_bytes_max` is {max}",
                choice.address
            )),
            None => Some(format!("how much {} lacks is not known", choice.address)),
        }
    }

    /// Takes `primary` as the primary, under a new epoch if that is a change.
    pub fn adopted(&mut self, primary: Address, views: &[ServerView]) {
        // What was saved is about the start: a primary that is adopted later is a change, even back to that one.
        let saved = self.saved.take();
        let unchanged = saved.as_ref().is_some_and(|saved| saved.primary == primary);
        if !unchanged || self.epoch == 0 {
            self.epoch = self.next_epoch();
        }
        let sample = views.iter().find(|v| v.address == primary).and_then(|v| v.sample.as_ref());
        self.lineage = match &saved {
            Some(saved) if saved.primary == primary && !saved.replid.is_empty() => Some(Lineage {
                run_id: None,
                replid: saved.replid.clone(),
                replid2: saved.replid2.clone(),
                offset: saved.offset,
            }),
            _ => sample.map(Lineage::of),
        };
        self.primary = Some(primary);
        // It was the primary before we came: its silence counts as soon as it has answered us once.
        self.confirmed = sample.is_some();
    }

    /// `primary` was promoted under `epoch`; it left its predecessor's history at `fork`.
    pub fn promoted(&mut self, primary: Address, epoch: u64, lineage: Lineage, fork: Fork) {
        self.primary = Some(primary);
        self.epoch = epoch;
        self.lineage = Some(lineage);
        self.fork = Some(fork);
        self.confirmed = false;
        self.repaired.clear();
    }

    /// A failover or switchover ended well.
    pub fn succeeded(&mut self, now: Instant) {
        self.last_failover = Some(now);
        self.approval = None;
        self.failures = 0;
        self.retry = None;
    }

    /// It did not; the next attempt waits.
    pub fn failed(&mut self, now: Instant, error: String) {
        let pause = RETRY_AFTER * 2_u32.saturating_pow(self.failures.min(10));
        self.failures += 1;
        self.last_failure = Some(now);
        self.retry = Some((now + pause.min(RETRY_AFTER_MAX), error));
    }

    /// What to keep on disk.
    pub fn to_save(&self, name: &str) -> Option<Saved> {
        let lineage = self.lineage.as_ref();
        Some(Saved {
            name: name.to_owned(),
            epoch: self.epoch,
            reserved: self.next_epoch(),
            primary: self.primary.clone()?,
            replid: lineage.map(|lineage| lineage.replid.clone()).unwrap_or_default(),
            replid2: lineage.and_then(|lineage| lineage.replid2.clone()),
            offset: lineage.map_or(0, |lineage| lineage.offset),
            fork: self.fork.clone(),
        })
    }

    /// What a server at `offset` of the history `replid` has that the present primary never had; `None` if that cannot be told.
    pub fn diverged(&self, replid: &str, offset: u64) -> Option<Diverged> {
        let fork = self.fork.clone().filter(|fork| fork.replid == replid)?;
        let bytes = offset.saturating_sub(fork.offset);
        Some(Diverged { fork, bytes })
    }

    fn look_for_primary(&self, now: Instant, views: &[ServerView]) -> Decision {
        let found = find(views, self.saved.as_ref(), &self.settings, self.started, now);
        let (event, summary, action) = match found {
            Found::Primary { address, why, .. } => {
                (Event::Lost, None, Action::Adopt { primary: address, why })
            }
            Found::Waiting => (Event::Lost, None, Action::Nothing),
            Found::Doubt(why) => {
                (Event::Withheld, Some(format!("the primary is not known: {why}")), Action::Nothing)
            }
        };
        let withheld = summary.clone();
        Decision {
            event,
            verdict: None,
            summary,
            reasons: Vec::new(),
            action,
            withheld,
            candidate: None,
        }
    }

    /// Why a failover that is called for does not happen now.
    fn hold(
        &self,
        now: Instant,
        verdict: Verdict,
        candidate: &Result<Choice, Vec<Reason>>,
    ) -> Option<String> {
        if let Some(why) = self.forbidden().or_else(|| self.paused()) {
            return Some(why);
        }
        let Ok(choice) = candidate else {
            return Some("no server can take its place".to_owned());
        };
        if let Some(why) = self.too_much_lost(choice) {
            return Some(why);
        }
        if let Some((_, error)) = self.retry.as_ref().filter(|(at, _)| now < *at) {
            return Some(format!("the last attempt failed and is repeated soon ({error})"));
        }
        let cooldown = self.settings.failover_cooldown;
        let end = self.last_failover.map(|at| at + cooldown);
        end.filter(|end| now < *end && !verdict.is_proven()).map(|_| {
            format!(
                "the last failover is less than {} s ago, and within that time only proof counts",
                cooldown.as_secs()
            )
        })
    }

    /// Why a failover that nothing else holds back waits for an operator.
    fn unapproved(&mut self, now: Instant) -> Option<String> {
        let limit = self.settings.approval?;
        let (granted, count) = Approval::ask(&mut self.approval, now, limit);
        let asked = if count > 1 { format!(", asked {count} times") } else { String::new() };
        (!granted).then(|| format!("it waits for an operator's approval{asked}"))
    }

    /// A server that is preferred to the present primary and has caught up with it.
    fn preferred(&self, now: Instant, primary: &Address, views: &[ServerView]) -> Option<Choice> {
        let rule = |address| self.settings.standings.get(address).map(|s| s.promotion);
        let own = rule(primary).unwrap_or_default();
        let cooldown = self.settings.failover_cooldown;
        let settled = self.confirmed
            && self.last_failover.is_none_or(|at| at + cooldown <= now)
            && self.last_failure.is_none_or(|at| at + cooldown <= now)
            && self.started + cooldown <= now;
        if !settled || self.forbidden().is_some() || self.paused().is_some() {
            return None;
        }
        let mut better: Vec<_> = views
            .iter()
            .map(|view| (rule(&view.address).unwrap_or_default(), view))
            .filter(|(promotion, view)| {
                let linked = view.sample.as_ref().is_some_and(|s| s.link_up == Some(true));
                *promotion < own && linked && !view.sample.as_ref().is_some_and(|s| s.syncing)
            })
            .collect();
        better.sort_by_key(|(promotion, _)| *promotion);
        better.into_iter().find_map(|(_, view)| {
            self.candidate(now, views, Some(primary), Some(&view.address)).ok()
        })
    }

    /// Keeps the history of a primary that answers.
    fn primary_answers(&mut self, primary: &Address, views: &[ServerView]) {
        let view = views.iter().find(|view| view.address == *primary);
        if let Some(sample) = view.and_then(|view| view.sample.as_ref()) {
            self.lineage = Some(Lineage::of(sample));
            self.confirmed = true;
            self.retry = None;
            self.failures = 0;
        }
    }

    fn repairs(&mut self, now: Instant, primary: &Address, views: &[ServerView]) -> Vec<Repair> {
        let patience = self.settings.probe_timeout;
        let replid = self.lineage.as_ref().map(|lineage| lineage.replid.clone());
        let mut repairs = Vec::new();
        for view in views.iter().filter(|view| view.address != *primary) {
            let Some(sample) = view.present(now, patience).filter(|sample| !sample.loading) else {
                continue;
            };
            let server = &view.address;
            let recent = self.repaired.get(server).is_some_and(|at| now < *at + REPAIR_EVERY);
            // A replica that is fed by a server we do not know follows the primary under another name. A chain among our own is
            // straightened: it stems from a change that somebody could not be told of.
            let is_chained =
                views.iter().any(|other| Some(&other.address) == sample.follows.as_ref());
            let is_fed = sample.link_up == Some(true)
                && Some(&sample.replid) == replid.as_ref()
                && !is_chained;
            let (demote, reason) = match sample.role {
                RedisRole::Primary => {
                    (true, format!("{server} says it is a primary, {primary} is"))
                }
                RedisRole::Replica if sample.follows.as_ref() != Some(primary) && !is_fed => {
                    (false, format!("{server} follows another server than {primary}"))
                }
                RedisRole::Replica => continue,
            };
            if !recent {
                let diverged =
                    if demote { self.diverged(&sample.replid, sample.offset) } else { None };
                repairs.push(Repair { server: server.clone(), demote, diverged, reason });
            }
        }
        for repair in &repairs {
            self.repaired.insert(repair.server.clone(), now);
        }
        repairs
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
