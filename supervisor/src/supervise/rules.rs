//! The rule loop: evaluates the rules every interval and hands on what came of it.
//!
//! Transitions go to the journal and to those who tell people; calls for action to the server controller; recorded samples back to
//! the store; the list of alerts to the status page. A rule that cannot be evaluated is counted and logged once, and while any rule
//! with an action fails, what the rules call for counts as unknown: nothing opens and nothing closes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_series::Store;
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::{
    Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, metrics,
};
use serde_json::json;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::cluster::{AlertState, AlertStatus};
use crate::config::Rules;
use crate::control::{ControlError, Reload};
use crate::judge::circuits::{self, Call, Percent};
use crate::judge::rules::{
    Action, Alert, AlertTransition, Engine, Evaluation, Rule, RuleSet, load,
};
use crate::record::{Draft, Kind, Severity, Sink};
use crate::serve::http::alert_json;
use crate::tell::{AlertNotice, subject_of};

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

struct Metrics {
    evaluations: IntCounter,
    failures: IntCounterVec,
    missed: IntCounter,
    seconds: Histogram,
    last: IntGauge,
    alerts: IntGaugeVec,
    notices_dropped: IntCounter,
    reload_successful: IntGauge,
    reload_at: IntGauge,
    known: HashSet<String>,
}

impl Metrics {
    fn register(registry: &Registry) -> Self {
        Self {
            evaluations: metrics::counter(
                registry,
                "supervisor_rule_evaluations_total",
                "Rules evaluated",
            ),
            failures: metrics::counter_vec(
                registry,
                "supervisor_rule_evaluation_failures_total",
                "Rules that could not be evaluated, by group",
                &["rule_group"],
            ),
            missed: metrics::counter(
                registry,
                "supervisor_rule_evaluations_missed_total",
                "Evaluations of groups that were due and came too late",
            ),
            seconds: metrics::histogram(
                registry,
                "supervisor_rule_evaluation_seconds",
                "Time to evaluate all groups that are due",
                &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0],
            ),
            last: metrics::gauge(
                registry,
                "supervisor_rule_last_evaluation_timestamp_seconds",
                "When the rules were last evaluated",
            ),
            alerts: metrics::gauge_vec(
                registry,
                "supervisor_alerts",
                "Alerts by name and state",
                &["alertname", "state"],
            ),
            notices_dropped: metrics::counter(
                registry,
                "supervisor_alert_notices_dropped_total",
                "Alert changes that could not be handed to the notifier because its queue was full",
            ),
            reload_successful: metrics::gauge(
                registry,
                "supervisor_config_last_reload_successful",
                "Whether the last reading of the rule files succeeded",
            ),
            reload_at: metrics::gauge(
                registry,
                "supervisor_config_last_reload_timestamp_seconds",
                "When the rule files were last read with success",
            ),
            known: HashSet::new(),
        }
    }

    /// Rules in force: their series exist at 0, those of removed rules go.
    fn set_rules(&mut self, engine: &Engine) {
        let names: HashSet<String> = engine
            .groups()
            .flat_map(|group| &group.rules)
            .filter(|rule| matches!(rule, Rule::Alert(_)))
            .map(|rule| rule.name().to_owned())
            .collect();
        for gone in self.known.difference(&names) {
            for state in ["pending", "firing"] {
                // It may never have been set, which is as good as removed.
                let _absent = self.alerts.remove_label_values(&[gone, state]);
            }
        }
        for group in engine.groups() {
            self.failures.with_label_values(&[&group.name]);
        }
        self.known = names;
    }

    fn set_alerts(&self, alerts: &[Alert]) {
        let mut counts: HashMap<(&str, &str), i64> = HashMap::new();
        for alert in alerts {
            let state = match alert.state {
                AlertState::Pending => "pending",
                AlertState::Firing => "firing",
                AlertState::Resolved => continue,
            };
            *counts.entry((&alert.name, state)).or_default() += 1;
        }
        for name in &self.known {
            for state in ["pending", "firing"] {
                let count = counts.get(&(name.as_str(), state)).copied().unwrap_or(0);
                self.alerts.with_label_values(&[name, state]).set(count);
            }
        }
    }
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

/// Evaluates the rules.
pub(super) struct RuleLoop {
    settings: Rules,
    engine: Engine,
    store: Arc<Store>,
    outputs: Outputs,
    reloads: mpsc::Receiver<Reload>,
    metrics: Metrics,
    /// Rules that failed at the last evaluation, to log each once.
    failing: HashSet<String>,
}

impl RuleLoop {
    /// A loop over `rules`, which were read from the files of `settings`.
    pub(super) fn new(
        settings: Rules,
        rules: RuleSet,
        store: Arc<Store>,
        outputs: Outputs,
        reloads: mpsc::Receiver<Reload>,
        registry: &Registry,
    ) -> Self {
        let mut metrics = Metrics::register(registry);
        let engine = Engine::new(rules);
        metrics.set_rules(&engine);
        metrics.reload_successful.set(1);
        metrics.reload_at.set(chrono::Utc::now().timestamp());
        let failing = HashSet::new();
        Self { settings, engine, store, outputs, reloads, metrics, failing }
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        // Groups may have shorter intervals of their own; the engine knows which are due.
        let shortest = self.engine.groups().map(|group| group.interval).min();
        let interval = shortest.unwrap_or(self.settings.evaluation_interval);
        let mut tick = tokio::time::interval(interval.max(Duration::from_millis(100)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => self.evaluate(),
                Some(reload) = self.reloads.recv() => self.reload(reload).await,
            }
        }
    }

    fn evaluate(&mut self) {
        let begun = Instant::now();
        let now_ms = chrono::Utc::now().timestamp_millis();
        let evaluation = self.engine.evaluate(now_ms, &*self.store);
        for (labels, sample) in &evaluation.samples_to_record {
            // Out of order only when the clock was set back; the next evaluation is newer again.
            let _old = self.store.append(labels, sample.timestamp_ms, sample.value);
        }
        let alerts = self.engine.active();
        let known = self.report_failures(&evaluation);
        self.publish_calls(&alerts, known);
        for transition in &evaluation.transitions {
            self.hand_on(transition);
        }
        self.metrics.set_alerts(&alerts);
        self.outputs.alerts.send_replace(alerts.iter().map(Alert::status).collect());
        self.outputs.rules.send_replace(describe(&self.engine, &alerts));
        self.metrics.evaluations.inc_by(evaluation.rules as u64);
        self.metrics.missed.inc_by(evaluation.missed);
        self.metrics.seconds.observe(begun.elapsed().as_secs_f64());
        self.metrics.last.set(now_ms / 1000);
    }

    /// Counts failures, logs new ones, and returns whether what the rules call for is known.
    fn report_failures(&mut self, evaluation: &Evaluation) -> bool {
        let mut failing = HashSet::new();
        for failure in &evaluation.failures {
            self.metrics.failures.with_label_values(&[&failure.group]).inc();
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
            self.engine.groups().flat_map(|group| &group.rules).filter_map(|rule| match rule {
                Rule::Alert(alert) if alert.action.is_some() => Some(&alert.name),
                _ => None,
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

fn severity_of(alert: &AlertStatus) -> Severity {
    match alert.labels.get("severity").map(String::as_str) {
        Some("critical") => Severity::Critical,
        Some("info") => Severity::Info,
        _ => Severity::Warning,
    }
}

/// The groups as Prometheus' `/api/v1/rules` shows them.
fn describe(engine: &Engine, alerts: &[Alert]) -> serde_json::Value {
    let groups: Vec<_> = engine
        .groups()
        .map(|group| {
            let rules: Vec<_> = group
                .rules
                .iter()
                .map(|rule| match rule {
                    Rule::Alert(rule) => {
                        let own = alerts.iter().filter(|alert| {
                            alert.name == rule.name
                                && *alert.group == *group.name
                                && alert.state != AlertState::Resolved
                        });
                        let own: Vec<_> = own.map(Alert::status).collect();
                        let firing = own.iter().any(|alert| alert.state == AlertState::Firing);
                        let alerts: Vec<_> = own.iter().map(alert_json).collect();
                        json!({
                            "type": "alerting",
                            "name": rule.name,
                            "query": rule.expr.text(),
                            "duration": rule.hold.as_secs_f64(),
                            "keepFiringFor": rule.keep_firing_for.as_secs_f64(),
                            "state": match (firing, own.is_empty()) {
                                (true, _) => "firing",
                                (false, false) => "pending",
                                (false, true) => "inactive",
                            },
                            "alerts": alerts,
                            "health": "ok",
                        })
                    }
                    Rule::Record(rule) => json!({
                        "type": "recording",
                        "name": rule.name,
                        "query": rule.expr.text(),
                        "health": "ok",
                    }),
                })
                .collect();
            json!({
                "name": group.name,
                "file": group.file,
                "interval": group.interval.as_secs_f64(),
                "rules": rules,
            })
        })
        .collect();
    json!({ "groups": groups })
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
