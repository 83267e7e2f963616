//! What selects series: a test on the value of one label.
//!
//! Regular expressions are anchored at both ends and `.` matches a line break, as in Prometheus. An alternation of plain words
//! (`a|b|c`), which is what dashboards send most, is compared word by word and never becomes a regular expression.

use regex::Regex;

/// A matcher that cannot be built.
#[derive(Debug, Clone, thiserror::Error)]
#[error("regular expression {pattern:?} for label {label:?}")]
pub struct MatcherError {
    label: String,
    pattern: String,
    #[source]
    cause: regex::Error,
}

/// How a label's value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchKind {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

#[derive(Debug, Clone)]
enum Test {
    Word,
    Words(Vec<String>),
    Pattern(Regex),
}

/// A test on one label. A label that is not set has the empty value.
#[derive(Debug, Clone)]
pub struct Matcher {
    name: String,
    kind: MatchKind,
    value: String,
    test: Test,
}

impl Matcher {
    /// `name` compared with `value` as `kind` says.
    ///
    /// # Errors
    /// If `value` should be a regular expression and is not one.
    pub fn new(
        kind: MatchKind,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, MatcherError> {
        let (name, value) = (name.into(), value.into());
        let test = match kind {
            MatchKind::Equal | MatchKind::NotEqual => Test::Word,
            MatchKind::Regex | MatchKind::NotRegex if is_words(&value) => {
                Test::Words(value.split('|').map(str::to_owned).collect())
            }
            MatchKind::Regex | MatchKind::NotRegex => {
                let regex = Regex::new(&format!("^(?s:{value})$")).map_err(|cause| {
                    MatcherError { label: name.clone(), pattern: value.clone(), cause }
                })?;
                Test::Pattern(regex)
            }
        };
        Ok(Self { name, kind, value, test })
    }

    /// `name = value`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), kind: MatchKind::Equal, value: value.into(), test: Test::Word }
    }

    /// A matcher whose regular expression the caller built; it must be anchored.
    pub fn with_regex(
        name: impl Into<String>,
        value: impl Into<String>,
        regex: Regex,
        negated: bool,
    ) -> Self {
        let kind = if negated { MatchKind::NotRegex } else { MatchKind::Regex };
        Self { name: name.into(), kind, value: value.into(), test: Test::Pattern(regex) }
    }

    /// The label's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is compared.
    pub fn kind(&self) -> MatchKind {
        self.kind
    }

    /// What it is compared with, as written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label with `value` passes.
    pub fn matches(&self, value: &str) -> bool {
        let found = match &self.test {
            Test::Word => self.value == value,
            Test::Words(words) => words.iter().any(|word| word == value),
            Test::Pattern(regex) => regex.is_match(value),
        };
        found != matches!(self.kind, MatchKind::NotEqual | MatchKind::NotRegex)
    }

    /// The values that pass, if they can be listed without looking at any series.
    pub(crate) fn listed_values(&self) -> Option<Vec<&str>> {
        match (self.kind, &self.test) {
            (MatchKind::Equal, Test::Word) => Some(vec![&self.value]),
            (MatchKind::Regex, Test::Words(words)) => {
                let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
                words.sort_unstable();
                words.dedup();
                Some(words)
            }
            _ => None,
        }
    }
}

/// Whether `pattern` is an alternation of words without any other meaning.
fn is_words(pattern: &str) -> bool {
    !pattern.contains(|c: char| r".+*?()[]{}^$\".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_compares_the_whole_value() {
        use MatchKind::{Equal, NotEqual, NotRegex, Regex};
        for (kind, value, passes, fails) in [
            (Equal, "a", vec!["a"], vec!["", "ab"]),
            (NotEqual, "a", vec!["", "ab"], vec!["a"]),
            (Equal, "", vec![""], vec!["a"]),
            (Regex, "a|b", vec!["a", "b"], vec!["ab", "", "a|b"]),
            (Regex, "a.*|", vec!["a", "a\nb", ""], vec!["ba"]),
            (NotRegex, "a+", vec!["", "aab"], vec!["a", "aaa"]),
        ] {
            let matcher = Matcher::new(kind, "x", value).unwrap();
            for text in passes {
                assert!(matcher.matches(text), "{kind:?} {value:?} {text:?}");
            }
            for text in fails {
                assert!(!matcher.matches(text), "{kind:?} {value:?} {text:?}");
            }
        }
    }

    #[test]
    fn a_bad_expression_is_named() {
        let error = Matcher::new(MatchKind::Regex, "job", "a(").unwrap_err();
        assert_eq!(error.to_string(), r#"regular expression "a(" for label "job""#);
    }
}
