//! Another primary because an operator wants one.
//!
//! If the primary serves: its writes are paused, the target catches up to the last byte, takes over, and the old primary follows it. Clients
//! wait some milliseconds and lose nothing. Until the target is promoted everything can be undone, and is, by ending the pause; the pause
//! also ends by itself. Rejected: Redis' own `FAILOVER`, which looks at offsets once a second.

use std::time::Duration;

use holdfast_psync::resp::Reply;
use holdfast_telemetry::errors::Chain;
use tokio::time::{Instant, sleep};

use super::RedisController;
use super::commands::{ActError, ORDER_LIMIT, POLL_EVERY, demotion, promote};
use super::run::{Attempt, Stop};
use crate::cluster::Address;
use crate::control::{ControlError, Failover, FailoverReport};
use crate::judge::redis::Verdict;
use crate::observe::redis::{Watch, command};
use crate::plan::failover::{Choice, Event};
use crate::record::{Kind, Reason, Severity};

/// How long the target may take to have what the primary has before writes are paused: an acknowledgement comes once a second. The
/// controller waits in it, so it bounds how late a crash in these moments is noticed.
const PREPARE_LIMIT: Duration = Duration::from_millis(1_500);

/// How long the target may take to catch up with the paused primary. It lacks what is under way, usually nothing.
const CATCH_UP_LIMIT: Duration = Duration::from_millis(500);

/// Writes are paused at most this long, whatever happens to us: catching up, promotion and demotion at their limits.
const PAUSE: Duration = Duration::from_secs(2);

impl RedisController {
    /// Replaces the primary because an operator said so, and answers.
    pub(super) async fn failover_command(&mut self, command: Failover) {
        let Failover { target, by, reply } = command;
        let answer = self.asked_for(target.as_ref(), &by).await;
        // The asker may have gone; what was done stays done.
        let _ = reply.send(answer);
    }

    /// Replaces the primary as an operator wants it; a refusal is recorded.
    pub(super) async fn asked_for(
        &mut self,
        target: Option<&Address>,
        by: &str,
    ) -> Result<FailoverReport, ControlError> {
        let answer = self.replace_primary(target, by).await;
        if let Err(error) = &answer {
            let message = format!("switchover asked for by {by} was not done");
            let draft = self.draft(Kind::ActionWithheld, Severity::Warning, message);
            (self.sink)(draft.despite(error.to_string()));
        }
        answer
    }

    /// Hands over to a server that is preferred.
    pub(super) async fn hand_back(&mut self, choice: Choice) {
        let Some(primary) = self.planner.primary().cloned() else { return };
        let text = format!("{} is preferred to {primary} and has caught up", choice.address);
        let mut reasons = vec![Reason { favours: true, text }];
        reasons.extend(choice.reasons.iter().cloned());
        // Its end has been recorded; a failed one is tried again after a pause.
        let _ = self.switch_over(&primary, choice, reasons).await;
    }

    async fn replace_primary(
        &mut self,
        target: Option<&Address>,
        by: &str,
    ) -> Result<FailoverReport, ControlError> {
        let refuse = |text: String| Err(ControlError::Refused(text));
        if self.is_sentinels() && self.planner.observes_only().is_none() {
            return self.ask_sentinels(target, by).await;
        }
        if let Some(why) = self.planner.forbidden() {
            return refuse(why);
        }
        if !self.agreement.leads() {
            return refuse("this supervisor does not lead the group".to_owned());
        }
        let Some(primary) = self.planner.primary().cloned() else {
            return refuse("the primary is not known".to_owned());
        };
        if let Some(target) = target {
            if self.watch(target).is_none() {
                let name = &self.config.name;
                return Err(ControlError::NotFound(format!("no server {target} in Redis {name}")));
            }
            if *target == primary {
                return refuse(format!("{target} is the primary already"));
            }
        }
        let views = self.views();
        let council = self.agreement.council();
        let mut decision = self.planner.decide(Instant::now().into_std(), &views, &council);
        let asked = Reason { favours: true, text: format!("{by} asked for it") };
        decision.reasons.insert(0, asked);
        match decision.verdict {
            Some(verdict) if verdict.serves() => {
                let now = Instant::now().into_std();
                match self.planner.candidate(now, &views, Some(&primary), target) {
                    Ok(choice) => self.switch_over(&primary, choice, decision.reasons).await,
                    Err(reasons) => {
                        let texts: Vec<_> = reasons.into_iter().map(|reason| reason.text).collect();
                        refuse(format!("no server can take its place: {}", texts.join("; ")))
                    }
                }
            }
            // The operator sees something we do not, or does not want to wait for us.
            Some(Verdict::Unknown) | None => {
                refuse("the primary is not known well enough".to_owned())
            }
            Some(_) => {
                self.enter(Event::Down, decision.summary.clone());
                self.fail_over(&decision, &views, true, target).await
            }
        }
    }

    async fn switch_over(
        &mut self,
        primary: &Address,
        choice: Choice,
        reasons: Vec<Reason>,
    ) -> Result<FailoverReport, ControlError> {
        let (Some(old), Some(new)) =
            (self.watch(primary).cloned(), self.watch(&choice.address).cloned())
        else {
            return Err(ControlError::Failed("a server is gone".to_owned()));
        };
        let mut attempt = self.begin("switchover", primary, &self.views());
        self.is_planned = true;
        let handed = self.hand_over(&mut attempt, &old, &new, choice).await;
        self.is_planned = false;
        match handed {
            Ok(confirmed) => Ok(self.finish(attempt, confirmed, reasons, Some(0))),
            Err(stop) => {
                self.call_off(&attempt).await;
                // The target may have been promoted: then the old primary must not take writes again, and has been told so.
                if self.planner.primary() == Some(primary) {
                    let undo = old.order(command(["CLIENT", "UNPAUSE"]), ORDER_LIMIT).await;
                    if let Err(error) = undo {
                        tracing::warn!(%error, "cannot end the pause, it ends by itself");
                    }
                }
                Err(match stop {
                    Stop::Withheld(why) => self.withhold(attempt, why, &reasons),
                    Stop::Failed(error) => self.fail(attempt, Chain(&error).to_string()),
                })
            }
        }
    }

    async fn hand_over(
        &mut self,
        attempt: &mut Attempt,
        old: &Watch,
        new: &Watch,
        mut choice: Choice,
    ) -> Result<Option<bool>, Stop> {
        // A replica that has just been loaded gets the stream only after its next acknowledgement, up to a second later. That is waited
        // for before the pause, not in it.
        self.agree_on_target(attempt, &choice.address).await?;
        let present = offset(old, "see how far the primary is").await.map_err(Stop::Failed)?;
        catch_up(new, present, PREPARE_LIMIT).await.map_err(Stop::Failed)?;
        self.vet(attempt, "an operator or a preference moves the primary").await?;
        let offset = pause(old, PAUSE).await.map_err(Stop::Failed)?;
        let reached = catch_up(new, offset, CATCH_UP_LIMIT).await.map_err(Stop::Failed)?;
        choice.offset = reached;
        self.step(attempt, Event::Drained, format!("writes are paused at offset {offset}"));
        self.tell_election(attempt, &choice);
        let outcome = format!("{} has everything: offset {reached}", choice.address);
        self.step(attempt, Event::Elected, outcome);
        let outcome = format!("{} takes no writes during the pause", old.address());
        self.step(attempt, Event::Fenced, outcome);

        let sample = promote(new).await.map_err(Stop::Failed)?;
        // Its clients are closed before the pause ends: none of their waiting writes is carried out.
        let demoted = old.send(demotion(new.address()));
        self.take_over(attempt, &choice, &sample).await?;
        match demoted {
            // Its view is new when this has been answered.
            Ok(_) => match old.sample(ORDER_LIMIT).await {
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "former primary has not answered yet"),
            },
            Err(error) => {
                tracing::warn!(%error, "former primary cannot be told, it is brought in line later");
            }
        }
        self.repoint_and_verify(attempt, Some(old.address())).await
    }
}

/// Pauses writes for `limit` and says at which offset they stand.
pub(super) async fn pause(primary: &Watch, limit: Duration) -> Result<u64, ActError> {
    let what = format!("pause writes on {}", primary.address());
    let milliseconds = limit.as_millis().to_string();
    let order = command(["CLIENT", "PAUSE", &milliseconds, "WRITE"]);
    let ask = |source| ActError::Ask { what: what.clone(), source };
    let reply = primary.order(order, ORDER_LIMIT).await.map_err(ask)?;
    debug_assert!(matches!(reply, Reply::Simple(_)), "CLIENT PAUSE answers OK");
    offset(primary, &what).await
}

/// A server's replication offset now; `what` says what for.
async fn offset(server: &Watch, what: &str) -> Result<u64, ActError> {
    let sample = server.sample(ORDER_LIMIT).await;
    Ok(sample.map_err(|source| ActError::Ask { what: what.to_owned(), source })?.offset)
}

/// Waits at most `limit` until the target has everything up to `wanted`; returns how far it is then.
pub(super) async fn catch_up(
    target: &Watch,
    wanted: u64,
    limit: Duration,
) -> Result<u64, ActError> {
    let deadline = Instant::now() + limit;
    let what = format!("see how far {} is", target.address());
    loop {
        let reached = offset(target, &what).await?;
        if reached >= wanted {
            return Ok(reached);
        }
        if Instant::now() >= deadline {
            let address = target.address().clone();
            return Err(ActError::NotCaughtUp { address, after: limit });
        }
        sleep(POLL_EVERY).await;
    }
}
