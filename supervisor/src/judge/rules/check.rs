//! From files as written to rules that can be evaluated, all faults reported together.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_promql::{Expression, parse_duration};
use holdfast_series::{METRIC_NAME, is_label_name, is_metric_name};
use holdfast_settings::{Fault, Faults};
use serde_norway::Value;

use super::file::{Block, FileAsWritten, GroupAsWritten, Lines, RuleAsWritten, Text};
use super::rule::{Action, AlertRule, Group, RecordRule, Rule, RuleSet};
use super::template::Template;

/// The label that makes an alert act.
const ACTION: &str = "action";
/// The label that says to how many per cent of its weight a server is set.
const WEIGHT: &str = "weight";

/// What is wrong with rule files, file by file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RuleFaults(pub Vec<Faults>);

impl fmt::Display for RuleFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, faults) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{faults}")?;
        }
        Ok(())
    }
}

/// Reads and checks rule files.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(paths: &[PathBuf], default_interval: Duration) -> Result<RuleSet, RuleFaults> {
    let mut texts = Vec::new();
    let mut unread = Vec::new();
    for path in paths {
        match std::fs::read_to_string(path) {
            Ok(text) => texts.push((path.as_path(), text)),
            Err(error) => {
                let message = format!("cannot be read: {error}");
                let list = vec![Fault { line: None, key: String::new(), message }];
                unread.push(Faults { file: path.clone(), list });
            }
        }
    }
    let parsed =
        RuleSet::parse(texts.iter().map(|(path, text)| (*path, text.as_str())), default_interval);
    match parsed {
        Ok(set) if unread.is_empty() => Ok(set),
        Ok(_) => Err(RuleFaults(unread)),
        Err(RuleFaults(faults)) => Err(RuleFaults(unread.into_iter().chain(faults).collect())),
    }
}

impl RuleSet {
    /// Checks files given as path and text.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn parse<'f>(
        files: impl IntoIterator<Item = (&'f Path, &'f str)>,
        default_interval: Duration,
    ) -> Result<Self, RuleFaults> {
        let mut groups = Vec::new();
        let mut faults = Vec::new();
        for (path, text) in files {
            let mut check =
                FileCheck { faults: Faults::new(path), lines: Lines::new(text), default_interval };
            groups.extend(check.file(path, text));
            if !check.faults.list.is_empty() {
                faults.push(check.faults);
            }
        }
        if faults.is_empty() { Ok(Self { groups }) } else { Err(RuleFaults(faults)) }
    }
}

struct FileCheck<'a> {
    faults: Faults,
    lines: Lines<'a>,
    default_interval: Duration,
}

/// Where in the file a rule is, for its faults.
struct Place {
    key: String,
    block: Block,
}

impl FileCheck<'_> {
    fn fault(&mut self, place: &Place, key: &str, message: impl fmt::Display) {
        // A label's fault is found by the label's own name.
        let last = key.rsplit('.').next().unwrap_or(key);
        let line = Some(self.lines.line_of(place.block, last));
        let separator = if place.key.is_empty() || key.is_empty() { "" } else { "." };
        let key = format!("{}{separator}{key}", place.key);
        self.faults.list.push(Fault { line, key, message: message.to_string() });
    }

    /// A fault in the shape of an entry; serde's message names the key it stumbled over.
    fn shape_fault(&mut self, place: &Place, error: &serde_norway::Error) {
        let message = error.to_string();
        let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
        match unknown {
            Some((key, rest)) => {
                let rest = rest.trim_start_matches(", ").replace('`', "");
                self.fault(place, key, format!("unknown key, {rest}"));
            }
            None => self.fault(place, "", message.replace('`', "\"")),
        }
    }

    fn file(&mut self, path: &Path, text: &str) -> Vec<Group> {
        let all = Place { key: String::new(), block: self.lines.all() };
        let written: FileAsWritten = match serde_norway::from_str(text) {
            Ok(written) => written,
            Err(error) => {
                let line = error.location().map(|location| location.line());
                let message = error.to_string().replace('`', "\"");
                self.faults.list.push(Fault { line, key: String::new(), message });
                return Vec::new();
            }
        };
        let mut names: Vec<String> = Vec::new();
        let mut groups = Vec::new();
        for (index, value) in written.groups.into_iter().enumerate() {
            let name = value.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
            let nth = names.iter().filter(|known| **known == name).count();
            let block = self.item(all.block, "name", &name, nth);
            names.push(name.clone());
            let key =
                if name.is_empty() { format!("groups[{index}]") } else { format!("groups.{name}") };
            let place = Place { key, block };
            let group: GroupAsWritten = match serde_norway::from_value(value) {
                Ok(group) => group,
                Err(error) => {
                    self.shape_fault(&place, &error);
                    continue;
                }
            };
            if name.is_empty() {
                self.fault(&place, "name", "expected a name");
            } else if nth > 0 {
                self.fault(&place, "name", "this group's name comes twice in the file");
            }
            groups.push(self.group(path, &place, group));
        }
        groups
    }

    /// The list item that has `key: value` for the `nth` time.
    fn item(&self, within: Block, key: &str, value: &str, nth: usize) -> Block {
        let items = self.lines.items(within, key, value);
        items.get(nth).or_else(|| items.last()).copied().unwrap_or(within)
    }

    fn group(&mut self, path: &Path, place: &Place, group: GroupAsWritten) -> Group {
        let mut interval = self.default_interval;
        if let Some(text) = &group.interval {
            interval = self.duration(place, "interval", Some(text)).unwrap_or(interval);
            if interval.is_zero() {
                self.fault(place, "interval", "expected a duration above zero");
            }
        }
        let query_offset = self.duration(place, "query_offset", group.query_offset.as_ref());
        self.label_names(place, &group.labels);
        let (mut rules, mut seen) = (Vec::new(), HashSet::new());
        let mut names: Vec<String> = Vec::new();
        for (index, value) in group.rules.into_iter().enumerate() {
            let name_of = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
            let alert = name_of("alert");
            let kind = if alert.is_some() { "alert" } else { "record" };
            let name = alert.or_else(|| name_of("record")).unwrap_or_default();
            let (key, block) = if name.is_empty() {
                (format!("{}.rules[{index}]", place.key), place.block)
            } else {
                let nth = names.iter().filter(|known| **known == name).count();
                names.push(name.clone());
                (format!("{}.{name}", place.key), self.item(place.block, kind, &name, nth))
            };
            let place = Place { key, block };
            let mut written: RuleAsWritten = match serde_norway::from_value(value) {
                Ok(written) => written,
                Err(error) => {
                    self.shape_fault(&place, &error);
                    continue;
                }
            };
            if !name.is_empty() && !seen.insert((kind, name, format!("{:?}", written.labels))) {
                self.fault(
                    &place,
                    kind,
                    "this rule comes twice in its group, with the same labels",
                );
            }
            self.label_names(&place, &written.labels);
            for (name, text) in &group.labels {
                written.labels.entry(name.clone()).or_insert_with(|| text.clone());
            }
            rules.extend(self.rule(&place, &written));
        }
        Group {
            file: path.to_owned(),
            name: group.name,
            interval,
            query_offset: query_offset.unwrap_or_default(),
            limit: (group.limit > 0).then_some(group.limit),
            rules,
        }
    }

    fn rule(&mut self, place: &Place, written: &RuleAsWritten) -> Option<Rule> {
        let expr = Expression::parse(&written.expr.0);
        if let Err(error) = &expr {
            self.fault(place, "expr", error);
        }
        match (&written.alert, &written.record) {
            (Some(_), Some(_)) => {
                self.fault(place, "record", "expected either \"alert\" or \"record\", found both");
                None
            }
            (None, None) => {
                self.fault(place, "", "expected \"alert\" or \"record\"");
                None
            }
            (Some(name), None) => self.alert(place, &name.0, written, expr.ok()).map(Rule::Alert),
            (None, Some(name)) => self.record(place, &name.0, written, expr.ok()).map(Rule::Record),
        }
    }

    fn label_names(&mut self, place: &Place, labels: &BTreeMap<String, Text>) {
        for name in labels.keys().filter(|name| !is_label_name(name) || *name == METRIC_NAME) {
            let key = format!("labels.{name}");
            self.fault(place, &key, "expected a label name other than __name__");
        }
    }

    fn alert(
        &mut self,
        place: &Place,
        name: &str,
        written: &RuleAsWritten,
        expr: Option<Expression>,
    ) -> Option<AlertRule> {
        if name.is_empty() {
            self.fault(place, "alert", "expected a name");
        }
        let hold = self.duration(place, "for", written.hold.as_ref());
        let keep = self.duration(place, "keep_firing_for", written.keep_firing_for.as_ref());
        let mut labels = Vec::new();
        for (name, text) in &written.labels {
            labels.extend(self.template(place, "labels", name, text));
        }
        let mut annotations = Vec::new();
        for (name, text) in &written.annotations {
            if !is_label_name(name) {
                self.fault(
                    place,
                    &format!("annotations.{name}"),
                    "expected a name of letters, digits and _",
                );
            }
            annotations.extend(self.template(place, "annotations", name, text));
        }
        let action = self.action(place, written);
        Some(AlertRule {
            name: name.to_owned(),
            expr: expr?,
            hold: hold?,
            keep_firing_for: keep?,
            labels,
            annotations,
            action,
        })
    }

    fn record(
        &mut self,
        place: &Place,
        name: &str,
        written: &RuleAsWritten,
        expr: Option<Expression>,
    ) -> Option<RecordRule> {
        if !is_metric_name(name) {
            self.fault(place, "record", format!("{name:?} is not a metric name"));
        }
        for (key, set) in [
            ("for", written.hold.is_some()),
            ("keep_firing_for", written.keep_firing_for.is_some()),
            ("annotations", !written.annotations.is_empty()),
        ] {
            if set {
                self.fault(place, key, "only alert rules have this key");
            }
        }
        let labels = written.labels.iter().map(|(name, text)| (name.clone(), text.0.clone()));
        Some(RecordRule { name: name.to_owned(), expr: expr?, labels: labels.collect() })
    }

    fn duration(&mut self, place: &Place, key: &str, text: Option<&Text>) -> Option<Duration> {
        let Some(text) = text else { return Some(Duration::ZERO) };
        match parse_duration(&text.0) {
            Ok(ms) => Some(Duration::from_millis(ms.unsigned_abs())),
            Err(message) => {
                self.fault(place, key, message);
                None
            }
        }
    }

    fn template(
        &mut self,
        place: &Place,
        section: &str,
        name: &str,
        text: &Text,
    ) -> Option<(String, Template)> {
        match Template::parse(&text.0) {
            Ok(template) => Some((name.to_owned(), template)),
            Err(message) => {
                self.fault(place, &format!("{section}.{name}"), message);
                None
            }
        }
    }

    fn action(&mut self, place: &Place, written: &RuleAsWritten) -> Option<Action> {
        let action = written.labels.get(ACTION)?;
        match action.0.as_str() {
            "drain" => Some(Action::Drain),
            "open" => Some(Action::Open),
            "weight" => {
                let text = written.labels.get(WEIGHT).map_or("", |text| text.0.as_str());
                let percent = text.parse().ok().filter(|percent| *percent <= 100);
                if percent.is_none() {
                    let message = format!(
                        "expected 0 to 100 per cent for \"action: weight\", found {text:?}"
                    );
                    self.fault(place, &format!("labels.{WEIGHT}"), message);
                }
                percent.map(Action::Weight)
            }
            other => {
                let message = format!("expected drain, weight or open, found {other:?}");
                self.fault(place, &format!("labels.{ACTION}"), message);
                None
            }
        }
    }
}
