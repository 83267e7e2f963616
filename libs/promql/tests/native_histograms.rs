//! Answers about native histograms, worked out by hand from Prometheus' documentation: the version we test against has few of these
//! functions.

#![expect(clippy::unwrap_used, reason = "a test that fails shows where")]

use std::sync::Arc;

use holdfast_promql::{Answer, Expression, Options, format_value, instant};
use holdfast_series::{Histogram, Labels, ResetHint, Span, Store, StoreConfig, stale_marker};

const END_MS: i64 = 600_000;

/// Buckets (1, 2] and (2, 4] with these counts.
fn histogram(low: f64, high: f64) -> Histogram {
    Histogram {
        schema: 0,
        count: low + high,
        sum: low * 1.5 + high * 3.0,
        positive_spans: vec![Span { offset: 1, length: 2 }],
        positive_counts: vec![low, high],
        ..Histogram::default()
    }
}

/// Every 15 s for ten minutes: counters that grow by 10 and 20 a step at two targets, one that is reset on the way, a gauge, a series
/// that turns from a number into a histogram, one that ended, and classic buckets.
fn store() -> Store {
    let store = Store::new(StoreConfig::default());
    let labels = |name: &str, node: &str| Labels::from_pairs([("__name__", name), ("node", node)]);
    let add = |labels: &Labels, ms: i64, histogram: Histogram| {
        store.append_histogram(labels, ms, Arc::new(histogram)).unwrap();
    };
    for step in 0..=40_i64 {
        let (ms, n) = (step * 15_000, step as f64);
        add(&labels("lag_seconds", "a"), ms, histogram(n * 10.0, n * 10.0));
        add(&labels("lag_seconds", "b"), ms, histogram(n * 20.0, 0.0));
        let since = if step < 38 { n } else { n - 38.0 };
        add(&labels("reset_seconds", "a"), ms, histogram(since * 10.0, 0.0));
        let gauge = Histogram { reset_hint: ResetHint::Gauge, ..histogram(n, 40.0 - n) };
        add(&labels("sizes", "a"), ms, gauge);
        if step < 39 {
            store.append(&labels("mixed", "a"), ms, n).unwrap();
            add(&labels("gone", "a"), ms, histogram(1.0, 1.0));
        } else {
            add(&labels("mixed", "a"), ms, histogram(n, n));
        }
        for (bound, count) in [("1", 0.0), ("2", 10.0), ("4", 20.0), ("+Inf", 20.0)] {
            let labels = labels("classic_bucket", "a").with("le", bound);
            store.append(&labels, ms, n * count).unwrap();
        }
    }
    store.append(&labels("gone", "a"), 590_000, stale_marker()).unwrap();
    store
}

fn ask(store: &Store, text: &str) -> Answer {
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    instant(store, &expression, END_MS, &Options::default())
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The answer's series as `{labels} value`, a histogram as its count, sum and buckets.
fn show(answer: &Answer) -> String {
    let json: serde_json::Value = serde_json::from_str(&format_value(&answer.value)).unwrap();
    let series = json["result"].as_array().unwrap().iter().map(|series| {
        let value = match series.get("histogram") {
            Some(histogram) => {
                let found = &histogram[1];
                let buckets = found["buckets"].as_array().cloned().unwrap_or_default();
                let bucket = |b: &serde_json::Value| {
                    format!("{},{}]:{}", text(&b[1]), text(&b[2]), text(&b[3]))
                };
                let buckets: Vec<String> = buckets.iter().map(bucket).collect();
                format!("{}/{} {}", text(&found["count"]), text(&found["sum"]), buckets.join(" "))
            }
            None => text(&series["value"][1]),
        };
        format!("{} {}", series["metric"]["node"].as_str().unwrap_or("-"), value.trim_end())
    });
    series.collect::<Vec<_>>().join("; ")
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn histograms_are_selected_counted_and_computed_with() {
    let store = store();
    let mut differences = Vec::new();
    for (query, expected) in [
        ("lag_seconds", "a 800/1800 1,2]:400 2,4]:400; b 800/1200 1,2]:800"),
        ("gone", ""),
        ("last_over_time(gone[5m])", "a 2/4.5 1,2]:1 2,4]:1"),
        ("-sizes", "a -40/-60 1,2]:-40"),
        ("lag_seconds * 2", "a 1600/3600 1,2]:800 2,4]:800; b 1600/2400 1,2]:1600"),
        ("2 * lag_seconds{node=\"b\"} / 4", "b 400/600 1,2]:400"),
        ("lag_seconds - lag_seconds offset 15s", "a 20/45 1,2]:10 2,4]:10; b 20/30 1,2]:20"),
        ("lag_seconds == lag_seconds", "a 800/1800 1,2]:400 2,4]:400; b 800/1200 1,2]:800"),
        ("lag_seconds != bool lag_seconds offset 15s", "a 1; b 1"),
        ("sum(lag_seconds)", "- 1600/3000 1,2]:1200 2,4]:400"),
        ("avg(lag_seconds)", "- 800/1500 1,2]:600 2,4]:200"),
        ("count(lag_seconds)", "- 2"),
        ("group(lag_seconds)", "- 1"),
        ("histogram_count(lag_seconds)", "a 800; b 800"),
        ("histogram_sum(lag_seconds)", "a 1800; b 1200"),
        ("histogram_avg(lag_seconds)", "a 2.25; b 1.5"),
        ("histogram_quantile(0.5, lag_seconds{node=\"a\"})", "a 2"),
        ("histogram_quantile(0.5, sum(rate(lag_seconds[1m])))", "- 1.5874010519681994"),
        ("histogram_fraction(0, 2, lag_seconds)", "a 0.5; b 1"),
        ("histogram_fraction(0, 2, classic_bucket)", "a 0.5"),
        ("histogram_fraction(1.5, 3, classic_bucket)", "a 0.5"),
        // The window (540 s, 600 s] has 4 of the 5 samples a minute has; the rest is extrapolated.
        ("increase(lag_seconds{node=\"b\"}[1m])", "b 80/120 1,2]:80"),
        ("increase(reset_seconds[1m]) / 20", "a 1.3333333333333333/2 1,2]:1.3333333333333333"),
        ("resets(reset_seconds[5m])", "a 1"),
        ("changes(lag_seconds[1m])", "a 3; b 3"),
        ("delta(sizes[1m])", "a 0/-6 1,2]:4 2,4]:-4"),
        ("irate(lag_seconds{node=\"b\"}[1m]) * 15", "b 20/30 1,2]:20"),
        ("sum_over_time(sizes[30s])", "a 80/121.5 1,2]:79 2,4]:1"),
        ("avg_over_time(sizes[30s])", "a 40/60.75 1,2]:39.5 2,4]:0.5"),
        ("count_over_time(mixed[1m])", "a 4"),
        ("max_over_time(mixed[1m])", "a 38"),
        ("first_over_time(mixed[1m])", "a 37"),
        ("ts_of_last_over_time(mixed[1m])", "a 600"),
        ("timestamp(lag_seconds)", "a 600; b 600"),
        ("limitk(1, lag_seconds)", "a 800/1800 1,2]:400 2,4]:400"),
        ("abs(lag_seconds)", ""),
        ("absent(lag_seconds)", ""),
    ] {
        let found = show(&ask(&store, query));
        if found != expected {
            differences.push(format!("{query}\n  found:    {found}\n  expected: {expected}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn what_does_not_go_together_is_told() {
    let store = store();
    for (query, warnings, infos) in [
        ("lag_seconds", "", ""),
        (
            "rate(mixed[1m])",
            "PromQL warning: encountered a mix of histograms and floats for metric name \"mixed\"",
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"mixed\"",
        ),
        (
            "sum({__name__=~\"lag_seconds|classic_bucket\"})",
            "PromQL warning: encountered a mix of histograms and floats for aggregation",
            "",
        ),
        ("max(lag_seconds)", "", "PromQL info: ignored histogram in max aggregation"),
        (
            "max_over_time(mixed[1m])",
            "",
            "PromQL info: ignored histograms in a range containing both floats and histograms for metric name \"mixed\"",
        ),
        (
            "delta(lag_seconds{node=\"a\"}[1m])",
            "PromQL warning: this native histogram metric is not a gauge: \"lag_seconds\"",
            "",
        ),
        (
            "increase(sizes[1m])",
            "PromQL warning: this native histogram metric is not a counter: \"sizes\"",
            "",
        ),
        (
            "lag_seconds + 1",
            "",
            "PromQL info: incompatible sample types encountered for binary operator \"+\": histogram + float",
        ),
        (
            "histogram_quantile(2, lag_seconds)",
            "PromQL warning: quantile value should be between 0 and 1, got 2",
            "",
        ),
        (
            "histogram_quantile(0.5, up_total or vector(1))",
            "PromQL warning: bucket label \"le\" is missing or has a malformed value of \"\" for metric name \"\"",
            "",
        ),
        (
            "limit_ratio(1.5, lag_seconds)",
            "PromQL warning: ratio value should be between -1 and 1, got 1.5, capping to 1",
            "",
        ),
    ] {
        let answer = ask(&store, query);
        assert_eq!(
            (answer.warnings.join("|"), answer.infos.join("|")),
            (warnings.to_owned(), infos.to_owned()),
            "{query}"
        );
    }
}
