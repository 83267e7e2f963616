//! What targets say about their metrics: type, help and unit, by name of the metric family.
//!
//! Kept in memory only, every scrape brings it again. Bounded in names and in statements per name, so that a target that makes up names
//! cannot fill the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Most metric families with metadata.
const NAMES_MAX: usize = 20_000;
/// Most different statements about one family; targets of different versions may disagree.
const VARIANTS_MAX: usize = 4;

/// Type of a metric, with Prometheus' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
    /// A histogram whose buckets go up and down.
    GaugeHistogram,
    /// Quantiles, sum and count.
    Summary,
    /// Constant 1 with labels that tell something.
    Info,
    /// One of several states.
    StateSet,
    /// Not said.
    #[default]
    Unknown,
}

impl MetricKind {
    /// Its name in Prometheus' API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
            Self::Unknown => "unknown",
        }
    }

    /// The type that an exposition calls `name`; `untyped` and whatever is not known become [`MetricKind::Unknown`].
    pub fn from_name(name: &str) -> Self {
        let kinds = [
            Self::Counter,
            Self::Gauge,
            Self::Histogram,
            Self::GaugeHistogram,
            Self::Summary,
            Self::Info,
            Self::StateSet,
        ];
        kinds.into_iter().find(|kind| kind.name() == name).unwrap_or_default()
    }
}

/// What is said about a metric family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// Its type.
    pub kind: MetricKind,
    /// What it means.
    pub help: Arc<str>,
    /// Its unit; often empty.
    pub unit: Arc<str>,
}

/// Metadata of all families.
#[derive(Debug, Default)]
pub(crate) struct MetadataTable {
    by_name: BTreeMap<Arc<str>, Vec<Metadata>>,
}

impl MetadataTable {
    pub(crate) fn set(&mut self, name: &str, metadata: &Metadata) {
        if let Some(known) = self.by_name.get_mut(name) {
            if !known.contains(metadata) {
                // The newest statement replaces the oldest one beyond the bound.
                if known.len() >= VARIANTS_MAX {
                    known.remove(0);
                }
                known.push(metadata.clone());
            }
        } else if self.by_name.len() < NAMES_MAX {
            self.by_name.insert(name.into(), vec![metadata.clone()]);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Vec<Metadata> {
        self.by_name.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn all(&self) -> Vec<(Arc<str>, Vec<Metadata>)> {
        self.by_name.iter().map(|(name, known)| (Arc::clone(name), known.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_kept_once_and_bounded() {
        let mut table = MetadataTable::default();
        for help in ["a", "a", "b", "c", "d", "e"] {
            table.set("x_total", &Metadata { help: help.into(), ..Metadata::default() });
        }
        let helps: Vec<_> = table.get("x_total").into_iter().map(|known| known.help).collect();
        assert_eq!(helps, ["b".into(), "c".into(), "d".into(), "e".into()]);
        assert_eq!(table.all().len(), 1);
        assert_eq!(MetricKind::from_name("gauge").name(), "gauge");
        assert_eq!(MetricKind::from_name("untyped"), MetricKind::Unknown);
    }
}
