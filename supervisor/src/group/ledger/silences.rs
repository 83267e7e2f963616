//! Which alerts are not to be told to people for now?
//!
//! As with Alertmanager: a silence names labels by matchers, begins and ends at given times, and has an author and a reason. An alert that
//! all matchers of an active silence match fires and is recorded as ever; only nobody is woken by it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_series::{MatchKind, Matcher};
use serde::{Deserialize, Serialize};

/// Silences kept, those that are over included.
pub(super) const SILENCES_MAX: usize = 500;
/// A silence that is over is shown this long.
const SHOWN_AFTER: TimeDelta = TimeDelta::days(5);
/// Matchers of one silence; people write three.
const MATCHERS_MAX: usize = 16;
/// Longest name, value, author or reason, bytes.
const TEXT_BYTES_MAX: usize = 1_000;

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceMatcher {
    /// The label; one that an alert lacks counts as empty.
    pub name: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub op: String,
    /// The value, or a regular expression for the whole value.
    pub value: String,
}

impl SilenceMatcher {
    fn compile(&self) -> Result<Matcher, String> {
        let kind = match self.op.as_str() {
            "=" => MatchKind::Equal,
            "!=" => MatchKind::NotEqual,
            "=~" => MatchKind::Regex,
            "!~" => MatchKind::NotRegex,
            other => return Err(format!("expected =, !=, =~ or !~, found {other:?}")),
        };
        Matcher::new(kind, self.name.as_str(), self.value.as_str())
            .map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for SilenceMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op, self.value)
    }
}

/// Reads `name=value`, `name!=value`, `name=~regex` or `name!~regex`; the value may stand in double quotes. A word alone is the name of
/// an alert, as with amtool.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_matcher(text: &str) -> Result<SilenceMatcher, String> {
    let matcher = match text.find(['=', '!']) {
        None => SilenceMatcher { name: "alertname".into(), op: "=".into(), value: text.into() },
        Some(at) => {
            let (name, rest) = text.split_at(at);
            let op = ["=~", "!~", "!=", "="].into_iter().find(|op| rest.starts_with(op));
            let op = op.ok_or_else(|| format!("expected name=value, found {text:?}"))?;
            let value = &rest[op.len()..];
            let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let value = inner.unwrap_or(value).to_owned();
            SilenceMatcher { name: name.trim().to_owned(), op: op.to_owned(), value }
        }
    };
    if matcher.name.is_empty() || (matcher.value.is_empty() && text.is_empty()) {
        return Err(format!("expected name=value, found {text:?}"));
    }
    matcher.compile()?;
    Ok(matcher)
}

/// A silence as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSilence {
    /// All must match. Never empty.
    pub matchers: Vec<SilenceMatcher>,
    /// From when.
    pub starts_at: DateTime<Utc>,
    /// Until when.
    pub ends_at: DateTime<Utc>,
    /// Who wants it.
    pub created_by: String,
    /// Why.
    pub comment: String,
}

/// A silence that was agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its number.
    pub id: u64,
    /// What was asked for; its end is earlier if it was ended by hand.
    #[serde(flatten)]
    pub wanted: NewSilence,
}

impl Silence {
    /// Whether it counts at `now`.
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.wanted.starts_at <= now && now < self.wanted.ends_at
    }

    /// `pending`, `active` or `expired`, as Alertmanager has it.
    pub fn state(&self, now: DateTime<Utc>) -> &'static str {
        if self.is_active(now) {
            "active"
        } else if now < self.wanted.starts_at {
            "pending"
        } else {
            "expired"
        }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.wanted.matchers.iter().all(|matcher| {
            let value = labels.get(&matcher.name).map_or("", String::as_str);
            // It was compiled before it was agreed to.
            matcher.compile().is_ok_and(|matcher| matcher.matches(value))
        })
    }
}

/// All silences, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Silences(BTreeMap<u64, Silence>);

impl Silences {
    /// All of them, those that are over lately included, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Silence> {
        self.0.values()
    }

    /// The first active silence that matches an alert's labels.
    pub fn silencing(&self, labels: &BTreeMap<String, String>, now: DateTime<Utc>) -> Option<u64> {
        let active = self.0.values().filter(|silence| silence.is_active(now));
        active.filter(|silence| silence.matches(labels)).map(|silence| silence.id).next()
    }

    pub(super) fn add(
        &mut self,
        id: u64,
        new: NewSilence,
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        self.forget(now);
        if self.0.len() >= SILENCES_MAX {
            return Err(format!("there are {SILENCES_MAX} silences already; expire some"));
        }
        check(&new, now)?;
        self.0.insert(id, Silence { id, wanted: new });
        Ok(())
    }

    pub(super) fn end(&mut self, id: u64, now: DateTime<Utc>) -> Result<(), String> {
        let silence = self.0.get_mut(&id).ok_or_else(|| format!("there is no silence {id}"))?;
        if silence.wanted.ends_at <= now {
            return Err(format!("silence {id} is over already"));
        }
        silence.wanted.ends_at = now;
        silence.wanted.starts_at = silence.wanted.starts_at.min(now);
        Ok(())
    }

    /// Drops what has been over for long.
    pub(super) fn forget(&mut self, now: DateTime<Utc>) {
        // Not the sum of the end and the time: an end may be the last date there is.
        self.0.retain(|_, silence| silence.wanted.ends_at > now - SHOWN_AFTER);
    }
}

fn check(new: &NewSilence, now: DateTime<Utc>) -> Result<(), String> {
    let count = new.matchers.len();
    if !(1..=MATCHERS_MAX).contains(&count) {
        return Err(format!("expected 1 to {MATCHERS_MAX} matchers, found {count}"));
    }
    let texts = new.matchers.iter().flat_map(|matcher| [&matcher.name, &matcher.value]);
    if texts.chain([&new.created_by, &new.comment]).any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(format!("expected texts of at most {TEXT_BYTES_MAX} bytes"));
    }
    if new.ends_at <= now || new.ends_at <= new.starts_at {
        return Err("the silence would be over already".to_owned());
    }
    let mut all_empty = true;
    for matcher in &new.matchers {
        let compiled = matcher.compile().map_err(|why| format!("matcher {matcher}: {why}"))?;
        all_empty &= compiled.matches("");
    }
    if all_empty {
        return Err("expected a matcher that does not match every alert".to_owned());
    }
    Ok(())
}
