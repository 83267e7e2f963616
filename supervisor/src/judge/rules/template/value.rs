//! What expressions in a template yield, and how it prints.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_series::Labels;

use super::humanize;

/// One series that `query` found.
#[derive(Debug, Clone, PartialEq)]
pub struct QuerySample {
    /// Its labels, the name among them.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Labels(Labels),
    Sample(QuerySample),
    List(Vec<Self>),
    Map(BTreeMap<String, Self>),
    /// Milliseconds since the Unix epoch.
    Time(i64),
}

impl Value {
    /// The kind in Go's words, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Integer(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Labels(_) => "map[string]string",
            Self::Sample(_) => "sample",
            Self::List(_) => "queryResult",
            Self::Map(_) => "map",
            Self::Time(_) => "time",
        }
    }

    /// Whether a condition takes it for true: everything but empty values.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Labels(labels) => !labels.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Sample(_) | Self::Time(_) => true,
        }
    }

    /// `.name` of it. A label that is not set is empty.
    pub(super) fn field(&self, name: &str) -> Result<Self, String> {
        match (self, name) {
            (Self::Labels(labels), _) => Ok(Self::Text(labels.value(name).to_owned())),
            (Self::Map(map), _) => Ok(map.get(name).cloned().unwrap_or(Self::Nil)),
            (Self::Sample(sample), "Labels") => Ok(Self::Labels(sample.labels.clone())),
            (Self::Sample(sample), "Value") => Ok(Self::Float(sample.value)),
            (Self::Nil, _) => Err(format!("nil pointer evaluating .{name}")),
            _ => Err(format!("can't evaluate field {name} in type {}", self.kind())),
        }
    }

    /// A number, also one that is written as text, such as the label `le`.
    pub(super) fn number(&self) -> Result<f64, String> {
        match self {
            Self::Float(value) => Ok(*value),
            Self::Integer(value) => Ok(*value as f64),
            Self::Text(text) => {
                text.parse().map_err(|_| format!("expected a number, found {text:?}"))
            }
            other => Err(format!("expected a number, found a {}", other.kind())),
        }
    }

    /// A text and nothing else.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(format!("wrong type for value; expected string; got {}", other.kind())),
        }
    }

    /// One series of a query's result.
    pub(super) fn sample(&self) -> Result<&QuerySample, String> {
        match self {
            Self::Sample(sample) => Ok(sample),
            other => Err(format!("expected a sample, found a {}", other.kind())),
        }
    }

    /// The result of a query.
    pub(super) fn list(self) -> Result<Vec<Self>, String> {
        match self {
            Self::List(list) => Ok(list),
            other => Err(format!("expected the result of a query, found a {}", other.kind())),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("<no value>"),
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => f.write_str(&humanize::plain(*value)),
            Self::Text(text) => f.write_str(text),
            Self::Labels(labels) => {
                let pairs = labels.iter().map(|(name, value)| format!("{name}:{value}"));
                write!(f, "map[{}]", pairs.collect::<Vec<_>>().join(" "))
            }
            Self::Map(map) => {
                let pairs = map.iter().map(|(name, value)| format!("{name}:{value}"));
                write!(f, "map[{}]", pairs.collect::<Vec<_>>().join(" "))
            }
            Self::Sample(sample) => {
                let labels = Self::Labels(sample.labels.clone());
                write!(f, "{{{labels} {}}}", humanize::plain(sample.value))
            }
            Self::List(list) => {
                let items: Vec<_> = list.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(" "))
            }
            Self::Time(ms) => f.write_str(&humanize::time(*ms)),
        }
    }
}
