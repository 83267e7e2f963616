//! Answers to small queries over a small store, worked out by hand.

#![expect(clippy::unwrap_used, reason = "a test that fails shows where")]
#![expect(clippy::too_many_lines, reason = "tables of cases")]

use std::time::Duration;

use holdfast_promql::{
    EvalError, Expression, Interruption, Options, Value, format_number, instant, range,
};
use holdfast_series::{Labels, Store, StoreConfig, stale_marker};

/// Samples every 10 s from 0 s to 600 s, in milliseconds.
fn store() -> Store {
    let store = Store::new(StoreConfig {
        retention: Duration::from_hours(1),
        series_max: 1000,
        ..StoreConfig::default()
    });
    for step in 0..=60_i64 {
        let ms = step * 10_000;
        let seconds = (ms / 1000) as f64;
        for (name, node, value) in [
            ("requests_total", "a", seconds * 2.0),
            ("requests_total", "b", (seconds * 3.0) % 900.0),
            ("load", "a", 1.0),
            ("load", "b", 2.0),
            ("load", "c", f64::NAN),
            ("limit", "a", 0.5),
            ("limit", "b", 5.0),
        ] {
            let labels = Labels::from_pairs([("__name__", name), ("node", node), ("job", "chat")]);
            store.append(&labels, ms, value).unwrap();
        }
        for (bound, count) in [("0.1", 5.0), ("1", 9.0), ("+Inf", 10.0)] {
            let labels = Labels::from_pairs([("__name__", "lag_bucket"), ("le", bound)]);
            store.append(&labels, ms, count).unwrap();
        }
    }
    for (pairs, value) in [
        ([("__name__", "disk"), ("job", "chat"), ("instance", "i"), ("", "")], 1.0),
        ([("__name__", "target_info"), ("job", "chat"), ("instance", "i"), ("version", "2")], 1.0),
        ([("__name__", "dotted.name"), ("a.b", "c d"), ("", ""), ("", "")], 3.0),
    ] {
        let pairs = pairs.into_iter().filter(|(name, _)| !name.is_empty());
        store.append(&Labels::from_pairs(pairs), 590_000, value).unwrap();
    }
    let gone = Labels::from_pairs([("__name__", "gone")]);
    store.append(&gone, 500_000, 7.0).unwrap();
    store.append(&gone, 510_000, stale_marker()).unwrap();
    store
}

fn show(value: Value) -> String {
    match value {
        Value::Scalar(sample) => format_number(sample.value),
        Value::String { text, .. } => text,
        Value::Vector(samples) => {
            let show = |labels: &Labels, value| {
                let pairs: Vec<String> =
                    labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("{{{}}} {}", pairs.join(","), format_number(value))
            };
            let lines: Vec<String> =
                samples.iter().map(|s| show(&s.labels, s.sample.value)).collect();
            lines.join("; ")
        }
        Value::Matrix(series) => series
            .iter()
            .map(|series| {
                let points: Vec<String> = series
                    .samples
                    .iter()
                    .map(|s| format!("{}@{}", format_number(s.value), s.timestamp_ms / 1000))
                    .collect();
                format!("{} {}", series.labels, points.join(" "))
            })
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn ask(text: &str) -> String {
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match instant(&store(), &expression, 600_000, &Options::default()) {
        Ok(answer) => show(answer.value),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn instant_queries() {
    let mut differences = Vec::new();
    for (text, expected) in [
        ("1 + 2 * 3 ^ 2 % 5", "4"),
        ("-1 ^ 2", "-1"),
        ("1 > bool 2", "0"),
        ("\"text\"", "text"),
        ("load{node=\"a\"}", "{__name__=load,job=chat,node=a} 1"),
        ("load > 1", "{__name__=load,job=chat,node=b} 2"),
        ("1 < load", "{__name__=load,job=chat,node=b} 2"),
        ("load{node!=\"c\"} > bool 1", "{job=chat,node=a} 0; {job=chat,node=b} 1"),
        ("-load{node=\"a\"}", "{job=chat,node=a} -1"),
        ("sum(load{node!=\"c\"})", "{} 3"),
        ("sum by (node) (load{node=~\"a|b\"})", "{node=a} 1; {node=b} 2"),
        ("max without (node, job) (load)", "{} 2"),
        ("count(load)", "{} 3"),
        ("topk(1, load)", "{__name__=load,job=chat,node=b} 2"),
        ("bottomk(1, load)", "{__name__=load,job=chat,node=a} 1"),
        ("quantile(0.5, load{node!=\"c\"})", "{} 1.5"),
        ("count_values(\"v\", limit)", "{v=0.5} 1; {v=5} 1"),
        ("stddev(limit)", "{} 2.25"),
        (
            "load > on(node) limit",
            "{__name__=load,job=chat,node=a} 1"
                .replace("__name__=load,", "")
                .replace("job=chat,", "")
                .as_str(),
        ),
        ("load > limit", "{__name__=load,job=chat,node=a} 1"),
        ("load + ignoring(job) limit", "{node=a} 1.5; {node=b} 7"),
        (
            "load * on(job) group_left sum by (job) (limit)",
            "{job=chat,node=a} 5.5; {job=chat,node=b} 11; {job=chat,node=c} NaN",
        ),
        ("limit and load{node=\"a\"}", "{__name__=limit,job=chat,node=a} 0.5"),
        ("limit unless load{node=\"a\"}", "{__name__=limit,job=chat,node=b} 5"),
        (
            "limit{node=\"a\"} or limit",
            "{__name__=limit,job=chat,node=a} 0.5; {__name__=limit,job=chat,node=b} 5",
        ),
        ("rate(requests_total{node=\"a\"}[1m])", "{job=chat,node=a} 2"),
        ("increase(requests_total{node=\"b\"}[5m])", "{job=chat,node=b} 868.9655172413794"),
        ("resets(requests_total{node=\"b\"}[10m])", "{job=chat,node=b} 2"),
        ("irate(requests_total{node=\"a\"}[1m])", "{job=chat,node=a} 2"),
        ("delta(requests_total{node=\"a\"}[1m])", "{job=chat,node=a} 120"),
        ("changes(load{node=\"c\"}[5m])", "{job=chat,node=c} 0"),
        ("avg_over_time(load{node=\"b\"}[5m])", "{job=chat,node=b} 2"),
        ("count_over_time(load{node=\"a\"}[1m])", "{job=chat,node=a} 6"),
        ("max_over_time(rate(requests_total{node=\"a\"}[1m])[5m:1m])", "{job=chat,node=a} 2"),
        ("predict_linear(requests_total{node=\"a\"}[1m], 60)", "{job=chat,node=a} 1320"),
        ("deriv(requests_total{node=\"a\"}[1m])", "{job=chat,node=a} 2"),
        ("histogram_quantile(0.9, lag_bucket)", "{} 1"),
        ("histogram_quantile(0.5, lag_bucket)", "{} 0.1"),
        ("gone", ""),
        ("gone @ 505", "{__name__=gone} 7"),
        ("gone offset 1m35s", "{__name__=gone} 7"),
        ("count_over_time(gone[5m])", "{} 1"),
        ("absent(gone{job=\"x\", a!=\"b\"})", "{job=x} 1"),
        ("absent(load)", ""),
        ("absent_over_time(nothing{a=\"b\"}[5m])", "{a=b} 1"),
        ("scalar(load)", "NaN"),
        ("scalar(load{node=\"a\"}) + 1", "2"),
        ("vector(1)", "{} 1"),
        ("time()", "600"),
        ("timestamp(load{node=\"a\"} offset 1s)", "{job=chat,node=a} 590"),
        ("clamp(requests_total, 100, 1000)", "{job=chat,node=a} 1000; {job=chat,node=b} 100"),
        ("clamp_max(limit, 1)", "{job=chat,node=a} 0.5; {job=chat,node=b} 1"),
        ("round(limit, 0.3)", "{job=chat,node=a} 0.6; {job=chat,node=b} 5.1"),
        ("sgn(-limit)", "{job=chat,node=a} -1; {job=chat,node=b} -1"),
        (
            "sort_desc(limit)",
            "{__name__=limit,job=chat,node=b} 5; {__name__=limit,job=chat,node=a} 0.5",
        ),
        (
            "label_replace(limit{node=\"a\"}, \"x\", \"$1-$2\", \"node\", \"(.)(.*)\")",
            "{__name__=limit,job=chat,node=a,x=a-} 0.5",
        ),
        (
            "label_join(limit{node=\"a\"}, \"x\", \"/\", \"job\", \"node\")",
            "{__name__=limit,job=chat,node=a,x=chat/a} 0.5",
        ),
        ("hour(vector(3661)) + minute(vector(3661))", "{} 2"),
        (
            "load[15s]",
            "{__name__=\"load\", job=\"chat\", node=\"a\"} 1@590 1@600; {__name__=\"load\", job=\"chat\", node=\"b\"} 2@590 2@600; {__name__=\"load\", job=\"chat\", node=\"c\"} NaN@590 NaN@600",
        ),
        (
            "load{node=\"a\"}[30s:10s] offset 5s",
            "{__name__=\"load\", job=\"chat\", node=\"a\"} 1@570 1@580 1@590",
        ),
        ("limitk(2, load)", "{__name__=load,job=chat,node=a} 1; {__name__=load,job=chat,node=b} 2"),
        (
            "limitk by (node) (1, {job=\"chat\", node=\"a\"} > 1)",
            "{__name__=requests_total,job=chat,node=a} 1200",
        ),
        ("count(limit_ratio(0.4, requests_total) or limit_ratio(-0.6, requests_total))", "{} 2"),
        ("limit_ratio(0.4, requests_total) and limit_ratio(-0.6, requests_total)", ""),
        (
            "sort_by_label_desc(limit, \"node\")",
            "{__name__=limit,job=chat,node=b} 5; {__name__=limit,job=chat,node=a} 0.5",
        ),
        (
            "sort_by_label(label_replace(limit, \"n\", \"$1\", \"node\", \"(b)\"), \"n\", \"node\")",
            "{__name__=limit,job=chat,node=a} 0.5; {__name__=limit,job=chat,n=b,node=b} 5",
        ),
        ("mad_over_time(requests_total{node=\"a\"}[45s])", "{job=chat,node=a} 20"),
        (
            "first_over_time(requests_total{node=\"a\"}[45s])",
            "{__name__=requests_total,job=chat,node=a} 1120",
        ),
        ("ts_of_first_over_time(requests_total{node=\"a\"}[45s])", "{job=chat,node=a} 560"),
        ("ts_of_last_over_time(gone[5m])", "{} 500"),
        ("ts_of_max_over_time(load{node=\"a\"}[45s])", "{job=chat,node=a} 600"),
        ("ts_of_min_over_time(requests_total{node=\"b\"}[10m])", "{job=chat,node=b} 600"),
        (
            "holt_winters(requests_total{node=\"a\"}[5m], 0.5, 0.5) == double_exponential_smoothing(requests_total{node=\"a\"}[5m], 0.5, 0.5)",
            "{job=chat,node=a} 1200",
        ),
        ("max_of(1, 2) - min_of(1, 2)", "1"),
        ("end() - start() + step() + range()", "0"),
        ("histogram_quantiles(lag_bucket, \"q\", 0.5, 0.9)", "{q=0.5} 0.1; {q=0.9} 1"),
        (
            "info({__name__=\"disk\", instance=\"i\"}, {version=~\".+\"})",
            "{__name__=disk,instance=i,job=chat,version=2} 1",
        ),
        ("info({__name__=\"disk\", instance=\"i\"}, {nothing=~\".+\"})", ""),
        ("info(load{node=\"a\"})", "{__name__=load,job=chat,node=a} 1"),
        ("{\"dotted.name\", \"a.b\"=\"c d\"} + 0x10 + 1e1", "{a.b=c d} 29"),
        ("sum by (\"a.b\") ({\"dotted.name\"})", "{a.b=c d} 3"),
        (
            "load * on(job) limit",
            "error: found duplicate series for the match group {job=\"chat\"} on the right hand-side of the operation: [{__name__=\"limit\", job=\"chat\", node=\"b\"}, {__name__=\"limit\", job=\"chat\", node=\"a\"}];many-to-many matching not allowed: matching labels must be unique on one side",
        ),
        (
            "limit * on(job) load{node=\"a\"}",
            "error: multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
        ),
        (
            "abs({job=\"chat\", node=\"a\"})",
            "error: vector cannot contain metrics with the same labelset",
        ),
    ] {
        let found = ask(text);
        if found != expected {
            differences.push(format!("{text}\n  found:    {found}\n  expected: {expected}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn range_queries_walk_the_steps() {
    let ask = |text: &str, start, end, step| {
        let expression = Expression::parse(text).unwrap();
        range(&store(), &expression, start, end, step, &Options::default())
            .map(|answer| show(answer.value))
    };
    for (text, expected) in [
        ("load{node=\"a\"} > 0", "{__name__=\"load\", job=\"chat\", node=\"a\"} 1@570 1@600 1@630"),
        ("gone", "{__name__=\"gone\"} "),
        ("time()", "{} 570@570 600@600 630@630"),
        ("sum(load{node!=\"c\"} @ end()) + 0 * time()", "{} 3@570 3@600 3@630"),
        (
            "topk(1, requests_total)",
            "{__name__=\"requests_total\", job=\"chat\", node=\"a\"} 1140@570 1200@600 1200@630",
        ),
    ] {
        let expected = expected.trim_end();
        let expected = if expected.starts_with("{__name__=\"gone\"}") { "" } else { expected };
        assert_eq!(ask(text, 570_000, 630_000, 30_000).unwrap(), expected, "{text}");
    }
    for (text, start, end, step) in
        [("load", 1, 0, 1), ("load", 0, 1, 0), ("load", 0, 11_001, 1), ("load[5m]", 0, 1, 1)]
    {
        assert!(matches!(ask(text, start, end, step), Err(EvalError::BadQuery(_))), "{text}");
    }
}

#[test]
fn bounds_end_a_query() {
    let expression = Expression::parse("sum(rate(requests_total[5m])) + load").unwrap();
    let run = |options: &Options<'_>| range(&store(), &expression, 0, 600_000, 1000, options);
    let few = Options { samples_max: 1000, ..Options::default() };
    assert!(matches!(run(&few), Err(EvalError::TooManySamples)));
    let late =
        Options { interrupted: Some(&|| Some(Interruption::TimedOut)), ..Options::default() };
    assert!(matches!(run(&late), Err(EvalError::TimedOut)));
    let fine: Expression = Expression::parse("max_over_time(load[1y:1ms])").unwrap();
    let result = instant(&store(), &fine, 600_000, &Options::default());
    assert!(matches!(result, Err(EvalError::TooManySamples)));
}
