//! Bodies built from the messages, read, and stored.

use super::message::{Bucket, Histogram as Message, Number, Quantile, Summary, Timestamp};
use super::*;
use crate::{Labels, Matcher, ScrapeCache, ScrapeError, ScrapeOptions, Store, StoreConfig};

fn pair(name: &str, value: &str) -> Pair {
    Pair { name: name.to_owned(), value: value.to_owned() }
}

fn family(name: &str, kind: i32, metrics: &[Metric]) -> Vec<u8> {
    let family = Family {
        name: name.to_owned(),
        help: Some("a \\ and\na line".to_owned()),
        kind,
        metrics: metrics.iter().map(prost::Message::encode_to_vec).collect(),
        unit: None,
    };
    family.encode_length_delimited_to_vec()
}

fn native_histogram() -> Metric {
    let exemplar = |value, seconds| Exemplar {
        labels: vec![pair("trace_id", "a\"b")],
        value,
        timestamp: Some(Timestamp { seconds, nanos: 500_000_000 }),
    };
    let histogram = Message {
        count: 6,
        sum: 7.5,
        buckets: vec![Bucket {
            count: 4,
            upper_bound: 1.0,
            exemplar: Some(Box::new(exemplar(0.5, 1_700_000_000))),
            count_float: 0.0,
        }],
        schema: 1,
        zero_threshold: 0.001,
        zero_count: 1,
        positive_spans: vec![
            message::Span { offset: -1, length: 2 },
            message::Span { offset: 0, length: 0 },
            message::Span { offset: 2, length: 1 },
        ],
        positive_deltas: vec![1, 1, -1],
        exemplars: vec![exemplar(0.7, 1_700_000_001), exemplar(0.9, 1_700_000_002)],
        ..Message::default()
    };
    let histogram = Some(Box::new(histogram));
    Metric { labels: vec![pair("a", "x\ny")], histogram, ..Metric::default() }
}

/// Every entry in a line of its own.
fn listing(body: &[u8], classic: bool) -> Vec<String> {
    let families = Families::read(body, classic).unwrap();
    let mut entries = families.entries();
    let mut lines = Vec::new();
    while let Some(entry) = entries.next_entry("") {
        lines.push(match entry.unwrap() {
            Entry::Sample(RawSample { series, value, timestamp_ms: None, .. }) => {
                format!("{series} {value}")
            }
            Entry::Sample(RawSample { series, value, timestamp_ms: Some(at), .. }) => {
                format!("{series} {value} {at}")
            }
            Entry::Histogram(RawSample { series, .. }, histogram) => {
                format!("{series} native {}", histogram.count)
            }
            Entry::Exemplar(exemplar) => format!("exemplar {:?}", exemplar.read().unwrap().1),
            Entry::About(family, Statement::Kind(kind)) => format!("{family} is {}", kind.name()),
            Entry::About(family, _) => format!("{family} has help"),
        });
    }
    lines
}

#[test]
fn every_type_becomes_the_series_of_the_text_format() {
    let gauge = Metric {
        gauge: Some(Number { value: f64::INFINITY, exemplar: None }),
        timestamp_ms: 5,
        ..Metric::default()
    };
    let counter = Metric {
        labels: vec![pair("path", "\"\\")],
        counter: Some(Number { value: 2.5, exemplar: None }),
        ..Metric::default()
    };
    let quantiles = vec![Quantile { quantile: 0.99, value: f64::NAN }];
    let summary =
        Metric { summary: Some(Summary { count: 3, sum: 4.5, quantiles }), ..Metric::default() };
    let body = [
        family("g", 1, &[gauge]),
        family("c_total", 0, &[counter]),
        family("s", 2, &[summary]),
        family("h.utf8", 4, &[native_histogram()]),
    ]
    .concat();
    assert_eq!(
        listing(&body, true),
        [
            "g is gauge",
            "g has help",
            "g inf 5",
            "c_total is counter",
            "c_total has help",
            r#"c_total{path="\"\\"} 2.5"#,
            "s is summary",
            "s has help",
            r#"s{quantile="0.99"} NaN"#,
            "s_sum 4.5",
            "s_count 3",
            "h.utf8 is histogram",
            "h.utf8 has help",
            r#"{"h.utf8",a="x\ny"} native 6"#,
            "exemplar 0.7",
            "exemplar 0.9",
            r#"{"h.utf8_bucket",a="x\ny",le="1.0"} 4"#,
            "exemplar 0.5",
            r#"{"h.utf8_bucket",a="x\ny",le="+Inf"} 6"#,
            r#"{"h.utf8_sum",a="x\ny"} 7.5"#,
            r#"{"h.utf8_count",a="x\ny"} 6"#,
        ]
    );
    let without = listing(&body, false);
    assert_eq!(without.last().unwrap(), "exemplar 0.9", "native buckets in place of classic ones");
}

#[test]
fn native_histograms_are_stored_end_and_return() {
    let store = Store::new(StoreConfig::default());
    let options = ScrapeOptions { classic_histograms: true, ..ScrapeOptions::default() };
    let target = Labels::from_pairs([("job", "a")]);
    let mut cache = ScrapeCache::with_options(&target, Arc::new(options));
    let body = family("h", 4, &[native_histogram()]);
    let first = store.append_protobuf(&mut cache, &body, 1000).unwrap();
    assert_eq!((first.samples, first.kept, first.new_series, first.rejected), (5, 5, 5, 0));
    let again = store.append_protobuf(&mut cache, &body, 2000).unwrap();
    assert_eq!((again.new_series, again.rejected, again.vanished), (0, 0, 0));
    assert_eq!(store.append_protobuf(&mut cache, &[], 3000).unwrap().vanished, 5);
    let found = store.select(&[Matcher::equal("__name__", "h")], 0, i64::MAX);
    assert_eq!(found[0].labels.to_string(), r#"{__name__="h", a="x\ny", job="a"}"#);
    assert_eq!(found[0].histograms.len(), 2);
    let histogram = &found[0].histograms[0].histogram;
    assert_eq!(histogram.positive_counts, [1.0, 2.0, 1.0]);
    assert_eq!(histogram.positive_spans.len(), 2, "spans of no length mean nothing");
    assert!(crate::is_stale(found[0].samples[0].value));
    let about = store.metadata_of("h");
    assert_eq!(&*about[0].help, "a \\ and\na line");
    let exemplars = store.exemplars(&[vec![Matcher::equal("__name__", "h")]], 0, i64::MAX);
    assert_eq!(exemplars[0].exemplars.len(), 2);
    assert_eq!(exemplars[0].exemplars[1].timestamp_ms, 1_700_000_002_500);
    assert_eq!(exemplars[0].exemplars[1].labels.value("trace_id"), "a\"b");
}

#[test]
fn bodies_that_are_none_change_nothing() {
    let store = Store::new(StoreConfig::default());
    let mut cache = ScrapeCache::new(&Labels::from_pairs([("job", "a")]));
    let whole = family("h", 4, &[native_histogram()]);
    for (body, expected) in [
        (whole[..whole.len() - 1].to_vec(), "metric family 1 ends in the middle"),
        ([whole.as_slice(), &[0xff; 11]].concat(), "metric family 2 cannot be read"),
        ([whole.as_slice(), &[2, 0xff, 0xff]].concat(), "metric family 2 cannot be read"),
    ] {
        let error = store.append_protobuf(&mut cache, &body, 1000).unwrap_err();
        let ScrapeError::Protobuf(error) = error else { panic!("{error:?}") };
        assert_eq!(error.to_string(), expected);
    }
    let twice = Metric { labels: vec![pair("a", "1"), pair("a", "2")], ..native_histogram() };
    let error = store.append_protobuf(&mut cache, &family("h", 4, &[twice]), 1000).unwrap_err();
    assert!(matches!(error, ScrapeError::Parse(_)), "{error:?}");
    assert_eq!(store.stats().series, 0);
}

#[test]
fn a_small_body_does_not_stand_for_a_large_one() {
    // A long name, and a hundred thousand metrics of two bytes that repeat it.
    let empty = Metric { gauge: Some(Number::default()), ..Metric::default() };
    let body = family(&"n".repeat(10_000), 1, &vec![empty; 100_000]);
    assert_eq!(Families::read(&body, true).unwrap_err(), ProtobufError::TooLarge);
}

#[test]
fn what_is_written_is_read_back() {
    let labels = Labels::from_pairs([("__name__", "h"), ("a", "x")]);
    let native = native(native_histogram().histogram.as_ref().unwrap(), false).unwrap();
    let sample = crate::HistogramSample { timestamp_ms: 7, histogram: Arc::new(native) };
    let mut body = Vec::new();
    let float = Point::Sample(crate::Sample { timestamp_ms: 7, value: 2.5 });
    write_family(&mut body, "c_total", MetricKind::Counter, [(&labels, float)].into_iter());
    let point = Point::Histogram(&sample);
    write_family(&mut body, "h", MetricKind::Unknown, [(&labels, point)].into_iter());
    let families = Families::read(&body, false).unwrap();
    let mut entries = families.entries();
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry("") {
        match entry.unwrap() {
            Entry::Sample(raw) => found.push((raw.series, raw.timestamp_ms, None)),
            Entry::Histogram(raw, read) => {
                found.push((raw.series, raw.timestamp_ms, Some(Arc::clone(read))));
            }
            _ => {}
        }
    }
    let expected =
        [(r#"c_total{a="x"}"#, Some(7), None), (r#"h{a="x"}"#, Some(7), Some(sample.histogram))];
    assert_eq!(found, expected);
}

#[test]
fn bounds_are_written_as_open_metrics_does() {
    for (value, text) in [
        (1.0, "1.0"),
        (0.0, "0.0"),
        (-2.5, "-2.5"),
        (0.0001, "0.0001"),
        (0.000_01, "1e-05"),
        (100_000.0, "100000.0"),
        (1e6, "1e+06"),
        (1_234_567.5, "1.2345675e+06"),
        (1.5e21, "1.5e+21"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(float(value), text);
    }
}

#[test]
fn any_body_is_read_as_it_was_written() {
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..300 {
        let value = f64::from_bits(random.u64(..));
        let labels: Vec<_> = (0..random.usize(..4))
            .map(|at| {
                let value: String = (0..random.usize(..6)).map(|_| random.char(..)).collect();
                pair(&format!("l{at}"), &value)
            })
            .collect();
        let number = Some(Number { value, exemplar: None });
        let metric = Metric { labels: labels.clone(), gauge: number, ..Metric::default() };
        let families = Families::read(&family("m", 1, &[metric]), false).unwrap();
        let mut entries = families.entries();
        let sample = std::iter::from_fn(|| entries.next_entry(""))
            .find_map(|entry| match entry.unwrap() {
                Entry::Sample(sample) => Some(sample),
                _ => None,
            })
            .unwrap();
        assert_eq!(sample.value.to_bits(), value.to_bits());
        let read = sample.labels().unwrap();
        assert_eq!(read.len(), labels.len() + 1);
        for (read, written) in read[1..].iter().zip(&labels) {
            assert_eq!((&*read.0, &*read.1), (written.name.as_str(), written.value.as_str()));
        }
    }
}
