//! What operators have told us about a Redis primary: leave it alone for a while, move it later, yes to a plan.
//!
//! Plain data, kept over our own restart by the controller. Times are instants of the world, because they outlive this process.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cluster::{Appointment, Pause};

/// Everything that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Orders {
    /// Hands off.
    pub pause: Option<Pause>,
    /// A planned switchover.
    pub appointment: Option<Appointment>,
}

/// An appointment that could not be kept within this time is missed: nobody expects a switchover hours later.
const APPOINTMENT_LATE_MAX: chrono::TimeDelta = chrono::TimeDelta::minutes(10);

/// What an order has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// The pause is over.
    PauseEnded(Pause),
    /// It is time for the switchover.
    SwitchOver(Appointment),
    /// It was time while nobody could do it.
    Missed(Appointment),
}

impl Orders {
    /// Takes out what is due.
    pub fn due(&mut self, now: DateTime<Utc>) -> Option<Due> {
        let is_over = |pause: &mut Pause| pause.until.is_some_and(|until| until <= now);
        if let Some(pause) = self.pause.take_if(is_over) {
            return Some(Due::PauseEnded(pause));
        }
        let appointment = self.appointment.take_if(|appointment| appointment.at <= now)?;
        Some(if now - appointment.at > APPOINTMENT_LATE_MAX {
            Due::Missed(appointment)
        } else {
            Due::SwitchOver(appointment)
        })
    }
}

/// A plan that waits for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Approval {
    /// When it was asked for.
    asked: Instant,
    /// How often, in this matter.
    count: u32,
}

impl Approval {
    /// Asks, or asks anew when nobody has answered within `limit`; says how often that was.
    pub(super) fn ask(approval: &mut Option<Self>, now: Instant, limit: Duration) -> u32 {
        let open = approval.filter(|approval| now < approval.asked + limit);
        let count = approval.map_or(0, |approval| approval.count);
        let current = open.unwrap_or(Self { asked: now, count: count + 1 });
        *approval = Some(current);
        current.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn orders_come_due_once() {
        let pause = Pause { reason: "network work".into(), by: "ann".into(), until: Some(at(100)) };
        let appointment = Appointment { at: at(200), target: None, by: "bob".into() };
        let mut orders =
            Orders { pause: Some(pause.clone()), appointment: Some(appointment.clone()) };
        assert_eq!(orders.due(at(99)), None);
        assert_eq!(orders.due(at(100)), Some(Due::PauseEnded(pause)));
        assert_eq!(orders.due(at(199)), None);
        let mut late = orders.clone();
        assert_eq!(orders.due(at(200)), Some(Due::SwitchOver(appointment.clone())));
        assert_eq!(orders, Orders::default());
        assert_eq!(late.due(at(801)), Some(Due::Missed(appointment)));
        let endless = Pause { reason: "x".into(), by: "y".into(), until: None };
        let mut orders = Orders { pause: Some(endless), appointment: None };
        assert_eq!(orders.due(at(i64::from(u32::MAX))), None);
    }
}
