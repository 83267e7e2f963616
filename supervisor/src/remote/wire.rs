//! The messages of remote write 1.0: protobuf, compressed as one snappy block.
//!
//! Declared by hand because they are few and never change; generating them would need a compiler for protobuf in every build. Field
//! numbers: Prometheus' `prompb/remote.proto` and `prompb/types.proto`.

use std::sync::Arc;

use holdfast_series::{
    Exemplar as StoredExemplar, Histogram as StoredHistogram, HistogramSample,
    Label as StoredLabel, Labels, ResetHint, Sample as StoredSample, Span,
};
use prost::Message;

/// Largest request after decompression. Prometheus sends some hundred KiB.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) timeseries: Vec<TimeSeries>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) metadata: Vec<MetricMetadata>,
}

/// One series with some of its samples.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub(crate) labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) exemplars: Vec<Exemplar>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) histograms: Vec<Histogram>,
}

/// A label.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// A sample.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(double, tag = "1")]
    pub(crate) value: f64,
    #[prost(int64, tag = "2")]
    pub(crate) timestamp: i64,
}

/// An exemplar.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    pub(crate) labels: Vec<Label>,
    #[prost(double, tag = "2")]
    pub(crate) value: f64,
    #[prost(int64, tag = "3")]
    pub(crate) timestamp: i64,
}

/// A native histogram; counts are integers with deltas, or floats.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Histogram {
    #[prost(oneof = "Count", tags = "1, 2")]
    pub(crate) count: Option<Count>,
    #[prost(double, tag = "3")]
    pub(crate) sum: f64,
    #[prost(sint32, tag = "4")]
    pub(crate) schema: i32,
    #[prost(double, tag = "5")]
    pub(crate) zero_threshold: f64,
    #[prost(oneof = "ZeroCount", tags = "6, 7")]
    pub(crate) zero_count: Option<ZeroCount>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) negative_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "9")]
    pub(crate) negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    pub(crate) negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    pub(crate) positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    pub(crate) positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub(crate) reset_hint: i32,
    #[prost(int64, tag = "15")]
    pub(crate) timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    pub(crate) custom_values: Vec<f64>,
}

/// All observations.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub(crate) enum Count {
    #[prost(uint64, tag = "1")]
    Integer(u64),
    #[prost(double, tag = "2")]
    Float(f64),
}

/// Observations around zero.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub(crate) enum ZeroCount {
    #[prost(uint64, tag = "6")]
    Integer(u64),
    #[prost(double, tag = "7")]
    Float(f64),
}

/// A run of buckets.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BucketSpan {
    #[prost(sint32, tag = "1")]
    pub(crate) offset: i32,
    #[prost(uint32, tag = "2")]
    pub(crate) length: u32,
}

/// What is said about a metric family.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricMetadata {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "2")]
    pub(crate) metric_family_name: String,
    #[prost(string, tag = "4")]
    pub(crate) help: String,
    #[prost(string, tag = "5")]
    pub(crate) unit: String,
}

/// The kinds in the order of their numbers, by the names that expositions use.
const KINDS: [&str; 8] =
    ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"];

impl MetricMetadata {
    /// The kind's name.
    pub(crate) fn kind_name(&self) -> &'static str {
        usize::try_from(self.kind).ok().and_then(|at| KINDS.get(at)).unwrap_or(&KINDS[0])
    }
}

/// A body that is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// It is not a snappy block, or too large a one.
    #[error("the body is not a snappy block of at most {REQUEST_BYTES_MAX} bytes")]
    Snappy,
    /// It is not the message.
    #[error("the body is no such request")]
    Message(#[source] prost::DecodeError),
}

impl WriteRequest {
    /// As it goes over the network.
    pub(crate) fn to_body(&self) -> Vec<u8> {
        pack(&self.encode_to_vec())
    }

    /// Reads a body.
    ///
    /// # Errors
    /// What it is not.
    pub(crate) fn from_body(body: &[u8]) -> Result<Self, WireError> {
        Self::decode(unpack(body)?.as_slice()).map_err(WireError::Message)
    }

    /// Samples and histograms in it.
    pub(crate) fn samples(&self) -> usize {
        self.timeseries.iter().map(|series| series.samples.len() + series.histograms.len()).sum()
    }
}

/// A message as a snappy block.
pub(crate) fn pack(message: &[u8]) -> Vec<u8> {
    // Fails only for more than 4 GiB.
    snap::raw::Encoder::new().compress_vec(message).unwrap_or_default()
}

/// The message in a snappy block.
///
/// # Errors
/// If it is none, or larger than any honest one.
pub(crate) fn unpack(body: &[u8]) -> Result<Vec<u8>, WireError> {
    let length = snap::raw::decompress_len(body).map_err(|_| WireError::Snappy)?;
    if length > REQUEST_BYTES_MAX {
        return Err(WireError::Snappy);
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(|_| WireError::Snappy)
}

/// Labels as a message.
pub(crate) fn from_labels(labels: &Labels) -> Vec<Label> {
    let label = |(name, value): (&str, &str)| Label { name: name.into(), value: value.into() };
    labels.iter().map(label).collect()
}

/// Labels of a message.
pub(crate) fn to_labels(labels: &[Label]) -> Labels {
    let label = |label: &Label| StoredLabel::new(label.name.as_str(), label.value.as_str());
    Labels::from_labels(labels.iter().map(label).collect())
}

impl From<StoredSample> for Sample {
    fn from(sample: StoredSample) -> Self {
        Self { value: sample.value, timestamp: sample.timestamp_ms }
    }
}

impl From<Sample> for StoredSample {
    fn from(sample: Sample) -> Self {
        Self { timestamp_ms: sample.timestamp, value: sample.value }
    }
}

impl From<&Exemplar> for StoredExemplar {
    fn from(exemplar: &Exemplar) -> Self {
        let labels = to_labels(&exemplar.labels);
        Self { labels, value: exemplar.value, timestamp_ms: exemplar.timestamp }
    }
}

impl From<&StoredExemplar> for Exemplar {
    fn from(exemplar: &StoredExemplar) -> Self {
        let labels = from_labels(&exemplar.labels);
        Self { labels, value: exemplar.value, timestamp: exemplar.timestamp_ms }
    }
}

fn from_spans(spans: &[Span]) -> Vec<BucketSpan> {
    spans.iter().map(|span| BucketSpan { offset: span.offset, length: span.length }).collect()
}

fn to_spans(spans: &[BucketSpan]) -> Vec<Span> {
    spans.iter().map(|span| Span { offset: span.offset, length: span.length }).collect()
}

impl From<&HistogramSample> for Histogram {
    fn from(sample: &HistogramSample) -> Self {
        let histogram = &*sample.histogram;
        Self {
            count: Some(Count::Float(histogram.count)),
            sum: histogram.sum,
            schema: histogram.schema.into(),
            zero_threshold: histogram.zero_threshold,
            zero_count: Some(ZeroCount::Float(histogram.zero_count)),
            negative_spans: from_spans(&histogram.negative_spans),
            negative_deltas: Vec::new(),
            negative_counts: histogram.negative_counts.clone(),
            positive_spans: from_spans(&histogram.positive_spans),
            positive_deltas: Vec::new(),
            positive_counts: histogram.positive_counts.clone(),
            reset_hint: match histogram.reset_hint {
                ResetHint::Unknown => 0,
                ResetHint::Reset => 1,
                ResetHint::NotReset => 2,
                ResetHint::Gauge => 3,
            },
            timestamp: sample.timestamp_ms,
            custom_values: histogram.custom_bounds.clone(),
        }
    }
}

impl From<&Histogram> for HistogramSample {
    fn from(histogram: &Histogram) -> Self {
        let stored = StoredHistogram {
            reset_hint: match histogram.reset_hint {
                1 => ResetHint::Reset,
                2 => ResetHint::NotReset,
                3 => ResetHint::Gauge,
                _ => ResetHint::Unknown,
            },
            // A schema that does not fit is none, and refused by the store.
            schema: i8::try_from(histogram.schema).unwrap_or(i8::MAX),
            zero_threshold: histogram.zero_threshold,
            zero_count: match histogram.zero_count {
                Some(ZeroCount::Integer(count)) => count as f64,
                Some(ZeroCount::Float(count)) => count,
                None => 0.0,
            },
            count: match histogram.count {
                Some(Count::Integer(count)) => count as f64,
                Some(Count::Float(count)) => count,
                None => 0.0,
            },
            sum: histogram.sum,
            positive_spans: to_spans(&histogram.positive_spans),
            positive_counts: StoredHistogram::counts(
                &histogram.positive_deltas,
                &histogram.positive_counts,
            ),
            negative_spans: to_spans(&histogram.negative_spans),
            negative_counts: StoredHistogram::counts(
                &histogram.negative_deltas,
                &histogram.negative_counts,
            ),
            custom_bounds: histogram.custom_values.clone(),
        };
        Self { timestamp_ms: histogram.timestamp, histogram: Arc::new(stored) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was() {
        let histogram = StoredHistogram {
            reset_hint: ResetHint::NotReset,
            schema: 3,
            zero_threshold: 1e-128,
            zero_count: 2.0,
            count: 7.0,
            sum: 12.5,
            positive_spans: vec![Span { offset: -2, length: 2 }, Span { offset: 3, length: 1 }],
            positive_counts: vec![1.0, 3.0, 1.0],
            ..StoredHistogram::default()
        };
        let sample = HistogramSample { timestamp_ms: 7, histogram: Arc::new(histogram) };
        let labels = Labels::from_pairs([("__name__", "m"), ("a", "ä\n")]);
        let request = WriteRequest {
            timeseries: vec![TimeSeries {
                labels: from_labels(&labels),
                samples: vec![Sample { value: f64::INFINITY, timestamp: -5 }],
                exemplars: Vec::new(),
                histograms: vec![Histogram::from(&sample)],
            }],
            metadata: Vec::new(),
        };
        let read = WriteRequest::from_body(&request.to_body()).unwrap();
        assert_eq!(read, request);
        assert_eq!(read.samples(), 2);
        assert_eq!(to_labels(&read.timeseries[0].labels), labels);
        assert_eq!(HistogramSample::from(&read.timeseries[0].histograms[0]), sample);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(matches!(WriteRequest::from_body(b"hello"), Err(WireError::Snappy)));
        let block = snap::raw::Encoder::new().compress_vec(b"\xff\xff\xff").unwrap();
        assert!(matches!(WriteRequest::from_body(&block), Err(WireError::Message(_))));
        // A block that says it is 4 GiB long.
        assert!(matches!(
            WriteRequest::from_body(b"\xff\xff\xff\xff\x0f\x00"),
            Err(WireError::Snappy)
        ));
    }
}
