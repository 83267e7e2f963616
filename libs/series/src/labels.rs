//! What names a series: sorted pairs of label and value, the metric's name among them as `__name__`.
//!
//! Label sets are hashed, compared and cloned far more often than they are made, so one is a shared, immutable slice with its hash
//! beside it; the strings in it are shared too and come from the store's table of symbols. Rejected: a `String` per label (a thousand
//! series of one target repeat the same twenty strings) and numbers in place of strings (they would tie a label set to one store).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Its name.
    pub name: Arc<str>,
    /// Its value, never empty within [`Labels`].
    pub value: Arc<str>,
}

impl Label {
    /// A label from its parts.
    pub fn new(name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

#[derive(Debug)]
struct Inner {
    hash: u64,
    pairs: Box<[Label]>,
}

/// A label set: sorted by name, each name once, no empty values. Cheap to clone, compare and hash.
#[derive(Clone)]
pub struct Labels(Arc<Inner>);

static EMPTY: LazyLock<Labels> = LazyLock::new(|| Labels::from_sorted(Vec::new()));

impl Labels {
    /// No labels.
    pub fn empty() -> Self {
        EMPTY.clone()
    }

    /// From labels in any order. Empty values are left out; of a name that comes twice the last value counts.
    pub fn from_labels(mut labels: Vec<Label>) -> Self {
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        let mut kept: Vec<Label> = Vec::with_capacity(labels.len());
        for label in labels {
            match kept.last_mut() {
                Some(last) if last.name == label.name => *last = label,
                _ => kept.push(label),
            }
        }
        kept.retain(|label| !label.value.is_empty());
        Self::from_sorted(kept)
    }

    /// From pairs in any order; see [`Labels::from_labels`].
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let label = |(name, value): (N, V)| Label::new(name.as_ref(), value.as_ref());
        Self::from_labels(pairs.into_iter().map(label).collect())
    }

    fn from_sorted(pairs: Vec<Label>) -> Self {
        let mut hasher = DefaultHasher::new();
        for label in &pairs {
            label.name.hash(&mut hasher);
            label.value.hash(&mut hasher);
        }
        Self(Arc::new(Inner { hash: hasher.finish(), pairs: pairs.into_boxed_slice() }))
    }

    /// The value of `name`, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.pairs.iter().find(|label| &*label.name == name).map(|label| &*label.value)
    }

    /// The value of `name`; a label that is not set has the empty value.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The metric's name; empty if there is none.
    pub fn metric_name(&self) -> &str {
        self.value(METRIC_NAME)
    }

    /// The labels, sorted by name.
    pub fn as_slice(&self) -> &[Label] {
        &self.0.pairs
    }

    /// Pairs of name and value, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.pairs.iter().map(|label| (&*label.name, &*label.value))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.pairs.is_empty()
    }

    /// A number that identifies this label set: the same in every run of one build.
    pub fn fingerprint(&self) -> u64 {
        self.0.hash
    }

    /// Only the labels for which `keep` says so.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(&str) -> bool) -> Self {
        let kept: Vec<Label> =
            self.0.pairs.iter().filter(|label| keep(&label.name)).cloned().collect();
        if kept.len() == self.len() { self.clone() } else { Self::from_sorted(kept) }
    }

    /// Without the metric's name.
    #[must_use]
    pub fn without_name(&self) -> Self {
        self.filtered(|name| name != METRIC_NAME)
    }

    /// With `name` set to `value`; an empty value removes it.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut labels: Vec<Label> =
            self.0.pairs.iter().filter(|label| &*label.name != name).cloned().collect();
        if !value.is_empty() {
            let position = labels.partition_point(|label| &*label.name < name);
            labels.insert(position, Label::new(name, value));
        }
        Self::from_sorted(labels)
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash && self.0.pairs == other.0.pairs)
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.pairs.cmp(&other.0.pairs)
    }
}

/// As Prometheus prints a label set: `{__name__="up", job="chatnode"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `text` may name a label: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(text: &str) -> bool {
    is_name(text, |byte| byte == b'_')
}

/// Whether `text` may name a metric: as a label, and colons.
pub fn is_metric_name(text: &str) -> bool {
    is_name(text, |byte| byte == b'_' || byte == b':')
}

fn is_name(text: &str, extra: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && !bytes[0].is_ascii_digit()
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || extra(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_of_the_pairs_do_not_matter() {
        let a = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", "")]);
        let b = Labels::from_pairs([("a", "0"), ("a", "1"), ("b", "2")]);
        assert_eq!(a, b);
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_eq!(a.to_string(), r#"{a="1", b="2"}"#);
        assert_eq!(a.value("c"), "");
    }

    #[test]
    fn labels_are_set_replaced_and_removed() {
        let labels = Labels::from_pairs([(METRIC_NAME, "up"), ("job", "x")]);
        assert_eq!(labels.without_name(), Labels::from_pairs([("job", "x")]));
        assert_eq!(labels.with("a", "1").to_string(), r#"{__name__="up", a="1", job="x"}"#);
        assert_eq!(labels.with("job", ""), Labels::from_pairs([(METRIC_NAME, "up")]));
        assert_eq!(labels.with("job", "y").value("job"), "y");
    }

    #[test]
    fn names_are_checked() {
        assert!(is_label_name("le") && is_label_name("_a1") && is_metric_name("a:b"));
        for bad in ["", "1a", "a-b", "a:b", "ä"] {
            assert!(!is_label_name(bad), "{bad}");
        }
    }
}
