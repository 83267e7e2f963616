//! Operators' orders: taken, kept on disk, carried out when they are due.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::{RedisController, saved};
use crate::cluster::{Appointment, Pause};
use crate::control::{ControlError, RedisCommand};
use crate::plan::failover::{Due, Orders};
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
            RedisCommand::Pause { pause, reply } => (self.pause(pause), reply),
            RedisCommand::Resume { by, reply } => (self.resume(&by), reply),
            RedisCommand::Approve { by, reply } => (self.approve(&by), reply),
            RedisCommand::Acknowledge { by, reply } => (self.acknowledge(&by), reply),
            RedisCommand::Appoint { appointment, reply } => (self.appoint(appointment), reply),
            RedisCommand::Cancel { by, reply } => (self.cancel(&by), reply),
        };
        self.publish(&self.views());
        // The asker may have gone; what was done stays done.
        let _ = reply.send(answer);
    }

    fn pause(&mut self, pause: Pause) -> Result<(), ControlError> {
        if pause.until.is_some_and(|until| until <= Utc::now()) {
            return Err(ControlError::Refused("the pause would be over already".to_owned()));
        }
        let until = pause.until.map_or_else(|| "until it is resumed".to_owned(), until_words);
        let text = format!("{} paused automatic changes {until}: {}", pause.by, pause.reason);
        self.orders.pause = Some(pause);
        self.keep_orders(text)
    }

    fn resume(&mut self, by: &str) -> Result<(), ControlError> {
        if self.orders.pause.take().is_none() {
            return Err(ControlError::Refused("nothing is paused".to_owned()));
        }
        self.keep_orders(format!("{by} resumed automatic changes"))
    }

    fn approve(&mut self, by: &str) -> Result<(), ControlError> {
        self.planner.approve().map_err(|why| ControlError::Refused(why.to_owned()))?;
        self.note_order(format!("{by} approved the failover"));
        // Act on it at once rather than at the next news.
        self.changed.notify_one();
        Ok(())
    }

    fn acknowledge(&mut self, by: &str) -> Result<(), ControlError> {
        self.planner.acknowledge().map_err(|why| ControlError::Refused(why.to_owned()))?;
        self.note_order(format!("{by} acknowledged the last failover: the cool-down is over"));
        Ok(())
    }

    fn appoint(&mut self, appointment: Appointment) -> Result<(), ControlError> {
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
        self.orders.appointment = Some(appointment);
        self.keep_orders(text)
    }

    fn cancel(&mut self, by: &str) -> Result<(), ControlError> {
        if self.orders.appointment.take().is_none() {
            return Err(ControlError::Refused("no switchover is set".to_owned()));
        }
        self.keep_orders(format!("{by} cancelled the switchover that was set"))
    }

    /// Carries out what is due.
    pub(super) async fn keep_appointments(&mut self) {
        match self.orders.due(Utc::now()) {
            None => {}
            Some(Due::PauseEnded(pause)) => {
                let text = format!("the pause of automatic changes is over ({})", pause.reason);
                self.told_or_logged(text);
            }
            Some(Due::Missed(appointment)) => {
                let text =
                    "the switchover that was set was missed: this supervisor was not running";
                let draft = self.draft(Kind::ActionWithheld, Severity::Warning, text);
                (self.sink)(draft.because(format!("{} had set it", appointment.by)));
                self.told_or_logged("the appointment is struck off".to_owned());
            }
            Some(Due::SwitchOver(appointment)) => {
                self.told_or_logged("it is time for the switchover that was set".to_owned());
                let Appointment { target, by, .. } = appointment;
                // Its end has been recorded.
                let _ = self.asked_for(target.as_ref(), &by).await;
            }
        }
    }

    fn told_or_logged(&mut self, text: String) {
        if let Err(error) = self.keep_orders(text) {
            tracing::error!(%error, "cannot keep the orders");
        }
    }

    fn note_order(&self, text: String) {
        (self.sink)(self.draft(Kind::ActionTaken, Severity::Info, text));
    }

    /// Writes the orders down before they count: one that is forgotten at a restart is worse than one that is refused.
    fn keep_orders(&mut self, text: String) -> Result<(), ControlError> {
        self.planner.set_pause(self.orders.pause.as_ref());
        saved::write_json(&self.orders_file(), &self.orders)
            .map_err(|error| ControlError::Failed(chain(&error)))?;
        self.note_order(text);
        Ok(())
    }

    fn orders_file(&self) -> PathBuf {
        orders_file(&self.state_file)
    }
}

/// Beside the state.
pub(super) fn orders_file(state_file: &std::path::Path) -> PathBuf {
    state_file.with_extension("orders.json")
}

/// What an earlier run was told.
pub(super) fn read(state_file: &std::path::Path) -> Result<Orders, saved::SavedError> {
    Ok(saved::read_json(&orders_file(state_file))?.unwrap_or_default())
}

fn chain(error: &saved::SavedError) -> String {
    holdfast_telemetry::errors::Chain(error).to_string()
}

fn until_words(until: DateTime<Utc>) -> String {
    format!("until {}", until.format("%Y-%m-%d %H:%M:%S UTC"))
}
