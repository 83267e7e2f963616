//! What do an alert's labels and annotations say? The templates of Prometheus' rule files, which are Go's.
//!
//! A [`Template`] is parsed once, when the file is loaded: unknown functions and variables, blocks without an end and wrong numbers of
//! arguments are faults of the file, so that little is left to go wrong in the middle of an incident. What is left (a query that finds
//! nothing, a comparison of a text with a number) becomes part of the text, as in Prometheus: an alert with a bad annotation is still an
//! alert. Conditions, loops, variables, definitions, and all functions of Prometheus are there; not there are `block`, complex numbers
//! and calls of methods. A text, and how deep templates call each other, is bounded.

mod expand;
mod functions;
mod humanize;
mod lex;
mod parse;
mod printf;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::sync::Arc;

use holdfast_series::Labels;

pub use self::value::QuerySample;

/// What a template may look at beside its own text.
pub struct Surroundings<'a> {
    /// Labels of the series that the alert is about, and its value.
    pub labels: &'a Labels,
    /// The value of the expression.
    pub value: f64,
    /// Labels that this supervisor adds to what it sends elsewhere.
    pub external_labels: &'a Labels,
    /// Where this supervisor is reached.
    pub external_url: &'a str,
    /// The time of the evaluation, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Evaluates an expression at that time.
    pub query: &'a dyn Fn(&str) -> Result<Vec<QuerySample>, String>,
}

/// A parsed template. Cheap to clone; two are equal if their text is.
#[derive(Clone)]
pub struct Template {
    text: Arc<str>,
    tree: Arc<parse::Tree>,
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// What was found in which braces, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.into(), tree: Arc::new(parse::parse(text)?) })
    }

    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it says the same whatever the alert.
    pub fn is_constant(&self) -> bool {
        self.tree.nodes.iter().all(|node| matches!(node, parse::Node::Text(_)))
    }

    /// What it says about an alert. If it cannot be expanded, the text says why.
    pub fn expand(&self, surroundings: &Surroundings<'_>) -> String {
        expand::expand(&self.tree, surroundings)
            .unwrap_or_else(|error| format!("<error expanding template: {error}>"))
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.text)
    }
}
