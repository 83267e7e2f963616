//! What the members of the group agree on, seen from the controller: taking it over, adding to it, telling clients of it.
//!
//! Clients are told what is agreed on and nothing else, by every member alike, when it learns of it. A failover that was carried out but
//! could not be agreed on has not happened for them; whoever leads next finds it and ends it.

use chrono::Utc;
use holdfast_telemetry::errors::Chain;
use tokio::time::{Duration, Instant};

use super::RedisController;
use super::controller::CAUSE;
use crate::cluster::{Address, Manager};
use crate::group::ProposeError;
use crate::judge::redis::{Lineage, Opinion, ServerView};
use crate::plan::failover::{Decision, RedisEntry, Resume};
use crate::record::{Kind, Severity};

impl RedisController {
    /// Takes over what was agreed on, and tells clients if that is another primary.
    pub(super) fn follow(&mut self, views: &[ServerView]) {
        let before = self.planner.primary().cloned();
        let now = Instant::now().into_std();
        let register = self.agreement.register();
        if !self.planner.follow(now, Utc::now(), &register, views) {
            return;
        }
        let Some(to) = self.planner.primary().cloned() else { return };
        self.forget_verdict();
        let Some(from) = before.filter(|from| *from != to) else { return };
        self.tell_switch(&from, &to);
        if self.config.manager != Manager::Holdfast {
            self.remember_former(&from, &to);
        }
        if self.attempting != Some(self.planner.epoch()) {
            let message = format!("{to} is the primary in place of {from}");
            let mut draft = self.draft(Kind::RedisVerdict, Severity::Info, message);
            draft = draft.because("the supervisors agreed on it").closes(CAUSE);
            self.is_incident_open = false;
            (self.sink)(draft.detail(serde_json::json!({"epoch": self.planner.epoch()})));
        }
        self.publish(views);
        // Judge it at once rather than at the next news.
        self.changed.notify_one();
    }

    /// Has the group agree on `entry`, and takes that over.
    pub(super) async fn agree(&mut self, entry: RedisEntry) -> Result<(), ProposeError> {
        self.agreement.propose(entry).await?;
        self.follow(&self.views());
        Ok(())
    }

    /// As [`Self::agree`]; a failure is counted and told, and the next round tries again.
    pub(super) async fn agree_or_tell(&mut self, entry: RedisEntry) -> bool {
        match self.agree(entry).await {
            Ok(()) => true,
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::error!(redis = self.config.name, error, "nothing could be agreed on");
                self.metrics.save_failures().inc();
                false
            }
        }
    }

    pub(super) async fn adopt(&mut self, primary: &Address, why: &str, views: &[ServerView]) {
        if !self.agreement.leads() {
            return;
        }
        let view = views.iter().find(|view| view.address == *primary);
        let lineage = view.and_then(|view| view.sample.as_ref()).map(Lineage::of);
        if !self.agree_or_tell(RedisEntry::Adopt { primary: primary.clone(), lineage }).await {
            return;
        }
        let draft =
            self.draft(Kind::RedisVerdict, Severity::Info, format!("{primary} is the primary"));
        (self.sink)(draft.because(why).detail(serde_json::json!({"epoch": self.planner.epoch()})));
        self.reason = None;
        self.publish(views);
        self.changed.notify_one();
    }

    /// Ends a change that was begun and left behind: by a leader that is gone, or by us when nothing could be agreed on.
    pub(super) async fn resume(&mut self, resume: &Resume) {
        let Some(change) = self.planner.register().change.clone() else { return };
        let (epoch, from, to) = (change.epoch, &change.from, change.to.clone());
        match resume {
            Resume::Finish { sample, fork } => {
                let (lineage, fork) = (Lineage::of(sample), fork.clone());
                let done =
                    RedisEntry::Done { epoch, to: to.clone(), lineage, fork, at: Utc::now() };
                if self.agree_or_tell(done).await {
                    let message = format!("{to} had been promoted in place of {from}: agreed on");
                    let draft = self.draft(Kind::FailoverDone, Severity::Warning, message);
                    let because = "the supervisor that began the change did not end it";
                    let detail = serde_json::json!({"from": from, "to": to, "epoch": epoch});
                    (self.sink)(draft.because(because).closes(CAUSE).detail(detail));
                    self.last_failover = Some(Utc::now());
                }
            }
            Resume::Abort { why } => {
                if self.agree_or_tell(RedisEntry::Aborted { epoch }).await {
                    let message = format!("the change from {from} to {to} is called off");
                    let draft = self.draft(Kind::ActionTaken, Severity::Warning, message);
                    (self.sink)(draft.because(why.clone()));
                    // It may have been fenced for it.
                    self.unfence(from);
                }
            }
        }
    }

    /// Tells the group what has become true without a change: the primary's history goes on under another name, and a failover that was
    /// approved is not called for any more.
    pub(super) async fn keep_agreement_true(&mut self) {
        if self.planner.register().change.is_some() {
            return;
        }
        if let Some(lineage) = self.planner.renamed().cloned() {
            let epoch = self.planner.epoch();
            self.agree_or_tell(RedisEntry::Renamed { epoch, lineage }).await;
        }
        let asks = self.planner.asks();
        if asks != self.planner.register().asks && self.verdict.is_some() {
            self.agree_or_tell(RedisEntry::Ask(asks)).await;
        }
        if self.planner.register().approved
            && self.verdict.is_some_and(crate::judge::redis::Verdict::serves)
        {
            self.agree_or_tell(RedisEntry::Approve(false)).await;
        }
    }

    /// Tells the other members what we see of the primary.
    pub(super) fn share(&self, decision: &Decision, views: &[ServerView], late: Duration) {
        let opinion = decision.own.as_ref().zip(self.planner.primary()).map(|(own, primary)| {
            let mut opinion = Opinion::of(own, primary.clone(), self.planner.epoch());
            opinion.beside = self.beside().cloned().collect();
            opinion.fenced = self.fences.get(primary).and_then(|standing| standing.stands());
            let view = views.iter().find(|view| view.address == *primary);
            opinion.process = view.and_then(|view| view.process).map(|process| process.state);
            opinion.late_milliseconds = millis(late);
            opinion.lease_milliseconds = millis(self.agreement.lease());
            opinion
        });
        self.agreement.share(opinion);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
