//! The samples of one series as bytes, the same in a block and in a checkpoint.
//!
//! Chunks with their time span before them, so that a reader can leave out those it does not need; then the native histograms, as one
//! compressed piece. Chunks on disk are longer than in memory: nobody appends to them, and the first sample of each costs more.

use std::sync::Arc;

use super::codec::{Reader, compress, expand, put_float, put_len, put_signed, put_varint};
use crate::Sample;
use crate::chunk::{OpenChunk, Samples};
use crate::histogram::{Histogram, HistogramSample, ResetHint, Span};
use crate::series::Found;

/// Samples in a chunk on disk: twice as many as in memory.
const CHUNK_SAMPLES: usize = 240;

/// Appends `found` to `out`.
pub(crate) fn encode(found: &Found, out: &mut Vec<u8>) -> std::io::Result<()> {
    put_len(out, found.samples.chunks(CHUNK_SAMPLES).len());
    for samples in found.samples.chunks(CHUNK_SAMPLES) {
        let mut open = OpenChunk::default();
        for &sample in samples {
            open.push(sample);
        }
        let chunk = open.seal();
        put_signed(out, chunk.first_ms);
        put_varint(out, chunk.last_ms.wrapping_sub(chunk.first_ms).cast_unsigned());
        put_len(out, chunk.len());
        put_len(out, chunk.bytes().len());
        out.extend_from_slice(chunk.bytes());
    }
    if found.histograms.is_empty() {
        return Ok(());
    }
    let mut raw = Vec::new();
    put_len(&mut raw, found.histograms.len());
    for sample in &found.histograms {
        put_histogram(&mut raw, sample);
    }
    out.extend_from_slice(&compress(&raw)?);
    Ok(())
}

/// Adds the samples of `bytes` from `start_ms` to `end_ms`, both included, to `found`; `None` if they make no sense.
pub(crate) fn decode(bytes: &[u8], start_ms: i64, end_ms: i64, found: &mut Found) -> Option<()> {
    let mut reader = Reader::new(bytes);
    for _ in 0..reader.count()? {
        let first_ms = reader.signed()?;
        let last_ms = first_ms.wrapping_add(reader.varint()?.cast_signed());
        let count = u16::try_from(reader.varint()?).ok()?;
        let len = reader.count()?;
        let chunk = reader.bytes(len)?;
        if first_ms <= end_ms && last_ms >= start_ms {
            let before = found.samples.len();
            Samples::new(chunk, first_ms, count).within(start_ms, end_ms, &mut found.samples);
            let whole = first_ms >= start_ms && last_ms <= end_ms;
            if whole && found.samples.len() - before != usize::from(count) {
                return None;
            }
        }
    }
    if !reader.is_empty() {
        let raw = expand(reader.rest())?;
        let mut reader = Reader::new(&raw);
        for _ in 0..reader.count()? {
            let sample = histogram(&mut reader)?;
            if (start_ms..=end_ms).contains(&sample.timestamp_ms) {
                found.histograms.push(sample);
            }
        }
    }
    Some(())
}

/// From when to when the samples and histograms are; `None` if there are none.
pub(crate) fn span(found: &Found) -> Option<(i64, i64)> {
    let samples: Option<(&Sample, &Sample)> = found.samples.first().zip(found.samples.last());
    let samples = samples.map(|(first, last)| (first.timestamp_ms, last.timestamp_ms));
    let histograms = found.histograms.first().zip(found.histograms.last());
    let histograms = histograms.map(|(first, last)| (first.timestamp_ms, last.timestamp_ms));
    let both = samples.into_iter().chain(histograms);
    both.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// Appends a histogram with its time to `out`.
pub(crate) fn put_histogram(out: &mut Vec<u8>, sample: &HistogramSample) {
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

/// Reads what [`put_histogram`] wrote.
pub(crate) fn histogram(reader: &mut Reader<'_>) -> Option<HistogramSample> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_histograms_come_back() {
        let histogram = Arc::new(Histogram {
            count: 3.0,
            positive_spans: vec![Span { offset: -2, length: 2 }],
            positive_counts: vec![1.0, 2.0],
            ..Histogram::default()
        });
        let found = Found {
            samples: (0..1000)
                .map(|i| Sample { timestamp_ms: i * 5000, value: i as f64 })
                .collect(),
            histograms: vec![HistogramSample { timestamp_ms: 7, histogram }],
        };
        let mut bytes = Vec::new();
        encode(&found, &mut bytes).unwrap();
        let mut back = Found::default();
        decode(&bytes, i64::MIN, i64::MAX, &mut back).unwrap();
        assert_eq!((back.samples, back.histograms), (found.samples, found.histograms));
        let mut part = Found::default();
        decode(&bytes, 1_200_000, 1_209_999, &mut part).unwrap();
        assert_eq!((part.samples.len(), part.histograms.len()), (2, 0));
        for len in 0..bytes.len() {
            // Must not panic; a checksum around it tells that something is missing.
            let _cut = decode(&bytes[..len], 0, i64::MAX, &mut Found::default());
        }
    }
}
