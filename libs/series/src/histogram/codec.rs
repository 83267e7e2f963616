//! Native histograms as bytes: in the log, in blocks, and packed in memory.

use std::sync::Arc;

use super::{Histogram, HistogramSample, ResetHint, Span};
use crate::codec::{Reader, compress, expand, put_float, put_len, put_signed, put_varint};

/// Several histograms as one compressed piece. Neighbours in time differ in few buckets, so a general compressor finds most of it.
pub(crate) fn pack(histograms: &[HistogramSample]) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    put_len(&mut raw, histograms.len());
    for sample in histograms {
        put(&mut raw, sample);
    }
    compress(&raw)
}

/// Adds those of `bytes` from `start_ms` to `end_ms`, both included, to `into`; `None` if they make no sense.
pub(crate) fn unpack(
    bytes: &[u8],
    start_ms: i64,
    end_ms: i64,
    into: &mut Vec<HistogramSample>,
) -> Option<()> {
    let raw = expand(bytes)?;
    let mut reader = Reader::new(&raw);
    for _ in 0..reader.count()? {
        let sample = read(&mut reader)?;
        if (start_ms..=end_ms).contains(&sample.timestamp_ms) {
            into.push(sample);
        }
    }
    Some(())
}

/// Appends a histogram with its time to `out`.
pub(crate) fn put(out: &mut Vec<u8>, sample: &HistogramSample) {
    let histogram = &*sample.histogram;
    put_signed(out, sample.timestamp_ms);
    out.push(match histogram.reset_hint {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    });
    put_signed(out, histogram.schema.into());
    for value in [histogram.zero_threshold, histogram.zero_count, histogram.count, histogram.sum] {
        put_float(out, value);
    }
    for spans in [&histogram.positive_spans, &histogram.negative_spans] {
        put_len(out, spans.len());
        for span in spans {
            put_signed(out, span.offset.into());
            put_varint(out, span.length.into());
        }
    }
    for values in [&histogram.positive_counts, &histogram.negative_counts, &histogram.custom_bounds]
    {
        put_len(out, values.len());
        for &value in values {
            put_float(out, value);
        }
    }
}

/// Reads what [`put`] wrote.
pub(crate) fn read(reader: &mut Reader<'_>) -> Option<HistogramSample> {
    let timestamp_ms = reader.signed()?;
    let reset_hint = match reader.byte()? {
        0 => ResetHint::Unknown,
        1 => ResetHint::Reset,
        2 => ResetHint::NotReset,
        3 => ResetHint::Gauge,
        _ => return None,
    };
    let histogram = Histogram {
        reset_hint,
        schema: i8::try_from(reader.signed()?).ok()?,
        zero_threshold: reader.float()?,
        zero_count: reader.float()?,
        count: reader.float()?,
        sum: reader.float()?,
        positive_spans: spans(reader)?,
        negative_spans: spans(reader)?,
        positive_counts: floats(reader)?,
        negative_counts: floats(reader)?,
        custom_bounds: floats(reader)?,
    };
    histogram.check().ok()?;
    Some(HistogramSample { timestamp_ms, histogram: Arc::new(histogram) })
}

fn spans(reader: &mut Reader<'_>) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    for _ in 0..reader.count()? {
        let offset = i32::try_from(reader.signed()?).ok()?;
        spans.push(Span { offset, length: u32::try_from(reader.varint()?).ok()? });
    }
    Some(spans)
}

fn floats(reader: &mut Reader<'_>) -> Option<Vec<f64>> {
    let count = reader.count()?;
    (0..count).map(|_| reader.float()).collect()
}
