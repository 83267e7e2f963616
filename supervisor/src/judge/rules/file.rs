//! Rule files as written: YAML, strict, with the line of everything that is complained about.
//!
//! A file is first read as untyped YAML and then taken apart group by group and rule by rule, so that a misspelt key in one rule does
//! not hide what is wrong with the next. Values lose their place in the text on the way; [`Lines`] finds it again by the rule's name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_norway::Value;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAsWritten {
    /// Its groups; each is a [`GroupAsWritten`].
    #[serde(default)]
    pub(super) groups: Vec<Value>,
}

/// A group of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupAsWritten {
    /// Its name, one of its kind in the file.
    pub(super) name: String,
    /// How often it is evaluated.
    #[serde(default)]
    pub(super) interval: Option<Text>,
    /// How far back its expressions are evaluated.
    #[serde(default)]
    pub(super) query_offset: Option<Text>,
    /// Labels that each of its rules adds unless it sets them itself.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, Text>,
    /// Most alerts or series a rule of it may yield; 0 for any number.
    #[serde(default)]
    pub(super) limit: usize,
    /// Its rules; each is a [`RuleAsWritten`].
    #[serde(default)]
    pub(super) rules: Vec<Value>,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleAsWritten {
    /// Name of the alert, if it is an alert rule.
    #[serde(default)]
    pub(super) alert: Option<Text>,
    /// Name of the series, if it is a recording rule.
    #[serde(default)]
    pub(super) record: Option<Text>,
    /// The expression.
    pub(super) expr: Text,
    /// How long it must be true before the alert fires.
    #[serde(default, rename = "for")]
    pub(super) hold: Option<Text>,
    /// How long the alert goes on firing after it was last true.
    #[serde(default)]
    pub(super) keep_firing_for: Option<Text>,
    /// Labels to add.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, Text>,
    /// Annotations of the alert.
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, Text>,
}

/// A scalar as text: YAML takes `weight: 10` for a number, and it is meant as a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::Bool(value) => Ok(Self(value.to_string())),
            other => {
                Err(serde::de::Error::custom(format!("expected a text, found {}", kind(&other))))
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        _ => "a value with a tag",
    }
}

/// Where things stand in the text of a file.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    lines: Vec<&'a str>,
}

/// A stretch of lines: a group or a rule, from its `- ` to the next one. Line numbers from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    start: usize,
    end: usize,
}

impl<'a> Lines<'a> {
    /// The lines of `text`.
    pub(super) fn new(text: &'a str) -> Self {
        Self { lines: text.lines().collect() }
    }

    /// All lines.
    pub(super) fn all(&self) -> Block {
        Block { start: 0, end: self.lines.len() }
    }

    /// The list items within `within` that have `key` with `value`, in order.
    pub(super) fn items(&self, within: Block, key: &str, value: &str) -> Vec<Block> {
        let has = |line: &&usize| {
            let found = self.value_of(**line, key);
            found.is_some_and(|found| found == value || unquoted(found) == value)
        };
        let lines: Vec<usize> = (within.start..within.end).collect();
        lines.iter().filter(has).map(|line| self.item_around(*line, within)).collect()
    }

    /// The line of `key` within `within`, from 1; that of its first line if the key is not found.
    pub(super) fn line_of(&self, within: Block, key: &str) -> usize {
        let found = (within.start..within.end).find(|line| self.value_of(*line, key).is_some());
        found.unwrap_or(within.start) + 1
    }

    /// What stands behind `key:` in a line, without a comment.
    fn value_of(&self, line: usize, key: &str) -> Option<&'a str> {
        let text = self.lines[line].trim_start().trim_start_matches("- ").trim_start();
        let rest = text.strip_prefix(key).or_else(|| {
            text.strip_prefix(['"', '\''])?.strip_prefix(key)?.strip_prefix(['"', '\''])
        })?;
        let value = rest.trim_start().strip_prefix(':')?;
        let value = value.split_once(" #").map_or(value, |(value, _)| value);
        Some(value.trim())
    }

    /// The list item that a line belongs to.
    fn item_around(&self, line: usize, within: Block) -> Block {
        let indent = |line: &usize| {
            let text = self.lines[*line];
            text.trim_start().starts_with("- ").then(|| text.len() - text.trim_start().len())
        };
        let key_indent = self.lines[line].len() - self.lines[line].trim_start().len();
        let starts = |at: &usize| indent(at).is_some_and(|depth| depth <= key_indent);
        let start = (within.start..=line).rev().find(starts).unwrap_or(line);
        let depth = indent(&start).unwrap_or(key_indent);
        let ends = |at: &usize| indent(at).is_some_and(|other| other <= depth);
        let end = (start + 1..within.end).find(ends).unwrap_or(within.end);
        Block { start, end }
    }
}

fn unquoted(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "groups:
  - name: one
    rules:
      - alert: A   # first
        expr: up
      - expr: down
        alert: 'B'
  - name: \"two\"
    rules:
      - alert: A
        for: 1s
";

    #[test]
    fn items_and_keys_are_found() {
        let lines = Lines::new(TEXT);
        let one = lines.items(lines.all(), "name", "one")[0];
        assert_eq!(one, Block { start: 1, end: 7 });
        assert_eq!(lines.items(one, "alert", "A"), [Block { start: 3, end: 5 }]);
        let b = lines.items(one, "alert", "B")[0];
        assert_eq!((b, lines.line_of(b, "expr")), (Block { start: 5, end: 7 }, 6));
        let two = lines.items(lines.all(), "name", "two")[0];
        let a = lines.items(two, "alert", "A")[0];
        assert_eq!(lines.line_of(a, "for"), 11);
        assert_eq!(lines.line_of(a, "labels"), 10, "where the item begins");
        assert_eq!(lines.items(lines.all(), "alert", "A").len(), 2);
    }

    #[test]
    fn scalars_are_texts() {
        let rule: RuleAsWritten =
            serde_norway::from_str("expr: 1\nlabels: {weight: 10, on: true, text: \"x\"}").unwrap();
        assert_eq!(rule.expr.0, "1");
        assert_eq!(rule.labels["weight"].0, "10");
        assert_eq!(rule.labels["on"].0, "true");
        assert!(serde_norway::from_str::<RuleAsWritten>("expr: [1]").is_err());
    }
}
