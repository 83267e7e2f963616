//! Parser of the Prometheus text format 0.0.4 and of `OpenMetrics` 1.0.
//!
//! It borrows everything from the text: a line costs no allocation, and the labels of a series are taken apart and their escapes
//! resolved only when somebody asks ([`RawSample::labels`]). Who scrapes the same target again knows which series comes next and says
//! so ([`Entries::next_entry`]): then the name and the labels cost one comparison instead of a scan. Rejected: a grammar library, because
//! lines are regular and the speed of this loop is what a scrape costs.
//!
//! As in Prometheus, faults in samples fail the text; remarks are passed over. What a target says about its metrics never costs a
//! sample: an unknown type counts as not said.

mod series;

use std::sync::Arc;

use crate::histogram::Histogram;
use crate::metadata::MetricKind;
pub use series::{LABELS_MAX, RawLabel};

/// Longest line read. The longest honest line holds a help text or some hundred bytes of labels.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Digits of a whole number that a double holds exactly whatever they are.
const EXACT_DIGITS: usize = 15;

/// The dialect of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus text format 0.0.4: timestamps in milliseconds.
    #[default]
    Prometheus,
    /// `OpenMetrics` 1.0: timestamps in seconds, exemplars, `# EOF` at the end.
    OpenMetrics,
}

impl Format {
    /// By the header `Content-Type`; whatever is not `OpenMetrics` is read as the older format.
    pub fn of_content_type(value: &str) -> Self {
        let kind = value.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }
}

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
    /// The exemplar, if the line has one.
    pub exemplar: Option<RawExemplar<'a>>,
    /// Number of the line, from 1.
    pub line: usize,
}

/// An exemplar as it stands in the text, `{label="value"} 0.5 1700000000.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawExemplar<'a> {
    text: &'a str,
    line: usize,
}

/// Labels, value and timestamp in milliseconds of an exemplar.
pub type ReadExemplar<'a> = (Vec<RawLabel<'a>>, f64, Option<i64>);

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Entry<'a> {
    /// A value.
    Sample(RawSample<'a>),
    /// A native histogram in place of a value; only in protobuf.
    Histogram(RawSample<'a>, &'a Arc<Histogram>),
    /// An exemplar of the sample or histogram before; only in protobuf, where there may be several.
    Exemplar(RawExemplar<'a>),
    /// Something about the metric family of this name.
    About(&'a str, Statement<'a>),
}

/// What is said about a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Statement<'a> {
    /// Its type.
    Kind(MetricKind),
    /// What it means; escapes as written, see [`unescape_help`].
    Help(&'a str),
    /// Its unit.
    Unit(&'a str),
}

/// Something that gives out entries, whatever the format.
pub trait Entries<'a> {
    /// The next entry. `expected` is the series it is likely about, as [`RawSample::series`] gave it before; empty if nothing is known.
    /// After an error it goes on with the next one.
    fn next_entry(&mut self, expected: &str) -> Option<Result<Entry<'a>, ParseError>>;
}

/// Reads the samples of `text`, in order. After an error the iterator goes on with the next line.
pub fn parse(
    text: &str,
    format: Format,
) -> impl Iterator<Item = Result<RawSample<'_>, ParseError>> {
    let mut parser = Parser::new(text, format);
    std::iter::from_fn(move || {
        loop {
            match parser.next_entry("")? {
                Ok(Entry::Sample(sample)) => return Some(Ok(sample)),
                Ok(Entry::About(..) | Entry::Histogram(..) | Entry::Exemplar(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

/// Reads a text line by line.
#[derive(Debug)]
pub struct Parser<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    format: Format,
    /// `# EOF` was read, or its absence was reported.
    ended: bool,
}

impl<'a> Parser<'a> {
    /// A parser of `text`.
    pub fn new(text: &'a str, format: Format) -> Self {
        Self { text, at: 0, line: 0, format, ended: false }
    }
}

impl<'a> Entries<'a> for Parser<'a> {
    fn next_entry(&mut self, expected: &str) -> Option<Result<Entry<'a>, ParseError>> {
        loop {
            let rest = &self.text[self.at..];
            if let Some(sample) = self.quick(rest, expected) {
                return Some(Ok(Entry::Sample(sample)));
            }
            if rest.is_empty() {
                return self.end();
            }
            let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            self.at = (self.at + end + 1).min(self.text.len());
            self.line += 1;
            if end > LINE_BYTES_MAX {
                return Some(Err(self.fault(format!("longer than {LINE_BYTES_MAX} bytes"))));
            }
            let line = rest[..end].trim();
            let remark = line.strip_prefix('#');
            if self.ended && !line.is_empty() {
                return Some(Err(self.fault("expected nothing after # EOF".to_owned())));
            }
            match remark {
                Some("" | " EOF") if self.format == Format::OpenMetrics => {
                    self.ended |= line == "# EOF";
                }
                Some(remark) => {
                    if let Some((family, statement)) = statement(remark) {
                        return Some(Ok(Entry::About(family, statement)));
                    }
                }
                None if line.is_empty() => {}
                None => {
                    return Some(self.sample(line).map(Entry::Sample).map_err(|m| self.fault(m)));
                }
            }
        }
    }
}

impl<'a> Parser<'a> {
    fn fault(&self, message: String) -> ParseError {
        ParseError { line: self.line, message }
    }

    fn end(&mut self) -> Option<Result<Entry<'a>, ParseError>> {
        if self.format != Format::OpenMetrics || self.ended {
            return None;
        }
        self.ended = true;
        self.line += 1;
        Some(Err(self.fault("expected # EOF at the end of an OpenMetrics text".to_owned())))
    }

    /// The line of most samples of most scrapes: the series expected, one blank, a whole number.
    fn quick(&mut self, rest: &'a str, expected: &str) -> Option<RawSample<'a>> {
        if expected.is_empty() || self.ended || !rest.starts_with(expected) {
            return None;
        }
        let bytes = rest.as_bytes();
        let start = expected.len() + 1;
        if bytes.get(start - 1) != Some(&b' ') {
            return None;
        }
        let digits = &bytes[start..bytes.len().min(start + EXACT_DIGITS + 1)];
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value = if count > 0 && digits.get(count) == Some(&b'\n') {
            let number =
                digits[..count].iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            self.at += start + count + 1;
            number as f64
        } else {
            let end = memchr::memchr(b'\n', &bytes[start..])?;
            // A timestamp, an exemplar or blanks around are no number, and go the long way.
            if start + end > LINE_BYTES_MAX {
                return None;
            }
            let value = number(&rest[start..start + end])?;
            self.at += start + end + 1;
            value
        };
        self.line += 1;
        let series = &rest[..expected.len()];
        Some(RawSample { series, value, timestamp_ms: None, exemplar: None, line: self.line })
    }

    fn sample(&self, line: &'a str) -> Result<RawSample<'a>, String> {
        let (series, rest) = line.split_at(series::end(line)?);
        let series = series.trim_end();
        let (rest, exemplar) = match self.format {
            Format::Prometheus => (rest, None),
            Format::OpenMetrics => rest.split_once('#').map_or((rest, None), |(rest, text)| {
                (rest, Some(RawExemplar { text: text.trim(), line: self.line }))
            }),
        };
        let mut words = rest.split_ascii_whitespace();
        let word = words.next().ok_or_else(|| format!("expected a value after {series}"))?;
        let value = number(word)
            .ok_or_else(|| format!("expected a value after {series}, found {word:?}"))?;
        let timestamp_ms = words.next().map(|word| {
            let parsed = match self.format {
                Format::Prometheus => word.parse().ok(),
                Format::OpenMetrics => seconds_as_ms(word),
            };
            parsed.ok_or_else(|| format!("expected a timestamp after the value, found {word:?}"))
        });
        if let Some(more) = words.next() {
            return Err(format!("expected the end of the line, found {more:?}"));
        }
        let timestamp_ms = timestamp_ms.transpose()?;
        Ok(RawSample { series, value, timestamp_ms, exemplar, line: self.line })
    }
}

/// A value. Words for infinity and "not a number" in any case, as in Prometheus.
fn number(word: &str) -> Option<f64> {
    word.parse().ok()
}

fn seconds_as_ms(text: &str) -> Option<i64> {
    let seconds: f64 = text.parse().ok()?;
    let ms = (seconds * 1000.0).round();
    #[expect(clippy::cast_possible_truncation, reason = "within 2^53")]
    (ms.abs() < 9e15).then_some(ms as i64)
}

/// The statement in a remark, if there is one.
fn statement(remark: &str) -> Option<(&str, Statement<'_>)> {
    let (keyword, rest) = remark.trim_start().split_once([' ', '\t'])?;
    let rest = rest.trim_start();
    let (family, text) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let statement = match keyword {
        "TYPE" => Statement::Kind(MetricKind::from_name(text.trim())),
        "HELP" => Statement::Help(text),
        "UNIT" => Statement::Unit(text.trim()),
        _ => return None,
    };
    Some((family.trim_matches('"'), statement))
}

/// A help text with its escapes resolved.
pub fn unescape_help(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => result.push('\n'),
                Some(escaped @ ('\\' | '"')) => result.push(escaped),
                Some(other) => result.extend(['\\', other]),
                None => result.push('\\'),
            },
            c => result.push(c),
        }
    }
    result
}

impl<'a> RawSample<'a> {
    /// Its labels in the order of the text, the metric's name first as `__name__`.
    ///
    /// # Errors
    /// If the labels do not follow the format or there are too many.
    pub fn labels(&self) -> Result<Vec<RawLabel<'a>>, ParseError> {
        series::labels(self.series).map_err(|message| ParseError { line: self.line, message })
    }
}

impl<'a> RawExemplar<'a> {
    /// An exemplar whose text was put together from another format.
    pub(crate) fn new(text: &'a str, line: usize) -> Self {
        Self { text, line }
    }

    /// Its labels, its value and its timestamp in milliseconds, if it has one.
    ///
    /// # Errors
    /// If it does not follow the format.
    pub fn read(&self) -> Result<ReadExemplar<'a>, ParseError> {
        self.take_apart().map_err(|message| ParseError { line: self.line, message })
    }

    fn take_apart(&self) -> Result<ReadExemplar<'a>, String> {
        let fail = || format!("expected an exemplar {{…}} after '#', found {:?}", self.text);
        let end = self.text.starts_with('{').then(|| series::labels_end(self.text.as_bytes(), 0));
        let end = end.flatten().ok_or_else(fail)?;
        let mut labels = Vec::new();
        series::pairs(&self.text[1..end], self.text, &mut labels)?;
        let mut words = self.text[end..].split_ascii_whitespace();
        let value = words.next().and_then(number).ok_or_else(fail)?;
        let timestamp_ms = words.next().map(|word| seconds_as_ms(word).ok_or_else(fail));
        if words.next().is_some() {
            return Err(fail());
        }
        Ok((labels, value, timestamp_ms.transpose()?))
    }
}

#[cfg(test)]
mod tests;
