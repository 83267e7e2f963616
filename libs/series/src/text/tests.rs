#![expect(clippy::float_cmp, reason = "values are exact")]

use super::*;

type Read = (Vec<(String, String)>, f64, Option<i64>);

/// A text that ends in `# EOF` is `OpenMetrics`.
fn format(text: &str) -> Format {
    if text.ends_with("# EOF\n") { Format::OpenMetrics } else { Format::Prometheus }
}

fn one(text: &str) -> Result<Read, String> {
    let sample = parse(text, format(text)).next().unwrap().map_err(|error| error.to_string())?;
    let labels = sample.labels().map_err(|error| error.to_string())?;
    let labels = labels.into_iter().map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
    Ok((labels, sample.value, sample.timestamp_ms))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn samples_are_read_in_all_their_forms() {
    for (text, labels, value, timestamp) in [
        ("up 1", vec![("__name__", "up")], 1.0, None),
        ("a:b{} 2", vec![("__name__", "a:b")], 2.0, None),
        (
            "x { a = \"1\" , b=\"2\", } 3 17",
            vec![("__name__", "x"), ("a", "1"), ("b", "2")],
            3.0,
            Some(17),
        ),
        (
            r#"x{a="q\"\\\nz\d}"} -1e-3 -5"#,
            vec![("__name__", "x"), ("a", "q\"\\\nz\\d}")],
            -0.001,
            Some(-5),
        ),
        ("x{a=\"\"} +Inf", vec![("__name__", "x"), ("a", "")], f64::INFINITY, None),
        ("x\t-Inf\r\n", vec![("__name__", "x")], f64::NEG_INFINITY, None),
        (
            "x_bucket{le=\"1\"} 3 # {t=\"a b\"} 0.5 1.2\n# EOF\n",
            vec![("__name__", "x_bucket"), ("le", "1")],
            3.0,
            None,
        ),
        ("x 3 1.5\n# EOF\n", vec![("__name__", "x")], 3.0, Some(1500)),
        ("# HELP x y\n# TYPE x gauge\n\n  # a remark\nx{ä=\"ü\"} 1", vec![], 0.0, None),
    ] {
        if labels.is_empty() {
            assert!(one(text).is_err(), "{text}");
            continue;
        }
        assert_eq!(one(text), Ok((pairs(&labels), value, timestamp)), "{text}");
    }
    assert!(one("x NaN").unwrap().1.is_nan());
}

#[test]
fn faults_name_the_line_and_what_was_expected() {
    for (text, expected) in [
        ("1x 1", "line 1: expected a metric name, found \"1x\""),
        ("x", "line 1: expected a value after x"),
        ("x abc", "line 1: expected a value after x, found \"abc\""),
        ("x 1 1.5", "line 1: expected a timestamp after the value, found \"1.5\""),
        ("x 1 1 1", "line 1: expected the end of the line, found \"1\""),
        ("x{a=\"1\" 1", "line 1: expected '}' to end the labels of \"x\""),
        ("x{a=\"1} 1", "line 1: expected '}' to end the labels of \"x\""),
        ("x{a} 1", "line 1: expected '=' after label \"a\""),
        ("x{a=1} 1", "line 1: expected a quoted value of label \"a\""),
        ("x{a=\"1\"b=\"2\"} 1", "line 1: expected ',' or '}' after label \"a\""),
        ("x{a=\"1\",a=\"2\"} 1", "line 1: label \"a\" comes twice"),
        ("x{,} 1", "line 1: expected a label name or '}' in \"x{,}\""),
        ("{a=\"1\"} 1", "line 1: expected a metric name before '{'"),
        ("x-y 1", "line 1: expected a blank or '{' after \"x\""),
    ] {
        assert_eq!(one(text), Err(expected.to_owned()), "{text}");
    }
    let results: Vec<_> = parse("a 1\nb c\nd 2", Format::Prometheus).collect();
    assert_eq!(results[1].as_ref().unwrap_err().line, 2);
    assert_eq!(results[2].as_ref().unwrap().value, 2.0);
}

#[test]
fn lines_and_label_sets_are_bounded() {
    let long = format!("x{{a=\"{}\"}} 1", "y".repeat(LINE_BYTES_MAX));
    assert!(one(&long).unwrap_err().contains("longer than"));
    let many: Vec<String> = (0..LABELS_MAX).map(|i| format!("a{i}=\"1\"")).collect();
    let many = many.join(",");
    assert!(one(&format!("x{{{many}}} 1")).unwrap_err().contains("more than"));
}

#[test]
fn no_text_makes_it_panic() {
    const PIECES: [&str; 16] = [
        "x", "{", "}", "\"", "\\", "=", ",", " ", "1", "\n", "#", "NaN", "ä", "a=\"b\"", "\t",
        "# EOF",
    ];
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let text: String =
            (0..random.usize(0..12)).map(|_| PIECES[random.usize(0..PIECES.len())]).collect();
        for format in [Format::Prometheus, Format::OpenMetrics] {
            for sample in parse(&text, format).flatten() {
                let _labels = sample.labels();
                let _exemplar = sample.exemplar.map(|exemplar| exemplar.read());
            }
        }
    }
}

#[test]
fn openmetrics_has_exemplars_and_an_end() {
    let text = "# TYPE x histogram\n# UNIT x seconds\nx_bucket{le=\"1\"} 3 1.5 # {t=\"a#} b\"} 0.5 1.25\ny 1\n# EOF\n";
    let samples: Vec<_> = parse(text, Format::OpenMetrics).map(Result::unwrap).collect();
    assert_eq!(samples[0].timestamp_ms, Some(1500));
    let (labels, value, timestamp_ms) = samples[0].exemplar.unwrap().read().unwrap();
    assert_eq!(
        (&*labels[0].0, &*labels[0].1, value, timestamp_ms),
        ("t", "a#} b", 0.5, Some(1250))
    );
    assert_eq!(samples[1].exemplar, None);
    for (text, expected) in [
        ("x 1\n", "line 2: expected # EOF at the end of an OpenMetrics text"),
        ("# EOF\nx 1\n", "line 2: expected nothing after # EOF"),
    ] {
        let error = parse(text, Format::OpenMetrics).find_map(Result::err).unwrap();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn names_may_be_in_quotes() {
    let text = "{\"my.metric\", \"a b\"=\"1\", c=\"2\"} 5\n";
    let expected = pairs(&[("__name__", "my.metric"), ("a b", "1"), ("c", "2")]);
    assert_eq!(one(text), Ok((expected, 5.0, None)));
}

#[test]
fn statements_name_their_family() {
    let text = "# HELP x a \\\\ b\\nc\n# TYPE x counter\n# a remark\n#\n# TYPE y nonsense\n";
    let mut parser = Parser::new(text, Format::Prometheus);
    let mut next = || parser.next_entry("").transpose().unwrap();
    let Some(Entry::About("x", Statement::Help(help))) = next() else { panic!("a help text") };
    assert_eq!(unescape_help(help), "a \\ b\nc");
    assert_eq!(next(), Some(Entry::About("x", Statement::Kind(MetricKind::Counter))));
    assert_eq!(next(), Some(Entry::About("y", Statement::Kind(MetricKind::Unknown))));
    assert_eq!(next(), None);
}

#[test]
fn an_expected_series_changes_the_speed_and_nothing_else() {
    const LINES: [&str; 12] = [
        "x 1",
        "x{a=\"1\"} 2",
        "x 1.5e3",
        "x 12345678901234567890",
        "x -3",
        "x NaN",
        "x  4",
        "x 5 17",
        "x {b=\"1\"} 6",
        "x",
        "x_y 1",
        "x 1 # {t=\"1\"} 2",
    ];
    for format in [Format::Prometheus, Format::OpenMetrics] {
        for line in LINES {
            for expected in ["x", "x{a=\"1\"}", "x_"] {
                let text = format!("{line}\nz 1\n# EOF\n");
                let read = |expected| {
                    let mut parser = Parser::new(&text, format);
                    let entries = std::iter::from_fn(|| parser.next_entry(expected));
                    entries.map(|entry| format!("{entry:?}")).collect::<Vec<_>>()
                };
                assert_eq!(read(expected), read(""), "{line} with {expected}");
            }
        }
    }
}
