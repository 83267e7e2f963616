//! What one rule remembers from evaluation to evaluation: its alerts, and the series it wrote.
//!
//! After a restart, alerts take up where the recorded `ALERTS_FOR_STATE` left them, as in Prometheus with a grace period of zero: one
//! that was firing fires at once, one that was pending goes on waiting and does not count the time in which nobody looked. Prometheus'
//! ten minutes of grace are for rules that hold for longer than that; ours hold for seconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_promql::{EvalError, Expression, Value, VectorSample};
use holdfast_series::{Label, Labels, METRIC_NAME, Sample, is_stale, stale_marker};

use super::alert::{Alert, AlertTransition};
use super::engine::{Identity, millis};
use super::rule::{AlertRule, Group, RecordRule};
use super::source::{At, Source};
use super::template::{QuerySample, Surroundings};
use crate::cluster::AlertState;

/// How long the supervisor may have been away for alerts to be restored. As in Prometheus.
const OUTAGE_MS_MAX: i64 = 60 * 60 * 1000;
/// Where the state of alerts is recorded.
const STATE_METRIC: &str = "ALERTS_FOR_STATE";

/// How a rule fared at its last evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// When that was, milliseconds since the Unix epoch; `None` before the first.
    pub time_ms: Option<i64>,
    /// How long it took.
    pub duration: Duration,
    /// Why it failed.
    pub error: Option<String>,
}

/// What an evaluation is about.
pub(super) struct Context<'a> {
    pub(super) group: &'a Group,
    pub(super) file: &'a Arc<PathBuf>,
    pub(super) name: &'a Arc<str>,
    pub(super) identity: &'a Identity,
    pub(super) source: &'a dyn Source,
    pub(super) now_ms: i64,
    /// The instant that expressions are evaluated at and samples recorded at: now, less the group's offset.
    pub(super) asked_ms: i64,
}

#[derive(Debug)]
pub(super) struct RuleState {
    alerts: HashMap<Labels, Alert>,
    /// Series written by the last evaluation.
    recorded: HashSet<Labels>,
    /// Whether the alerts of an earlier run have been looked for.
    pub(super) is_restored: bool,
    pub(super) health: Health,
}

impl Default for RuleState {
    fn default() -> Self {
        Self {
            alerts: HashMap::new(),
            recorded: HashSet::new(),
            is_restored: true,
            health: Health::default(),
        }
    }
}

impl Context<'_> {
    /// The alert of one series, as it begins.
    fn alert(&self, rule: &AlertRule, series: &VectorSample) -> Alert {
        let query = |text: &str| self.query(text);
        let surroundings = Surroundings {
            labels: &series.labels,
            value: series.sample.value,
            external_labels: &self.identity.external_labels,
            external_url: &self.identity.external_url,
            now_ms: self.now_ms,
            query: &query,
        };
        let mut labels: Vec<Label> = series.labels.without_name().as_slice().to_vec();
        for (name, template) in &rule.labels {
            labels.push(Label::new(name.as_str(), template.expand(&surroundings)));
        }
        labels.push(Label::new("alertname", rule.name.as_str()));
        let expand = |(name, text): &(String, super::template::Template)| {
            (name.clone(), text.expand(&surroundings))
        };
        let annotations: BTreeMap<_, _> = rule.annotations.iter().map(expand).collect();
        Alert {
            name: rule.name.clone(),
            state: AlertState::Pending,
            labels: Labels::from_labels(labels),
            annotations,
            active_at_ms: self.now_ms,
            fired_at_ms: None,
            resolved_at_ms: None,
            kept_since_ms: None,
            value: series.sample.value,
            file: Arc::clone(self.file),
            group: Arc::clone(self.name),
            action: rule.action,
        }
    }

    /// `query` of a template.
    fn query(&self, text: &str) -> Result<Vec<QuerySample>, String> {
        let expression = Expression::parse(text).map_err(|error| error.to_string())?;
        let at = At { time_ms: self.asked_ms, interval: self.group.interval };
        match self.source.instant(&expression, at).map_err(|error| error.to_string())? {
            Value::Vector(samples) => {
                let sample = |sample: VectorSample| QuerySample {
                    labels: sample.labels,
                    value: sample.sample.value,
                };
                Ok(samples.into_iter().map(sample).collect())
            }
            Value::Scalar(sample) => {
                Ok(vec![QuerySample { labels: Labels::empty(), value: sample.value }])
            }
            Value::Matrix(_) | Value::String { .. } => {
                Err("query result is not a vector or scalar".to_owned())
            }
        }
    }

    /// A sample of this evaluation.
    fn sample(&self, labels: Labels, value: f64) -> VectorSample {
        float(labels, Sample { timestamp_ms: self.asked_ms, value })
    }
}

impl RuleState {
    /// The alerts in the order of their labels.
    pub(super) fn alerts(&self) -> Vec<&Alert> {
        let mut alerts: Vec<&Alert> = self.alerts.values().collect();
        alerts.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        alerts
    }

    /// Takes a result of an alert rule. Returns how many samples were recorded.
    pub(super) fn alert(
        &mut self,
        context: &Context<'_>,
        rule: &AlertRule,
        vector: &[VectorSample],
        transitions: &mut Vec<AlertTransition>,
    ) -> Result<usize, EvalError> {
        let mut current: HashMap<Labels, Alert> = HashMap::with_capacity(vector.len());
        for series in vector {
            let alert = context.alert(rule, series);
            if current.insert(alert.labels.clone(), alert).is_some() {
                return Err(EvalError::Execution(
                    "vector contains metrics with the same labelset after applying alert labels"
                        .to_owned(),
                ));
            }
        }
        if !self.is_restored {
            restore(context, rule, &mut current)?;
            self.is_restored = true;
        }
        let known: HashSet<Labels> = self.alerts.keys().cloned().collect();
        let mut is_true = HashSet::with_capacity(current.len());
        for (labels, alert) in current {
            is_true.insert(labels.clone());
            match self.alerts.get_mut(&labels) {
                Some(known) => {
                    known.value = alert.value;
                    known.annotations = alert.annotations;
                    known.action = alert.action;
                }
                None => {
                    self.alerts.insert(labels, alert);
                }
            }
        }
        let (hold_ms, keep_ms) = (millis(rule.hold), millis(rule.keep_firing_for));
        let mut labels: Vec<Labels> = self.alerts.keys().cloned().collect();
        labels.sort_unstable();
        for labels in labels {
            let Some(alert) = self.alerts.get_mut(&labels) else { continue };
            let from = known.contains(&labels).then_some(alert.state);
            let to = alert.next(context.now_ms, is_true.contains(&labels), hold_ms, keep_ms);
            // A resolved alert that is over has had its last transition when it was resolved.
            if to != from && (to.is_some() || from != Some(AlertState::Resolved)) {
                transitions.push(AlertTransition { from, to, alert: alert.clone() });
            }
            if to.is_none() {
                self.alerts.remove(&labels);
            }
        }
        let written = self.alert_samples(context);
        Ok(self.write(context, written))
    }

    /// `ALERTS` and `ALERTS_FOR_STATE` of what is pending or firing.
    fn alert_samples(&self, context: &Context<'_>) -> Vec<VectorSample> {
        let mut written = Vec::new();
        for alert in self.alerts.values() {
            let state = match alert.state {
                AlertState::Pending => "pending",
                AlertState::Firing => "firing",
                AlertState::Resolved => continue,
            };
            let series = alert.labels.with(METRIC_NAME, "ALERTS").with("alertstate", state);
            written.push(context.sample(series, 1.0));
            let since = alert.active_at_ms.div_euclid(1000) as f64;
            written.push(context.sample(alert.labels.with(METRIC_NAME, STATE_METRIC), since));
        }
        written.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        written
    }

    /// Takes a result of a recording rule. Returns how many samples were recorded.
    pub(super) fn record(
        &mut self,
        context: &Context<'_>,
        rule: &RecordRule,
        vector: Vec<VectorSample>,
    ) -> Result<usize, EvalError> {
        let mut written = Vec::with_capacity(vector.len());
        let mut seen = HashSet::with_capacity(vector.len());
        for mut series in vector {
            let mut labels = series.labels.with(METRIC_NAME, &rule.name);
            for (name, value) in &rule.labels {
                labels = labels.with(name, value);
            }
            if !seen.insert(labels.clone()) {
                return Err(EvalError::Execution(
                    "vector contains metrics with the same labelset after applying rule labels"
                        .to_owned(),
                ));
            }
            series.labels = labels;
            series.sample.timestamp_ms = context.asked_ms;
            written.push(series);
        }
        Ok(self.write(context, written))
    }

    /// Records samples, and ends the series that the evaluation before wrote and this one did not.
    fn write(&mut self, context: &Context<'_>, mut samples: Vec<VectorSample>) -> usize {
        let labels = samples.iter().map(|sample| sample.labels.clone()).collect();
        let before = std::mem::replace(&mut self.recorded, labels);
        let count = samples.len();
        let ended = before.difference(&self.recorded);
        samples.extend(ended.map(|labels| context.sample(labels.clone(), stale_marker())));
        context.source.record(&samples);
        count
    }

    /// Resolves what fires and ends what was recorded, because the rule is gone. Returns the samples that say so.
    pub(super) fn end(
        &mut self,
        now_ms: i64,
        transitions: &mut Vec<AlertTransition>,
    ) -> Vec<VectorSample> {
        let mut alerts: Vec<Alert> = self.alerts.drain().map(|(_, alert)| alert).collect();
        alerts.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        for mut alert in alerts {
            let from = alert.state;
            if from == AlertState::Resolved {
                continue;
            }
            let to = alert.next(now_ms, false, 0, 0);
            transitions.push(AlertTransition { from: Some(from), to, alert });
        }
        let ended = Sample { timestamp_ms: now_ms, value: stale_marker() };
        self.recorded.drain().map(|labels| float(labels, ended)).collect()
    }
}

/// A series with a plain number.
pub(super) fn float(labels: Labels, sample: Sample) -> VectorSample {
    VectorSample { labels, sample, histogram: None }
}

/// Sets since when alerts are true from what an earlier run has recorded.
fn restore(
    context: &Context<'_>,
    rule: &AlertRule,
    alerts: &mut HashMap<Labels, Alert>,
) -> Result<(), EvalError> {
    if alerts.is_empty() || rule.hold.is_zero() {
        return Ok(());
    }
    let (start_ms, hold_ms) = (context.asked_ms - OUTAGE_MS_MAX, millis(rule.hold));
    let recorded =
        context.source.newest(STATE_METRIC, &rule.name, start_ms, context.asked_ms - 1)?;
    for (labels, sample) in recorded {
        let Some(alert) = alerts.get_mut(&labels.without_name()) else { continue };
        if is_stale(sample.value) {
            continue;
        }
        #[expect(clippy::cast_possible_truncation, reason = "an instant in this century")]
        let since_ms = (sample.value * 1000.0) as i64;
        let waited_ms = sample.timestamp_ms - since_ms;
        let away_ms = context.asked_ms - sample.timestamp_ms;
        alert.active_at_ms = if waited_ms >= hold_ms { since_ms } else { since_ms + away_ms };
    }
    Ok(())
}
