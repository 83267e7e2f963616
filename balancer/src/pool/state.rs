//! What is known of one server and what follows from it: may it take connections, and with what weight?
//!
//! Four independent voices: the operator's (state and weight), the active checks' (health), the node's own (its agent) and the traffic's
//! (passive marking). A server is used when none of them objects. A server that returns from any of the four gets its weight step by step,
//! or it would be hit by everything the others shed. Pure: time comes in as an argument, transitions go out as [`Change`] for the edge to count and log.
//!
//! Two kinds of down are told apart: a server that answers "not ready" or refuses connections leaves its established connections in a
//! known state (they work, or the kernel has ended them), one that says nothing at all may be hung or cut off, and its connections
//! would only hang with it. Only the latter's are closed.

use std::fmt;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent::{Agent, Word};
use crate::config::{Algorithm, CheckRules, PoolRules, Weight};

/// Where a ramp begins: low enough to be gentle, high enough that a pool in which everybody returns at once works.
const RAMP_SHARE_MIN: f64 = 0.1;

/// The operator's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Takes connections.
    Ready,
    /// Takes no new connections, keeps the old.
    Drain,
    /// As drain, and is not checked.
    Maintenance,
}

impl AdminState {
    /// Every state, in the order of the metric's series.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maintenance];

    /// As in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// The active checks' word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not checked, or not yet.
    Unknown,
    /// Passes.
    Up,
    /// Fails.
    Down,
}

/// The traffic's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Passive {
    /// Traffic flows.
    Closed,
    /// Too many failures in a row; out until a set time.
    Open,
}

/// Why the traffic took a server out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Failures in a row: no connection, no response, no response in time.
    Failures,
    /// Responses in a row with a status of 500 and above.
    Errors,
    /// Fewer successes than the others.
    SuccessRate,
    /// Slower than the others.
    Latency,
}

impl Cause {
    /// Every cause, in the order of the metric's series.
    pub const ALL: [Self; 4] = [Self::Failures, Self::Errors, Self::SuccessRate, Self::Latency];

    /// As in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Errors => "errors",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }
}

/// An ejection in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Why.
    pub cause: Cause,
    /// When it ends.
    pub until: Instant,
}

/// What is left of an ejection, for a process that goes on with it and has no clock in common with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EjectionLeft {
    /// Why.
    pub cause: Cause,
    /// For how long.
    pub left: Duration,
    /// Ejections in a row, this one included.
    pub strikes: u32,
}

/// Outcome of one active check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// As it should be.
    Pass,
    /// Refused, or answered with an error.
    Fail,
    /// No sign of life within the timeout.
    Silent,
}

/// A transition worth counting and logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Active checks pass again, or for the first time.
    Up,
    /// Active checks fail.
    Down {
        /// None of the failed checks had an answer: its connections hang.
        silent: bool,
    },
    /// Passive marking took it out.
    Ejected(Cause),
    /// Passive marking lets it back.
    Readmitted,
    /// The node has changed its mind about itself.
    Agent(Agent),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "health checks pass",
            Self::Down { silent: false } => "health checks fail",
            Self::Down { silent: true } => "health checks get no answer",
            Self::Ejected(Cause::Failures) => "taken out after failed connections",
            Self::Ejected(Cause::Errors) => "taken out after errors in a row",
            Self::Ejected(Cause::SuccessRate) => "taken out, fewer successes than the others",
            Self::Ejected(Cause::Latency) => "taken out, slower than the others",
            Self::Readmitted => "taken in again on trial",
            Self::Agent(agent) => {
                let up = if agent.up { "up" } else { "down" };
                return write!(
                    f,
                    "its agent says {up} {} {}%",
                    agent.state.as_str(),
                    agent.percent
                );
            }
        })
    }
}

/// All that is known of one server.
#[derive(Debug, Clone)]
pub struct ServerState {
    admin: AdminState,
    weight: Weight,
    health: Health,
    /// Results in a row that contradict `health`.
    streak: u32,
    /// Of those, how many were silent.
    silent: u32,
    /// Failures of real traffic in a row.
    fails: u32,
    first_fail: Option<Instant>,
    ejection: Option<Ejection>,
    /// Ejections in a row, by which the next one is longer.
    strikes: u32,
    /// When the last one ended; time spent well since takes strikes away.
    readmitted: Option<Instant>,
    /// The node's own word.
    agent: Agent,
    ramp_from: Option<Instant>,
    /// Whether being found up means that it comes to a pool at work, and so begins with a ramp.
    returning: bool,
}

impl ServerState {
    /// A server nobody has heard of yet. `returning` if it is added to a pool at work: then it starts with a ramp.
    pub fn new(weight: Weight, returning: bool) -> Self {
        Self {
            admin: AdminState::Ready,
            weight,
            health: Health::Unknown,
            streak: 0,
            silent: 0,
            fails: 0,
            first_fail: None,
            ejection: None,
            strikes: 0,
            readmitted: None,
            agent: Agent::default(),
            ramp_from: None,
            returning,
        }
    }

    /// The operator's word.
    pub fn admin(&self) -> AdminState {
        self.admin
    }

    /// The weight set, before any ramp.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// The active checks' word.
    pub fn health(&self) -> Health {
        self.health
    }

    /// The traffic's word.
    pub fn passive(&self) -> Passive {
        if self.ejection.is_some() { Passive::Open } else { Passive::Closed }
    }

    /// Why and until when the traffic has taken it out, if it has.
    pub fn ejection(&self) -> Option<Ejection> {
        self.ejection
    }

    /// The node's own word.
    pub fn agent(&self) -> Agent {
        self.agent
    }

    /// Whether failures of traffic are being counted; a success is news only then.
    pub fn is_failing(&self) -> bool {
        self.fails > 0
    }

    /// Sets the weight.
    pub fn set_weight(&mut self, weight: Weight) {
        self.weight = weight;
    }

    /// Sets the operator's word. In maintenance nothing is checked, so what was known of its health is void.
    pub fn set_admin(&mut self, now: Instant, admin: AdminState) {
        if admin == AdminState::Ready && self.admin != AdminState::Ready {
            self.ramp_from = Some(now);
            self.returning = true;
        }
        self.admin = admin;
        if admin == AdminState::Maintenance {
            self.forget_health();
        }
    }

    /// Takes over what somebody else's checks have found.
    pub fn assume_health(&mut self, health: Health) {
        (self.health, self.streak, self.silent) = (health, 0, 0);
    }

    /// What another process is to know of its ejection, if it is out.
    pub fn ejection_left(&self, now: Instant) -> Option<EjectionLeft> {
        let Ejection { cause, until } = self.ejection?;
        let left = until.saturating_duration_since(now);
        Some(EjectionLeft { cause, left, strikes: self.strikes })
    }

    /// Goes on with the ejection of another process.
    pub fn assume_ejection(&mut self, now: Instant, ejection: &EjectionLeft) {
        let EjectionLeft { cause, left, strikes } = *ejection;
        // A time without end would have none.
        let until = now.checked_add(left).unwrap_or(now);
        (self.ejection, self.strikes) = (Some(Ejection { cause, until }), strikes);
    }

    /// Voids what the checks said, because they are off or ask something else from now on.
    pub fn forget_health(&mut self) {
        (self.health, self.streak, self.silent) = (Health::Unknown, 0, 0);
    }

    /// Takes in the result of an active check. Silence in maintenance: a late result of a check that was under way does not count.
    pub fn handle_check(
        &mut self,
        now: Instant,
        result: CheckResult,
        rules: &CheckRules,
    ) -> Option<Change> {
        if self.admin == AdminState::Maintenance {
            return None;
        }
        let pass = result == CheckResult::Pass;
        let needed = match self.health {
            Health::Unknown => 1,
            Health::Up if pass => 0,
            Health::Down if !pass => 0,
            Health::Up => rules.fall,
            Health::Down => rules.rise,
        };
        if needed == 0 {
            (self.streak, self.silent) = (0, 0);
            return None;
        }
        self.streak += 1;
        self.silent += u32::from(result == CheckResult::Silent);
        if self.streak < needed {
            return None;
        }
        let silent = self.silent == self.streak;
        (self.streak, self.silent) = (0, 0);
        if !pass {
            self.health = Health::Down;
            self.returning = true;
            return Some(Change::Down { silent });
        }
        self.health = Health::Up;
        if self.returning {
            self.ramp_from = Some(now);
        }
        // The checks have seen it work more than once since the traffic failed.
        self.clear_fails();
        Some(Change::Up)
    }

    /// Takes in what its agent says.
    pub fn handle_agent(&mut self, now: Instant, word: &Word) -> Option<Change> {
        let (before, after) = (self.agent, self.agent.after(word));
        if before == after {
            return None;
        }
        self.agent = after;
        let took = before.up && before.is_willing();
        if !took && after.up && after.is_willing() {
            self.ramp_from = Some(now);
        }
        Some(Change::Agent(after))
    }

    /// Voids what its agent has said, because it is asked no more.
    pub fn forget_agent(&mut self) {
        self.agent = Agent::default();
    }

    /// Takes in a connection that could not be made, or a request without a response.
    pub fn handle_failure(&mut self, now: Instant, rules: &PoolRules) -> Option<Change> {
        if rules.fails_max == 0 {
            return None;
        }
        let recent =
            self.first_fail.is_some_and(|first| now.duration_since(first) <= rules.fail_timeout);
        if !recent {
            self.fails = 0;
            self.first_fail = Some(now);
        }
        self.fails = self.fails.saturating_add(1);
        if self.fails < rules.fails_max {
            return None;
        }
        self.eject(now, Cause::Failures, rules)
    }

    /// Takes it out. One that is out already is out for longer, which is no news.
    ///
    /// Where outliers are detected, each ejection in a row is longer than the last; time spent well between two makes up for earlier ones.
    pub fn eject(&mut self, now: Instant, cause: Cause, rules: &PoolRules) -> Option<Change> {
        let news = self.ejection.is_none();
        let base = match (&rules.outliers, cause) {
            (Some(outliers), Cause::Errors | Cause::SuccessRate | Cause::Latency) => {
                outliers.ejection_base
            }
            (_, Cause::Failures) | (None, _) => rules.fail_timeout,
        };
        let time = match &rules.outliers {
            None => base,
            Some(outliers) => {
                if news {
                    self.strikes = self.strikes_left(now, base).saturating_add(1);
                }
                base.saturating_mul(self.strikes).min(outliers.ejection_max.max(base))
            }
        };
        let until = self.ejection.map_or(now, |ejection| ejection.until).max(now + time);
        self.ejection = Some(Ejection { cause, until });
        news.then_some(Change::Ejected(cause))
    }

    /// Takes in traffic that worked. An open circuit stays open for its time: one success among failures proves little.
    pub fn handle_success(&mut self) {
        if self.ejection.is_none() {
            self.clear_fails();
        }
    }

    /// Lets a server back whose time is over.
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        if self.ejection.is_none_or(|ejection| now < ejection.until) {
            return None;
        }
        self.clear_fails();
        self.readmitted = Some(now);
        self.ramp_from = Some(now);
        Some(Change::Readmitted)
    }

    /// Whether time alone will change what this server gets.
    pub fn is_waiting(&self, now: Instant, slow_start: Duration) -> bool {
        let ramping =
            self.ramp_from.is_some_and(|from| now.saturating_duration_since(from) <= slow_start);
        self.ejection.is_some() || ramping
    }

    /// Whether a new connection may go there.
    pub fn is_usable(&self, rules: &PoolRules) -> bool {
        let healthy =
            self.health == Health::Up || (rules.check.is_none() && self.health == Health::Unknown);
        self.may_be_tried() && healthy && self.agent.up && self.ejection.is_none()
    }

    /// Whether the operator lets it take connections and the node wants some; enough when nobody in the pool is usable.
    pub fn may_be_tried(&self) -> bool {
        self.admin == AdminState::Ready && self.weight.get() > 0 && self.agent.is_willing()
    }

    /// How far a server that returns is on its way to all it may have: up to 1.
    pub fn ramp(&self, now: Instant, slow_start: Duration) -> f64 {
        match self.ramp_from {
            Some(from) if !slow_start.is_zero() => {
                let since = now.saturating_duration_since(from).as_secs_f64();
                (since / slow_start.as_secs_f64()).clamp(RAMP_SHARE_MIN, 1.0)
            }
            _ => 1.0,
        }
    }

    /// The weight the algorithm uses now: after the ramp, and equal for all in plain round robin.
    pub fn effective_weight(&self, now: Instant, rules: &PoolRules) -> f64 {
        if self.weight.get() == 0 {
            return 0.0;
        }
        let weight = match rules.algorithm {
            Algorithm::RoundRobin => 100.0,
            _ => f64::from(self.weight.get()),
        };
        let said = weight * f64::from(self.agent.percent) / 100.0;
        said.min(f64::from(Weight::MAX)) * self.ramp(now, rules.slow_start)
    }

    /// Ejections in a row that still count at `now`: one less for each `base` of time spent well since the last ended.
    fn strikes_left(&self, now: Instant, base: Duration) -> u32 {
        let well = self.readmitted.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let forgiven = well.as_nanos() / base.as_nanos().max(1);
        self.strikes.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    fn clear_fails(&mut self) {
        (self.fails, self.first_fail, self.ejection) = (0, None, None);
    }
}

#[cfg(test)]
mod tests;
