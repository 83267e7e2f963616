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
use crate::guard;
use crate::plan::Plan;

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
        guard::check(text).map_err(fail)?;
        register_old_names();
        // The guard knows what makes the parser panic; a query that makes it panic in another way must not end the program either.
        let parsed = panic::catch_unwind(|| parser::parse(text))
            .unwrap_or_else(|_| Err("the parser failed on this expression".to_owned()));
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

    /// Its syntax tree as JSON, in the form of Prometheus' `/api/v1/parse_query`.
    pub fn tree(&self) -> String {
        // It was parsed before, and a tree of structs, lists and texts is always JSON.
        let tree = parser::parse(&self.text).map(|expr| serde_json::to_string(&expr));
        tree.ok().and_then(Result::ok).unwrap_or_else(|| "null".to_owned())
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

    /// The matchers of each of its selectors.
    pub fn selectors(&self) -> Vec<&[Matcher]> {
        let mut found = Vec::new();
        self.plan.visit(&mut |selector| found.push(&*selector.matchers));
        found
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
            ("up[1e300]", "duration out of range: \"1e300\""),
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
    fn the_tree_is_that_of_prometheus() {
        let tree =
            Expression::parse("sum by (job) (rate(a{b=~\"c\"}[5m] offset 1m)) > bool 2").unwrap();
        let tree: serde_json::Value = serde_json::from_str(&tree.tree()).unwrap();
        let selector = serde_json::json!({
            "type": "matrixSelector",
            "name": "a",
            "range": 300_000,
            "offset": 60_000,
            "matchers": [
                { "name": "b", "value": "c", "type": "=~" },
                { "name": "__name__", "value": "a", "type": "=" },
            ],
            "timestamp": null,
            "startOrEnd": null,
        });
        assert_eq!((&tree["type"], &tree["op"]), (&"binaryExpr".into(), &">".into()), "{tree}");
        assert_eq!((&tree["bool"], &tree["rhs"]["val"]), (&true.into(), &"2".into()));
        assert_eq!(tree["lhs"]["grouping"], serde_json::json!(["job"]));
        let call = &tree["lhs"]["expr"];
        assert_eq!((&call["type"], &call["func"]["name"]), (&"call".into(), &"rate".into()));
        assert_eq!(call["args"][0]["range"], selector["range"], "{call}");
        assert_eq!(call["args"][0]["offset"], selector["offset"]);
        assert_eq!(call["args"][0]["type"], selector["type"]);
        assert_eq!(call["args"][0]["name"], selector["name"]);
    }

    #[test]
    fn metric_names_come_from_all_selectors() {
        let text = "sum(rate(a[5m])) / on(x) b{c=\"1\"} > max_over_time({__name__=\"d\"}[5m:1m])";
        assert_eq!(Expression::parse(text).unwrap().metric_names(), ["a", "b", "d"]);
    }
}
