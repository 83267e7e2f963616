//! The report of what makes the most series.

use holdfast_series::{Cardinality, Count, StoreStats};
use serde::Serialize;

use super::super::format;

#[derive(Debug, Serialize)]
pub(in super::super) struct CardinalityView {
    series: usize,
    label_pairs: usize,
    samples: usize,
    memory: String,
    refused: u64,
    tables: Vec<Table>,
}

#[derive(Debug, Serialize)]
struct Table {
    title: &'static str,
    unit: &'static str,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    value: String,
}

/// The lists of `counted`, put into words.
pub(in super::super) fn view(counted: &Cardinality, stats: &StoreStats) -> CardinalityView {
    let table = |title, unit, counts: &[Count], show: fn(u64) -> String| Table {
        title,
        unit,
        rows: counts
            .iter()
            .map(|count| Row { name: count.name.clone(), value: show(count.value) })
            .collect(),
    };
    let plain = |value: u64| value.to_string();
    CardinalityView {
        series: counted.series,
        label_pairs: counted.label_pairs,
        samples: stats.samples,
        memory: format::bytes((stats.chunk_bytes + stats.index_bytes) as f64),
        refused: stats.rejected_series_total,
        tables: vec![
            table("Metrics with the most series", "series", &counted.series_by_metric, plain),
            table("Labels with the most values", "values", &counted.values_by_label, plain),
            table("Pairs with the most series", "series", &counted.series_by_pair, plain),
            table("Labels with the longest values", "memory", &counted.bytes_by_label, |bytes| {
                format::bytes(bytes as f64)
            }),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_has_its_unit() {
        let count = |name: &str, value| vec![Count { name: name.to_owned(), value }];
        let counted = Cardinality {
            series: 3,
            series_by_metric: count("up", 3),
            bytes_by_label: count("job", 2048),
            ..Cardinality::default()
        };
        let page = view(&counted, &StoreStats::default());
        let shown = |at: usize| (page.tables[at].unit, page.tables[at].rows[0].value.as_str());
        assert_eq!((shown(0), shown(3)), (("series", "3"), ("memory", "2.0 KiB")));
        assert!(page.tables[1].rows.is_empty());
    }
}
