#![expect(clippy::float_cmp, reason = "samples come back bit by bit")]

use std::time::Duration;

use super::*;
use crate::store::StoreConfig;
use crate::{Matcher, is_stale};

fn store(series_max: usize) -> Store {
    Store::new(StoreConfig {
        retention: Duration::from_mins(1),
        series_max,
        out_of_order_window: Duration::ZERO,
        ..StoreConfig::default()
    })
}

fn cache() -> ScrapeCache {
    ScrapeCache::new(&Labels::from_pairs([("job", "chatnode"), ("instance", "a:1")]))
}

fn values(store: &Store, name: &str) -> Vec<f64> {
    let data = store.select(&[Matcher::equal("__name__", name)], 0, i64::MAX);
    data.iter().flat_map(|series| series.samples.iter().map(|sample| sample.value)).collect()
}

#[test]
fn a_scrape_carries_the_labels_of_its_target() {
    let store = store(10);
    let summary = store
        .append_scrape(&mut cache(), "up{job=\"x\",a=\"1\"} 1\n", Format::Prometheus, 5)
        .unwrap();
    assert_eq!(summary, ScrapeSummary { samples: 1, kept: 1, new_series: 1, ..Default::default() });
    assert_eq!(
        store.series(&[])[0].to_string(),
        r#"{__name__="up", a="1", exported_job="x", instance="a:1", job="chatnode"}"#
    );
}

#[test]
fn vanished_series_end_and_may_return() {
    let store = store(10);
    let mut cache = cache();
    store.append_scrape(&mut cache, "a 1\nb 2\n", Format::Prometheus, 1000).unwrap();
    let summary = store.append_scrape(&mut cache, "a 1\n", Format::Prometheus, 2000).unwrap();
    assert_eq!((summary.vanished, summary.new_series), (1, 0));
    let summary = store.append_scrape(&mut cache, "a 1\nb 3\n", Format::Prometheus, 3000).unwrap();
    assert_eq!((summary.vanished, summary.new_series), (0, 1));
    let b = values(&store, "b");
    assert!(b.len() == 3 && is_stale(b[1]) && b[2] == 3.0, "{b:?}");
    assert_eq!(store.mark_stale(&mut cache, 4000), 2);
    assert_eq!(store.mark_stale(&mut cache, 5000), 0);
    assert!(is_stale(values(&store, "a")[3]));
}

#[test]
fn a_fault_anywhere_changes_nothing() {
    let store = store(10);
    let mut cache = cache();
    let error =
        store.append_scrape(&mut cache, "a 1\nb{x} 2\n", Format::Prometheus, 1000).unwrap_err();
    assert_eq!(error.to_string(), "exposition cannot be read");
    assert_eq!(store.series_count(), 0);
}

#[test]
fn the_series_limit_refuses_new_series_only() {
    let store = store(1);
    let mut cache = cache();
    let summary = store.append_scrape(&mut cache, "a 1\nb 2\n", Format::Prometheus, 1000).unwrap();
    assert_eq!((summary.new_series, summary.rejected), (1, 1));
    let summary =
        store.append_scrape(&mut cache, "a 2\na 3\nb 2\n", Format::Prometheus, 2000).unwrap();
    assert_eq!((summary.samples, summary.rejected, summary.vanished), (3, 2, 0));
    assert_eq!(values(&store, "a"), [1.0, 2.0]);
}

#[test]
fn a_series_dropped_by_retention_is_made_again() {
    let store = store(10);
    let mut cache = cache();
    store.append_scrape(&mut cache, "a 1\n", Format::Prometheus, 1000).unwrap();
    assert_eq!(store.truncate(2000), 1);
    store.append_scrape(&mut cache, "a 2\n", Format::Prometheus, 3000).unwrap();
    assert_eq!(values(&store, "a"), [2.0]);
}

#[test]
fn lines_with_their_own_timestamp_are_kept_at_it() {
    let store = store(10);
    let mut cache = cache();
    store.append_scrape(&mut cache, "a 1 500\n", Format::Prometheus, 1000).unwrap();
    let summary = store.append_scrape(&mut cache, "", Format::Prometheus, 2000).unwrap();
    assert_eq!(summary.vanished, 1);
    assert_eq!(values(&store, "a"), [1.0], "no marker");
}

#[test]
fn a_line_is_found_wherever_it_moved() {
    let store = store(100);
    let mut cache = cache();
    for (at, body) in ["a 1\nb 1\nc 1\n", "c 2\na 2\nd 2\nb 2\n", "d 3\nb 3\n", "b 4\nd 4\nd 5\n"]
        .iter()
        .enumerate()
    {
        let ts_ms = 1000 * (i64::try_from(at).unwrap() + 1);
        store.append_scrape(&mut cache, body, Format::Prometheus, ts_ms).unwrap();
    }
    assert_eq!(values(&store, "b"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values(&store, "d"), [2.0, 3.0, 4.0], "the second of one scrape is refused");
    assert!(is_stale(values(&store, "a")[2]) && is_stale(values(&store, "c")[2]));
}

#[test]
fn limits_refuse_the_scrape_as_a_whole() {
    let store = store(100);
    let relabel: Relabel = Arc::new(|labels| (labels.metric_name() != "b").then_some(labels));
    let options =
        ScrapeOptions { sample_limit: Some(2), relabel: Some(relabel), ..Default::default() };
    let mut limited = ScrapeCache::with_options(&Labels::empty(), Arc::new(options));
    for ts_ms in [1000, 2000] {
        let summary = store
            .append_scrape(&mut limited, "a 1\nb 2\nc 3\n", Format::Prometheus, ts_ms)
            .unwrap();
        assert_eq!((summary.samples, summary.kept, summary.rejected), (3, 2, 0));
    }
    assert_eq!(store.series_count(), 2, "b was dropped by relabelling");
    let error =
        store.append_scrape(&mut limited, "a 1\nc 2\nd 3\n", Format::Prometheus, 3000).unwrap_err();
    assert_eq!(error.to_string(), "more than 2 samples");
    let options = ScrapeOptions { label_limit: Some(3), ..Default::default() };
    let target = Labels::from_pairs([("job", "x")]);
    let mut limited = ScrapeCache::with_options(&target, Arc::new(options));
    let body = "a{b=\"1\"} 1\na{b=\"1\",c=\"2\"} 1\n";
    let error = store.append_scrape(&mut limited, body, Format::Prometheus, 1000).unwrap_err();
    assert_eq!(error.to_string(), "line 2: series with 4 labels, more than 3");
}

#[test]
fn labels_of_text_and_target_meet_as_in_prometheus() {
    let body = "a{job=\"x\",exported_job=\"y\",instance=\"\"} 1\n";
    for (honor_labels, expected) in [
        (
            false,
            r#"{__name__="a", exported_exported_job="x", exported_job="y", instance="a:1", job="chatnode"}"#,
        ),
        (true, r#"{__name__="a", exported_job="y", job="x"}"#),
    ] {
        let options = ScrapeOptions { honor_labels, ..Default::default() };
        let target = Labels::from_pairs([("job", "chatnode"), ("instance", "a:1")]);
        let mut cache = ScrapeCache::with_options(&target, Arc::new(options));
        let store = store(10);
        store.append_scrape(&mut cache, body, Format::Prometheus, 5).unwrap();
        assert_eq!(store.series(&[])[0].to_string(), expected);
    }
}

#[test]
fn what_a_text_says_beside_its_samples_is_kept() {
    let store = store(100);
    let mut cache = cache();
    let body = "# TYPE x counter\n# HELP x about x\n# UNIT x seconds\nx_total 1 # {trace_id=\"t\"} 0.5 2\n# EOF\n";
    store.append_scrape(&mut cache, body, Format::OpenMetrics, 3000).unwrap();
    let said = &store.metadata_of("x")[0];
    assert_eq!((said.kind.name(), &*said.help, &*said.unit), ("counter", "about x", "seconds"));
    let exemplars = store.exemplars(&[vec![Matcher::equal("__name__", "x_total")]], 0, 9000);
    assert_eq!(exemplars[0].exemplars[0].timestamp_ms, 2000);
    let report =
        ScrapeReport { up: true, duration_seconds: 0.25, summary: ScrapeSummary::default() };
    store.append_report(&mut cache, &report, 3000);
    store.end_report(&mut cache, 4000);
    let up = values(&store, "up");
    assert!(up[0] == 1.0 && is_stale(up[1]), "{up:?}");
    assert_eq!(values(&store, "scrape_duration_seconds")[0], 0.25);
}
