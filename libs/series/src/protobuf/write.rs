//! Writes the format: what a federation hands to those who want native histograms.

use prost::Message as _;

use super::message::{self, Family, Metric, Number, Pair};
use crate::Sample;
use crate::histogram::{HistogramSample, ResetHint, Span};
use crate::labels::{Labels, METRIC_NAME};
use crate::metadata::MetricKind;

/// What a series has at one instant.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    /// A value.
    Sample(Sample),
    /// A native histogram.
    Histogram(&'a HistogramSample),
}

/// Adds a family to `body`: single samples of the type `kind`, or native histograms. Histograms with bounds of their own are left out,
/// because the format has no place for them.
pub fn write_family<'a>(
    body: &mut Vec<u8>,
    name: &str,
    kind: MetricKind,
    points: impl Iterator<Item = (&'a Labels, Point<'a>)>,
) {
    let mut family = Family { name: name.to_owned(), kind: number(kind), ..Family::default() };
    for (labels, point) in points {
        let mut metric = Metric { labels: pairs(labels), ..Metric::default() };
        match point {
            Point::Sample(Sample { timestamp_ms, value }) => {
                let value = Some(Number { value, exemplar: None });
                metric.timestamp_ms = timestamp_ms;
                match kind {
                    MetricKind::Counter => metric.counter = value,
                    MetricKind::Gauge => metric.gauge = value,
                    _ => metric.untyped = value,
                }
            }
            Point::Histogram(sample) if sample.histogram.has_custom_bounds() => continue,
            Point::Histogram(sample) => {
                let gauge = sample.histogram.reset_hint == ResetHint::Gauge;
                family.kind =
                    number(if gauge { MetricKind::GaugeHistogram } else { MetricKind::Histogram });
                metric.timestamp_ms = sample.timestamp_ms;
                metric.histogram = Some(Box::new(histogram(sample)));
            }
        }
        family.metrics.push(metric.encode_to_vec());
    }
    if !family.metrics.is_empty() {
        body.extend(family.encode_length_delimited_to_vec());
    }
}

/// The number of a type; of those that single samples and native histograms have.
fn number(kind: MetricKind) -> i32 {
    match kind {
        MetricKind::Counter => 0,
        MetricKind::Gauge => 1,
        MetricKind::Histogram => 4,
        MetricKind::GaugeHistogram => 5,
        _ => 3,
    }
}

fn pairs(labels: &Labels) -> Vec<Pair> {
    let own = labels.iter().filter(|(name, _)| *name != METRIC_NAME);
    own.map(|(name, value)| Pair { name: name.to_owned(), value: value.to_owned() }).collect()
}

fn histogram(sample: &HistogramSample) -> message::Histogram {
    let histogram = &*sample.histogram;
    let spans = |spans: &[Span]| -> Vec<message::Span> {
        spans
            .iter()
            .map(|span| message::Span { offset: span.offset, length: span.length })
            .collect()
    };
    let mut positive_spans = spans(&histogram.positive_spans);
    if positive_spans.is_empty() && histogram.negative_spans.is_empty() {
        // What tells an empty native histogram from a classic one.
        positive_spans.push(message::Span { offset: 0, length: 0 });
    }
    message::Histogram {
        count_float: histogram.count,
        sum: histogram.sum,
        schema: histogram.schema.into(),
        zero_threshold: histogram.zero_threshold,
        zero_count_float: histogram.zero_count,
        negative_spans: spans(&histogram.negative_spans),
        negative_counts: histogram.negative_counts.clone(),
        positive_spans,
        positive_counts: histogram.positive_counts.clone(),
        ..message::Histogram::default()
    }
}
