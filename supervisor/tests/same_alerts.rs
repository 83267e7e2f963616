//! The rule files we ship, on the same hour of samples, here and in Prometheus' own rule engine: the same alerts at the same times.
//!
//! The samples are made up from a seed: for every series that a rule selects, stretches of constant values and of missing scrapes that
//! cross the thresholds again and again, and counters that jump and start anew. Our engine runs over them second by second; what it
//! recorded as `ALERTS` becomes the expectation of a `promtool test rules` file on the same samples: all alerts, pending and firing, at
//! instants at which one of them changed and at the instants before.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use holdfast_promql::{
    Dialect, EvalError, Expression, Options, Value, VectorSample, format_number, instant,
};
use holdfast_series::{Labels, MatchKind, Matcher, Sample, Store, StoreConfig, stale_marker};
use holdfast_supervisor::judge::rules::{At, Engine, Identity, RuleSet, Source, load};

/// Evaluations, one a second.
const SECONDS: i64 = 3600;
/// Instants that promtool is asked about.
const INSTANTS_MAX: usize = 400;
/// What the thresholds of our rules lie between.
const LEVELS: [f64; 12] = [0.0, 0.0, 0.02, 0.07, 0.2, 0.6, 0.97, 1.0, 1.0, 3.0, 40.0, 5e9];

/// Our engine's world: a store, and the dialect of the Prometheus it is compared with.
struct Rows(Store);

fn options() -> Options<'static> {
    Options { dialect: Dialect::V2, ..Options::default() }
}

impl Source for Rows {
    fn instant(&self, expression: &Expression, at: At) -> Result<Value, EvalError> {
        Ok(instant(&self.0, expression, at.time_ms, &options())?.value)
    }

    fn newest(&self, _: &str, _: &str, _: i64, _: i64) -> Result<Vec<(Labels, Sample)>, EvalError> {
        Ok(Vec::new())
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

fn rule_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../alerts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().canonicalize().unwrap())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    files.sort();
    files
}

/// A value for a matcher that it lets pass.
fn value_for(matcher: &Matcher) -> String {
    match matcher.kind() {
        MatchKind::Equal => matcher.value().to_owned(),
        MatchKind::Regex => {
            let first = matcher.value().split('|').next().unwrap();
            first.replace(".+", "some").replace(".*", "some").replace(['(', ')'], "")
        }
        MatchKind::NotEqual | MatchKind::NotRegex => "other".to_owned(),
    }
}

/// The series that the rules select: for each selector one per server.
fn series_of(rules: &RuleSet) -> BTreeSet<Labels> {
    let mut found = BTreeSet::new();
    for rule in rules.groups.iter().flat_map(|group| &group.rules) {
        for matchers in rule.expr().selectors() {
            let own = matchers.iter().filter(|matcher| matcher.value() != "");
            let labels = own.fold(Labels::empty(), |labels, matcher| {
                labels.with(matcher.name(), &value_for(matcher))
            });
            for server in ["chatnode-1", "chatnode-2", "chatnode-3"] {
                let instance = format!("10.0.0.{}:9100", &server[9..]);
                let labels = labels.with("server", server).with("instance", &instance);
                if labels.metric_name().ends_with("_bucket") {
                    let bounds = ["0.01", "0.05", "0.1", "0.4", "1", "+Inf"];
                    found.extend(bounds.map(|bound| labels.with("le", bound)));
                } else {
                    found.insert(labels);
                }
            }
        }
    }
    found
}

/// Values of a series, second by second; `None` where it was not scraped, a staleness marker where it ended.
fn values(labels: &Labels, random: &mut fastrand::Rng) -> Vec<Option<f64>> {
    let name = labels.metric_name();
    let counts = ["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end));
    let mut values = Vec::new();
    let mut count = 0.0;
    let mut missing_before = false;
    while values.len() < usize::try_from(SECONDS).unwrap() {
        let length = random.usize(2..90);
        let missing = random.f64() < 0.06;
        if missing && !missing_before && random.bool() {
            values.push(Some(stale_marker()));
        }
        let level = LEVELS[random.usize(..LEVELS.len())];
        let step = [0.0, 0.0, 0.0, 1.0, 2.5, 40.0][random.usize(..6)];
        if counts && random.f64() < 0.05 {
            count = 0.0;
        }
        for _ in 0..length {
            count += step;
            let value = if counts { count } else { level };
            values.push((!missing).then_some(value));
        }
        missing_before = missing;
    }
    values.truncate(usize::try_from(SECONDS).unwrap());
    values
}

/// `ALERTS` and what else `query` finds at an instant, as text, in order.
fn found(store: &Store, query: &str, time_ms: i64) -> BTreeMap<String, String> {
    let expression = Expression::parse(query).unwrap();
    match instant(store, &expression, time_ms, &options()).unwrap().value {
        Value::Vector(list) => list
            .into_iter()
            .map(|series| (series.labels.to_string(), format_number(series.sample.value)))
            .collect(),
        other => panic!("expected a vector, found {other:?}"),
    }
}

fn expectation(query: &str, seconds: i64, found: &BTreeMap<String, String>) -> String {
    let mut text = format!("      - expr: '{query}'\n        eval_time: {seconds}s\n");
    text.push_str(if found.is_empty() {
        "        exp_samples: []\n"
    } else {
        "        exp_samples:\n"
    });
    for (labels, value) in found {
        let labels = labels.replace('\'', "''");
        writeln!(text, "          - labels: '{labels}'\n            value: {value}").unwrap();
    }
    text
}

#[test]
fn prometheus_has_the_same_alerts_at_the_same_times() {
    let files = rule_files();
    let mut rules =
        load(&files, Duration::from_secs(1)).unwrap_or_else(|faults| panic!("{faults}"));
    // promtool evaluates every group at its own `evaluation_interval` and takes no notice of the group's.
    rules.groups.iter_mut().for_each(|group| group.interval = Duration::from_secs(1));
    let mut random = fastrand::Rng::with_seed(7);
    let rows: Vec<(Labels, Vec<Option<f64>>)> = series_of(&rules)
        .into_iter()
        .map(|labels| {
            let values = values(&labels, &mut random);
            (labels, values)
        })
        .collect();
    let store = Store::new(StoreConfig {
        retention: Duration::from_hours(24),
        series_max: 100_000,
        ..StoreConfig::default()
    });
    let source = Rows(store);
    let mut engine = Engine::new(rules, Identity::default());
    let mut before = BTreeMap::new();
    let mut changes = Vec::new();
    let mut names = BTreeSet::new();
    for second in 0..SECONDS {
        for (labels, values) in &rows {
            if let Some(value) = values[usize::try_from(second).unwrap()] {
                source.0.append(labels, second * 1000, value).unwrap();
            }
        }
        let evaluation = engine.evaluate(second * 1000, &source);
        assert!(evaluation.failures.is_empty(), "{:?}", evaluation.failures[0]);
        names.extend(evaluation.transitions.iter().map(|change| change.alert.name.clone()));
        let now = found(&source.0, "ALERTS", second * 1000);
        if now != before {
            changes.push(second);
        }
        before = now;
    }
    assert!(names.len() > 20 && changes.len() > 200, "{names:?}, {} changes", changes.len());

    let mut text = String::from("rule_files:\n");
    for file in &files {
        writeln!(text, "  - {}", file.display()).unwrap();
    }
    text.push_str("evaluation_interval: 1s\ntests:\n  - interval: 1s\n    input_series:\n");
    for (labels, values) in &rows {
        let shown = values.iter().map(|value| match value {
            None => "_".to_owned(),
            Some(value) if value.is_nan() => "stale".to_owned(),
            Some(value) => format_number(*value),
        });
        let shown: Vec<String> = shown.collect();
        writeln!(text, "      - series: '{labels}'\n        values: '{}'", shown.join(" "))
            .unwrap();
    }
    text.push_str("    promql_expr_test:\n");
    let every = changes.len().div_ceil(INSTANTS_MAX / 2);
    let instants: BTreeSet<i64> = changes
        .iter()
        .step_by(every)
        .flat_map(|second| [(*second - 1).max(0), *second])
        .chain([SECONDS - 1])
        .collect();
    for second in instants {
        let found = found(&source.0, "ALERTS", second * 1000);
        text.push_str(&expectation("ALERTS", second, &found));
    }

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("same_test.yml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: String = format!("{said}{failed}").chars().take(20_000).collect();
    assert!(output.status.success(), "{said}");
}
