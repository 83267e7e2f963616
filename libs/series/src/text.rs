//! The Prometheus text format 0.0.4, read line by line and borrowed from the text.
//!
//! A scrape repeats the same series a thousand times with new values, so a sample comes as the text that names its series and a value;
//! the labels are taken apart only when somebody asks ([`RawSample::labels`]). `OpenMetrics` is accepted as far as it looks the same:
//! `# EOF`, `# UNIT` and exemplars are passed over, and a text that ends in `# EOF` counts its timestamps in seconds.

use std::borrow::Cow;

use crate::METRIC_NAME;

/// Longest line read. The longest honest line holds a help text or some hundred bytes of labels.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most labels of a sample.
pub const LABELS_MAX: usize = 64;

/// A line that does not follow the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Its number, from 1.
    pub line: usize,
    /// What was expected there.
    pub message: String,
}

/// One sample as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawSample<'a> {
    /// Name and labels as written, `name{label="value"}`.
    pub series: &'a str,
    /// The value.
    pub value: f64,
    /// The timestamp, if the line has one, in milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Number of the line, from 1.
    pub line: usize,
}

/// Reads the samples of `text`, in order. After an error the iterator goes on with the next line.
pub fn parse(text: &str) -> Samples<'_> {
    let seconds = text.trim_end().ends_with("# EOF");
    Samples { rest: text, line: 0, seconds }
}

/// The samples of a text; see [`parse`].
#[derive(Debug)]
pub struct Samples<'a> {
    rest: &'a str,
    line: usize,
    seconds: bool,
}

impl<'a> Iterator for Samples<'a> {
    type Item = Result<RawSample<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            self.line += 1;
            if line.len() > LINE_BYTES_MAX {
                let message = format!("longer than {LINE_BYTES_MAX} bytes");
                return Some(Err(ParseError { line: self.line, message }));
            }
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                return Some(self.sample(line));
            }
        }
        None
    }
}

impl<'a> Samples<'a> {
    fn sample(&self, line: &'a str) -> Result<RawSample<'a>, ParseError> {
        let fail = |message: String| ParseError { line: self.line, message };
        let (series, rest) = line.split_at(series_end(line).map_err(&fail)?);
        let series = series.trim_end();
        let mut words = rest.split_ascii_whitespace();
        let word = words.next().ok_or_else(|| fail(format!("expected a value after {series}")))?;
        let value = word
            .parse()
            .map_err(|_| fail(format!("expected a value after {series}, found {word:?}")))?;
        let mut timestamp_ms = None;
        if let Some(word) = words.next().filter(|word| !word.starts_with('#')) {
            let parsed = if self.seconds { seconds_as_ms(word) } else { word.parse().ok() };
            let expected = || fail(format!("expected a timestamp after the value, found {word:?}"));
            timestamp_ms = Some(parsed.ok_or_else(expected)?);
            if let Some(more) = words.next().filter(|word| !word.starts_with('#')) {
                return Err(fail(format!("expected the end of the line, found {more:?}")));
            }
        }
        Ok(RawSample { series, value, timestamp_ms, line: self.line })
    }
}

fn seconds_as_ms(text: &str) -> Option<i64> {
    let seconds: f64 = text.parse().ok()?;
    let ms = (seconds * 1000.0).round();
    #[expect(clippy::cast_possible_truncation, reason = "within 2^53")]
    (ms.abs() < 9e15).then_some(ms as i64)
}

/// Where the name and the labels end.
fn series_end(line: &str) -> Result<usize, String> {
    let bytes = line.as_bytes();
    let name_end = name_end(bytes, 0, true);
    let mut at = name_end + blanks(&bytes[name_end..]);
    if bytes.get(at) != Some(&b'{') {
        if name_end == 0 {
            return Err(format!("expected a metric name, found {:?}", first_word(line)));
        }
        return if name_end < bytes.len() && at == name_end {
            Err(format!("expected a blank or '{{' after {:?}", &line[..name_end]))
        } else {
            Ok(name_end)
        };
    }
    let mut quoted = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(at + 1),
            _ => {}
        }
        at += 1;
    }
    Err(format!("expected '}}' to end the labels of {:?}", &line[..name_end]))
}

fn name_end(bytes: &[u8], from: usize, colons: bool) -> usize {
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        let digit = byte.is_ascii_digit() && at > from;
        if !(byte.is_ascii_alphabetic() || byte == b'_' || digit || (colons && byte == b':')) {
            break;
        }
        at += 1;
    }
    at
}

fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

fn first_word(text: &str) -> &str {
    text.split_ascii_whitespace().next().unwrap_or("")
}

/// A label as written, its value with the escapes resolved.
pub type RawLabel<'a> = (&'a str, Cow<'a, str>);

impl<'a> RawSample<'a> {
    /// Its labels in the order of the text, the metric's name first as `__name__`.
    ///
    /// # Errors
    /// If the labels do not follow the format or there are too many.
    pub fn labels(&self) -> Result<Vec<RawLabel<'a>>, ParseError> {
        self.read_labels().map_err(|message| ParseError { line: self.line, message })
    }

    fn read_labels(&self) -> Result<Vec<RawLabel<'a>>, String> {
        let (name, body) = self.series.split_once('{').unwrap_or((self.series, "}"));
        let name = name.trim_end();
        let mut labels: Vec<RawLabel<'a>> = Vec::new();
        if !name.is_empty() {
            labels.push((METRIC_NAME, Cow::Borrowed(name)));
        }
        let mut rest = body.trim_start();
        while rest != "}" {
            let end = name_end(rest.as_bytes(), 0, false);
            let (label, tail) = rest.split_at(end);
            if label.is_empty() {
                return Err(format!("expected a label name or '}}' in {:?}", self.series));
            }
            let tail = tail.trim_start().strip_prefix('=');
            let tail = tail.ok_or_else(|| format!("expected '=' after label {label:?}"))?;
            let tail = tail.trim_start().strip_prefix('"');
            let tail = tail.ok_or_else(|| format!("expected a quoted value of label {label:?}"))?;
            let (value, tail) = unquote(tail)
                .ok_or_else(|| format!("expected '\"' to end the value of label {label:?}"))?;
            if labels.iter().any(|(known, _)| *known == label) {
                return Err(format!("label {label:?} comes twice"));
            }
            if labels.len() >= LABELS_MAX {
                return Err(format!("more than {LABELS_MAX} labels"));
            }
            labels.push((label, value));
            rest = tail.trim_start();
            match rest.strip_prefix(',') {
                Some(tail) => rest = tail.trim_start(),
                None if rest == "}" => {}
                None => return Err(format!("expected ',' or '}}' after label {label:?}")),
            }
        }
        match labels.first() {
            Some((METRIC_NAME, _)) => Ok(labels),
            _ => Err("expected a metric name before '{'".to_owned()),
        }
    }
}

/// The value up to the closing quote and what follows it. Unknown escapes stay as they are, as in Prometheus.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let plain = text.find(['"', '\\'])?;
    if text.as_bytes()[plain] == b'"' {
        return Some((Cow::Borrowed(&text[..plain]), &text[plain + 1..]));
    }
    let mut value = text[..plain].to_owned();
    let mut chars = text[plain..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), &text[plain + at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "values are exact")]
mod tests {
    use super::*;

    type Read = (Vec<(String, String)>, f64, Option<i64>);

    fn one(text: &str) -> Result<Read, String> {
        let sample = parse(text).next().unwrap().map_err(|error| error.to_string())?;
        let labels = sample.labels().map_err(|error| error.to_string())?;
        let labels = labels.into_iter().map(|(n, v)| (n.to_owned(), v.into_owned())).collect();
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
        let results: Vec<_> = parse("a 1\nb c\nd 2").collect();
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
            for sample in parse(&text).flatten() {
                let _labels = sample.labels();
            }
        }
    }
}
