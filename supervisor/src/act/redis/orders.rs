//! Operators' orders: taken, agreed on by the group, carried out when they are due.

use std::time::Duration;

use chrono::{DateTime, Utc};

use holdfast_telemetry::errors::Chain;

use super::RedisController;
use crate::cluster::{Appointment, Pause};
use crate::control::{ControlError, RedisCommand};
use crate::plan::failover::{Due, RedisEntry};
use crate::record::{Kind, Severity};

impl RedisController {
    /// Carries out an operator's command and answers it.
    pub(super) async fn command(&mut self, command: RedisCommand) {
        let (answer, reply) = match command {
            RedisCommand::FailOver(command) => return self.failover_command(command).await,
            RedisCommand::Salvage(order) => return self.salvage_order(order),
            RedisCommand::Restart { order, by, reply } => {
                let answer = self.restart_order(order, by).await;
                self.publish(&self.views());
                // The asker may have gone; what was begun goes on.
                let _ = reply.send(answer);
                return;
            }
            RedisCommand::Pause { pause, reply } => (self.pause(pause).await, reply),
            RedisCommand::Resume { by, reply } => (self.end_pause(&by).await, reply),
            RedisCommand::Approve { by, reply } => (self.approve(&by).await, reply),
            RedisCommand::Acknowledge { by, reply } => (self.acknowledge(&by).await, reply),
            RedisCommand::Appoint { appointment, reply } => {
                (self.appoint(appointment).await, reply)
            }
            RedisCommand::Cancel { by, reply } => (self.cancel(&by).await, reply),
            RedisCommand::SetHangAfter { hang_after, by, reply } => {
                (self.set_hang_after(hang_after, &by), reply)
            }
        };
        self.publish(&self.views());
        // The asker may have gone; what was done stays done.
        let _ = reply.send(answer);
    }

    async fn pause(&mut self, pause: Pause) -> Result<(), ControlError> {
        if pause.until.is_some_and(|until| until <= Utc::now()) {
            return Err(ControlError::Refused("the pause would be over already".to_owned()));
        }
        let until = pause.until.map_or_else(|| "until it is resumed".to_owned(), until_words);
        let text = format!("{} paused automatic changes {until}: {}", pause.by, pause.reason);
        self.order(RedisEntry::Pause(Some(pause)), text).await
    }

    async fn end_pause(&mut self, by: &str) -> Result<(), ControlError> {
        if self.planner.register().orders.pause.is_none() {
            return Err(ControlError::Refused("nothing is paused".to_owned()));
        }
        self.order(RedisEntry::Pause(None), format!("{by} resumed automatic changes")).await
    }

    async fn approve(&mut self, by: &str) -> Result<(), ControlError> {
        if !self.planner.awaits_approval() {
            return Err(ControlError::Refused("no failover waits for approval".to_owned()));
        }
        self.order(RedisEntry::Approve(true), format!("{by} approved the failover")).await?;
        // Act on it at once rather than at the next news.
        self.changed.notify_one();
        Ok(())
    }

    async fn acknowledge(&mut self, by: &str) -> Result<(), ControlError> {
        if self.planner.register().changed_at.is_none() {
            return Err(ControlError::Refused("there is no failover to acknowledge".to_owned()));
        }
        let text = format!("{by} acknowledged the last failover: the cool-down is over");
        self.order(RedisEntry::Acknowledge, text).await
    }

    async fn appoint(&mut self, appointment: Appointment) -> Result<(), ControlError> {
        if appointment.at <= Utc::now() {
            return Err(ControlError::Refused("that time is past".to_owned()));
        }
        if let Some(target) = &appointment.target
            && self.watch(target).is_none()
        {
            let name = &self.config.name;
            return Err(ControlError::NotFound(format!("no server {target} in Redis {name}")));
        }
        let to = appointment.target.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
        let text = format!(
            "{} set a switchover{to} for {}",
            appointment.by,
            appointment.at.format("%Y-%m-%d %H:%M:%S UTC")
        );
        self.order(RedisEntry::Appoint(Some(appointment)), text).await
    }

    async fn cancel(&mut self, by: &str) -> Result<(), ControlError> {
        if self.planner.register().orders.appointment.is_none() {
            return Err(ControlError::Refused("no switchover is set".to_owned()));
        }
        let text = format!("{by} cancelled the switchover that was set");
        self.order(RedisEntry::Appoint(None), text).await
    }

    /// Until the next start: the settings file is the operator's.
    fn set_hang_after(&mut self, to: Duration, by: &str) -> Result<(), ControlError> {
        self.config.set_hang_after(to).map_err(ControlError::Refused)?;
        self.planner.set_hang_after(to);
        let milliseconds = to.as_millis();
        self.note_order(format!(
            "{by}: silence counts after {milliseconds} ms until the next start"
        ));
        Ok(())
    }

    /// Carries out what is due, once it is agreed that it is: no other member does it again.
    pub(super) async fn keep_appointments(&mut self) {
        let Some(due) = self.planner.register().orders.clone().due(Utc::now()) else { return };
        let entry = match &due {
            Due::PauseEnded(_) => RedisEntry::Pause(None),
            Due::Missed(_) | Due::SwitchOver(_) => RedisEntry::Appoint(None),
        };
        if !self.agree_or_tell(entry).await {
            return;
        }
        match due {
            Due::PauseEnded(pause) => {
                self.note_order(format!(
                    "the pause of automatic changes is over ({})",
                    pause.reason
                ));
            }
            Due::Missed(appointment) => {
                let text = "the switchover that was set was missed: no supervisor was running";
                let draft = self.draft(Kind::ActionWithheld, Severity::Warning, text);
                (self.sink)(draft.because(format!("{} had set it", appointment.by)));
            }
            Due::SwitchOver(Appointment { target, by, .. }) => {
                self.note_order("it is time for the switchover that was set".to_owned());
                // Its end has been recorded.
                let _ = self.asked_for(target.as_ref(), &by).await;
            }
        }
    }

    /// Has an order agreed on before it counts: one that is forgotten at a restart is worse than one that is refused.
    async fn order(&mut self, entry: RedisEntry, text: String) -> Result<(), ControlError> {
        let agreed = self.agree(entry).await;
        agreed.map_err(|error| ControlError::Failed(Chain(&error).to_string()))?;
        self.note_order(text);
        Ok(())
    }

    fn note_order(&self, text: String) {
        (self.sink)(self.draft(Kind::ActionTaken, Severity::Info, text));
    }
}

fn until_words(until: DateTime<Utc>) -> String {
    format!("until {}", until.format("%Y-%m-%d %H:%M:%S UTC"))
}
