//! Which publications a subscriber wants: conditions on their tags.
//!
//! A filter is a tree. Leaves compare one tag; `and`, `or` and `not` join what is below them. It comes from the client, so it is
//! checked and bounded before use, and evaluating it cannot fail: a tag that is missing or is not a number makes a comparison false.

use std::collections::BTreeMap;

use prost::Message;
use serde::Deserialize;

/// Most nodes of one filter. It is evaluated for every publication and subscriber.
const NODES_MAX: usize = 100;

/// Tags of a publication.
pub type Tags = BTreeMap<String, String>;

/// A node as it stands on the wire.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or`, `not`; empty for a leaf.
    #[prost(string, tag = "1")]
    pub op: String,
    /// Tag that a leaf compares.
    #[prost(string, tag = "2")]
    pub key: String,
    /// How: eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt, gte.
    #[prost(string, tag = "3")]
    pub cmp: String,
    /// With what.
    #[prost(string, tag = "4")]
    pub val: String,
    /// With which of these (in, nin).
    #[prost(string, repeated, tag = "5")]
    pub vals: Vec<String>,
    /// What is joined.
    #[prost(message, repeated, tag = "6")]
    pub nodes: Vec<Self>,
}

/// A checked filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of these.
    And(Vec<Self>),
    /// At least one of these.
    Or(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// One tag.
    Leaf(String, Comparison),
}

/// What a tag is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Comparison {
    /// Is (or, if false, is not) one of these. A missing tag is none of them.
    In(Vec<String>, bool),
    /// Exists (or, if false, is missing).
    Exists(bool),
    /// Begins with this.
    Prefix(String),
    /// Ends with this.
    Suffix(String),
    /// Contains this.
    Contains(String),
    /// As a number, is below (or, if false, above) this.
    Number {
        /// What it is compared with.
        than: f64,
        /// Below rather than above.
        below: bool,
        /// Or equal to it.
        or_equal: bool,
    },
}

impl Filter {
    /// Checks a filter; `None` if it says nothing that can be evaluated, or too much.
    pub fn new(node: &FilterNode) -> Option<Self> {
        Self::check(node, &mut NODES_MAX.clone())
    }

    fn check(node: &FilterNode, left: &mut usize) -> Option<Self> {
        *left = left.checked_sub(1)?;
        if node.op.is_empty() {
            return Comparison::new(node).map(|compared| Self::Leaf(node.key.clone(), compared));
        }
        let nodes: Option<Vec<_>> = node.nodes.iter().map(|node| Self::check(node, left)).collect();
        let mut nodes = nodes.filter(|nodes| !nodes.is_empty())?;
        match node.op.as_str() {
            "and" => Some(Self::And(nodes)),
            "or" => Some(Self::Or(nodes)),
            "not" if nodes.len() == 1 => nodes.pop().map(|node| Self::Not(Box::new(node))),
            _ => None,
        }
    }

    /// Whether a publication with these tags is wanted.
    pub fn accepts(&self, tags: &Tags) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.accepts(tags)),
            Self::Or(nodes) => nodes.iter().any(|node| node.accepts(tags)),
            Self::Not(node) => !node.accepts(tags),
            Self::Leaf(key, comparison) => comparison.holds(tags.get(key).map(String::as_str)),
        }
    }
}

impl Comparison {
    fn new(node: &FilterNode) -> Option<Self> {
        let FilterNode { key, cmp, val, vals, .. } = node;
        if key.is_empty() {
            return None;
        }
        let number = |below, or_equal| {
            let than = val.parse().ok().filter(|than: &f64| !than.is_nan())?;
            Some(Self::Number { than, below, or_equal })
        };
        match cmp.as_str() {
            "eq" => Some(Self::In(vec![val.clone()], true)),
            "neq" => Some(Self::In(vec![val.clone()], false)),
            "in" if !vals.is_empty() => Some(Self::In(vals.clone(), true)),
            "nin" if !vals.is_empty() => Some(Self::In(vals.clone(), false)),
            "ex" => Some(Self::Exists(true)),
            "nex" => Some(Self::Exists(false)),
            "sw" => Some(Self::Prefix(val.clone())),
            "ew" => Some(Self::Suffix(val.clone())),
            "ct" => Some(Self::Contains(val.clone())),
            "lt" => number(true, false),
            "lte" => number(true, true),
            "gt" => number(false, false),
            "gte" => number(false, true),
            _ => None,
        }
    }

    fn holds(&self, tag: Option<&str>) -> bool {
        match self {
            Self::In(values, wanted) => {
                tag.is_some_and(|tag| values.iter().any(|value| value == tag)) == *wanted
            }
            Self::Exists(wanted) => tag.is_some() == *wanted,
            Self::Prefix(text) => tag.is_some_and(|tag| tag.starts_with(text)),
            Self::Suffix(text) => tag.is_some_and(|tag| tag.ends_with(text)),
            Self::Contains(text) => tag.is_some_and(|tag| tag.contains(text)),
            Self::Number { than, below, or_equal } => {
                let number = tag.and_then(|tag| tag.parse::<f64>().ok());
                number.is_some_and(|number| {
                    let strictly = if *below { number < *than } else { number > *than };
                    #[expect(clippy::float_cmp, reason = "equal as the client wrote it")]
                    let equal = *or_equal && number == *than;
                    strictly || equal
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(json: &str) -> Option<Filter> {
        Filter::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn leaves_compare_one_tag() {
        let tags: Tags = [("team".into(), "red".into()), ("price".into(), "9.5".into())].into();
        for (leaf, expected) in [
            (r#"{"key":"team","cmp":"eq","val":"red"}"#, true),
            (r#"{"key":"team","cmp":"neq","val":"red"}"#, false),
            (r#"{"key":"none","cmp":"neq","val":"red"}"#, true),
            (r#"{"key":"team","cmp":"in","vals":["blue","red"]}"#, true),
            (r#"{"key":"team","cmp":"nin","vals":["blue"]}"#, true),
            (r#"{"key":"team","cmp":"ex"}"#, true),
            (r#"{"key":"team","cmp":"nex"}"#, false),
            (r#"{"key":"team","cmp":"sw","val":"re"}"#, true),
            (r#"{"key":"team","cmp":"ew","val":"ed"}"#, true),
            (r#"{"key":"team","cmp":"ct","val":"blue"}"#, false),
            (r#"{"key":"price","cmp":"lt","val":"10"}"#, true),
            (r#"{"key":"price","cmp":"lte","val":"9.5"}"#, true),
            (r#"{"key":"price","cmp":"gt","val":"9.5"}"#, false),
            (r#"{"key":"price","cmp":"gte","val":"9.50"}"#, true),
            (r#"{"key":"team","cmp":"gt","val":"1"}"#, false),
            (r#"{"key":"none","cmp":"lt","val":"1"}"#, false),
        ] {
            assert_eq!(filter(leaf).unwrap().accepts(&tags), expected, "{leaf}");
        }
    }

    #[test]
    fn nodes_join_what_is_below_them() {
        let red = r#"{"key":"team","cmp":"eq","val":"red"}"#;
        let cheap = r#"{"key":"price","cmp":"lt","val":"5"}"#;
        let tags: Tags = [("team".into(), "red".into()), ("price".into(), "9".into())].into();
        let joined = |op: &str| filter(&format!(r#"{{"op":"{op}","nodes":[{red},{cheap}]}}"#));
        assert!(!joined("and").unwrap().accepts(&tags));
        assert!(joined("or").unwrap().accepts(&tags));
        assert!(joined("not").is_none(), "not what?");
        assert!(filter(&format!(r#"{{"op":"not","nodes":[{cheap}]}}"#)).unwrap().accepts(&tags));
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused() {
        for bad in [
            "{}",
            r#"{"op":"xor","nodes":[{"key":"a","cmp":"ex"}]}"#,
            r#"{"op":"and"}"#,
            r#"{"key":"a","cmp":"like","val":"b"}"#,
            r#"{"key":"a","cmp":"lt","val":"b"}"#,
            r#"{"key":"a","cmp":"in"}"#,
            r#"{"cmp":"ex"}"#,
        ] {
            assert!(filter(bad).is_none(), "{bad}");
        }
        let leaf = r#"{"key":"a","cmp":"ex"}"#;
        let many = vec![leaf; NODES_MAX].join(",");
        assert!(filter(&format!(r#"{{"op":"or","nodes":[{many}]}}"#)).is_none());
    }
}
