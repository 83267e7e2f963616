//! What to change about the balancer's servers, given what their circuits and the operator demand.
//!
//! The plan compares, each tick, what every server should be with what the balancer says it is, and lists the changes and the changes
//! withheld, each with its reasons. It keeps no state, so a lost reply or a restarted balancer heals at the next tick.
//!
//! Whose word counts: an operator's setting through the supervisor stands until it is taken back. A server that somebody set at the
//! balancer itself is left alone; changes of our own are known by the prefix of their reason ([`OURS`]). Only draining costs capacity,
//! so only draining is bound by the guard: with the share of servers out above `max_out_share`, it is withheld.

use crate::cluster::{ServerState, ServerStatus};
use crate::config::Guards;
use crate::judge::circuits::{Action, Demand, Percent};
use crate::record::Reason;

/// Reasons of changes made by the supervisor begin with this, at the balancer.
pub const OURS: &str = "holdfast: ";

/// After [`OURS`]: an operator asked for it, whose name follows.
const OPERATORS: &str = "set by ";

/// A server as the balancer reports it, with what only the plan needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Its state.
    pub status: ServerStatus,
    /// Weight from the balancer's settings.
    pub configured_weight: u16,
    /// Why it was last changed at run time.
    pub reason: Option<String>,
}

impl Observed {
    /// Whether its present setting is our doing.
    pub fn is_ours(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| reason.starts_with(OURS))
    }

    /// Who asked for its present setting through the supervisor, if an operator did.
    pub fn operator(&self) -> Option<&str> {
        self.reason.as_deref()?.strip_prefix(OURS)?.strip_prefix(OPERATORS)
    }

    /// What keeps its present setting as it is.
    pub fn as_action(&self) -> Action {
        let (weight, full) = (u32::from(self.status.weight), u32::from(self.configured_weight));
        match u8::try_from(weight * 100 / full.max(1)) {
            Ok(percent @ 1..=100) if self.status.state == ServerState::Ready => {
                Action::Weight(Percent(percent))
            }
            _ => Action::Drain,
        }
    }

    /// Whether it is as its settings have it.
    pub fn is_untouched(&self) -> bool {
        self.status.state == ServerState::Ready && self.status.weight == self.configured_weight
    }
}

/// What an operator asked for through the supervisor.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Wanted state.
    pub state: ServerState,
    /// Wanted weight; the configured one if `None`.
    pub weight: Option<u16>,
    /// Who asked.
    pub by: String,
    /// The guards do not apply.
    pub force: bool,
}

/// One server and all that is demanded of it.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// As the balancer has it.
    pub observed: &'a Observed,
    /// What its circuit demands.
    pub demand: Demand,
    /// Why its circuit is not closed.
    pub circuit_reason: Option<&'a str>,
    /// What an operator asked for.
    pub operator: Option<&'a Override>,
}

/// A change to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The server.
    pub server: String,
    /// Its new state.
    pub state: ServerState,
    /// Its new weight.
    pub weight: u16,
    /// In one line, without [`OURS`].
    pub summary: String,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// What is to be done, and what is not done though demanded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Changes to make, in this order.
    pub changes: Vec<Change>,
    /// Changes held back.
    pub withheld: Vec<Change>,
}

/// Makes the plan. `observe_only` withholds everything.
pub fn plan(inputs: &[Input<'_>], guards: &Guards, observe_only: bool) -> Plan {
    let mut plan = Plan::default();
    let mut out: Vec<&str> = inputs
        .iter()
        .filter(|input| is_out(input.observed))
        .map(|input| input.observed.status.name.as_str())
        .collect();
    for (input, mut change) in inputs.iter().filter_map(|input| Some((input, change(input)?))) {
        let name = input.observed.status.name.as_str();
        let takes_out = change.state != ServerState::Ready || change.weight == 0;
        let forced = input.operator.is_some_and(|operator| operator.force);
        if observe_only {
            change.reasons.push(against("this supervisor is set to observe only"));
            plan.withheld.push(change);
            continue;
        }
        if takes_out && !out.contains(&name) {
            let (after, total) = (out.len() + 1, inputs.len());
            if after as f64 / total as f64 > guards.max_out_share && !forced {
                change.reasons.push(against(format!(
                    "{after} of {total} servers would be out, above the guard of {:.0} %{}",
                    guards.max_out_share * 100.0,
                    if out.is_empty() {
                        String::new()
                    } else {
                        format!(" (out now: {})", out.join(", "))
                    },
                )));
                plan.withheld.push(change);
                continue;
            }
            out.push(name);
        }
        plan.changes.push(change);
    }
    plan
}

/// Whether a server takes no new connections, for whatever reason.
fn is_out(observed: &Observed) -> bool {
    let status = &observed.status;
    status.state != ServerState::Ready || status.weight == 0 || status.health == "down"
}

/// The change one server needs, guards aside; `None` if it is as it should be or not ours to touch.
fn change(input: &Input<'_>) -> Option<Change> {
    let Observed { status, configured_weight, .. } = input.observed;
    let (state, weight, summary, reason) = match (input.operator, input.demand) {
        (Some(operator), _) => (
            operator.state,
            operator.weight.unwrap_or(*configured_weight),
            format!("{OPERATORS}{}", operator.by),
            format!("{} asked for it", operator.by),
        ),
        (None, _) if !input.observed.is_ours() && !input.observed.is_untouched() => return None,
        (None, Demand::Full) => (
            ServerState::Ready,
            *configured_weight,
            "back in full service".to_owned(),
            "its circuit is closed".to_owned(),
        ),
        (None, Demand::Share(share)) => {
            let why = input.circuit_reason.unwrap_or("on its way back, step by step").to_owned();
            (ServerState::Ready, scaled(*configured_weight, share), why.clone(), why)
        }
        (None, Demand::Drain) => {
            let why = input.circuit_reason.unwrap_or("its circuit is open").to_owned();
            // The weight stays: it decides nothing while drained, and the way back sets its own.
            (ServerState::Drain, status.weight, why.clone(), why)
        }
    };
    if status.state == state && status.weight == weight {
        return None;
    }
    let reasons = vec![Reason { favours: true, text: reason }];
    Some(Change { server: status.name.clone(), state, weight, summary, reasons })
}

/// A share of a weight: at least 1, so that "less" never becomes "none".
fn scaled(weight: u16, share: f64) -> u16 {
    let scaled = (f64::from(weight) * share).round().clamp(0.0, 256.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=256"
    )]
    let scaled = scaled as u16;
    scaled.max(u16::from(weight > 0))
}

fn against(text: impl Into<String>) -> Reason {
    Reason { favours: false, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn guards() -> Guards {
        Guards {
            max_out_share: 0.34,
            open_after: Duration::ZERO,
            close_after: Duration::from_secs(10),
            return_steps: vec![0.1, 0.5, 1.0],
            return_step_every: Duration::from_secs(3),
        }
    }

    fn server(name: &str) -> Observed {
        Observed {
            status: ServerStatus {
                name: name.to_owned(),
                address: "127.0.0.1:1".to_owned(),
                state: ServerState::Ready,
                weight: 100,
                health: "up".to_owned(),
                usable: true,
                active_connections: 0,
            },
            configured_weight: 100,
            reason: None,
        }
    }

    fn ours(name: &str, state: ServerState, weight: u16) -> Observed {
        let mut server = server(name);
        server.status.state = state;
        server.status.weight = weight;
        server.reason = Some(format!("{OURS}NodeSlow"));
        server
    }

    fn input(observed: &Observed, demand: Demand) -> Input<'_> {
        Input { observed, demand, circuit_reason: Some("NodeSlow: slow"), operator: None }
    }

    fn line(change: &Change) -> String {
        format!("{} {} {}", change.server, change.state, change.weight)
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        changes.iter().map(line).collect()
    }

    #[test]
    fn nothing_is_changed_when_all_is_as_demanded() {
        let (a, b) = (server("a"), ours("b", ServerState::Ready, 10));
        let inputs = [input(&a, Demand::Full), input(&b, Demand::Share(0.1))];
        assert_eq!(plan(&inputs, &guards(), false), Plan::default());
    }

    #[test]
    fn a_slow_server_is_weighted_down_then_drained_then_returns() {
        let (a, b, c) = (server("a"), server("b"), server("c"));
        let others = [input(&b, Demand::Full), input(&c, Demand::Full)];
        for (observed, demand, expected) in [
            (a, Demand::Share(0.1), "a ready 10"),
            (ours("a", ServerState::Ready, 10), Demand::Drain, "a drain 10"),
            (ours("a", ServerState::Drain, 10), Demand::Share(0.5), "a ready 50"),
            (ours("a", ServerState::Ready, 50), Demand::Full, "a ready 100"),
        ] {
            let inputs = [&[input(&observed, demand)], others.as_slice()].concat();
            assert_eq!(lines(&plan(&inputs, &guards(), false).changes), [expected]);
        }
    }

    #[test]
    fn the_guard_lets_one_of_three_out_and_says_why_not_two() {
        let (a, b, c) = (server("a"), server("b"), server("c"));
        let inputs = [input(&a, Demand::Drain), input(&b, Demand::Drain), input(&c, Demand::Full)];
        let plan = plan(&inputs, &guards(), false);
        assert_eq!(lines(&plan.changes), ["a drain 100"]);
        assert_eq!(lines(&plan.withheld), ["b drain 100"]);
        assert_eq!(
            plan.withheld[0].reasons[1].text,
            "2 of 3 servers would be out, above the guard of 34 % (out now: a)"
        );
        assert!(!plan.withheld[0].reasons[1].favours);
    }

    #[test]
    fn a_server_that_is_down_counts_as_out() {
        let (a, mut b, c) = (server("a"), server("b"), server("c"));
        b.status.health = "down".to_owned();
        let inputs = [input(&a, Demand::Drain), input(&b, Demand::Full), input(&c, Demand::Full)];
        assert_eq!(lines(&plan(&inputs, &guards(), false).withheld), ["a drain 100"]);
    }

    #[test]
    fn a_server_on_its_way_back_counts_as_out_until_it_is_back() {
        let (a, b, c) = (server("a"), ours("b", ServerState::Drain, 100), server("c"));
        let inputs = [input(&a, Demand::Drain), input(&b, Demand::Full), input(&c, Demand::Full)];
        let now = plan(&inputs, &guards(), false);
        assert_eq!(
            (lines(&now.changes), lines(&now.withheld)),
            (vec!["b ready 100".to_owned()], vec!["a drain 100".to_owned()])
        );
        let b = ours("b", ServerState::Ready, 100);
        let inputs = [input(&a, Demand::Drain), input(&b, Demand::Full), input(&c, Demand::Full)];
        assert_eq!(lines(&plan(&inputs, &guards(), false).changes), ["a drain 100"]);
    }

    #[test]
    fn what_somebody_set_at_the_balancer_is_left_alone() {
        let mut a = server("a");
        a.status.state = ServerState::Maintenance;
        a.reason = Some("disk swap".to_owned());
        for demand in [Demand::Full, Demand::Drain, Demand::Share(0.1)] {
            assert_eq!(plan(&[input(&a, demand)], &guards(), false), Plan::default());
        }
    }

    #[test]
    fn the_operator_has_the_last_word_within_the_guard() {
        let (a, b, c) = (server("a"), server("b"), ours("c", ServerState::Drain, 100));
        let mut operator = Override {
            state: ServerState::Drain,
            weight: None,
            by: "operator".to_owned(),
            force: false,
        };
        let make = |operator: &Override| {
            let asked = Input { operator: Some(operator), ..input(&a, Demand::Full) };
            plan(&[asked, input(&b, Demand::Full), input(&c, Demand::Drain)], &guards(), false)
        };
        assert_eq!(lines(&make(&operator).withheld), ["a drain 100"]);
        operator.force = true;
        assert_eq!(lines(&make(&operator).changes), ["a drain 100"]);
    }

    #[test]
    fn an_operators_setting_is_known_again_by_its_reason() {
        let a = server("a");
        let wish = Override {
            state: ServerState::Drain,
            weight: None,
            by: "10.0.0.9".to_owned(),
            force: false,
        };
        let asked = [Input { operator: Some(&wish), ..input(&a, Demand::Full) }];
        let guards = Guards { max_out_share: 1.0, ..guards() };
        let mut change = plan(&asked, &guards, false).changes.remove(0);
        let mut seen = server("a");
        seen.reason = Some(format!("{OURS}{}", std::mem::take(&mut change.summary)));
        assert_eq!(seen.operator(), Some("10.0.0.9"));
        for other in [ours("a", ServerState::Drain, 100), server("a")] {
            assert_eq!(other.operator(), None);
        }
    }

    #[test]
    fn the_action_that_keeps_a_server_as_it_is() {
        for (state, weight, action) in [
            (ServerState::Drain, 100, Action::Drain),
            (ServerState::Ready, 0, Action::Drain),
            (ServerState::Ready, 10, Action::Weight(Percent(10))),
            (ServerState::Ready, 100, Action::Weight(Percent(100))),
        ] {
            assert_eq!(ours("a", state, weight).as_action(), action);
        }
    }

    #[test]
    fn observe_only_withholds_everything_with_its_reason() {
        let a = server("a");
        let plan = plan(&[input(&a, Demand::Share(0.1))], &guards(), true);
        assert!(plan.changes.is_empty());
        assert_eq!(
            plan.withheld[0].reasons.last().unwrap().text,
            "this supervisor is set to observe only"
        );
    }

    #[test]
    fn a_small_weight_is_never_scaled_to_nothing() {
        assert_eq!([scaled(1, 0.1), scaled(0, 0.5), scaled(256, 0.5)], [1, 0, 128]);
    }
}
