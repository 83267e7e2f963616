//! The rule loop: evaluates the rules every interval and hands on what came of it.
//!
//! Transitions go to the journal and to those who tell people; calls for action to the server controller; the list of alerts to the
//! status page. The evaluation itself runs on a thread that may take its time, so that a heavy rule holds up nobody else. A rule that cannot be evaluated is counted and logged once, and while any rule
//! with an action fails, what the rules call for counts as unknown: nothing opens and nothing closes.

mod describe;
pub(super) mod local;
mod metrics;
pub(super) mod remote;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_telemetry::Registry;
use holdfast_telemetry::errors::Chain;
use serde_json::json;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{AlertState, AlertStatus};
use crate::config::Rules;
use crate::control::{ControlError, Reload};
use crate::judge::circuits::{self, Call, Percent};
use crate::judge::rules::{
    Action, Alert, AlertTransition, Engine, Evaluation, Identity, Rule, RuleSet, Source, load,
};
use crate::record::{Draft, Kind, Severity, Sink};
use crate::tell::{AlertNotice, subject_of};

use self::describe::describe;
use self::metrics::Metrics;

/// Longest that one rule may take; a rule that takes longer counts as failed. Rules are due every second, and those of a healthy
/// cluster take a millisecond.
const RULE_TIMEOUT: Duration = Duration::from_secs(10);

/// Shortest and longest wait for the next group: the first keeps a clock that jumps from making the loop spin, the second notices it.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What the rules call for, by server.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    /// False while it is not known: before the first evaluation, or when a rule with an action cannot be evaluated.
    pub(super) known: bool,
    /// Calls of firing alerts.
    pub(super) by_server: BTreeMap<String, Vec<Call>>,
}

/// Where the loop's results go.
pub(super) struct Outputs {
    /// To the server controller.
    pub(super) calls: watch::Sender<Calls>,
    /// To the status page.
    pub(super) alerts: watch::Sender<Vec<AlertStatus>>,
    /// To the Prometheus API: the groups with their rules.
    pub(super) rules: watch::Sender<serde_json::Value>,
    /// To those who tell people.
    pub(super) notices: mpsc::Sender<AlertNotice>,
    /// To the journal.
    pub(super) sink: Sink,
}

/// Reads the rule files that the settings name. Blocking: files are read.
///
/// # Errors
/// A sentence for every fault, with file, line and key; also for a pattern that matches no file.
pub fn read(settings: &Rules) -> Result<RuleSet, String> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for pattern in &settings.files {
        let found = glob::glob(pattern).map_err(|error| format!("{pattern}: {error}"))?;
        let found: Vec<_> =
            found.collect::<Result<_, _>>().map_err(|error| format!("{pattern}: {error}"))?;
        if found.is_empty() {
            return Err(format!("{pattern}: no such rule file (rules.files)"));
        }
        paths.extend(found);
    }
    load(&paths, settings.evaluation_interval).map_err(|faults| faults.to_string())
}

/// Reads the rule files again at each hang-up, as `systemctl reload` sends it.
pub(super) async fn reload_on(
    mut hangups: Signal,
    reloads: mpsc::Sender<Reload>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = hangups.recv() => {}
        }
        let (reply, _answer) = oneshot::channel();
        // A full queue means that the files are about to be read anyway; what comes of it is in the journal.
        let _full = reloads.try_send(Reload { reply });
    }
}

/// Where rules get their answers from.
pub(super) type SharedSource = Arc<dyn Source + Send + Sync>;

/// What the loop works with.
pub(super) struct Inputs {
    /// The settings that name the rule files.
    pub(super) settings: Rules,
    /// The rules, read from those files.
    pub(super) rules: RuleSet,
    /// As whom templates show this supervisor.
    pub(super) identity: Identity,
    /// What the rules are evaluated on.
    pub(super) source: SharedSource,
    /// Requests to read the files again.
    pub(super) reloads: mpsc::Receiver<Reload>,
}

/// Evaluates the rules.
pub(super) struct RuleLoop {
    settings: Rules,
    engine: Engine,
    source: SharedSource,
    outputs: Outputs,
    reloads: mpsc::Receiver<Reload>,
    metrics: Metrics,
    /// Rules that failed at the last evaluation, to log each once.
    failing: HashSet<String>,
}

impl RuleLoop {
    /// A loop that has not evaluated anything yet.
    pub(super) fn new(inputs: Inputs, outputs: Outputs, registry: &Registry) -> Self {
        let Inputs { settings, rules, identity, source, reloads } = inputs;
        let mut metrics = Metrics::register(registry);
        let engine = Engine::new(rules, identity);
        metrics.set_rules(&engine);
        metrics.reload_successful.set(1);
        metrics.reload_at.set(chrono::Utc::now().timestamp());
        let failing = HashSet::new();
        Self { settings, engine, source, outputs, reloads, metrics, failing }
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.until_due()) => {
                    if self.is_due() {
                        self.evaluate().await;
                    }
                }
                Some(reload) = self.reloads.recv() => self.reload(reload).await,
            }
        }
    }

    fn is_due(&self) -> bool {
        self.engine.next_due_ms(now_ms()).is_some_and(|due_ms| due_ms <= now_ms())
    }

    fn until_due(&self) -> Duration {
        let now_ms = now_ms();
        let wait_ms = self
            .engine
            .next_due_ms(now_ms)
            .map_or(i64::MAX, |due_ms| due_ms.saturating_sub(now_ms));
        Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)).clamp(WAIT_MIN, WAIT_MAX)
    }

    async fn evaluate(&mut self) {
        let begun = Instant::now();
        let now_ms = now_ms();
        let (mut engine, source) = (std::mem::take(&mut self.engine), Arc::clone(&self.source));
        let task = tokio::task::spawn_blocking(move || {
            let evaluation = engine.evaluate(now_ms, &*source);
            (engine, evaluation)
        });
        let (engine, evaluation) =
            task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.engine = engine;
        let alerts = self.engine.active();
        let known = self.report_failures(&evaluation);
        self.publish_calls(&alerts, known);
        for transition in &evaluation.transitions {
            self.hand_on(transition);
        }
        self.metrics.set_alerts(&alerts);
        self.metrics.set_evaluation(&self.engine, &evaluation, begun.elapsed().as_secs_f64());
        self.outputs.alerts.send_replace(alerts.iter().map(Alert::status).collect());
        self.outputs.rules.send_replace(describe(&self.engine));
    }

    /// Counts failures, logs new ones, and returns whether what the rules call for is known.
    fn report_failures(&mut self, evaluation: &Evaluation) -> bool {
        let mut failing = HashSet::new();
        for failure in &evaluation.failures {
            if !self.failing.contains(&failure.rule) {
                tracing::warn!(
                    file = %failure.file.display(), group = failure.group, rule = failure.rule,
                    error = %Chain(&failure.error), "rule cannot be evaluated"
                );
            }
            failing.insert(failure.rule.clone());
        }
        self.failing = failing;
        let acting =
            self.engine.groups().iter().flat_map(|group| &group.group().rules).filter_map(|rule| {
                match rule {
                    Rule::Alert(alert) if alert.action.is_some() => Some(&alert.name),
                    _ => None,
                }
            });
        acting.into_iter().all(|name| !self.failing.contains(name))
    }

    fn publish_calls(&self, alerts: &[Alert], known: bool) {
        let mut calls = Calls { known, ..Calls::default() };
        for alert in alerts {
            let Some(action) = alert.action() else { continue };
            let Some(server) = alert.labels.get("server") else { continue };
            let action = match action {
                Action::Weight(0) | Action::Drain | Action::Open => circuits::Action::Drain,
                Action::Weight(percent) => circuits::Action::Weight(Percent(percent)),
            };
            let summary = alert.annotations.get("summary").cloned().unwrap_or_default();
            let call = Call { rule: alert.name.clone(), action, summary };
            calls.by_server.entry(server.to_owned()).or_default().push(call);
        }
        self.outputs.calls.send_replace(calls);
    }

    fn hand_on(&self, transition: &AlertTransition) {
        let alert = &transition.alert;
        let firing = match (transition.from, alert.state) {
            (_, AlertState::Firing) => true,
            (Some(AlertState::Firing), AlertState::Resolved) => false,
            _ => return,
        };
        let status = alert.status();
        let subject = subject_of(&status.labels);
        let summary = status.annotations.get("summary").unwrap_or(&status.name).clone();
        tracing::info!(alertname = status.name, subject, firing, "alert changed");
        let cause = format!("alert/{}", status.name);
        let draft = if firing {
            let severity = severity_of(&status);
            let text = format!("{}: {summary}", status.name);
            let draft = Draft::new(Kind::AlertFiring, severity, subject, text);
            // An informational alert is no reason to get up.
            if severity == Severity::Info { draft } else { draft.opens(cause) }
        } else {
            let text = format!("{} resolved", status.name);
            Draft::new(Kind::AlertResolved, Severity::Info, subject, text).closes(cause)
        };
        (self.outputs.sink)(draft.detail(json!({"labels": status.labels, "value": status.value})));
        if self.outputs.notices.try_send(AlertNotice { alert: status }).is_err() {
            self.metrics.notices_dropped.inc();
            tracing::warn!("the notifier's queue is full, an alert change was not handed on");
        }
    }

    async fn reload(&mut self, reload: Reload) {
        let settings = self.settings.clone();
        let result = tokio::task::spawn_blocking(move || read(&settings)).await;
        let result = result.unwrap_or_else(|error| Err(error.to_string()));
        let answer = match result {
            Ok(rules) => {
                let text = format!(
                    "{} rules in {} groups",
                    rules.groups.iter().map(|group| group.rules.len()).sum::<usize>(),
                    rules.groups.len()
                );
                self.engine.replace_rules(rules);
                self.metrics.set_rules(&self.engine);
                self.metrics.reload_successful.set(1);
                self.metrics.reload_at.set(chrono::Utc::now().timestamp());
                (self.outputs.sink)(Draft::new(
                    Kind::Reload,
                    Severity::Info,
                    "supervisor",
                    text.clone(),
                ));
                Ok(vec![text])
            }
            Err(faults) => {
                self.metrics.reload_successful.set(0);
                tracing::warn!(faults, "rule files refused, the old rules stay in force");
                let text = "rule files refused, the old rules stay in force";
                let draft = Draft::new(Kind::Reload, Severity::Warning, "supervisor", text);
                let detail = json!({"faults": faults});
                (self.outputs.sink)(draft.because(faults.clone()).detail(detail));
                Err(ControlError::Refused(faults))
            }
        };
        // The asker may have gone; the rules are in force or not all the same.
        let _ = reload.reply.send(answer);
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

fn severity_of(alert: &AlertStatus) -> Severity {
    match alert.labels.get("severity").map(String::as_str) {
        Some("critical") => Severity::Critical,
        Some("info") => Severity::Info,
        _ => Severity::Warning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(name: &str, labels: &[(&str, &str)]) -> AlertStatus {
        AlertStatus {
            name: name.to_owned(),
            state: AlertState::Firing,
            labels: labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            annotations: BTreeMap::new(),
            active_at: chrono::DateTime::UNIX_EPOCH,
            fired_at: None,
            resolved_at: None,
            value: 1.0,
        }
    }

    #[test]
    fn severity_defaults_to_a_warning() {
        for (label, severity) in [
            ("critical", Severity::Critical),
            ("warning", Severity::Warning),
            ("info", Severity::Info),
            ("page", Severity::Warning),
        ] {
            assert_eq!(severity_of(&alert("A", &[("severity", label)])), severity);
        }
        assert_eq!(severity_of(&alert("A", &[])), Severity::Warning);
    }
}
