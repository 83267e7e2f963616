//! One failover from its first step to its last.

use futures_util::future::join_all;
use holdfast_telemetry::errors::Chain;
use tokio::time::Instant;

use super::RedisController;
use super::commands::{
    ActError, Drained, ORDER_LIMIT, demote, drain, fence, keep_roles, promote, repoint, verify,
};
use super::controller::CAUSE;
use crate::cluster::Address;
use crate::control::{ControlError, FailoverReport};
use crate::judge::redis::{Lineage, Sample, ServerView, Verdict};
use crate::plan::failover::{Choice, Decision, Event, Fork, Run, Step};
use crate::record::{Kind, Reason, Severity};

/// A run that is going on.
pub(super) struct Attempt {
    pub(super) run: Run,
    pub(super) what: &'static str,
    pub(super) started: Instant,
    step_started: Instant,
}

impl RedisController {
    pub(super) fn begin(&mut self, what: &'static str, from: &Address) -> Attempt {
        let now = Instant::now();
        let epoch = self.planner.next_epoch();
        self.enter(Event::Begun, None);
        Attempt {
            run: Run { epoch, from: from.clone(), to: None, steps: Vec::new() },
            what,
            started: now,
            step_started: now,
        }
    }

    /// Ends a step: state, duration, journal, status.
    pub(super) fn step(&mut self, attempt: &mut Attempt, event: Event, outcome: String) {
        let now = Instant::now();
        let step = Step { state: self.state, took: now - attempt.step_started, outcome };
        attempt.step_started = now;
        self.metrics.step(step.state, step.took);
        let name = step.state.name();
        let detail = serde_json::json!({
            "step": name, "seconds": step.took.as_secs_f64(), "epoch": attempt.run.epoch,
        });
        let message = format!("{name}: {} ({:.1} ms)", step.outcome, step.took.as_secs_f64() * 1e3);
        (self.sink)(self.draft(Kind::FailoverStep, Severity::Info, message).detail(detail));
        attempt.run.steps.push(step);
        self.enter(event, None);
        self.publish(&self.views());
    }

    /// Replaces a primary that does not serve. `asked`: an operator wants it, whatever it costs; `wanted` is the operator's choice of the next
    /// one.
    #[tracing::instrument(name = "redis failover", skip_all, fields(redis = self.config.name))]
    pub(super) async fn fail_over(
        &mut self,
        decision: &Decision,
        asked: bool,
        wanted: Option<&Address>,
    ) -> Result<FailoverReport, ControlError> {
        let Some(from) = self.planner.primary().cloned() else {
            return Err(ControlError::Failed("no primary is known".to_owned()));
        };
        let mut attempt = self.begin("failover", &from);
        match self.steps(&mut attempt, decision, asked, wanted).await {
            Ok(report) => Ok(report),
            Err(Stop::Withheld(why)) => {
                self.enter(Event::Withheld, Some(why.clone()));
                let draft =
                    self.draft(Kind::ActionWithheld, Severity::Warning, format!("withheld: {why}"));
                (self.sink)(draft.reasons(decision.reasons.iter().cloned()));
                self.planner.failed(Instant::now().into_std(), why.clone());
                self.publish(&self.views());
                Err(ControlError::Refused(why))
            }
            Err(Stop::Failed(error)) => Err(self.fail(&attempt, Chain(&error).to_string())),
        }
    }

    async fn steps(
        &mut self,
        attempt: &mut Attempt,
        decision: &Decision,
        asked: bool,
        wanted: Option<&Address>,
    ) -> Result<FailoverReport, Stop> {
        let from = attempt.run.from.clone();
        // Refused connections alone may be a matter of the path: a replica must have noticed too. A process seen to end needs no witness.
        let refused = decision.verdict == Some(Verdict::PrimaryDead);
        let dead = refused || decision.verdict == Some(Verdict::PrimaryExiting);
        let drained = drain(&self.watches, &from, refused).await;
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
        attempt.run.to = Some(choice.address.clone());
        self.tell_election(attempt, &choice);
        self.step(attempt, Event::Elected, choice.reasons[0].text.clone());

        let outcome = self.fence(&from, &choice.address, dead).await;
        self.step(attempt, Event::Fenced, outcome);

        let target = self.watch(&choice.address).cloned();
        let Some(target) = target else { return Err(Stop::Withheld("it is gone".to_owned())) };
        let sample = promote(&target).await.map_err(Stop::Failed)?;
        self.take_over(attempt, &choice, &sample);

        let confirmed = self.repoint_and_verify(attempt, None).await?;
        let mut reasons = decision.reasons.clone();
        reasons.extend(choice.reasons.iter().cloned());
        let lost = choice.lacks_bytes.filter(|bytes| *bytes > 0);
        Ok(self.finish(attempt, confirmed, reasons, lost))
    }

    /// Keeps the old primary from taking writes: now if it runs, as the first thing it does if it hangs.
    #[tracing::instrument(name = "redis fence", skip_all)]
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
        let answers = match watch.send(fence()) {
            Ok(answers) => answers,
            Err(error) => return format!("not possible: {error}"),
        };
        self.await_fence(from.clone(), answers);
        format!("{from} does not answer; the first thing it will do is to stop taking writes")
    }

    /// From here on the promoted server is the primary, and everybody is told.
    pub(super) fn take_over(&mut self, attempt: &mut Attempt, choice: &Choice, sample: &Sample) {
        let from = attempt.run.from.clone();
        let fork = Fork { replid: choice.replid.clone(), offset: choice.offset };
        let to = choice.address.clone();
        let lineage = Lineage::of(sample);
        self.planner.promoted(to.clone(), attempt.run.epoch, lineage, fork);
        self.save();
        self.forget_verdict();
        self.step(attempt, Event::Promoted, format!("{to} is the primary"));
        self.tell("+failover-end", self.primary_words(&from));
        let name = &self.config.name;
        self.tell(
            "+switch-master",
            format!("{name} {} {} {} {}", from.host(), from.port(), to.host(), to.port()),
        );
        for server in self.config.servers.iter().filter(|server| server.address != to) {
            self.tell("+slave", self.replica_words(&server.address));
        }
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
            verify(&to, self.login.as_ref(), epoch, replicas).await.map_err(Stop::Failed)?;
        let outcome = match verified.confirmed {
            Some(true) => format!("{to} takes writes, and a replica confirms them"),
            Some(false) => format!("{to} takes writes; no replica has confirmed one yet"),
            None => format!("{to} takes writes; there is no replica to confirm them"),
        };
        if let Some(watch) = self.watch(&to).cloned() {
            // What it says about itself is from before its replicas came; if it says nothing now, the next round judges that.
            watch.sample(ORDER_LIMIT).await.ok();
        }
        self.step(attempt, Event::Verified, outcome);
        self.planner.succeeded(Instant::now().into_std());
        self.metrics.ended(Some(verified.written - attempt.started));
        attempt.step_started = verified.written;
        Ok(verified.confirmed)
    }

    /// Records the good end of a run.
    pub(super) fn finish(
        &mut self,
        attempt: &Attempt,
        confirmed: Option<bool>,
        reasons: Vec<Reason>,
        lost_bytes: Option<u64>,
    ) -> FailoverReport {
        let Attempt { run, what, started, step_started } = attempt;
        let seconds = (*step_started - *started).as_secs_f64();
        let to = run.to.clone().unwrap_or_else(|| run.from.clone());
        self.last_failover = Some(chrono::Utc::now());
        let steps: Vec<_> = run
            .steps
            .iter()
            .map(|step| serde_json::json!({"step": step.state.name(), "seconds": step.took.as_secs_f64()}))
            .collect();
        let message =
            format!("{what} from {} to {to}: first write after {:.1} ms", run.from, seconds * 1e3);
        // A switchover was asked for; a failover is a sign that something broke.
        let severity = if *what == "failover" { Severity::Warning } else { Severity::Info };
        let mut draft = self
            .draft(Kind::FailoverDone, severity, message)
            .reasons(reasons)
            .closes(CAUSE)
            .detail(serde_json::json!({
                "from": run.from, "to": to, "epoch": run.epoch, "seconds": seconds,
                "lost_bytes": lost_bytes, "steps": steps,
            }));
        if confirmed == Some(false) {
            draft = draft.despite("no replica has confirmed a write yet");
        }
        if let Some(bytes) = lost_bytes {
            draft = draft.despite(format!("the old primary had {bytes} bytes more when last seen"));
        }
        (self.sink)(draft);
        self.is_incident_open = false;
        self.publish(&self.views());
        FailoverReport { from: Some(run.from.clone()), to, epoch: run.epoch, seconds, lost_bytes }
    }

    /// Records the bad end of a run.
    pub(super) fn fail(&mut self, attempt: &Attempt, error: String) -> ControlError {
        self.planner.failed(Instant::now().into_std(), error.clone());
        self.metrics.ended(None);
        let at = self.state.name();
        let message = format!("{} of {} failed while {at}", attempt.what, attempt.run.from);
        let draft = self.draft(Kind::FailoverFailed, Severity::Critical, message);
        (self.sink)(
            draft.because(error.clone()).detail(serde_json::json!({"epoch": attempt.run.epoch})),
        );
        self.enter(Event::Failed, Some(error.clone()));
        self.publish(&self.views());
        ControlError::Failed(error)
    }
}

/// Why a run ends early.
pub(super) enum Stop {
    /// It turned out that it should not go on; nothing was changed.
    Withheld(String),
    /// A step did not work.
    Failed(ActError),
}

/// The views with what the drain barrier saw last.
fn with_samples(mut views: Vec<ServerView>, drained: &Drained) -> Vec<ServerView> {
    for view in &mut views {
        match drained.samples.iter().find(|(address, _)| *address == view.address) {
            Some((_, sample)) => view.sample = Some(sample.clone()),
            // It did not answer in the end.
            None => view.answered_at = None,
        }
    }
    views
}
