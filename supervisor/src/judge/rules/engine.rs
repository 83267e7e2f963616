//! Rules and the state of their alerts, one evaluation after the other.
//!
//! The engine evaluates the groups that are due and hands back what changed: transitions of alerts and failures. A failed evaluation
//! leaves the alerts of its rule as they are: not knowing is not the same as being well. New rules take over the alerts of old ones with
//! the same file, group, name and labels; alerts whose rule is gone are resolved, not forgotten.
//!
//! A group may look back by its `query_offset`, for series that arrive late; then its samples carry the time they are about.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_promql::{EvalError, Value, VectorSample};
use holdfast_series::Labels;

use super::alert::{Alert, AlertTransition};
use super::rule::{Group, Rule, RuleSet};
use super::source::{At, Source};
use super::state::{Context, Health, RuleState, float};

/// What came of an evaluation.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// Alerts whose state changed, in the order of the rules.
    pub transitions: Vec<AlertTransition>,
    /// Rules that could not be evaluated.
    pub failures: Vec<RuleFailure>,
    /// The groups that were evaluated, by their place among [`Engine::groups`].
    pub groups: Vec<GroupRun>,
}

/// The evaluation of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRun {
    /// Its place among [`Engine::groups`].
    pub index: usize,
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

/// Who evaluates, as templates show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// Labels that this supervisor adds to what it sends elsewhere.
    pub external_labels: Labels,
    /// Where it is reached.
    pub external_url: String,
}

/// The rules with their state.
#[derive(Debug, Default)]
pub struct Engine {
    identity: Identity,
    groups: Vec<GroupState>,
    /// Alerts of rules that are gone; the next evaluation resolves them.
    orphans: Vec<RuleState>,
}

/// A group with its state.
#[derive(Debug)]
pub struct GroupState {
    group: Group,
    file: Arc<PathBuf>,
    name: Arc<str>,
    rules: Vec<RuleState>,
    next_due_ms: Option<i64>,
    last: LastRun,
}

/// The last evaluation of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastRun {
    /// When, milliseconds since the Unix epoch; `None` before the first.
    pub time_ms: Option<i64>,
    /// How long it took.
    pub duration: Duration,
    /// How many samples it recorded.
    pub samples: usize,
}

impl GroupState {
    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Its last evaluation.
    pub fn last(&self) -> LastRun {
        self.last
    }

    /// Its rules, with how they fared at the last evaluation.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &Health)> {
        self.group.rules.iter().zip(self.rules.iter().map(|state| &state.health))
    }

    /// Alerts of a rule, by its place in the group, in the order of their labels.
    pub fn alerts(&self, rule: usize) -> Vec<&Alert> {
        self.rules.get(rule).map(RuleState::alerts).unwrap_or_default()
    }
}

impl Engine {
    /// Rules without any alerts yet. Alerts that an earlier run has recorded are restored as they become true again.
    pub fn new(rules: RuleSet, identity: Identity) -> Self {
        let mut engine = Self { identity, groups: Vec::new(), orphans: Vec::new() };
        engine.replace_rules(rules);
        for rule in engine.groups.iter_mut().flat_map(|group| &mut group.rules) {
            rule.is_restored = false;
        }
        engine
    }

    /// Takes new rules. Alerts of rules that are still there stay as they are.
    pub fn replace_rules(&mut self, rules: RuleSet) {
        let mut old: HashMap<RuleKey, Vec<RuleState>> = HashMap::new();
        let mut known: HashMap<(PathBuf, String), (Option<i64>, LastRun)> = HashMap::new();
        for state in self.groups.drain(..) {
            let key = (state.group.file.clone(), state.group.name.clone());
            known.insert(key, (state.next_due_ms, state.last));
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
            let before = known.get(&(group.file.clone(), group.name.clone())).copied();
            let (next_due_ms, last) = before.unwrap_or_default();
            self.groups.push(GroupState {
                file: Arc::new(group.file.clone()),
                name: group.name.as_str().into(),
                rules: states,
                next_due_ms,
                last,
                group,
            });
        }
        self.orphans.extend(old.into_values().flatten());
    }

    /// The groups, for those who want to show them.
    pub fn groups(&self) -> &[GroupState] {
        &self.groups
    }

    /// When the next group is due, seen from `now_ms`; `None` if there are no groups.
    pub fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        self.groups.iter().map(|group| group.due_ms(now_ms)).min()
    }

    /// All alerts, pending and firing and those resolved in the last 15 minutes, in the order of the rules.
    pub fn active(&self) -> Vec<Alert> {
        let states = self.groups.iter().flat_map(|group| &group.rules);
        states.flat_map(RuleState::alerts).cloned().collect()
    }

    /// Evaluates the groups that are due at `now_ms`.
    pub fn evaluate(&mut self, now_ms: i64, source: &dyn Source) -> Evaluation {
        let mut evaluation = Evaluation::default();
        for mut orphan in self.orphans.drain(..) {
            source.record(&orphan.end(now_ms, &mut evaluation.transitions));
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            if group.due_ms(now_ms) <= now_ms {
                let missed = group.schedule(now_ms);
                group.evaluate(now_ms, source, &self.identity, &mut evaluation);
                evaluation.groups.push(GroupRun { index, missed });
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
    fn evaluate(
        &mut self,
        now_ms: i64,
        source: &dyn Source,
        identity: &Identity,
        evaluation: &mut Evaluation,
    ) {
        let begun = source.clock();
        let mut samples = 0;
        for (rule, state) in self.group.rules.iter().zip(&mut self.rules) {
            let context = Context {
                group: &self.group,
                file: &self.file,
                name: &self.name,
                identity,
                source,
                now_ms,
                asked_ms: now_ms - millis(self.group.query_offset),
            };
            let rule_begun = source.clock();
            let result = context.vector(rule).and_then(|vector| match rule {
                Rule::Alert(rule) => {
                    state.alert(&context, rule, &vector, &mut evaluation.transitions)
                }
                Rule::Record(rule) => state.record(&context, rule, vector),
            });
            state.health = Health {
                time_ms: Some(now_ms),
                duration: source.clock().saturating_sub(rule_begun),
                error: result.as_ref().err().map(ToString::to_string),
            };
            match result {
                Ok(count) => samples += count,
                Err(error) => evaluation.failures.push(RuleFailure {
                    file: self.group.file.clone(),
                    group: self.group.name.clone(),
                    rule: rule.name().to_owned(),
                    error,
                }),
            }
        }
        let duration = source.clock().saturating_sub(begun);
        self.last = LastRun { time_ms: Some(now_ms), duration, samples };
    }

    /// When it is due. At once if it never ran, or if that is further away than its interval: then the clock was set back.
    fn due_ms(&self, now_ms: i64) -> i64 {
        let latest_ms = now_ms.saturating_add(millis(self.group.interval));
        self.next_due_ms.filter(|due_ms| *due_ms <= latest_ms).unwrap_or(now_ms)
    }

    /// Sets when the group is due again: whole intervals from when it was due. Returns how many were missed.
    fn schedule(&mut self, now_ms: i64) -> u64 {
        let interval_ms = millis(self.group.interval).max(1);
        let due_ms = self.due_ms(now_ms);
        let missed = (now_ms - due_ms) / interval_ms;
        self.next_due_ms = Some(due_ms + (missed + 1) * interval_ms);
        missed.unsigned_abs()
    }
}

impl Context<'_> {
    /// A rule's result as series; a number is a series without labels.
    fn vector(&self, rule: &Rule) -> Result<Vec<VectorSample>, EvalError> {
        let at = At { time_ms: self.asked_ms, interval: self.group.interval };
        let vector = match self.source.instant(rule.expr(), at)? {
            Value::Vector(samples) => samples,
            Value::Scalar(sample) => vec![float(Labels::empty(), sample)],
            Value::Matrix(_) | Value::String { .. } => {
                let text = "rule result is not a vector or scalar";
                return Err(EvalError::Execution(text.to_owned()));
            }
        };
        match self.group.limit {
            Some(limit) if vector.len() > limit => {
                let kind = if matches!(rule, Rule::Alert(_)) { "alerts" } else { "series" };
                let text = format!("exceeded limit of {limit} with {} {kind}", vector.len());
                Err(EvalError::Execution(text))
            }
            _ => Ok(vector),
        }
    }
}

/// As milliseconds; saturates.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
