//! Which names and labels make the most series: what an operator asks when memory grows.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::labels::METRIC_NAME;
use crate::store::Store;

/// Something and how much of it there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// What is counted.
    pub name: String,
    /// How many, or how many bytes.
    pub value: u64,
}

/// The largest of each kind, largest first; the same lists as Prometheus' `status/tsdb`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cardinality {
    /// Series in memory.
    pub series: usize,
    /// Pairs of label name and value.
    pub label_pairs: usize,
    /// The oldest and the newest sample in memory.
    pub span_ms: Option<(i64, i64)>,
    /// Metric names by number of series.
    pub series_by_metric: Vec<Count>,
    /// Label names by number of values.
    pub values_by_label: Vec<Count>,
    /// Label names by bytes of their values, each value once per series that carries it.
    pub bytes_by_label: Vec<Count>,
    /// Pairs, as `name=value`, by number of series.
    pub series_by_pair: Vec<Count>,
}

impl Store {
    /// What makes the most series in memory; `limit` entries in each list.
    pub fn cardinality(&self, limit: usize) -> Cardinality {
        let index = self.index();
        let mut found = Cardinality { series: index.len(), ..Cardinality::default() };
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        let (mut pairs, mut metrics): (Vec<(u64, Pair<'_>)>, Vec<_>) = (Vec::new(), Vec::new());
        for (name, lists) in index.cardinality() {
            let (mut value_count, mut byte_count) = (0, 0);
            for (value, series) in lists {
                let series = series as u64;
                value_count += 1;
                byte_count += value.len() as u64 * series;
                pairs.push((series, (name, value)));
                if **name == *METRIC_NAME {
                    metrics.push((series, value));
                }
            }
            values.push((value_count, name));
            bytes.push((byte_count, name));
        }
        found.label_pairs = pairs.len();
        found.series_by_metric = top(metrics, limit, ToString::to_string);
        found.values_by_label = top(values, limit, ToString::to_string);
        found.bytes_by_label = top(bytes, limit, ToString::to_string);
        found.series_by_pair = top(pairs, limit, |(name, value)| format!("{name}={value}"));
        drop(index);
        let newest_ms = self.newest_ms.load(std::sync::atomic::Ordering::Relaxed);
        found.span_ms = self.oldest_ms().map(|oldest_ms| (oldest_ms, newest_ms));
        found
    }
}

type Pair<'a> = (&'a Arc<str>, &'a Arc<str>);

fn top<T: Ord>(mut all: Vec<(u64, T)>, limit: usize, show: impl Fn(&T) -> String) -> Vec<Count> {
    if limit > 0 && limit < all.len() {
        all.select_nth_unstable_by(limit - 1, |a, b| {
            (Reverse(a.0), &a.1).cmp(&(Reverse(b.0), &b.1))
        });
    }
    all.truncate(limit);
    all.sort_unstable_by(|a, b| (Reverse(a.0), &a.1).cmp(&(Reverse(b.0), &b.1)));
    all.iter().map(|(value, name)| Count { name: show(name), value: *value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Labels, StoreConfig};

    #[test]
    fn the_largest_come_first() {
        let store = Store::new(StoreConfig::default());
        for (name, node) in [("up", "a"), ("up", "b"), ("cpu", "a")] {
            let labels = Labels::from_pairs([("__name__", name), ("node", node), ("job", "chat")]);
            store.append(&labels, 5, 1.0).unwrap();
        }
        let found = store.cardinality(1);
        let count = |name: &str, value| vec![Count { name: name.to_owned(), value }];
        assert_eq!((found.series, found.label_pairs), (3, 5));
        assert_eq!(found.span_ms, Some((5, 5)));
        assert_eq!(found.series_by_metric, count("up", 2));
        assert_eq!(found.values_by_label, count("__name__", 2));
        assert_eq!(found.bytes_by_label, count("job", 12));
        assert_eq!(found.series_by_pair, count("job=chat", 3));
        assert_eq!(store.cardinality(10).series_by_metric.len(), 2);
    }
}
