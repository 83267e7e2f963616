//! The samples of one series as bytes, the same in a block and in a checkpoint.
//!
//! Chunks with their time span before them, so that a reader can leave out those it does not need; then the native histograms, as one
//! compressed piece. Chunks on disk are longer than in memory: nobody appends to them, and the first sample of each costs more.

use crate::Sample;
use crate::chunk::packed;
use crate::codec::{Reader, put_len, put_signed, put_varint};
use crate::histogram::codec;
use crate::series::Found;

/// Samples in a chunk on disk: four times as many as in memory, so that what a chunk costs by itself is a few hundredths of a byte a
/// sample; an instant in a block costs a few microseconds to find.
const CHUNK_SAMPLES: usize = 480;

/// Appends `found` to `out`.
pub(crate) fn encode(found: &Found, out: &mut Vec<u8>) -> std::io::Result<()> {
    put_len(out, found.samples.chunks(CHUNK_SAMPLES).len());
    let (mut bytes, mut last_ms) = (Vec::new(), 0_i64);
    for samples in found.samples.chunks(CHUNK_SAMPLES) {
        let first_ms = samples[0].timestamp_ms;
        put_signed(out, first_ms.wrapping_sub(last_ms));
        last_ms = samples[samples.len() - 1].timestamp_ms;
        put_varint(out, last_ms.wrapping_sub(first_ms).cast_unsigned());
        put_len(out, samples.len());
        bytes.clear();
        packed::put(&mut bytes, samples);
        put_len(out, bytes.len());
        out.extend_from_slice(&bytes);
    }
    if found.histograms.is_empty() {
        return Ok(());
    }
    out.extend_from_slice(&codec::pack(&found.histograms)?);
    Ok(())
}

/// Adds the samples of `bytes` from `start_ms` to `end_ms`, both included, to `found`; `None` if they make no sense.
pub(crate) fn decode(bytes: &[u8], start_ms: i64, end_ms: i64, found: &mut Found) -> Option<()> {
    let mut reader = Reader::new(bytes);
    let mut last_ms = 0_i64;
    for _ in 0..reader.count()? {
        let first_ms = last_ms.wrapping_add(reader.signed()?);
        last_ms = first_ms.wrapping_add(reader.varint()?.cast_signed());
        let count =
            usize::try_from(reader.varint()?).ok().filter(|&count| count <= CHUNK_SAMPLES)?;
        let len = reader.count()?;
        let chunk = reader.bytes(len)?;
        if first_ms <= end_ms && last_ms >= start_ms {
            let span = (start_ms, end_ms);
            packed::read_within(chunk, (first_ms, count), span, &mut found.samples)?;
        }
    }
    if !reader.is_empty() {
        codec::unpack(reader.rest(), start_ms, end_ms, &mut found.histograms)?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::histogram::{Histogram, HistogramSample, Span};

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
