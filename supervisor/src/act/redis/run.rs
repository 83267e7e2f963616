//! One failover from its first step to its last.

use futures_util::future::join_all;
use holdfast_telemetry::errors::Chain;
use tokio::time::Instant;

use super::RedisController;
use super::commands::{
    ActError, Drained, ORDER_LIMIT, demote, drain, fence, keep_roles, promote, repoint, verify,
};
use super::controller::CAUSE;
use super::explain::{seconds_from, trace};
use super::hooks::Tidings;
use crate::cluster::Address;
use crate::config::Moment;
use crate::control::{ControlError, FailoverReport};
use crate::judge::redis::{Lineage, Sample, ServerView, Verdict};
use crate::plan::failover::{Choice, Decision, Event, Fork, RedisEntry};
use crate::record::{Account, Kind, Reason, Severity, Step};

/// Replacing a primary that does not serve, as opposed to a switchover.
const FAILOVER: &str = "failover";

/// A run that is going on.
pub(super) struct Attempt {
    pub(super) run: Account,
    started: Instant,
    step_started: Instant,
    /// Its server has been made the primary.
    pub(super) promoted: bool,
}

impl RedisController {
    /// Begins a run; `views` are what it was decided on.
    pub(super) fn begin(&mut self, what: &str, from: &Address, views: &[ServerView]) -> Attempt {
        let now = Instant::now();
        let decided = now.into_std();
        let (seen, held) = self.story.tell(decided, from, views);
        let mut attempt = Attempt {
            run: Account {
                what: what.to_owned(),
                from: from.clone(),
                to: None,
                epoch: self.planner.register().next_epoch(),
                decided: chrono::Utc::now(),
                seconds: None,
                seen,
                held,
                steps: Vec::new(),
                lost_bytes: None,
                trace: None,
            },
            started: now,
            step_started: now,
            promoted: false,
        };
        self.attempting = Some(attempt.run.epoch);
        if what == FAILOVER {
            attempt.step_started = self.story.began(decided, from, views).into();
            let outcome = self.verdict.map_or_else(String::new, |verdict| verdict.to_string());
            self.mark(&mut attempt, "detected", now, outcome);
        }
        self.enter(Event::Begun, None);
        attempt
    }

    /// Ends a step of the state machine: state, duration, journal, status.
    pub(super) fn step(&mut self, attempt: &mut Attempt, event: Event, outcome: String) {
        let step = match event {
            Event::Drained => "drained",
            Event::Elected => "elected",
            Event::Fenced => "fenced",
            Event::Promoted => "promoted",
            Event::Repointed => "repointed",
            _ => "verified",
        };
        self.mark(attempt, step, Instant::now(), outcome);
        self.enter(event, None);
        self.publish(&self.views());
    }

    /// Ends a step at `now`: duration, journal.
    pub(super) fn mark(
        &mut self,
        attempt: &mut Attempt,
        step: &'static str,
        now: Instant,
        outcome: String,
    ) {
        let began = std::mem::replace(&mut attempt.step_started, now);
        let took = now - began;
        self.metrics.step(step, took);
        let seconds = took.as_secs_f64();
        let detail =
            serde_json::json!({"step": step, "seconds": seconds, "epoch": attempt.run.epoch});
        let message = format!("{step}: {outcome} ({:.1} ms)", seconds * 1e3);
        (self.sink)(self.draft(Kind::FailoverStep, Severity::Info, message).detail(detail));
        attempt.run.steps.push(Step {
            step: step.to_owned(),
            at_seconds: seconds_from(began.into_std(), attempt.started.into_std()),
            seconds,
            outcome,
        });
    }

    /// Replaces a primary that does not serve. `asked`: an operator wants it, whatever it costs; `wanted` is the operator's choice of the next
    /// one.
    pub(super) async fn fail_over(
        &mut self,
        decision: &Decision,
        views: &[ServerView],
        asked: bool,
        wanted: Option<&Address>,
    ) -> Result<FailoverReport, ControlError> {
        let Some(from) = self.planner.primary().cloned() else {
            return Err(ControlError::Failed("no primary is known".to_owned()));
        };
        let mut attempt = self.begin(FAILOVER, &from, views);
        match self.steps(&mut attempt, decision, asked, wanted).await {
            Ok((confirmed, choice)) => {
                let mut reasons = decision.reasons.clone();
                for reason in choice.reasons {
                    // The decision named the candidate of then, usually the same for the same reasons.
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
                let lost = choice.lacks_bytes.filter(|bytes| *bytes > 0);
                Ok(self.finish(attempt, confirmed, reasons, lost))
            }
            Err(stop) => {
                self.call_off(&attempt).await;
                Err(match stop {
                    Stop::Withheld(why) => self.withhold(attempt, why, &decision.reasons),
                    Stop::Failed(error) => self.fail(attempt, Chain(&error).to_string()),
                })
            }
        }
    }

    /// Ends a change that came to nothing, unless its server was promoted: then it is finished as one that was left behind.
    pub(super) async fn call_off(&mut self, attempt: &Attempt) {
        let change = self.planner.register().change.as_ref();
        if attempt.promoted || change.is_none_or(|change| change.epoch != attempt.run.epoch) {
            return;
        }
        self.agree_or_tell(RedisEntry::Aborted { epoch: attempt.run.epoch }).await;
        // It may have been fenced for it.
        self.unfence(&attempt.run.from);
    }

    /// Has the group agree on where a change goes.
    pub(super) async fn agree_on_target(
        &mut self,
        attempt: &mut Attempt,
        to: &Address,
    ) -> Result<(), Stop> {
        if attempt.run.to.as_ref() == Some(to) {
            return Ok(());
        }
        let begin = begin_entry(attempt, to, self.is_planned);
        self.agree(begin).await.map_err(|error| Stop::Failed(ActError::Agree(error)))?;
        attempt.run.to = Some(to.clone());
        Ok(())
    }

    async fn steps(
        &mut self,
        attempt: &mut Attempt,
        decision: &Decision,
        asked: bool,
        wanted: Option<&Address>,
    ) -> Result<(Option<bool>, Choice), Stop> {
        let from = attempt.run.from.clone();
        // Refused connections alone may be a matter of the path: a replica must have noticed too. A process seen to end needs no witness.
        let refused = decision.verdict == Some(Verdict::PrimaryDead);
        let dead = refused || decision.verdict == Some(Verdict::PrimaryExiting);
        // A primary that hangs may run again at any moment: what it takes before it is fenced must reach the replicas before they are
        // compared, and nothing may come after.
        let queued = if dead { None } else { self.queue_fence(&from) };
        // The group agrees on the change while the replicas come to rest: usually it is the first choice in the end.
        let first =
            wanted.or_else(|| decision.candidate.as_ref().map(|choice| &choice.address)).cloned();
        let (agreed, drained) = {
            let begin = first.as_ref().map(|to| begin_entry(attempt, to, self.is_planned));
            let agreed = self.agreement.propose_some(begin);
            tokio::join!(agreed, drain(&self.watches, &from, refused))
        };
        agreed.map_err(|error| Stop::Failed(ActError::Agree(error)))?;
        self.follow(&self.views());
        attempt.run.to = first;
        if refused && !drained.link_lost {
            let why = format!("{from} refuses us, but its replicas still hear it");
            return Err(Stop::Withheld(why));
        }
        let offsets: Vec<_> = drained
            .samples
            .iter()
            .map(|(address, s)| format!("{address} at {}", s.offset))
            .collect();
        self.step(attempt, Event::Drained, format!("replicas are at rest: {}", offsets.join(", ")));

        let views = with_samples(self.views(), &drained);
        let now = Instant::now().into_std();
        let choice = match self.planner.candidate(now, &views, Some(&from), wanted) {
            Ok(choice) => choice,
            Err(reasons) => {
                let texts: Vec<_> = reasons.into_iter().map(|reason| reason.text).collect();
                let why = format!("no server can take its place: {}", texts.join("; "));
                return Err(Stop::Withheld(why));
            }
        };
        // What the replicas have is known only now.
        if !asked && let Some(why) = self.planner.too_much_lost(&choice) {
            return Err(Stop::Withheld(why));
        }
        self.agree_on_target(attempt, &choice.address).await?;
        self.mark(attempt, "committed", Instant::now(), format!("epoch {}", attempt.run.epoch));
        self.tell_election(attempt, &choice);
        self.step(attempt, Event::Elected, choice.reasons[0].text.clone());
        let reason = decision.verdict.map_or_else(String::new, |verdict| verdict.to_string());
        self.vet(attempt, &reason).await?;
        let choice = self.detach(attempt, choice, asked, wanted).await?;

        let outcome = match queued {
            Some(outcome) => match self.await_neighbour(&from).await {
                Some(word) => format!("{outcome}; {word}"),
                None => outcome,
            },
            None => self.fence(&from, &choice.address, dead).await,
        };
        self.step(attempt, Event::Fenced, outcome);

        let target = self.watch(&choice.address).cloned();
        let Some(target) = target else { return Err(Stop::Withheld("it is gone".to_owned())) };
        if !self.agreement.leads() {
            return Err(Stop::Withheld("another supervisor may lead now".to_owned()));
        }
        let sample = promote(&target).await.map_err(Stop::Failed)?;
        if !choice.is_kept_by(&sample) {
            return Err(Stop::Failed(ActError::Changed(choice.address)));
        }
        self.take_over(attempt, &choice, &sample).await?;

        let confirmed = self.repoint_and_verify(attempt, None).await?;
        Ok((confirmed, choice))
    }

    /// Keeps the old primary from taking writes: now if it runs, as the first thing it does if it hangs.
    async fn fence(&mut self, from: &Address, to: &Address, dead: bool) -> String {
        if dead {
            return format!("{from} is dead and takes no writes");
        }
        let Some(watch) = self.watch(from).cloned() else { return format!("{from} is gone") };
        let now = Instant::now().into_std();
        if watch.view().is_reachable(now, self.config.probe_timeout) {
            return match demote(&watch, to).await {
                Ok(Some((_, offset))) => format!("{from} is a replica since offset {offset}"),
                Ok(None) => format!("{from} is a replica"),
                Err(error) => Chain(&error).to_string(),
            };
        }
        match self.queue_fence(from) {
            Some(outcome) => outcome,
            None => format!("{from} cannot be told"),
        }
    }

    /// Writes a fence into the open connection of a primary that does not answer; `None` if it answers, or has no connection.
    fn queue_fence(&mut self, from: &Address) -> Option<String> {
        let watch = self.watch(from).cloned()?;
        let now = Instant::now().into_std();
        if watch.view().is_reachable(now, self.config.probe_timeout) {
            return None;
        }
        let answers = watch.send(fence()).ok()?;
        self.await_fence(from.clone(), answers);
        Some(format!("{from} does not answer; the first thing it will do is to stop taking writes"))
    }

    /// Has the group agree that the promoted server is the primary; from then on everybody is told.
    pub(super) async fn take_over(
        &mut self,
        attempt: &mut Attempt,
        choice: &Choice,
        sample: &Sample,
    ) -> Result<(), Stop> {
        attempt.promoted = true;
        let from = attempt.run.from.clone();
        let fork = Fork { replid: choice.replid.clone(), offset: choice.offset };
        let to = choice.address.clone();
        let done = RedisEntry::Done {
            epoch: attempt.run.epoch,
            to: to.clone(),
            lineage: Lineage::of(sample),
            fork: Some(fork),
            at: chrono::Utc::now(),
        };
        let agreed = self.agreement.propose(done).await;
        agreed.map_err(|error| Stop::Failed(ActError::Agree(error)))?;
        self.step(attempt, Event::Promoted, format!("{to} is the primary"));
        self.tell("+failover-end", self.primary_words(&from));
        self.follow(&self.views());
        let outcome = format!("{} clients of the endpoint listen", self.events.receiver_count());
        self.mark(attempt, "told", Instant::now(), outcome);
        self.tell_hooks(Moment::AfterPromote, &Tidings::of(&attempt.run, ""));
        Ok(())
    }

    pub(super) fn tell_election(&self, attempt: &Attempt, choice: &Choice) {
        let from = self.primary_words(&attempt.run.from);
        self.tell("+new-epoch", attempt.run.epoch.to_string());
        self.tell("+try-failover", from.clone());
        self.tell("+elected-leader", from);
        self.tell("+selected-slave", self.replica_words(&choice.address));
    }

    /// Tells the other servers, then proves that the new primary takes writes. `skip` needs no telling.
    pub(super) async fn repoint_and_verify(
        &mut self,
        attempt: &mut Attempt,
        skip: Option<&Address>,
    ) -> Result<Option<bool>, Stop> {
        let Some(to) = attempt.run.to.clone() else {
            return Err(Stop::Withheld("nothing was chosen".to_owned()));
        };
        let now = Instant::now().into_std();
        let others: Vec<_> = self
            .watches
            .iter()
            .filter(|watch| *watch.address() != to && Some(watch.address()) != skip)
            .filter(|watch| *watch.address() != attempt.run.from)
            .filter(|watch| watch.view().is_reachable(now, self.config.probe_timeout))
            .cloned()
            .collect();
        let results = join_all(others.iter().map(|watch| repoint(watch, &to))).await;
        let failed: Vec<_> =
            results.iter().filter_map(|r| r.as_ref().err()).map(|e| Chain(e).to_string()).collect();
        let done = results.len() - failed.len();
        let mut outcome = format!("{done} of {} replicas follow {to}", results.len());
        if !failed.is_empty() {
            // They are stragglers now, and the rounds that follow bring them in line.
            outcome = format!("{outcome}; {}", failed.join("; "));
        }
        keep_roles(&self.watches);
        self.step(attempt, Event::Repointed, outcome);

        let replicas = done > 0 || skip.is_some();
        let epoch = attempt.run.epoch;
        let verified =
            verify(&to, self.config.endpoint(&to), epoch, replicas).await.map_err(Stop::Failed)?;
        let now = Instant::now();
        self.mark(attempt, "verified", verified.written, format!("{to} takes writes"));
        attempt.run.seconds = Some((verified.written - attempt.started).as_secs_f64());
        let outcome = match verified.confirmed {
            Some(true) => "a replica confirms a write",
            Some(false) => "no replica has confirmed a write yet",
            None => "there is no replica to confirm a write",
        };
        self.mark(attempt, "confirmed", now, outcome.to_owned());
        if let Some(watch) = self.watch(&to).cloned() {
            // What it says about itself is from before its replicas came; if it says nothing now, the next round judges that.
            watch.sample(ORDER_LIMIT).await.ok();
        }
        self.enter(Event::Verified, None);
        self.publish(&self.views());
        self.metrics.ended(Some(verified.written - attempt.started));
        Ok(verified.confirmed)
    }

    /// Records the good end of a run.
    pub(super) fn finish(
        &mut self,
        mut attempt: Attempt,
        confirmed: Option<bool>,
        reasons: Vec<Reason>,
        lost_bytes: Option<u64>,
    ) -> FailoverReport {
        attempt.run.lost_bytes = lost_bytes;
        let Account { what, from, to, epoch, seconds, .. } = attempt.run.clone();
        let (to, seconds) = (to.unwrap_or_else(|| from.clone()), seconds.unwrap_or_default());
        self.last_failover = Some(chrono::Utc::now());
        let message =
            format!("{what} from {from} to {to}: first write after {:.1} ms", seconds * 1e3);
        // A switchover was asked for; a failover is a sign that something broke.
        let severity = if what == FAILOVER { Severity::Warning } else { Severity::Info };
        self.tell_hooks(Moment::Done, &Tidings::of(&attempt.run, &message));
        let account = self.close(attempt, None);
        let mut draft = self
            .draft(Kind::FailoverDone, severity, message)
            .reasons(reasons)
            .closes(CAUSE)
            .detail(account);
        if confirmed == Some(false) {
            draft = draft.despite("no replica has confirmed a write yet");
        }
        if let Some(bytes) = lost_bytes {
            draft = draft.despite(format!("the old primary had {bytes} bytes more when last seen"));
        }
        (self.sink)(draft);
        self.is_incident_open = false;
        self.publish(&self.views());
        FailoverReport { from: Some(from), to, epoch, seconds, lost_bytes }
    }

    /// Ends the account of a run: its trace is sent, and it becomes the detail of an event.
    fn close(&mut self, attempt: Attempt, error: Option<&str>) -> serde_json::Value {
        let mut account = attempt.run;
        account.trace = trace(&account, &self.config.name, error);
        if error.is_none() {
            self.story.clear();
        }
        serde_json::to_value(account).expect("an account has string keys")
    }

    /// Records that a run ends before it has changed anything.
    pub(super) fn withhold(
        &mut self,
        attempt: Attempt,
        why: String,
        reasons: &[Reason],
    ) -> ControlError {
        self.enter(Event::Withheld, Some(why.clone()));
        let message = format!("withheld: {why}");
        let draft = self.draft(Kind::ActionWithheld, Severity::Warning, message);
        let account = self.close(attempt, Some(&why));
        (self.sink)(draft.reasons(reasons.iter().cloned()).detail(account));
        self.planner.failed(Instant::now().into_std(), why.clone());
        self.publish(&self.views());
        ControlError::Refused(why)
    }

    /// Records the bad end of a run.
    pub(super) fn fail(&mut self, attempt: Attempt, error: String) -> ControlError {
        self.planner.failed(Instant::now().into_std(), error.clone());
        self.metrics.ended(None);
        let at = self.state.name();
        let message = format!("{} of {} failed while {at}", attempt.run.what, attempt.run.from);
        let draft = self.draft(Kind::FailoverFailed, Severity::Critical, message);
        self.tell_hooks(Moment::Failed, &Tidings::of(&attempt.run, &error));
        let account = self.close(attempt, Some(&error));
        (self.sink)(draft.because(error.clone()).detail(account));
        self.enter(Event::Failed, Some(error.clone()));
        self.publish(&self.views());
        ControlError::Failed(error)
    }
}

fn begin_entry(attempt: &Attempt, to: &Address, is_planned: bool) -> RedisEntry {
    let (epoch, from) = (attempt.run.epoch, attempt.run.from.clone());
    RedisEntry::Begin { epoch, from, to: to.clone(), is_planned }
}

/// Why a run ends early.
pub(super) enum Stop {
    /// It turned out that it should not go on; nothing was changed.
    Withheld(String),
    /// A step did not work.
    Failed(ActError),
}

/// The views with what was seen last.
pub(super) fn with_samples(mut views: Vec<ServerView>, drained: &Drained) -> Vec<ServerView> {
    for view in &mut views {
        match drained.samples.iter().find(|(address, _)| *address == view.address) {
            Some((_, sample)) => view.sample = Some(sample.clone()),
            // It did not answer in the end.
            None => view.answered_at = None,
        }
    }
    views
}
