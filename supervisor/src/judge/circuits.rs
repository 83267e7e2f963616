//! Should a server carry traffic, judged by the rules that name it?
//!
//! Rules whose labels carry an `action` call for something to be done about the server in their `server` label. One [`Circuit`] per
//! server turns those calls into a steady demand: **closed** (full traffic) → **open** (drained or down-weighted, the strongest
//! action called for) → **half-open** (a share of the weight that rises step by step) → closed. It opens after the calls have lasted
//! `open_after`, and takes the first step back after `close_after` without any call, so that a flapping rule cannot make traffic flap.
//!
//! Missing data is not calm: while it is not known what the rules say, time stands still for the circuit. Rejected: closing as soon as
//! the rule is silent (a drained server is always fast), and letting the rule's own `for` do all the damping (it knows nothing of the
//! way back).

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::cluster::CircuitState;
use crate::config::Guards;

/// What a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// This share of the configured weight, per cent, 1 to 100.
    Weight(Percent),
    /// No new connections.
    Drain,
}

/// A share in per cent. Ordered by severity: a *lower* share is the stronger demand and compares greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u8);

impl PartialOrd for Percent {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Percent {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

/// One rule's call for action on one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Name of the rule.
    pub rule: String,
    /// What it asks for.
    pub action: Action,
    /// Its summary, for the journal.
    pub summary: String,
}

/// What the circuit demands of the server now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Demand {
    /// The full configured weight.
    Full,
    /// This share of it, 0 to 1, without 0.
    Share(f64),
    /// No new connections.
    Drain,
}

/// A circuit's change of state, for the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The state it is in now.
    pub to: CircuitState,
    /// Why.
    pub reason: String,
}

/// The circuit of one server.
#[derive(Debug, Clone, Default)]
pub struct Circuit {
    phase: Phase,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    #[default]
    Closed,
    /// Called for, but not yet for `open_after`.
    Opening {
        since: DateTime<Utc>,
    },
    Open {
        action: Action,
        reason: String,
        calm_since: Option<DateTime<Utc>>,
    },
    HalfOpen {
        step: usize,
        since: DateTime<Utc>,
    },
}

impl Circuit {
    /// The circuit of a server that an earlier run of the supervisor drained or down-weighted: open, as it was, until it has been calm.
    pub fn resumed(action: Action, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { phase: Phase::Open { action, reason, calm_since: None } }
    }

    /// Takes in what the rules say now; `calls` is `None` while that is not known. Returns the change of state, if there is one.
    pub fn observe(
        &mut self,
        now: DateTime<Utc>,
        calls: Option<&[Call]>,
        guards: &Guards,
    ) -> Option<Change> {
        let calls = calls?;
        let strongest = calls.iter().max_by_key(|call| call.action);
        match (&mut self.phase, strongest) {
            (Phase::Closed | Phase::Opening { .. }, None) => {
                self.phase = Phase::Closed;
                None
            }
            (Phase::Closed, Some(call)) => self.begin_opening(now, call, guards),
            (Phase::Opening { since }, Some(call)) => {
                lasted(*since, now, guards.open_after).then(|| self.open(call))
            }
            (Phase::Open { action, calm_since, .. }, Some(call)) => {
                *calm_since = None;
                (call.action > *action).then(|| self.open(call))
            }
            (Phase::Open { calm_since, .. }, None) => {
                let since = *calm_since.get_or_insert(now);
                lasted(since, now, guards.close_after).then(|| self.enter_step(now, 0, guards))
            }
            // Trouble on the way back needs no second look: it was there a moment ago.
            (Phase::HalfOpen { .. }, Some(call)) => Some(self.open(call)),
            (Phase::HalfOpen { step, since }, None) => {
                let next = *step + 1;
                lasted(*since, now, guards.return_step_every)
                    .then(|| self.enter_step(now, next, guards))
            }
        }
    }

    fn begin_opening(
        &mut self,
        now: DateTime<Utc>,
        call: &Call,
        guards: &Guards,
    ) -> Option<Change> {
        if guards.open_after.is_zero() {
            return Some(self.open(call));
        }
        self.phase = Phase::Opening { since: now };
        None
    }

    fn open(&mut self, call: &Call) -> Change {
        let reason = format!("{}: {}", call.rule, call.summary);
        self.phase = Phase::Open { action: call.action, reason: reason.clone(), calm_since: None };
        Change { to: CircuitState::Open, reason }
    }

    fn enter_step(&mut self, now: DateTime<Utc>, step: usize, guards: &Guards) -> Change {
        let share = guards.return_steps.get(step).copied().unwrap_or(1.0);
        if share >= 1.0 {
            self.phase = Phase::Closed;
            let reason = "calm on every step of the way back".to_owned();
            return Change { to: CircuitState::Closed, reason };
        }
        self.phase = Phase::HalfOpen { step, since: now };
        let calm = if step == 0 { guards.close_after } else { guards.return_step_every };
        let reason = format!(
            "no rule called for action for {calm:?}; back with {:.0} % of its weight",
            share * 100.0
        );
        Change { to: CircuitState::HalfOpen, reason }
    }

    /// What the server should carry now.
    pub fn demand(&self, guards: &Guards) -> Demand {
        match &self.phase {
            Phase::Closed | Phase::Opening { .. } => Demand::Full,
            Phase::Open { action: Action::Drain, .. } => Demand::Drain,
            Phase::Open { action: Action::Weight(Percent(percent)), .. } => {
                Demand::Share(f64::from(*percent) / 100.0)
            }
            Phase::HalfOpen { step, .. } => {
                Demand::Share(guards.return_steps.get(*step).copied().unwrap_or(1.0))
            }
        }
    }

    /// The state for metrics and people.
    pub fn state(&self) -> CircuitState {
        match self.phase {
            Phase::Closed | Phase::Opening { .. } => CircuitState::Closed,
            Phase::Open { .. } => CircuitState::Open,
            Phase::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// Why it is open.
    pub fn reason(&self) -> Option<&str> {
        match &self.phase {
            Phase::Open { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

fn lasted(since: DateTime<Utc>, now: DateTime<Utc>, duration: Duration) -> bool {
    // A clock stepped backwards counts as no time at all.
    (now - since).to_std().unwrap_or_default() >= duration
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards() -> Guards {
        Guards {
            max_out_share: 0.34,
            open_after: Duration::from_secs(2),
            close_after: Duration::from_secs(10),
            return_steps: vec![0.1, 0.5, 1.0],
            return_step_every: Duration::from_secs(3),
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
    }

    fn call(action: Action) -> Call {
        Call { rule: "NodeSlow".to_owned(), action, summary: "p99 over 100 ms".to_owned() }
    }

    /// Feeds one observation per second from `from` to `to` and returns the changes with their second.
    fn feed(
        circuit: &mut Circuit,
        seconds: std::ops::Range<i64>,
        calls: Option<&[Call]>,
    ) -> Vec<(i64, CircuitState)> {
        seconds
            .filter_map(|s| circuit.observe(at(s), calls, &guards()).map(|change| (s, change.to)))
            .collect()
    }

    #[test]
    fn it_opens_after_the_hold_and_returns_step_by_step() {
        let mut circuit = Circuit::default();
        let slow = [call(Action::Weight(Percent(10)))];
        assert_eq!(feed(&mut circuit, 0..5, Some(&slow)), [(2, CircuitState::Open)]);
        assert_eq!(circuit.demand(&guards()), Demand::Share(0.1));
        assert_eq!(
            feed(&mut circuit, 5..40, Some(&[])),
            [
                (15, CircuitState::HalfOpen),
                (18, CircuitState::HalfOpen),
                (21, CircuitState::Closed)
            ]
        );
        assert_eq!(circuit.demand(&guards()), Demand::Full);
    }

    #[test]
    fn a_short_call_does_not_open_it() {
        let mut circuit = Circuit::default();
        let slow = [call(Action::Drain)];
        assert_eq!(feed(&mut circuit, 0..2, Some(&slow)), []);
        assert_eq!(feed(&mut circuit, 2..4, Some(&[])), []);
        assert_eq!(feed(&mut circuit, 4..6, Some(&slow)), []);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn the_strongest_action_wins_and_stays_until_calm() {
        let mut circuit = Circuit::default();
        let (weak, strong) = (call(Action::Weight(Percent(50))), call(Action::Weight(Percent(10))));
        feed(&mut circuit, 0..3, Some(&[weak.clone(), strong]));
        assert_eq!(circuit.demand(&guards()), Demand::Share(0.1));
        assert_eq!(
            feed(&mut circuit, 3..4, Some(&[weak.clone(), call(Action::Drain)])),
            [(3, CircuitState::Open)]
        );
        assert_eq!(circuit.demand(&guards()), Demand::Drain);
        feed(&mut circuit, 4..30, Some(&[weak]));
        assert_eq!(circuit.demand(&guards()), Demand::Drain, "a weaker call is no calm");
    }

    #[test]
    fn trouble_on_the_way_back_opens_it_again_at_once() {
        let mut circuit = Circuit::default();
        feed(&mut circuit, 0..3, Some(&[call(Action::Drain)]));
        feed(&mut circuit, 3..14, Some(&[]));
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        assert_eq!(
            feed(&mut circuit, 14..15, Some(&[call(Action::Drain)])),
            [(14, CircuitState::Open)]
        );
    }

    #[test]
    fn not_knowing_is_neither_trouble_nor_calm() {
        let mut circuit = Circuit::default();
        assert_eq!(feed(&mut circuit, 0..60, None), []);
        feed(&mut circuit, 60..63, Some(&[call(Action::Drain)]));
        assert_eq!(feed(&mut circuit, 63..300, None), []);
        assert_eq!(circuit.state(), CircuitState::Open);
    }

    #[test]
    fn a_clock_stepped_back_does_not_hurry_it() {
        let mut circuit = Circuit::default();
        feed(&mut circuit, 100..103, Some(&[call(Action::Drain)]));
        circuit.observe(at(103), Some(&[]), &guards());
        assert_eq!(circuit.observe(at(50), Some(&[]), &guards()), None);
        assert_eq!(circuit.state(), CircuitState::Open);
    }

    #[test]
    fn a_resumed_circuit_waits_for_calm() {
        let mut circuit = Circuit::resumed(Action::Drain, "drained by an earlier run");
        assert_eq!(circuit.demand(&guards()), Demand::Drain);
        assert_eq!(feed(&mut circuit, 0..11, Some(&[])), [(10, CircuitState::HalfOpen)]);
    }
}
