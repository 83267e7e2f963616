//! From text to something that can be evaluated: bounded, parsed, and turned into a plan, once.
//!
//! The text is parsed by `promql-parser`. Whatever the plan cannot say is refused here, so that a rule file with an unknown function is
//! a fault when it is loaded and not when it should fire.

use std::fmt;
use std::panic;
use std::sync::{Arc, Once};

use holdfast_series::{MatchKind, Matcher};
use promql_parser::parser;
use promql_parser::parser::function::{Function, register_extra_functions};
use promql_parser::parser::value::ValueType;

use crate::ParseError;
use crate::compile::compile;
use crate::plan::Plan;

/// Longest text accepted. Dashboards send some kilobytes when a variable stands for many servers.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// How deep the tree may be. Whoever walks it needs the stack for it, and the threads of a runtime have two megabytes.
const DEPTH_MAX: usize = 250;

/// A parsed and checked expression. Cheap to clone; two are equal if their text is.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    pub(crate) plan: Arc<Plan>,
}

impl Expression {
    /// Parses `text`.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fail = |message: String| ParseError { message };
        check_size(text).map_err(fail)?;
        register_old_names();
        // The parser panics on some numbers that are no duration, such as `x[1e300]`.
        let parsed = panic::catch_unwind(|| parser::parse(text))
            .unwrap_or_else(|_| Err("invalid number or duration".to_owned()));
        let plan =
            parsed.and_then(|expr| compile(&expr)).map_err(|message| fail(reword(&message)))?;
        Ok(Self { text: text.into(), plan: Arc::new(plan) })
    }

    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text as Prometheus' formatter lays it out.
    pub fn pretty(&self) -> String {
        // It was parsed before.
        parser::parse(&self.text).map_or_else(|_| self.text.to_string(), |expr| expr.prettify())
    }

    /// Names of the metrics that its selectors name by equality.
    pub fn metric_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.plan.visit(&mut |selector| {
            let name = |matcher: &&Matcher| {
                matcher.name() == holdfast_series::METRIC_NAME && matcher.kind() == MatchKind::Equal
            };
            names.extend(selector.matchers.iter().find(name).map(|m| m.value().to_owned()));
        });
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The matchers of an expression that is nothing but a selector, such as a `match[]` parameter.
    pub fn as_matchers(&self) -> Option<&[Matcher]> {
        match &*self.plan {
            Plan::Selector(selector) => Some(&selector.matchers),
            _ => None,
        }
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

/// Tells the parser a function under the name it had in the second version.
fn register_old_names() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let kinds = vec![ValueType::Matrix, ValueType::Scalar, ValueType::Scalar];
        let old = Function::new("holt_winters", kinds, 0, ValueType::Vector, false);
        // It fails for a name the parser knows by itself, and then there is nothing to add.
        let _known = register_extra_functions(vec![old]);
    });
}

/// Refuses what the parser should not be given.
fn check_size(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("expression is longer than {TEXT_BYTES_MAX} bytes"));
    }
    if depth(text) > DEPTH_MAX {
        return Err(format!("expression is nested deeper than {DEPTH_MAX} levels"));
    }
    Ok(())
}

/// How deep the tree of `text` is at most: a pair of brackets is a level, and so is each operator of a chain.
fn depth(text: &str) -> usize {
    let mut levels = vec![0_usize];
    let (mut sum, mut deepest, mut quote, mut escaped, mut word_start) = (0, 0, None, false, 0);
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if let Some(open) = quote {
            let end = c == open && !escaped;
            escaped = c == '\\' && !escaped && open != '`';
            quote = (!end).then_some(open);
            continue;
        }
        let compares = |c| matches!(c, '=' | '!' | '<' | '>' | '~');
        let in_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        if in_word(c) && !in_word(before) {
            word_start = at;
        }
        let word_ends = in_word(before) && !in_word(c);
        let operator = matches!(c, '+' | '-' | '*' | '/' | '%' | '^' | '[' | '@')
            || (compares(c) && !compares(before))
            || (word_ends && matches!(&text[word_start..at], "and" | "or" | "unless" | "atan2"));
        if operator && let Some(level) = levels.last_mut() {
            *level += 1;
            sum += 1;
        }
        match c {
            '"' | '\'' | '`' => quote = Some(c),
            '(' | '{' => {
                levels.push(1);
                sum += 1;
            }
            ')' | '}' if levels.len() > 1 => sum -= levels.pop().unwrap_or(0),
            _ => {}
        }
        deepest = deepest.max(sum);
        before = c;
    }
    deepest
}

/// The parser's message in Prometheus' words.
fn reword(message: &str) -> String {
    if !message.starts_with("expected type ") {
        return message.to_owned();
    }
    let words = message.split(' ').map(|word| match word {
        "matrix" => "range vector",
        "matrix," => "range vector,",
        "vector" => "instant vector",
        "vector," => "instant vector,",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_was_expected() {
        for (text, expected) in [
            ("", "no expression found in input"),
            (
                "rate(up)",
                "expected type range vector in call to function 'rate', got instant vector",
            ),
            ("nothing(up)", "unknown function with name 'nothing'"),
            ("sum(up) by (", "unclosed left parenthesis"),
            ("up{a=~\"(\"}", "illegal regex for ("),
            ("1 == 1", "comparisons between scalars must use BOOL modifier"),
            ("up[1e300]", "invalid number or duration"),
            (
                "label_replace(up, \"a-b\", \"\", \"\", \"\")",
                "invalid destination label name in label_replace(): a-b",
            ),
            ("integral(up[5m])", "function 'integral' is not supported"),
        ] {
            assert_eq!(Expression::parse(text).unwrap_err().message, expected, "{text}");
        }
    }

    #[test]
    fn deep_and_long_texts_are_refused() {
        for text in ["(".repeat(10_000), "-".repeat(10_000) + "1", "1 or ".repeat(3_000) + "1"] {
            let message = Expression::parse(&text).unwrap_err().message;
            assert_eq!(message, "expression is nested deeper than 250 levels");
        }
        let long = format!("up{{a=\"{}\"}}", "x".repeat(TEXT_BYTES_MAX));
        assert!(Expression::parse(&long).unwrap_err().message.contains("longer than"));
        let words = format!("up{{a=~\"{}\"}}", "(word|".repeat(5_000) + &")".repeat(5_000));
        assert_eq!(depth(&words), 2);
        for text in ["(".repeat(249) + "up" + &")".repeat(249), "up + ".repeat(249) + "up"] {
            assert!(Expression::parse(&text).is_ok());
        }
        let wide = "sum(rate(up[5m]) / up) or ".repeat(100) + "up";
        assert_eq!(depth(&wide), 102);
    }

    #[test]
    fn metric_names_come_from_all_selectors() {
        let text = "sum(rate(a[5m])) / on(x) b{c=\"1\"} > max_over_time({__name__=\"d\"}[5m:1m])";
        assert_eq!(Expression::parse(text).unwrap().metric_names(), ["a", "b", "d"]);
    }
}
