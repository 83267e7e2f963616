//! Rules and the state of their alerts, one evaluation after the other.
//!
//! The engine evaluates the groups that are due and hands back what changed: transitions of alerts, samples to record, failures. A
//! failed evaluation leaves the alerts of its rule as they are: not knowing is not the same as being well. New rules take over the alerts
//! of old ones with the same file, group, name and labels; alerts whose rule is gone are resolved, not forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_promql::{EvalError, Options, Querier, Value, VectorSample, instant};
use holdfast_series::{Label, Labels, METRIC_NAME, Sample, stale_marker};

use super::alert::{Alert, AlertTransition};
use super::overlay::Overlay;
use super::rule::{AlertRule, Group, RecordRule, Rule, RuleSet};
use crate::cluster::AlertState;

/// What came of an evaluation.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// Alerts whose state changed, in the order of the rules.
    pub transitions: Vec<AlertTransition>,
    /// Samples for the store: recording rules, `ALERTS`, `ALERTS_FOR_STATE`, staleness markers of those that ended.
    pub samples_to_record: Vec<(Labels, Sample)>,
    /// Rules that could not be evaluated.
    pub failures: Vec<RuleFailure>,
    /// How many groups were evaluated.
    pub groups: usize,
    /// How many rules were evaluated.
    pub rules: usize,
    /// Evaluations that were due and did not take place because the one before came too late.
    pub missed: u64,
}

/// A rule that could not be evaluated.
#[derive(Debug)]
pub struct RuleFailure {
    /// Its file.
    pub file: PathBuf,
    /// Its group.
    pub group: String,
    /// Its name.
    pub rule: String,
    /// Why.
    pub error: EvalError,
}

/// The rules with their state.
#[derive(Debug)]
pub struct Engine {
    groups: Vec<GroupState>,
    /// Alerts of rules that are gone; the next evaluation resolves them.
    orphans: Vec<RuleState>,
}

#[derive(Debug)]
struct GroupState {
    group: Group,
    file: Arc<PathBuf>,
    name: Arc<str>,
    rules: Vec<RuleState>,
    next_due_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct RuleState {
    alerts: HashMap<Labels, Alert>,
    /// Series written by the last evaluation.
    recorded: HashSet<Labels>,
}

impl Engine {
    /// Rules without any alerts yet.
    pub fn new(rules: RuleSet) -> Self {
        let mut engine = Self { groups: Vec::new(), orphans: Vec::new() };
        engine.replace_rules(rules);
        engine
    }

    /// Takes new rules. Alerts of rules that are still there stay as they are.
    pub fn replace_rules(&mut self, rules: RuleSet) {
        let mut old: HashMap<RuleKey, Vec<RuleState>> = HashMap::new();
        let mut due: HashMap<(PathBuf, String), Option<i64>> = HashMap::new();
        for state in self.groups.drain(..) {
            let key = (state.group.file.clone(), state.group.name.clone());
            due.insert(key, state.next_due_ms);
            for (rule, rule_state) in state.group.rules.iter().zip(state.rules) {
                old.entry(rule_key(&state.group, rule)).or_default().push(rule_state);
            }
        }
        for group in rules.groups {
            let take = |rule: &Rule| match old.get_mut(&rule_key(&group, rule)) {
                Some(states) if !states.is_empty() => states.remove(0),
                _ => RuleState::default(),
            };
            let states = group.rules.iter().map(take).collect();
            let next_due_ms = due.get(&(group.file.clone(), group.name.clone())).copied().flatten();
            self.groups.push(GroupState {
                file: Arc::new(group.file.clone()),
                name: group.name.as_str().into(),
                rules: states,
                next_due_ms,
                group,
            });
        }
        self.orphans.extend(old.into_values().flatten());
    }

    /// The groups, for those who want to show them.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(|state| &state.group)
    }

    /// When the next group is due; `None` if there are no groups.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.groups.iter().map(|group| group.next_due_ms.unwrap_or(i64::MIN)).min()
    }

    /// All alerts, pending and firing and those resolved in the last 15 minutes, in the order of the rules.
    pub fn active(&self) -> Vec<Alert> {
        let states = self.groups.iter().flat_map(|group| &group.rules);
        let alerts = states.flat_map(|state| {
            let mut alerts: Vec<&Alert> = state.alerts.values().collect();
            alerts.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
            alerts
        });
        alerts.cloned().collect()
    }

    /// Evaluates the groups that are due at `now_ms`.
    pub fn evaluate(&mut self, now_ms: i64, querier: &dyn Querier) -> Evaluation {
        let mut evaluation = Evaluation::default();
        for mut orphan in self.orphans.drain(..) {
            orphan.end(now_ms, &mut evaluation);
        }
        for group in &mut self.groups {
            if group.next_due_ms.is_none_or(|due_ms| due_ms <= now_ms) {
                group.evaluate(now_ms, querier, &mut evaluation);
            }
        }
        evaluation
    }
}

type RuleKey = (PathBuf, String, String, Vec<(String, String)>);

fn rule_key(group: &Group, rule: &Rule) -> RuleKey {
    let labels = match rule {
        Rule::Alert(rule) => {
            rule.labels.iter().map(|(name, text)| (name.clone(), text.text().to_owned())).collect()
        }
        Rule::Record(rule) => rule.labels.clone(),
    };
    (group.file.clone(), group.name.clone(), rule.name().to_owned(), labels)
}

impl GroupState {
    fn evaluate(&mut self, now_ms: i64, querier: &dyn Querier, evaluation: &mut Evaluation) {
        evaluation.groups += 1;
        self.schedule(now_ms, evaluation);
        // What this group has written so far is the tail of the list.
        let first_fresh = evaluation.samples_to_record.len();
        for (rule, state) in self.group.rules.iter().zip(&mut self.rules) {
            evaluation.rules += 1;
            let fresh = &evaluation.samples_to_record[first_fresh..];
            let overlay = Overlay { below: querier, fresh };
            let options = Options {
                subquery_step_ms: millis(self.group.interval).max(1),
                ..Options::default()
            };
            let result = instant(&overlay, rule.expr(), now_ms, &options)
                .and_then(|answer| into_vector(answer.value));
            let result = result.and_then(|vector| match self.group.limit {
                Some(limit) if vector.len() > limit => {
                    let count = vector.len();
                    Err(EvalError::Execution(format!(
                        "exceeded limit of {limit} with {count} series"
                    )))
                }
                _ => Ok(vector),
            });
            let result = result.and_then(|vector| match rule {
                Rule::Alert(rule) => {
                    let context = Context { rule, file: &self.file, group: &self.name, now_ms };
                    state.alert(&context, vector, evaluation)
                }
                Rule::Record(rule) => state.record(rule, vector, now_ms, evaluation),
            });
            if let Err(error) = result {
                evaluation.failures.push(RuleFailure {
                    file: self.group.file.clone(),
                    group: self.group.name.clone(),
                    rule: rule.name().to_owned(),
                    error,
                });
            }
        }
    }

    /// Sets when the group is due again: whole intervals from when it was due.
    fn schedule(&mut self, now_ms: i64, evaluation: &mut Evaluation) {
        let interval_ms = millis(self.group.interval).max(1);
        let due_ms = self.next_due_ms.unwrap_or(now_ms);
        let missed = (now_ms - due_ms) / interval_ms;
        evaluation.missed += missed.unsigned_abs();
        self.next_due_ms = Some(due_ms + (missed + 1) * interval_ms);
    }
}

/// What an alert rule's evaluation is about.
struct Context<'a> {
    rule: &'a AlertRule,
    file: &'a Arc<PathBuf>,
    group: &'a Arc<str>,
    now_ms: i64,
}

impl Context<'_> {
    /// The alert of one series, as it begins.
    fn alert(&self, series: &VectorSample) -> Alert {
        let (rule, value) = (self.rule, series.sample.value);
        let mut labels: Vec<Label> = series.labels.without_name().as_slice().to_vec();
        for (name, template) in &rule.labels {
            labels.push(Label::new(name.as_str(), template.expand(&series.labels, value)));
        }
        labels.push(Label::new("alertname", rule.name.as_str()));
        Alert {
            name: rule.name.clone(),
            state: AlertState::Pending,
            labels: Labels::from_labels(labels),
            annotations: self.annotations(series),
            active_at_ms: self.now_ms,
            fired_at_ms: None,
            resolved_at_ms: None,
            kept_since_ms: None,
            value,
            file: Arc::clone(self.file),
            group: Arc::clone(self.group),
            action: rule.action,
        }
    }

    fn annotations(&self, series: &VectorSample) -> BTreeMap<String, String> {
        let expand = |template: &super::template::Template| {
            template.expand(&series.labels, series.sample.value)
        };
        self.rule.annotations.iter().map(|(name, text)| (name.clone(), expand(text))).collect()
    }
}

impl RuleState {
    fn alert(
        &mut self,
        context: &Context<'_>,
        vector: Vec<VectorSample>,
        evaluation: &mut Evaluation,
    ) -> Result<(), EvalError> {
        let mut current: HashMap<Labels, Alert> = HashMap::with_capacity(vector.len());
        for series in vector {
            let alert = context.alert(&series);
            if current.insert(alert.labels.clone(), alert).is_some() {
                return Err(EvalError::Execution(
                    "vector contains metrics with the same labelset after applying alert labels"
                        .to_owned(),
                ));
            }
        }
        let known: HashSet<Labels> = self.alerts.keys().cloned().collect();
        for (labels, alert) in &current {
            match self.alerts.get_mut(labels) {
                Some(known) => {
                    known.value = alert.value;
                    known.annotations.clone_from(&alert.annotations);
                    known.action = alert.action;
                }
                None => {
                    self.alerts.insert(labels.clone(), alert.clone());
                }
            }
        }
        let (hold_ms, keep_ms) = (millis(context.rule.hold), millis(context.rule.keep_firing_for));
        let mut labels: Vec<Labels> = self.alerts.keys().cloned().collect();
        labels.sort_unstable();
        for labels in labels {
            let Some(alert) = self.alerts.get_mut(&labels) else { continue };
            let from = known.contains(&labels).then_some(alert.state);
            let is_true = current.contains_key(&labels);
            let to = alert.next(context.now_ms, is_true, hold_ms, keep_ms);
            // A resolved alert that is over has had its last transition when it was resolved.
            if to != from && (to.is_some() || from != Some(AlertState::Resolved)) {
                let alert = alert.clone();
                evaluation.transitions.push(AlertTransition { from, to, alert });
            }
            if to.is_none() {
                self.alerts.remove(&labels);
            }
        }
        self.record_alerts(context.now_ms, evaluation);
        Ok(())
    }

    /// `ALERTS` and `ALERTS_FOR_STATE` of what is pending or firing.
    fn record_alerts(&mut self, now_ms: i64, evaluation: &mut Evaluation) {
        let mut written = Vec::new();
        for alert in self.alerts.values() {
            let state = match alert.state {
                AlertState::Pending => "pending",
                AlertState::Firing => "firing",
                AlertState::Resolved => continue,
            };
            let series = alert.labels.with(METRIC_NAME, "ALERTS").with("alertstate", state);
            written.push((series, 1.0));
            let since = alert.active_at_ms.div_euclid(1000) as f64;
            written.push((alert.labels.with(METRIC_NAME, "ALERTS_FOR_STATE"), since));
        }
        written.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.write(written, now_ms, evaluation);
    }

    fn record(
        &mut self,
        rule: &RecordRule,
        vector: Vec<VectorSample>,
        now_ms: i64,
        evaluation: &mut Evaluation,
    ) -> Result<(), EvalError> {
        let mut written: Vec<(Labels, f64)> = Vec::with_capacity(vector.len());
        let mut seen = HashSet::new();
        for series in vector {
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
            written.push((labels, series.sample.value));
        }
        self.write(written, now_ms, evaluation);
        Ok(())
    }

    /// Adds samples, and ends the series that the evaluation before wrote and this one did not.
    fn write(&mut self, samples: Vec<(Labels, f64)>, now_ms: i64, evaluation: &mut Evaluation) {
        let at = |value| Sample { timestamp_ms: now_ms, value };
        let labels = samples.iter().map(|(labels, _)| labels.clone()).collect();
        let before = std::mem::replace(&mut self.recorded, labels);
        let ended =
            before.difference(&self.recorded).map(|labels| (labels.clone(), stale_marker()));
        let out = &mut evaluation.samples_to_record;
        out.extend(ended.chain(samples).map(|(labels, value)| (labels, at(value))));
    }

    /// Resolves what fires and ends what was recorded, because the rule is gone.
    fn end(&mut self, now_ms: i64, evaluation: &mut Evaluation) {
        let mut alerts: Vec<Alert> = self.alerts.drain().map(|(_, alert)| alert).collect();
        alerts.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        for mut alert in alerts {
            let from = alert.state;
            if from == AlertState::Resolved {
                continue;
            }
            let to = alert.next(now_ms, false, 0, 0);
            evaluation.transitions.push(AlertTransition { from: Some(from), to, alert });
        }
        self.write(Vec::new(), now_ms, evaluation);
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A rule's result as series; a number is a series without labels.
fn into_vector(value: Value) -> Result<Vec<VectorSample>, EvalError> {
    match value {
        Value::Vector(samples) => Ok(samples),
        Value::Scalar(sample) => {
            Ok(vec![VectorSample { labels: Labels::empty(), sample, histogram: None }])
        }
        Value::Matrix(_) | Value::String { .. } => {
            Err(EvalError::Execution("rule result is not a vector or scalar".to_owned()))
        }
    }
}
