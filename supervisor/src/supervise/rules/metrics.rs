//! Figures of the rule loop.
//!
//! Those about rules and groups have the names, labels and meaning that Prometheus gives them, so that dashboards and alerts made for
//! it work here; `rule_group` is `<file>;<group>` there too. Prometheus' two summaries of durations are left out: our library has no
//! summaries, and `prometheus_rule_group_last_duration_seconds` says the same to whoever keeps samples.

use std::collections::{HashMap, HashSet};

use holdfast_telemetry::{
    GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, metrics,
};

use crate::cluster::AlertState;
use crate::judge::rules::{Alert, Engine, Evaluation, GroupState, Rule};

/// Figures of the rule loop.
pub(super) struct Metrics {
    evaluations: IntCounterVec,
    failures: IntCounterVec,
    iterations: IntCounterVec,
    missed: IntCounterVec,
    interval: GaugeVec,
    last_duration: GaugeVec,
    last_evaluation: GaugeVec,
    last_samples: IntGaugeVec,
    rules: IntGaugeVec,
    seconds: Histogram,
    alerts: IntGaugeVec,
    pub(super) notices_dropped: IntCounter,
    pub(super) reload_successful: IntGauge,
    pub(super) reload_at: IntGauge,
    known_alerts: HashSet<String>,
    known_groups: HashSet<String>,
}

/// The label value of a group.
fn label(group: &GroupState) -> String {
    let group = group.group();
    format!("{};{}", group.file.display(), group.name)
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let counter = |name, help| metrics::counter_vec(registry, name, help, &["rule_group"]);
        let gauge = |name, help| metrics::float_gauge_vec(registry, name, help, &["rule_group"]);
        let whole = |name, help| metrics::gauge_vec(registry, name, help, &["rule_group"]);
        Self {
            evaluations: counter("prometheus_rule_evaluations_total", "Rules evaluated, by group"),
            failures: counter(
                "prometheus_rule_evaluation_failures_total",
                "Rules that could not be evaluated, by group",
            ),
            iterations: counter(
                "prometheus_rule_group_iterations_total",
                "Evaluations of a group that were due, whether they took place or were missed",
            ),
            missed: counter(
                "prometheus_rule_group_iterations_missed_total",
                "Evaluations of a group that were missed because the one before came too late",
            ),
            interval: gauge("prometheus_rule_group_interval_seconds", "Interval of a group"),
            last_duration: gauge(
                "prometheus_rule_group_last_duration_seconds",
                "Duration of the last evaluation of a group",
            ),
            last_evaluation: gauge(
                "prometheus_rule_group_last_evaluation_timestamp_seconds",
                "When a group was last evaluated",
            ),
            last_samples: whole(
                "prometheus_rule_group_last_evaluation_samples",
                "Samples that the last evaluation of a group recorded",
            ),
            rules: whole("prometheus_rule_group_rules", "Rules of a group"),
            seconds: metrics::histogram(
                registry,
                "supervisor_rule_evaluation_seconds",
                "Time to evaluate all groups that are due",
                &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0],
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
            known_alerts: HashSet::new(),
            known_groups: HashSet::new(),
        }
    }

    /// Rules in force: their series exist at 0, those of removed rules and groups go.
    pub(super) fn set_rules(&mut self, engine: &Engine) {
        let groups: HashSet<String> = engine.groups().iter().map(label).collect();
        for gone in self.known_groups.difference(&groups) {
            self.remove_group(gone);
        }
        for group in engine.groups() {
            let name = label(group);
            self.evaluations.with_label_values(&[&name]);
            self.failures.with_label_values(&[&name]);
            self.iterations.with_label_values(&[&name]);
            self.missed.with_label_values(&[&name]);
            let group = group.group();
            self.interval.with_label_values(&[&name]).set(group.interval.as_secs_f64());
            let rules = i64::try_from(group.rules.len()).unwrap_or(i64::MAX);
            self.rules.with_label_values(&[&name]).set(rules);
        }
        self.known_groups = groups;
        let alerts: HashSet<String> = engine
            .groups()
            .iter()
            .flat_map(|group| &group.group().rules)
            .filter(|rule| matches!(rule, Rule::Alert(_)))
            .map(|rule| rule.name().to_owned())
            .collect();
        for gone in self.known_alerts.difference(&alerts) {
            for state in ["pending", "firing"] {
                // It may never have been set, which is as good as removed.
                let _absent = self.alerts.remove_label_values(&[gone, state]);
            }
        }
        self.known_alerts = alerts;
    }

    fn remove_group(&self, name: &str) {
        // Some may never have been set, which is as good as removed.
        for counters in [&self.evaluations, &self.failures, &self.iterations, &self.missed] {
            let _absent = counters.remove_label_values(&[name]);
        }
        for gauges in [&self.interval, &self.last_duration, &self.last_evaluation] {
            let _absent = gauges.remove_label_values(&[name]);
        }
        for gauges in [&self.last_samples, &self.rules] {
            let _absent = gauges.remove_label_values(&[name]);
        }
    }

    /// What came of a round of evaluations that took `seconds`.
    pub(super) fn set_evaluation(&self, engine: &Engine, evaluation: &Evaluation, seconds: f64) {
        self.seconds.observe(seconds);
        for run in &evaluation.groups {
            let Some(group) = engine.groups().get(run.index) else { continue };
            let (name, last) = (label(group), group.last());
            let rules = group.group().rules.len();
            self.evaluations.with_label_values(&[&name]).inc_by(rules as u64);
            self.iterations.with_label_values(&[&name]).inc_by(1 + run.missed);
            self.missed.with_label_values(&[&name]).inc_by(run.missed);
            self.last_duration.with_label_values(&[&name]).set(last.duration.as_secs_f64());
            let at = last.time_ms.unwrap_or_default() as f64 / 1000.0;
            self.last_evaluation.with_label_values(&[&name]).set(at);
            let samples = i64::try_from(last.samples).unwrap_or(i64::MAX);
            self.last_samples.with_label_values(&[&name]).set(samples);
        }
        for failure in &evaluation.failures {
            let name = format!("{};{}", failure.file.display(), failure.group);
            self.failures.with_label_values(&[&name]).inc();
        }
    }

    pub(super) fn set_alerts(&self, alerts: &[Alert]) {
        let mut counts: HashMap<(&str, &str), i64> = HashMap::new();
        for alert in alerts {
            let state = match alert.state {
                AlertState::Pending => "pending",
                AlertState::Firing => "firing",
                AlertState::Resolved => continue,
            };
            *counts.entry((&alert.name, state)).or_default() += 1;
        }
        for name in &self.known_alerts {
            for state in ["pending", "firing"] {
                let count = counts.get(&(name.as_str(), state)).copied().unwrap_or(0);
                self.alerts.with_label_values(&[name, state]).set(count);
            }
        }
    }
}
