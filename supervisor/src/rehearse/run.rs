//! The course of one drill, pure: what happens next, given the time since its beginning and what was seen?
//!
//! `SteadyState → Fault → Recovery → Verification → Finished`. Nothing is struck unless the cluster was well for a while; the cluster has
//! recovered when what was struck runs again, or the fault has passed, *and* everything is well for as long (without the first, figures that are a scrape old would
//! pass for a recovery); it is verified when the canary knows what became of each message. A missed bound fails the run and the run goes
//! on to its end, so that the report has all figures. Anything that makes them worthless (an operator, an incident elsewhere) aborts it.

use std::time::Duration;

use serde::Serialize;

use super::scenario::{Blow, Scenario};

/// Sentences of one kind that a verdict quotes at most.
const QUOTED_MAX: usize = 5;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Making sure that the cluster is well.
    SteadyState,
    /// The fault is being put in.
    Fault,
    /// Waiting until the cluster is well again.
    Recovery,
    /// Waiting until the canary knows what became of its messages.
    Verification,
    /// Over.
    Finished,
}

impl Phase {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::SteadyState => "steady_state",
            Self::Fault => "fault",
            Self::Recovery => "recovery",
            Self::Verification => "verification",
            Self::Finished => "finished",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything as expected.
    Pass,
    /// A bound was missed.
    Fail,
    /// Nothing can be said.
    Aborted,
}

impl Verdict {
    /// All of them, for metrics.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Fail, Self::Aborted];

    /// The name in metrics and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Aborted => "aborted",
        }
    }
}

/// What was seen at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// What keeps the cluster from being well, as sentences.
    pub unmet: Vec<String>,
    /// Whether what was done has passed: another process runs in the place of the one that was killed, or the fault has ended.
    pub is_over: bool,
    /// Why the run must not go on.
    pub stop: Option<String>,
}

/// What the canary saw between the fault and the end of the recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Measured {
    /// Longest time without an acknowledgement.
    pub longest_gap: Duration,
    /// From the fault to the first acknowledgement of a later message.
    pub first_ack_after: Option<Duration>,
    /// Messages sent.
    pub sent: u64,
    /// Of those: acknowledged.
    pub acked: u64,
    /// Of those: refused or not answered in time.
    pub failed: u64,
    /// Of the acknowledged: neither delivered nor in the history.
    pub lost: u64,
    /// Messages whose fate is not known yet.
    pub unsettled: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The cluster was looked at.
    Observed(Observation),
    /// The fault is in.
    Injected,
    /// The fault could not be put in.
    NotInjected(String),
    /// The canary was asked.
    Measured(Measured),
    /// Somebody wants it to end.
    Abort(String),
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Put the fault in and tell how that went.
    Inject,
}

/// A drill that is going on. Times count from its beginning.
#[derive(Debug, Clone)]
pub struct Run {
    scenario: &'static Scenario,
    /// How long the cluster must be well in a row.
    steady_for: Duration,
    phase: Phase,
    entered: Duration,
    well_since: Option<Duration>,
    fault_at: Option<Duration>,
    /// End of the window that is measured.
    until: Option<Duration>,
    /// When the cluster was whole again, and stayed so.
    whole_at: Option<Duration>,
    measured: Option<Measured>,
    failures: Vec<String>,
    verdict: Option<Verdict>,
}

impl Run {
    /// A run of `scenario` on a cluster whose figures are up to `staleness` old.
    pub fn new(scenario: &'static Scenario, staleness: Duration) -> Self {
        Self {
            scenario,
            steady_for: scenario.steady_for.max(staleness),
            phase: Phase::SteadyState,
            entered: Duration::ZERO,
            well_since: None,
            fault_at: None,
            until: None,
            whole_at: None,
            measured: None,
            failures: Vec::new(),
            verdict: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its end, if it is finished.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// What was not as expected, or why it was aborted.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// When the fault was put in.
    pub fn fault_at(&self) -> Option<Duration> {
        self.fault_at
    }

    /// What is measured: from the fault to the end of the recovery.
    pub fn window(&self) -> Option<(Duration, Duration)> {
        self.fault_at.zip(self.until)
    }

    /// From the fault until the cluster was whole again, and stayed so.
    pub fn recovery(&self) -> Option<Duration> {
        Some(self.whole_at?.saturating_sub(self.fault_at?))
    }

    /// What the canary saw in the window.
    pub fn measured(&self) -> Option<Measured> {
        self.measured
    }

    /// The only way on.
    pub fn next(&mut self, now: Duration, input: Input) -> Option<Task> {
        match (self.phase, input) {
            (Phase::Finished, _) => None,
            (_, Input::Abort(why)) | (Phase::Fault, Input::NotInjected(why)) => {
                self.abort(now, why)
            }
            (Phase::SteadyState, Input::Observed(seen)) => self.steady_state(now, seen),
            (Phase::Fault, Input::Injected) => {
                self.fault_at = Some(now);
                self.enter(Phase::Recovery, now)
            }
            (Phase::Recovery, Input::Observed(seen)) => self.recover(now, seen),
            (Phase::Verification, Input::Measured(measured)) => self.verify(now, measured),
            // What was asked in one phase and answered in the next says nothing any more.
            (
                _,
                Input::Observed(_) | Input::Injected | Input::NotInjected(_) | Input::Measured(_),
            ) => None,
        }
    }

    fn steady_state(&mut self, now: Duration, seen: Observation) -> Option<Task> {
        if let Some(why) = seen.stop {
            return self.abort(now, why);
        }
        if self.is_steady(now, seen.unmet.is_empty()) {
            self.enter(Phase::Fault, now);
            return Some(Task::Inject);
        }
        let limit = self.scenario.steady_max.max(2 * self.steady_for);
        if now.saturating_sub(self.entered) < limit {
            return None;
        }
        let (limit, why) = (seconds(limit), quoted(&seen.unmet));
        self.abort(
            now,
            format!("the cluster was not well within {limit}, so nothing was done to it: {why}"),
        )
    }

    fn recover(&mut self, now: Duration, seen: Observation) -> Option<Task> {
        if let Some(why) = seen.stop {
            return self.abort(now, why);
        }
        if self.is_steady(now, seen.unmet.is_empty() && seen.is_over) {
            self.whole_at = self.well_since;
            // The time it was watched afterwards is measured too: a relapse without notice would show there.
            self.until = Some(now);
            return self.enter(Phase::Verification, now);
        }
        let limit = self.scenario.recovery_max;
        if self.well_since.is_some() || now.saturating_sub(self.entered) < limit {
            return None;
        }
        let mut unmet = seen.unmet;
        if !seen.is_over {
            let still = match self.scenario.blow {
                Blow::Crash => "what was killed does not run again",
                Blow::Delay { .. } => "the fault is still in force",
            };
            unmet.insert(0, still.to_owned());
        }
        let (limit, why) = (seconds(limit), quoted(&unmet));
        self.failures.push(format!("the cluster was not well again within {limit}: {why}"));
        self.until = Some(now);
        self.enter(Phase::Verification, now)
    }

    fn verify(&mut self, now: Duration, measured: Measured) -> Option<Task> {
        self.measured = Some(measured);
        let waited = now.saturating_sub(self.entered);
        if measured.unsettled > 0 && waited < self.scenario.settle_max {
            return None;
        }
        let Scenario { rto_max, rpo_messages_max, .. } = *self.scenario;
        if measured.longest_gap > rto_max {
            let (gap, limit) = (seconds(measured.longest_gap), seconds(rto_max));
            self.failures
                .push(format!("no message was acknowledged for {gap}; the limit is {limit}"));
        }
        if measured.first_ack_after.is_none() {
            self.failures.push("no message sent after the fault was acknowledged".to_owned());
        }
        if measured.lost > rpo_messages_max {
            let lost = measured.lost;
            self.failures.push(format!(
                "acknowledged messages were lost: {lost}; the limit is {rpo_messages_max}"
            ));
        }
        if measured.unsettled > 0 {
            let (count, waited) = (measured.unsettled, seconds(waited));
            self.failures.push(format!(
                "what became of {count} messages was still not known after {waited}"
            ));
        }
        let verdict = if self.failures.is_empty() { Verdict::Pass } else { Verdict::Fail };
        self.finish(now, verdict)
    }

    fn is_steady(&mut self, now: Duration, is_well: bool) -> bool {
        if !is_well {
            self.well_since = None;
            return false;
        }
        let since = *self.well_since.get_or_insert(now);
        now.saturating_sub(since) >= self.steady_for
    }

    fn abort(&mut self, now: Duration, why: String) -> Option<Task> {
        self.failures.push(why);
        self.finish(now, Verdict::Aborted)
    }

    fn finish(&mut self, now: Duration, verdict: Verdict) -> Option<Task> {
        self.verdict = Some(verdict);
        self.enter(Phase::Finished, now)
    }

    fn enter(&mut self, phase: Phase, now: Duration) -> Option<Task> {
        (self.phase, self.entered, self.well_since) = (phase, now, None);
        None
    }
}

/// `1.25 s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", (duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn quoted(unmet: &[String]) -> String {
    if unmet.is_empty() {
        return "it was well, but not for long enough".to_owned();
    }
    let shown = unmet.iter().take(QUOTED_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
    match unmet.len().saturating_sub(QUOTED_MAX) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests;
