//! Relabelling: rewriting or dropping a label set, step by step, with the semantics of Prometheus' `relabel_config`.
//!
//! Pure. Targets pass it before they are scraped, samples before they are stored, and samples before they are sent on. What each action
//! needs is in the type of the action, so a rule that was built is a rule that can run: checking happens in [`crate::config`].
//!
//! Source of the semantics: Prometheus' documentation of `relabel_config`; regular expressions are anchored and a dot matches a line
//! break, as in Prometheus 3.

use std::sync::Arc;

use holdfast_series::{Label, Labels, is_label_name};
use md5::{Digest as _, Md5};
use regex::Regex;

/// What a step does. `value` below is the values of its source labels, joined by its separator.
#[derive(Debug, Clone)]
pub enum Action {
    /// If `value` matches, sets the label `target` to `replacement`, with groups of the match filled into both.
    Replace {
        /// Matched against `value`.
        regex: Regex,
        /// Template of the label's name.
        target: String,
        /// Template of its value; an empty result removes the label.
        replacement: String,
    },
    /// Drops the set unless `value` matches.
    Keep(Regex),
    /// Drops the set if `value` matches.
    Drop(Regex),
    /// Drops the set unless `value` is the value of this label.
    KeepEqual(String),
    /// Drops the set if `value` is the value of this label.
    DropEqual(String),
    /// Sets `target` to the remainder of a hash of `value`.
    HashMod {
        /// Divisor, above 0.
        modulus: u64,
        /// The label.
        target: String,
    },
    /// Sets this label to `value` in lower case.
    Lowercase(String),
    /// Sets this label to `value` in upper case.
    Uppercase(String),
    /// Copies every label whose name matches to the name that `replacement` gives.
    LabelMap {
        /// Matched against names.
        regex: Regex,
        /// Template of the new name.
        replacement: String,
    },
    /// Removes every label whose name matches.
    LabelDrop(Regex),
    /// Removes every label whose name does not match.
    LabelKeep(Regex),
}

/// One step.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Labels whose values the action looks at; a label that is not set counts as empty.
    pub source_labels: Vec<String>,
    /// Stands between their values.
    pub separator: String,
    /// What is done.
    pub action: Action,
}

/// An anchored regular expression as Prometheus means it.
///
/// # Errors
/// If `text` is none.
pub fn regex(text: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?s:{text})$"))
}

/// Whether `text` can become a label name once groups are filled in: letters, digits, underscores, `$1`, `${1}`, `${name}`.
pub fn is_name_template(text: &str) -> bool {
    let mut rest = text;
    let mut first = true;
    while let Some(c) = rest.chars().next() {
        if c == '$' {
            let tail = &rest[1..];
            let word = |text: &str| {
                text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
            };
            let (skip, length) = match tail.strip_prefix('{') {
                Some(inner) if inner[word(inner)..].starts_with('}') => (3, word(inner)),
                Some(_) => return false,
                None => (1, word(tail)),
            };
            if length == 0 {
                return false;
            }
            rest = &rest[skip + length..];
        } else if c.is_ascii_alphabetic() || c == '_' || (c.is_ascii_digit() && !first) {
            rest = &rest[1..];
        } else {
            return false;
        }
        first = false;
    }
    !first
}

/// The label set after all steps, or `None` if a step dropped it.
pub fn apply(rules: &[Rule], labels: Labels) -> Option<Labels> {
    if rules.is_empty() {
        return Some(labels);
    }
    let mut set = Set { labels: labels.as_slice().to_vec(), changed: false };
    for rule in rules {
        if !rule.step(&mut set) {
            return None;
        }
    }
    Some(if set.changed { Labels::from_labels(set.labels) } else { labels })
}

/// A label set in the making.
struct Set {
    labels: Vec<Label>,
    changed: bool,
}

impl Set {
    fn value(&self, name: &str) -> &str {
        self.labels.iter().find(|label| &*label.name == name).map_or("", |label| &*label.value)
    }

    fn set(&mut self, name: &str, value: &str) {
        self.changed = true;
        if value.is_empty() {
            self.labels.retain(|label| &*label.name != name);
        } else if let Some(label) = self.labels.iter_mut().find(|label| &*label.name == name) {
            label.value = Arc::from(value);
        } else {
            self.labels.push(Label::new(name, value));
        }
    }

    fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let before = self.labels.len();
        self.labels.retain(|label| keep(&label.name));
        self.changed |= self.labels.len() != before;
    }
}

impl Rule {
    /// Performs the step; false: the set is dropped.
    fn step(&self, set: &mut Set) -> bool {
        let values: Vec<&str> = self.source_labels.iter().map(|name| set.value(name)).collect();
        let value = values.join(&self.separator);
        match &self.action {
            Action::Keep(regex) => return regex.is_match(&value),
            Action::Drop(regex) => return !regex.is_match(&value),
            Action::KeepEqual(target) => return set.value(target) == value,
            Action::DropEqual(target) => return set.value(target) != value,
            Action::Replace { regex, target, replacement } => {
                if let Some(groups) = regex.captures(&value) {
                    let (mut name, mut result) = (String::new(), String::new());
                    groups.expand(target, &mut name);
                    groups.expand(replacement, &mut result);
                    if is_label_name(&name) {
                        set.set(&name, &result);
                    }
                }
            }
            Action::HashMod { modulus, target } => {
                let digest = Md5::digest(value.as_bytes());
                let low: [u8; 8] = digest[8..16].try_into().expect("eight of sixteen bytes");
                set.set(target, &(u64::from_be_bytes(low) % modulus).to_string());
            }
            Action::Lowercase(target) => set.set(target, &value.to_lowercase()),
            Action::Uppercase(target) => set.set(target, &value.to_uppercase()),
            Action::LabelMap { regex, replacement } => {
                for label in set.labels.clone() {
                    if regex.is_match(&label.name) {
                        let name = regex.replace_all(&label.name, replacement);
                        set.set(&name, &label.value);
                    }
                }
            }
            Action::LabelDrop(regex) => set.retain(|name| !regex.is_match(name)),
            Action::LabelKeep(regex) => set.retain(|name| regex.is_match(name)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(sources: &[&str], action: Action) -> Rule {
        let source_labels = sources.iter().map(|name| (*name).to_owned()).collect();
        Rule { source_labels, separator: ";".to_owned(), action }
    }

    fn re(text: &str) -> Regex {
        regex(text).unwrap()
    }

    fn replace(sources: &[&str], text: &str, target: &str, replacement: &str) -> Rule {
        let (target, replacement) = (target.to_owned(), replacement.to_owned());
        rule(sources, Action::Replace { regex: re(text), target, replacement })
    }

    fn run(rules: &[Rule]) -> Option<String> {
        let labels = Labels::from_pairs([("a", "foo"), ("b", "bar"), ("c", "Baz")]);
        apply(rules, labels).map(|labels| labels.to_string())
    }

    #[test]
    fn every_action_does_what_prometheus_documents() {
        let mod_8 = Action::HashMod { modulus: 8, target: "d".to_owned() };
        let map = Action::LabelMap { regex: re("(b|c)"), replacement: "x_${1}".to_owned() };
        for (step, expected) in [
            (
                replace(&["a"], "f(.*)", "d", "ch${1}-ch$1"),
                r#"{a="foo", b="bar", c="Baz", d="choo-choo"}"#,
            ),
            (
                replace(&["a", "b"], "(.*);(.*)", "$2", "$1"),
                r#"{a="foo", b="bar", bar="foo", c="Baz"}"#,
            ),
            (replace(&["a"], "(f)oo", "b", "$2"), r#"{a="foo", c="Baz"}"#),
            (replace(&["a"], "o", "b", "x"), r#"{a="foo", b="bar", c="Baz"}"#),
            (replace(&["a"], "(.*)", "0$1", "x"), r#"{a="foo", b="bar", c="Baz"}"#),
            (replace(&["none"], "(.*)", "d", "set"), r#"{a="foo", b="bar", c="Baz", d="set"}"#),
            (replace(&[], "", "d", "a$$b"), r#"{a="foo", b="bar", c="Baz", d="a$b"}"#),
            (rule(&["c"], Action::Lowercase("c".into())), r#"{a="foo", b="bar", c="baz"}"#),
            (
                rule(&["c"], Action::Uppercase("d".into())),
                r#"{a="foo", b="bar", c="Baz", d="BAZ"}"#,
            ),
            (rule(&["a"], Action::Keep(re("f.*"))), r#"{a="foo", b="bar", c="Baz"}"#),
            (rule(&["a"], Action::Keep(re("o"))), ""),
            (rule(&["a"], Action::Drop(re("foo|x"))), ""),
            (rule(&["a"], Action::Drop(re("fo"))), r#"{a="foo", b="bar", c="Baz"}"#),
            (rule(&["a"], Action::KeepEqual("b".into())), ""),
            (rule(&["a"], Action::DropEqual("a".into())), ""),
            (rule(&["a"], Action::DropEqual("b".into())), r#"{a="foo", b="bar", c="Baz"}"#),
            (rule(&[], map), r#"{a="foo", b="bar", c="Baz", x_b="bar", x_c="Baz"}"#),
            (rule(&[], Action::LabelDrop(re("a|b"))), r#"{c="Baz"}"#),
            (rule(&[], Action::LabelKeep(re("a"))), r#"{a="foo"}"#),
            // The last eight bytes of the MD5 sum of "Baz", modulo 8.
            (rule(&["c"], mod_8), r#"{a="foo", b="bar", c="Baz", d="HASH"}"#),
        ] {
            let expected = expected.replace("HASH", &hash_of("Baz", 8));
            assert_eq!(run(std::slice::from_ref(&step)).unwrap_or_default(), expected, "{step:?}");
        }
    }

    fn hash_of(text: &str, modulus: u128) -> String {
        let number =
            Md5::digest(text).iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        (number % (1 << 64) % modulus).to_string()
    }

    #[test]
    fn steps_see_what_earlier_steps_did_and_end_at_a_drop() {
        let steps = [
            replace(&["a"], "(.*)", "d", "$1-1"),
            replace(&["d"], "(.*)-1", "e", "$1"),
            rule(&["e"], Action::Keep(re("foo"))),
            rule(&[], Action::LabelKeep(re("d|e"))),
        ];
        assert_eq!(run(&steps).unwrap(), r#"{d="foo-1", e="foo"}"#);
    }

    #[test]
    fn a_name_template_is_told_from_what_can_never_be_a_name() {
        for (text, expected) in [
            ("a", true),
            ("a_1", true),
            ("$1", true),
            ("${1}_b", true),
            ("x${name}", true),
            ("", false),
            ("1a", false),
            ("a-b", false),
            ("${1", false),
            ("$", false),
            ("${}", false),
        ] {
            assert_eq!(is_name_template(text), expected, "{text}");
        }
    }
}
