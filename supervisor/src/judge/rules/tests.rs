//! The lives of alerts over a hand-fed store; `files` has the rule files themselves, good and bad.

use std::path::Path;
use std::time::Duration;

use holdfast_promql::{EvalError, Expression, Options, QueryError, Value, VectorSample, instant};
use holdfast_series::{Labels, Matcher, Sample, Store, StoreConfig, is_stale};

use super::{Action, AlertTransition, At, Engine, Evaluation, Identity, RuleSet, Source};
use crate::cluster::AlertState;

mod files;

fn parse(text: &str) -> Result<RuleSet, String> {
    let files = [(Path::new("rules.yml"), text)];
    RuleSet::parse(files, Duration::from_secs(1)).map_err(|faults| faults.to_string())
}

/// A group of rules given as indented YAML.
fn rules(rules: &str) -> RuleSet {
    parse(&format!("groups:\n  - name: g\n    rules:\n{rules}")).unwrap()
}

/// A store as the source of rules, without a clock.
struct Rows(Store);

impl Source for Rows {
    fn instant(&self, expression: &Expression, at: At) -> Result<Value, EvalError> {
        Ok(instant(&self.0, expression, at.time_ms, &Options::default())?.value)
    }

    fn newest(
        &self,
        metric: &str,
        alertname: &str,
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<(Labels, Sample)>, EvalError> {
        let matchers = [Matcher::equal("__name__", metric), Matcher::equal("alertname", alertname)];
        let found = self.0.select_latest(&matchers, start_ms, end_ms).into_iter();
        Ok(found.map(|series| (series.labels, *series.samples.last().unwrap())).collect())
    }

    fn record(&self, samples: &[VectorSample]) {
        for VectorSample { labels, sample, .. } in samples {
            self.0.append(labels, sample.timestamp_ms, sample.value).unwrap();
        }
    }

    fn clock(&self) -> Duration {
        Duration::ZERO
    }
}

/// A store, an engine and a clock that goes on by seconds.
struct World {
    rows: Rows,
    engine: Engine,
    now_ms: i64,
}

impl World {
    fn new(rules: RuleSet) -> Self {
        let config = StoreConfig {
            retention: Duration::from_hours(2),
            series_max: 1000,
            ..StoreConfig::default()
        };
        let rows = Rows(Store::new(config));
        Self { rows, engine: Engine::new(rules, identity()), now_ms: 1_000_000 }
    }

    /// One second later: these series have these values, and the rules are evaluated.
    fn step(&mut self, series: &[(&str, f64)]) -> Evaluation {
        self.now_ms += 1000;
        for (server, value) in series {
            let labels = Labels::from_pairs([("__name__", "load"), ("server", server)]);
            self.rows.0.append(&labels, self.now_ms, *value).unwrap();
        }
        let evaluation = self.engine.evaluate(self.now_ms, &self.rows);
        assert!(evaluation.failures.is_empty(), "{:?}", evaluation.failures);
        evaluation
    }

    /// As [`World::step`]; returns the transitions as text.
    fn see(&mut self, series: &[(&str, f64)]) -> String {
        show(&self.step(series).transitions)
    }

    fn states(&self) -> Vec<AlertState> {
        self.engine.active().iter().map(|alert| alert.state).collect()
    }

    /// Samples of this instant, as label sets and values.
    fn recorded(&self, name: &str) -> Vec<(Labels, Sample)> {
        let matchers = [Matcher::equal("__name__", name)];
        let found = self.rows.0.select(&matchers, self.now_ms, self.now_ms).into_iter();
        found.map(|series| (series.labels, series.samples[0])).collect()
    }
}

fn identity() -> Identity {
    Identity {
        external_labels: Labels::from_pairs([("cluster", "eu")]),
        external_url: "http://supervisor".to_owned(),
    }
}

fn show(transitions: &[AlertTransition]) -> String {
    let state = |state: Option<AlertState>| match state {
        None => "-",
        Some(AlertState::Pending) => "pending",
        Some(AlertState::Firing) => "firing",
        Some(AlertState::Resolved) => "resolved",
    };
    let show = |transition: &AlertTransition| {
        let server = transition.alert.labels.value("server");
        format!("{server}:{}>{}", state(transition.from), state(transition.to))
    };
    transitions.iter().map(show).collect::<Vec<_>>().join(" ")
}

const HIGH: &str = r#"
      - alert: High
        expr: load > 5
        for: 2s
        labels: {severity: warning, action: weight, weight: 10}
        annotations: {summary: "{{ $labels.server }} at {{ $value }}"}
"#;

#[test]
fn an_alert_is_pending_then_fires_and_is_resolved() {
    let mut world = World::new(rules(HIGH));
    assert_eq!(world.see(&[("a", 1.0)]), "");
    assert_eq!(world.see(&[("a", 9.0)]), "a:->pending");
    assert_eq!(world.engine.active()[0].action(), None, "not before it fires");
    assert_eq!(world.see(&[("a", 8.0)]), "");
    assert_eq!(world.see(&[("a", 7.5)]), "a:pending>firing");
    let alert = world.engine.active().remove(0);
    assert_eq!(
        alert.labels.to_string(),
        r#"{action="weight", alertname="High", server="a", severity="warning", weight="10"}"#
    );
    assert_eq!(alert.annotations["summary"], "a at 7.5");
    assert_eq!(alert.action(), Some(Action::Weight(10)));
    assert_eq!((alert.active_at_ms, alert.fired_at_ms), (1_002_000, Some(1_004_000)));
    assert_eq!(world.see(&[("a", 7.0)]), "");
    assert_eq!(world.see(&[("a", 1.0)]), "a:firing>resolved");
    assert_eq!(world.engine.active()[0].resolved_at_ms, Some(1_006_000));
    assert_eq!(world.engine.active()[0].action(), None);
    let status = world.engine.active()[0].status();
    assert_eq!((status.name.as_str(), status.labels["server"].as_str()), ("High", "a"));
}

#[test]
fn flapping_starts_from_pending_each_time() {
    let mut world = World::new(rules(HIGH));
    for _ in 0..3 {
        assert_eq!(world.see(&[("a", 9.0)]), "a:->pending");
        assert_eq!(world.see(&[("a", 9.0)]), "");
        assert_eq!(world.see(&[("a", 1.0)]), "a:pending>-");
    }
    for _ in 0..3 {
        world.see(&[("a", 9.0)]);
    }
    assert_eq!(world.states(), [AlertState::Firing]);
    assert_eq!(world.see(&[("a", 1.0)]), "a:firing>resolved");
    assert_eq!(world.see(&[("a", 9.0)]), "a:resolved>pending");
    assert_eq!(world.see(&[("a", 1.0)]), "a:pending>-");
}

#[test]
fn without_a_hold_an_alert_fires_at_once() {
    let mut world = World::new(rules("      - {alert: Now, expr: load > 5}\n"));
    assert_eq!(world.see(&[("a", 9.0), ("b", 9.0)]), "a:->firing b:->firing");
    assert_eq!(world.see(&[("a", 9.0), ("b", 0.0)]), "b:firing>resolved");
    assert_eq!(world.see(&[("a", 9.0), ("b", 9.0)]), "b:resolved>firing");
}

#[test]
fn an_alert_is_kept_firing_for_a_while() {
    let text = "      - {alert: Kept, expr: load > 5, keep_firing_for: 3s}\n";
    let mut world = World::new(rules(text));
    world.see(&[("a", 9.0)]);
    for value in [0.0, 0.0, 9.0, 0.0, 0.0, 0.0] {
        assert_eq!(world.see(&[("a", value)]), "");
    }
    assert_eq!(world.see(&[("a", 0.0)]), "a:firing>resolved");
}

#[test]
fn a_series_that_ends_resolves_its_alert() {
    let mut world = World::new(rules("      - {alert: Now, expr: load > 5}\n"));
    world.see(&[("a", 9.0)]);
    assert_eq!(world.see(&[]), "", "the last sample still counts");
    let labels = Labels::from_pairs([("__name__", "load"), ("server", "a")]);
    world.rows.0.append(&labels, world.now_ms + 1, holdfast_series::stale_marker()).unwrap();
    assert_eq!(world.see(&[]), "a:firing>resolved");
}

#[test]
fn resolved_alerts_are_forgotten_after_a_quarter_of_an_hour() {
    let mut world = World::new(rules("      - {alert: Now, expr: load > 5}\n"));
    world.see(&[("a", 9.0)]);
    world.see(&[("a", 0.0)]);
    world.now_ms += 15 * 60_000 - 1000;
    assert_eq!(world.see(&[("a", 0.0)]), "");
    assert_eq!(world.states(), [AlertState::Resolved]);
    assert_eq!(world.see(&[("a", 0.0)]), "");
    assert!(world.states().is_empty());
}

#[test]
fn alerts_are_recorded_and_end_as_series() {
    let mut world = World::new(rules(HIGH));
    world.step(&[("a", 9.0)]);
    let alerts = world.recorded("ALERTS");
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].0.value("alertstate"), "pending");
    assert_eq!(world.recorded("ALERTS_FOR_STATE")[0].1.value.to_bits(), 1001_f64.to_bits());
    world.step(&[("a", 9.0)]);
    world.step(&[("a", 9.0)]);
    let mut states: Vec<(String, bool)> = world
        .recorded("ALERTS")
        .iter()
        .map(|(labels, sample)| (labels.value("alertstate").to_owned(), is_stale(sample.value)))
        .collect();
    states.sort();
    assert_eq!(states, [("firing".to_owned(), false), ("pending".to_owned(), true)]);
    world.step(&[("a", 0.0)]);
    for name in ["ALERTS", "ALERTS_FOR_STATE"] {
        let recorded = world.recorded(name);
        assert_eq!(recorded.len(), 1, "{name}");
        assert!(is_stale(recorded[0].1.value), "{name}");
    }
}

#[test]
fn a_restart_takes_up_where_the_recorded_state_left_off() {
    let slow = HIGH.replace("for: 2s", "for: 5s");
    let restart = |world: &mut World, away_ms: i64| {
        world.engine = Engine::new(rules(&slow), identity());
        world.now_ms += away_ms;
    };
    let mut world = World::new(rules(&slow));
    for _ in 0..6 {
        world.see(&[("a", 9.0)]);
    }
    assert_eq!(world.see(&[("a", 9.0), ("b", 9.0)]), "b:->pending");
    restart(&mut world, 60_000);
    assert_eq!(world.see(&[("a", 9.0), ("b", 9.0)]), "a:->firing b:->pending");
    assert_eq!(world.engine.active()[0].active_at_ms, 1_001_000, "true ever since");
    for _ in 0..4 {
        assert_eq!(world.see(&[("a", 9.0), ("b", 9.0)]), "");
    }
    assert_eq!(world.see(&[("b", 9.0)]), "b:pending>firing", "a second less, as it had waited one");

    restart(&mut world, 61 * 60_000);
    assert_eq!(world.see(&[("b", 9.0)]), "b:->pending", "longer than an hour ago");

    world.see(&[("b", 1.0)]);
    restart(&mut world, 0);
    assert_eq!(world.see(&[("b", 9.0)]), "b:->pending", "it had ended before");
}

#[test]
fn an_offset_looks_back_and_group_labels_are_added() {
    let text = r"groups:
  - name: late
    query_offset: 2s
    labels: {team: chat, severity: info}
    rules:
      - {record: 'load:sum', expr: sum(load)}
      - {alert: Late, expr: load > 5, labels: {severity: critical}}
";
    let mut world = World::new(parse(text).unwrap());
    assert_eq!(world.see(&[("a", 9.0)]), "");
    assert_eq!(world.see(&[("a", 1.0)]), "");
    assert_eq!(world.see(&[("a", 1.0)]), "a:->firing");
    let alert = world.engine.active().remove(0);
    assert_eq!((alert.labels.value("team"), alert.labels.value("severity")), ("chat", "critical"));
    assert_eq!(alert.active_at_ms, world.now_ms);
    world.now_ms -= 2000;
    let sum = world.recorded("load:sum");
    assert_eq!(sum[0].0.value("severity"), "info");
    assert_eq!(sum[0].1.value.to_bits(), 9_f64.to_bits(), "recorded at the time it is about");
}

#[test]
fn annotations_may_ask_and_know_the_supervisor() {
    let text = r#"
      - alert: High
        expr: load > 5
        annotations:
          summary: '{{ with query "sum(load)" }}{{ . | first | value }}{{ end }} in {{ $externalLabels.cluster }} {{ externalURL }}'
"#;
    let mut world = World::new(rules(text));
    world.see(&[("a", 9.0), ("b", 2.0)]);
    assert_eq!(world.engine.active()[0].annotations["summary"], "11 in eu http://supervisor");
}

#[test]
fn rules_tell_how_they_fared() {
    let text = "      - {alert: Now, expr: load > 5}
      - {record: r, expr: load * on() load}
";
    let mut world = World::new(rules(text));
    assert!(world.engine.groups()[0].rules().all(|(_, health)| health.time_ms.is_none()));
    world.see(&[("a", 9.0)]);
    world.now_ms += 1000;
    let labels = Labels::from_pairs([("__name__", "load"), ("server", "b")]);
    world.rows.0.append(&labels, world.now_ms, 1.0).unwrap();
    let evaluation = world.engine.evaluate(world.now_ms, &world.rows);
    assert_eq!(evaluation.failures.len(), 1);
    let group = &world.engine.groups()[0];
    let errors: Vec<bool> = group.rules().map(|(_, health)| health.error.is_some()).collect();
    assert_eq!(errors, [false, true]);
    assert_eq!((group.last().time_ms, group.last().samples), (Some(world.now_ms), 2));
}

#[test]
fn a_rule_sees_what_rules_before_it_recorded() {
    let text = r#"
      - {record: 'job:load:max', expr: max(load), labels: {kind: peak}}
      - {alert: Peak, expr: 'job:load:max{kind="peak"} > 5'}
"#;
    let mut world = World::new(rules(text));
    assert_eq!(show(&world.step(&[("a", 9.0), ("b", 1.0)]).transitions), ":->firing");
    let recorded = world.recorded("job:load:max");
    assert_eq!(recorded[0].0.to_string(), r#"{__name__="job:load:max", kind="peak"}"#);
    assert_eq!(show(&world.step(&[("a", 2.0)]).transitions), ":firing>resolved");
}

#[test]
fn new_rules_take_over_the_alerts_of_old_ones() {
    let two = format!("{HIGH}      - {{alert: Low, expr: load < 3}}\n");
    let mut world = World::new(rules(&two));
    for _ in 0..3 {
        world.see(&[("a", 9.0), ("b", 1.0)]);
    }
    world.engine.replace_rules(rules(&two.replace("for: 2s", "for: 1s")));
    assert_eq!(world.see(&[("a", 9.0), ("b", 1.0)]), "", "nothing starts anew");
    world.engine.replace_rules(rules(HIGH));
    assert_eq!(world.see(&[("a", 9.0), ("b", 1.0)]), "b:firing>resolved", "its rule is gone");
    assert_eq!(world.states(), [AlertState::Firing]);
    world.engine.replace_rules(rules(&HIGH.replace("warning", "critical")));
    assert_eq!(
        world.see(&[("a", 9.0)]),
        "a:firing>resolved a:->pending",
        "other labels, another alert"
    );
}

#[test]
fn groups_are_evaluated_when_they_are_due() {
    let text = "groups: [{name: slow, interval: 3s, rules: [{alert: A, expr: load > 5}]}]";
    let mut world = World::new(parse(text).unwrap());
    let seen: Vec<usize> = (0..7).map(|_| world.step(&[("a", 9.0)]).groups.len()).collect();
    assert_eq!(seen, [1, 0, 0, 1, 0, 0, 1]);
    assert_eq!(world.engine.next_due_ms(world.now_ms), Some(world.now_ms + 3000));
    world.now_ms += 7000;
    let evaluation = world.step(&[("a", 9.0)]);
    assert_eq!(evaluation.groups[0].missed, 1);
    assert_eq!(world.engine.next_due_ms(world.now_ms), Some(world.now_ms + 1000));
    let before_ms = world.now_ms - 60_000;
    assert_eq!(world.engine.next_due_ms(before_ms), Some(before_ms), "the clock was set back");
}

struct Broken;

impl Broken {
    fn error<T>() -> Result<T, EvalError> {
        let cause = "closed".into();
        Err(EvalError::Query(QueryError { source_name: "nowhere".to_owned(), cause }))
    }
}

impl Source for Broken {
    fn instant(&self, _: &Expression, _: At) -> Result<Value, EvalError> {
        Self::error()
    }

    fn newest(&self, _: &str, _: &str, _: i64, _: i64) -> Result<Vec<(Labels, Sample)>, EvalError> {
        Self::error()
    }

    fn record(&self, samples: &[VectorSample]) {
        assert!(samples.is_empty(), "nothing is known");
    }

    fn clock(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn a_failed_evaluation_changes_no_alert() {
    let mut world = World::new(rules("      - {alert: Now, expr: load > 5}\n"));
    world.see(&[("a", 9.0)]);
    let evaluation = world.engine.evaluate(world.now_ms + 1000, &Broken);
    assert_eq!(evaluation.failures.len(), 1);
    assert_eq!(evaluation.failures[0].error.to_string(), "select series from nowhere");
    assert!(evaluation.transitions.is_empty());
    assert_eq!(world.states(), [AlertState::Firing]);
}

#[test]
fn limits_and_clashing_labels_are_failures() {
    for (text, expected) in [
        (
            "groups: [{name: g, limit: 1, rules: [{alert: A, expr: load}]}]",
            "exceeded limit of 1 with 2 alerts",
        ),
        (
            "groups: [{name: g, rules: [{alert: A, expr: load, labels: {server: x}}]}]",
            "vector contains metrics with the same labelset after applying alert labels",
        ),
        (
            "groups: [{name: g, rules: [{record: r, expr: load, labels: {server: x}}]}]",
            "vector contains metrics with the same labelset after applying rule labels",
        ),
        (
            "groups: [{name: g, rules: [{record: r, expr: 'load[5m]'}]}]",
            "rule result is not a vector or scalar",
        ),
    ] {
        let mut world = World::new(parse(text).unwrap());
        for server in ["a", "b"] {
            let labels = Labels::from_pairs([("__name__", "load"), ("server", server)]);
            world.rows.0.append(&labels, world.now_ms, 1.0).unwrap();
        }
        let evaluation = world.engine.evaluate(world.now_ms, &world.rows);
        assert_eq!(evaluation.failures[0].error.to_string(), expected, "{text}");
    }
}
