//! Asking Redis Sentinel for a failover, and making that safe.
//!
//! By itself a failover by command loses what the old primary takes until Sentinel demotes it, some ten seconds later. So writes are paused
//! there first, the replicas catch up, and the pause outlasts the demotion: clients that still write to it wait, and are closed by
//! Sentinel when it becomes a replica. No role is changed by us. The pause is taken back if nothing comes of it, and ends by itself.

use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use tokio::time::{Instant, timeout};

use super::super::RedisController;
use super::super::commands::ORDER_LIMIT;
use super::super::switchover::{catch_up, pause};
use super::SentinelWatch;
use crate::cluster::Address;
use crate::control::{ControlError, FailoverReport};
use crate::judge::redis::Verdict;
use crate::observe::redis::{Watch, command};
use crate::record::{Kind, Reason, Severity};

/// How long Sentinel may take to name another primary: 2 s where all is well, ten more where a replica does not answer at once.
const SWITCH_LIMIT: Duration = Duration::from_secs(15);

/// How long the replica Sentinel will choose may take to catch up with the paused primary; usually it lacks nothing.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(3);

/// Writes wait at most this long for Sentinel's choice: all of the above.
const PAUSE: Duration = Duration::from_secs(20);

/// And this long once it is made, until the former primary is a replica: Sentinel takes about 11 s for that.
const PAUSE_AFTER: Duration = Duration::from_secs(20);

/// Pause between two looks at what the Sentinels say.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl RedisController {
    /// Has Redis Sentinel replace the primary, because `by` wants it.
    pub(in crate::act::redis) async fn ask_sentinels(
        &mut self,
        target: Option<&Address>,
        by: &str,
    ) -> Result<FailoverReport, ControlError> {
        let refuse = |text: &str| Err(ControlError::Refused(text.to_owned()));
        if target.is_some() {
            return refuse("Redis Sentinel chooses the next primary itself: name no server");
        }
        let Some(from) = self.planner.primary().cloned() else {
            return refuse("the primary is not known");
        };
        let asked: Vec<_> = self
            .sentinels
            .watches
            .iter()
            .filter(|sentinel| {
                sentinel.view().present().is_some_and(|seen| seen.no_quorum.is_none())
            })
            .cloned()
            .collect();
        if asked.is_empty() {
            return refuse("no Sentinel can be asked that hears enough others");
        }
        let serves = self.verdict.is_some_and(Verdict::serves);
        let old = self.watch(&from).cloned().filter(|_| serves);
        if let Some(old) = &old {
            self.hold_writes(old).await?;
        }
        self.sentinels.is_paused = old.is_some();
        let started = Instant::now();
        let outcome = self.await_switch(&asked, &from).await;
        self.sentinels.is_paused = false;
        match outcome {
            Ok(to) => {
                if let Some(old) = &old
                    && let Err(error) = pause(old, PAUSE_AFTER).await
                {
                    // It is a replica already, or gone: nobody writes to it.
                    tracing::info!(error = %Chain(&error), "the pause of the former primary is not renewed");
                }
                Ok(self.note_asked(by, from, to, started.elapsed()))
            }
            Err(error) => {
                if let Some(old) = &old {
                    let undo = old.order(command(["CLIENT", "UNPAUSE"]), ORDER_LIMIT).await;
                    if let Err(error) = undo {
                        tracing::warn!(%error, "cannot end the pause, it ends by itself");
                    }
                }
                Err(error)
            }
        }
    }

    /// Pauses writes and waits until the replica that Sentinel will choose has everything.
    async fn hold_writes(&self, old: &Watch) -> Result<(), ControlError> {
        let failed = |error| ControlError::Failed(Chain(&error).to_string());
        let offset = pause(old, PAUSE).await.map_err(failed)?;
        let choice = self.sentinels.assessment.choice.as_ref();
        let Some(choice) = choice.and_then(|choice| self.watch(choice)) else { return Ok(()) };
        catch_up(choice, offset, CATCH_UP_LIMIT).await.map(drop).map_err(failed)
    }

    /// Asks one Sentinel after the other until one begins, then waits until they name another primary.
    async fn await_switch(
        &mut self,
        asked: &[SentinelWatch],
        from: &Address,
    ) -> Result<Address, ControlError> {
        let mut refusals = Vec::new();
        let mut has_begun = false;
        for sentinel in asked {
            match sentinel.fail_over().await {
                Ok(()) => {
                    has_begun = true;
                    break;
                }
                Err(error) => refusals.push(Chain(&error).to_string()),
            }
        }
        if !has_begun {
            return Err(ControlError::Refused(refusals.join("; ")));
        }
        let deadline = Instant::now() + SWITCH_LIMIT;
        while Instant::now() < deadline {
            // News or none, both are looked at.
            let _ = timeout(LOOK_EVERY, self.changed.notified()).await;
            let views = self.views();
            self.follow_sentinels(&views).await;
            self.publish(&views);
            self.last_round = Instant::now();
            if let Some(to) = self.planner.primary().filter(|to| *to != from) {
                return Ok(to.clone());
            }
        }
        let limit = SWITCH_LIMIT.as_secs();
        Err(ControlError::Failed(format!(
            "Redis Sentinel began a failover and has named no other primary within {limit} s"
        )))
    }

    fn note_asked(&self, by: &str, from: Address, to: Address, took: Duration) -> FailoverReport {
        let (epoch, seconds) = (self.planner.epoch(), took.as_secs_f64());
        let message =
            format!("Redis Sentinel moved the primary from {from} to {to} in {seconds:.1} s");
        let asked = Reason { favours: true, text: format!("{by} asked for it") };
        let detail =
            serde_json::json!({"from": from, "to": to, "epoch": epoch, "seconds": seconds});
        let draft = self.draft(Kind::FailoverDone, Severity::Info, message);
        (self.sink)(draft.reasons([asked]).detail(detail));
        FailoverReport { from: Some(from), to, epoch, seconds, lost_bytes: None }
    }
}
