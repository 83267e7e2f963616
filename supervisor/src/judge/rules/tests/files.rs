//! Rule files with faults, and those we ship, which have none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{RuleSet, load};
use super::parse;

const BAD: &str = r#"groups:
  - name: first
    interval: soon
    rules:
      - alert: Broken
        expr: rate(load)
        for: 5 minutes
        labels:
          severity: critical
          action: explode
        annotations:
          summary: "{{ $value | humanise }}"
      - alert: Misspelt
        expr: load > 1
        fro: 5s
      - alert: Weightless
        expr: load > 1
        labels:
          action: weight
          weight: 101
      - record: not-a-name
        expr: sum(load)
        for: 1s
      - alert: Both
        record: both
        expr: load
      - expr: load
  - name: first
    rules:
      - alert: Twice
        expr: load
      - alert: Twice
        expr: load
"#;

#[test]
fn all_faults_are_named_with_line_and_key() {
    let expected = r#"rules.yml:3: groups.first.interval: not a valid duration string: "soon", expected such as "30s", "5m"
rules.yml:6: groups.first.Broken.expr: expected type range vector in call to function 'rate', got instant vector
rules.yml:7: groups.first.Broken.for: not a valid duration string: "5 minutes", expected such as "30s", "5m"
rules.yml:12: groups.first.Broken.annotations.summary: function "humanise" is not known in {{ $value | humanise }}
rules.yml:10: groups.first.Broken.labels.action: expected drain, weight or open, found "explode"
rules.yml:15: groups.first.Misspelt.fro: unknown key, expected one of alert, record, expr, for, keep_firing_for, labels, annotations
rules.yml:20: groups.first.Weightless.labels.weight: expected 0 to 100 per cent for "action: weight", found "101"
rules.yml:21: groups.first.not-a-name.record: "not-a-name" is not a metric name
rules.yml:23: groups.first.not-a-name.for: only alert rules have this key
rules.yml:25: groups.first.Both.record: expected either "alert" or "record", found both
rules.yml:2: groups.first.rules[5]: expected "alert" or "record"
rules.yml:28: groups.first.name: this group's name comes twice in the file
rules.yml:32: groups.first.Twice.alert: this rule comes twice in its group, with the same labels"#;
    assert_eq!(parse(BAD).unwrap_err(), expected);
}

#[test]
fn files_that_are_no_rule_files_are_refused() {
    for (text, expected) in [
        ("groups: [{", "rules.yml:2: did not find expected node content"),
        ("group: []", "rules.yml:1: unknown field \"group\", expected \"groups\""),
        ("groups: [{rules: []}]", "rules.yml:1: groups[0]: missing field \"name\""),
        (
            "groups: [{name: g, rules: [{alert: A}]}]",
            "rules.yml:1: groups.g.A: missing field \"expr\"",
        ),
        ("groups: 1", "rules.yml:1: groups: invalid type"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    assert_eq!(parse("groups: []").unwrap(), RuleSet::default());
    let missing = [PathBuf::from("nowhere.yml")];
    let error = load(&missing, Duration::from_secs(1)).unwrap_err().to_string();
    assert!(error.starts_with("nowhere.yml: cannot be read: "), "{error}");
}

#[test]
fn the_rules_we_ship_have_no_faults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../alerts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let rules = load(&files, Duration::from_secs(1)).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(rules.alert_rules().any(|rule| rule.action.is_some()));
}
