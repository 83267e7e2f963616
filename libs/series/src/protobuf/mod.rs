//! Prometheus' protobuf exposition, the format that carries native histograms: read from targets, and written for federation.
//!
//! A body is a row of messages, each with its length before it, one for every metric family. What is read is given out as the entries of
//! the text format ([`Entry`]), with the name and the labels of a series written as in that format. So everything behind it (the cache
//! that knows the series by their text, limits, relabelling, metadata, exemplars) is the same for all formats. A way of its own from
//! messages to the store was rejected: it would save the writing of labels for targets that few operators have.
//!
//! As in Prometheus: of a histogram with native buckets the classic ones are left out unless they are asked for; bounds and quantiles are
//! written as `OpenMetrics` writes them (`le="1.0"`); created timestamps are passed over.

mod message;
mod write;

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use prost::Message as _;

use crate::histogram::{Histogram, ResetHint, Span};
use crate::labels::is_metric_name;
use crate::metadata::MetricKind;
use crate::text::{Entries, Entry, ParseError, RawExemplar, RawSample, Statement};
pub use write::{Point, write_family};

use message::{Exemplar, Family, Metric, Pair};

/// The content type of what is read and written here.
pub const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// Largest metric: a histogram of 20,000 buckets, the most that is stored, has about a third of this.
const METRIC_BYTES_MAX: usize = 1024 * 1024;
/// Texts of all series together. A message of two bytes may stand for a name of many; half a million series of a usual length fit.
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Statements, samples and exemplars of a body.
const ITEMS_MAX: usize = 2_000_000;

/// Whether a body with this content type is to be read here.
///
/// # Errors
/// If it is protobuf of another kind.
pub fn is_protobuf(content_type: &str) -> Result<bool, String> {
    let mut parts = content_type.split(';').map(str::trim);
    if !parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/vnd.google.protobuf"))
    {
        return Ok(false);
    }
    for part in parts {
        let wanted = match part.split_once('=') {
            Some(("proto", value)) => value == "io.prometheus.client.MetricFamily",
            Some(("encoding", value)) => value == "delimited",
            _ => true,
        };
        if !wanted {
            return Err(format!("expected {CONTENT_TYPE}, found {part}"));
        }
    }
    Ok(true)
}

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The length before a message is wrong, or the message is.
    #[error("metric family {number} cannot be read")]
    Family {
        /// Its number, from 1.
        number: usize,
        /// The cause.
        #[source]
        source: prost::DecodeError,
    },
    /// The length before a message says more than there is.
    #[error("metric family {number} ends in the middle")]
    Torn {
        /// Its number, from 1.
        number: usize,
    },
    /// A metric within a family is wrong.
    #[error("a metric of {family:?} cannot be read")]
    Metric {
        /// The family.
        family: String,
        /// The cause.
        #[source]
        source: prost::DecodeError,
    },
    /// A metric is larger than any honest one.
    #[error("a metric of {family:?} has {found} bytes, more than {METRIC_BYTES_MAX}")]
    MetricTooLarge {
        /// The family.
        family: String,
        /// Its size.
        found: usize,
    },
    /// It stands for more than is stored of one scrape.
    #[error("more than {TEXT_BYTES_MAX} bytes of series or {ITEMS_MAX} entries")]
    TooLarge,
}

/// Where a text stands in [`Families::texts`].
type Place = Range<usize>;

#[derive(Debug)]
enum Item {
    Kind(Place, MetricKind),
    Help(Place, Place),
    Unit(Place, Place),
    Sample { series: Place, value: f64, timestamp_ms: Option<i64> },
    Histogram { series: Place, histogram: Arc<Histogram>, timestamp_ms: Option<i64> },
    Exemplar(Place),
}

/// What a body says, ready to be given out.
#[derive(Debug, Default)]
pub struct Families {
    texts: String,
    items: Vec<Item>,
}

impl Families {
    /// Reads `body`. With `classic` the classic buckets of histograms that have native ones are given out too.
    ///
    /// # Errors
    /// If it is not made of messages, or stands for too much.
    pub fn read(body: &[u8], classic: bool) -> Result<Self, ProtobufError> {
        let mut own = Self::default();
        let (mut rest, mut number) = (body, 0);
        while !rest.is_empty() {
            number += 1;
            let failed = |source| ProtobufError::Family { number, source };
            let length = prost::decode_length_delimiter(&mut rest).map_err(failed)?;
            let message = rest.split_off(..length).ok_or(ProtobufError::Torn { number })?;
            own.family(&Family::decode(message).map_err(failed)?, classic)?;
        }
        Ok(own)
    }

    /// What was read, in order.
    pub fn entries(&self) -> FamilyEntries<'_> {
        FamilyEntries { families: self, at: 0 }
    }

    fn write(&mut self, write: impl FnOnce(&mut String)) -> Place {
        let start = self.texts.len();
        write(&mut self.texts);
        start..self.texts.len()
    }

    fn push(&mut self, item: Item) -> Result<(), ProtobufError> {
        if self.texts.len() > TEXT_BYTES_MAX || self.items.len() >= ITEMS_MAX {
            return Err(ProtobufError::TooLarge);
        }
        self.items.push(item);
        Ok(())
    }

    fn family(&mut self, family: &Family, classic: bool) -> Result<(), ProtobufError> {
        let name = self.write(|text| text.push_str(&family.name));
        self.push(Item::Kind(name.clone(), kind(family.kind)))?;
        if let Some(help) = family.help.as_ref().filter(|help| !help.is_empty()) {
            // A help text is taken for one with escapes, as in the text format.
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let help = self.write(|text| text.push_str(&help));
            self.push(Item::Help(name.clone(), help))?;
        }
        if let Some(unit) = family.unit.as_ref().filter(|unit| !unit.is_empty()) {
            let unit = self.write(|text| text.push_str(unit));
            self.push(Item::Unit(name, unit))?;
        }
        for metric in &family.metrics {
            let (family_name, found) = (|| family.name.clone(), metric.len());
            if found > METRIC_BYTES_MAX {
                return Err(ProtobufError::MetricTooLarge { family: family_name(), found });
            }
            let failed = |source| ProtobufError::Metric { family: family_name(), source };
            let metric = Metric::decode(metric.as_slice()).map_err(failed)?;
            self.metric(family, &metric, classic)?;
        }
        Ok(())
    }

    fn metric(
        &mut self,
        family: &Family,
        metric: &Metric,
        classic: bool,
    ) -> Result<(), ProtobufError> {
        let name = family.name.as_str();
        if let Some(counter) = &metric.counter {
            self.sample(name, metric, None, counter.value)?;
            return self.exemplar(counter.exemplar.as_deref());
        }
        if let Some(number) = metric.gauge.as_ref().or(metric.untyped.as_ref()) {
            return self.sample(name, metric, None, number.value);
        }
        if let Some(summary) = &metric.summary {
            for quantile in &summary.quantiles {
                let bound = float(quantile.quantile);
                let label = ("quantile", bound.as_str());
                self.sample(name, metric, Some(label), quantile.value)?;
            }
            self.sample(&format!("{name}_sum"), metric, None, summary.sum)?;
            return self.sample(&format!("{name}_count"), metric, None, summary.count as f64);
        }
        match &metric.histogram {
            Some(histogram) => self.histogram(family, metric, histogram, classic),
            None => Ok(()),
        }
    }

    fn histogram(
        &mut self,
        family: &Family,
        metric: &Metric,
        histogram: &message::Histogram,
        classic: bool,
    ) -> Result<(), ProtobufError> {
        let name = family.name.as_str();
        let gauge = kind(family.kind) == MetricKind::GaugeHistogram;
        let native = native(histogram, gauge);
        let has_native = native.is_some();
        if let Some(native) = native {
            let series = self.series(name, metric, None);
            let (histogram_of, timestamp_ms) = (Arc::new(native), timestamp(metric));
            self.push(Item::Histogram { series, histogram: histogram_of, timestamp_ms })?;
            for exemplar in &histogram.exemplars {
                self.exemplar(Some(exemplar))?;
            }
        }
        if has_native && !classic {
            return Ok(());
        }
        let (bucket, mut infinite) = (format!("{name}_bucket"), false);
        for part in &histogram.buckets {
            infinite |= part.upper_bound == f64::INFINITY;
            let count = either(part.count, part.count_float);
            self.sample(&bucket, metric, Some(("le", &float(part.upper_bound))), count)?;
            self.exemplar(part.exemplar.as_deref())?;
        }
        let count = either(histogram.count, histogram.count_float);
        if !infinite {
            self.sample(&bucket, metric, Some(("le", &float(f64::INFINITY))), count)?;
        }
        self.sample(&format!("{name}_sum"), metric, None, histogram.sum)?;
        self.sample(&format!("{name}_count"), metric, None, count)
    }

    fn sample(
        &mut self,
        name: &str,
        metric: &Metric,
        more: Option<(&str, &str)>,
        value: f64,
    ) -> Result<(), ProtobufError> {
        let series = self.series(name, metric, more);
        self.push(Item::Sample { series, value, timestamp_ms: timestamp(metric) })
    }

    fn exemplar(&mut self, exemplar: Option<&Exemplar>) -> Result<(), ProtobufError> {
        let Some(exemplar) = exemplar else { return Ok(()) };
        let place = self.write(|text| {
            labels(text, None, pairs(&exemplar.labels));
            let value = exemplar.value;
            write!(text, " {value:?}").expect("writing to a string cannot fail");
            if let Some(time) = exemplar.timestamp {
                let seconds = time.seconds as f64 + f64::from(time.nanos) / 1e9;
                write!(text, " {seconds:?}").expect("writing to a string cannot fail");
            }
        });
        self.push(Item::Exemplar(place))
    }

    /// Name and labels of a series as the text format writes them.
    fn series(&mut self, name: &str, metric: &Metric, more: Option<(&str, &str)>) -> Place {
        let plain = is_metric_name(name);
        let has_labels = !metric.labels.is_empty() || more.is_some();
        self.write(|text| {
            if plain {
                text.push_str(name);
            }
            if has_labels || !plain {
                labels(text, (!plain).then_some(name), pairs(&metric.labels).chain(more));
            }
        })
    }
}

/// Gives out what was read.
#[derive(Debug)]
pub struct FamilyEntries<'a> {
    families: &'a Families,
    at: usize,
}

impl<'a> Entries<'a> for FamilyEntries<'a> {
    fn next_entry(&mut self, _expected: &str) -> Option<Result<Entry<'a>, ParseError>> {
        let item = self.families.items.get(self.at)?;
        self.at += 1;
        let (texts, line) = (&self.families.texts, self.at);
        let text = |place: &Place| &texts[place.clone()];
        Some(Ok(match item {
            Item::Kind(family, kind) => Entry::About(text(family), Statement::Kind(*kind)),
            Item::Help(family, help) => Entry::About(text(family), Statement::Help(text(help))),
            Item::Unit(family, unit) => Entry::About(text(family), Statement::Unit(text(unit))),
            Item::Exemplar(place) => Entry::Exemplar(RawExemplar::new(text(place), line)),
            Item::Sample { series, value, timestamp_ms } => Entry::Sample(RawSample {
                series: text(series),
                value: *value,
                timestamp_ms: *timestamp_ms,
                exemplar: None,
                line,
            }),
            Item::Histogram { series, histogram, timestamp_ms } => Entry::Histogram(
                RawSample {
                    series: text(series),
                    value: histogram.sum,
                    timestamp_ms: *timestamp_ms,
                    exemplar: None,
                    line,
                },
                histogram,
            ),
        }))
    }
}

fn kind(number: i32) -> MetricKind {
    match number {
        0 => MetricKind::Counter,
        1 => MetricKind::Gauge,
        2 => MetricKind::Summary,
        4 => MetricKind::Histogram,
        5 => MetricKind::GaugeHistogram,
        _ => MetricKind::Unknown,
    }
}

fn timestamp(metric: &Metric) -> Option<i64> {
    (metric.timestamp_ms != 0).then_some(metric.timestamp_ms)
}

/// An integer, or a float in its place.
fn either(count: u64, float: f64) -> f64 {
    if float > 0.0 { float } else { count as f64 }
}

/// The native side of a histogram, if it has one: one without observations has a threshold or a span, so that it is known as one.
fn native(histogram: &message::Histogram, gauge: bool) -> Option<Histogram> {
    let is_native = histogram.zero_threshold > 0.0
        || histogram.zero_count > 0
        || histogram.zero_count_float > 0.0
        || !histogram.positive_spans.is_empty()
        || !histogram.negative_spans.is_empty();
    let spans = |spans: &[message::Span]| {
        // A span of no length at offset 0 is how a client marks an empty native histogram.
        let used = spans.iter().filter(|span| span.length > 0 || span.offset != 0);
        used.map(|span| Span { offset: span.offset, length: span.length }).collect()
    };
    is_native.then(|| Histogram {
        reset_hint: if gauge { ResetHint::Gauge } else { ResetHint::Unknown },
        // A schema that does not fit is none, and refused by the store.
        schema: i8::try_from(histogram.schema).unwrap_or(i8::MAX),
        zero_threshold: histogram.zero_threshold,
        zero_count: either(histogram.zero_count, histogram.zero_count_float),
        count: either(histogram.count, histogram.count_float),
        sum: histogram.sum,
        positive_spans: spans(&histogram.positive_spans),
        positive_counts: Histogram::counts(&histogram.positive_deltas, &histogram.positive_counts),
        negative_spans: spans(&histogram.negative_spans),
        negative_counts: Histogram::counts(&histogram.negative_deltas, &histogram.negative_counts),
        custom_bounds: Vec::new(),
    })
}

fn pairs(pairs: &[Pair]) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|pair| (pair.name.as_str(), pair.value.as_str()))
}

/// `{name="value",…}`; `metric` is a name that has to be quoted and so stands among them.
fn labels<'a>(
    text: &mut String,
    metric: Option<&str>,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) {
    text.push('{');
    if let Some(metric) = metric {
        quoted(text, metric);
    }
    for (at, (name, value)) in pairs.enumerate() {
        if at > 0 || metric.is_some() {
            text.push(',');
        }
        if crate::is_label_name(name) {
            text.push_str(name);
        } else {
            quoted(text, name);
        }
        text.push('=');
        quoted(text, value);
    }
    text.push('}');
}

fn quoted(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

/// A bound or a quantile as `OpenMetrics` writes it: as Go prints a number, and with a decimal point in any case.
fn float(value: f64) -> String {
    if !value.is_finite() {
        let word = if value.is_nan() { "NaN" } else { "Inf" };
        let sign = if value.is_nan() { "" } else { ["+", "-"][usize::from(value < 0.0)] };
        return format!("{sign}{word}");
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests;
