//! Samples that nobody appends to any more, as few bytes as can be.
//!
//! With all samples at hand, timestamps and values are columns of their own. Timestamps, and values that are decimals, are whole
//! numbers ([`column`]); other values become their XOR with the one before; a value that never changes is written once. Counters and gauges of
//! a chat cluster cost a third of what they cost in an open chunk, and reading them is no slower.

use super::bits::{BitReader, BitWriter};
use super::column;
use super::decimal::{self, EXPONENTS};
use super::xor::Window;
use crate::Sample;
use crate::codec::{Reader, put_float, put_len};

/// How values are written: as XOR with the one before, all the same, or as decimals with an exponent of this much less.
const XORED: u8 = 0;
const SAME: u8 = 1;
const DECIMALS: u8 = 2;
/// Decimals of more bytes per value than this are compared with XOR.
const DECIMAL_BYTES: usize = 4;

/// Appends `samples` to `out`, the first one's time left out. There must be one at least.
pub(crate) fn put(out: &mut Vec<u8>, samples: &[Sample]) {
    let first_ms = samples[0].timestamp_ms;
    let after = |sample: &Sample| sample.timestamp_ms.wrapping_sub(first_ms);
    column::put(out, &samples.iter().map(after).collect::<Vec<_>>());
    let before = out.len();
    let first = samples[0].value.to_bits();
    if !put_decimals(out, samples) {
        if samples.iter().all(|sample| sample.value.to_bits() == first) {
            out.push(SAME);
            put_float(out, samples[0].value);
        } else {
            put_xored(out, samples);
        }
    } else if out.len() - before > samples.len() * DECIMAL_BYTES {
        let mut other = Vec::new();
        put_xored(&mut other, samples);
        if other.len() < out.len() - before {
            out.truncate(before);
            out.extend_from_slice(&other);
        }
    }
}

/// Writes values as decimals, if they are.
fn put_decimals(out: &mut Vec<u8>, samples: &[Sample]) -> bool {
    let Some(found) = decimal::decimals(samples.iter().map(|sample| sample.value)) else {
        return false;
    };
    out.push(DECIMALS + found.exponent);
    put_len(out, found.apart.len());
    let mut last = 0;
    for at in found.apart {
        put_len(out, at - last);
        put_float(out, samples[at].value);
        last = at;
    }
    column::put(out, &found.numbers);
    true
}

fn put_xored(out: &mut Vec<u8>, samples: &[Sample]) {
    out.push(XORED);
    put_float(out, samples[0].value);
    let mut bits = BitWriter::after(std::mem::take(out));
    let mut window = Window::default();
    for pair in samples.windows(2) {
        window.write(&mut bits, pair[0].value.to_bits() ^ pair[1].value.to_bits());
    }
    *out = bits.bytes;
}

/// Adds all `count` samples of `bytes` to `into`; `None` if they make no sense, and then `into` may have some nonsense more.
pub(crate) fn read(
    bytes: &[u8],
    first_ms: i64,
    count: usize,
    into: &mut Vec<Sample>,
) -> Option<()> {
    let mut reader = Reader::new(bytes);
    let begin = into.len();
    column::take(&mut reader, count, |_, after| {
        into.push(Sample { timestamp_ms: first_ms.wrapping_add(after), value: 0.0 });
    })?;
    let samples = &mut into[begin..];
    match reader.byte()? {
        XORED => read_xored(&mut reader, samples),
        SAME => {
            let value = reader.float()?;
            for sample in samples {
                sample.value = value;
            }
            Some(())
        }
        kind if kind - DECIMALS < EXPONENTS => read_decimals(&mut reader, kind - DECIMALS, samples),
        _ => None,
    }
}

fn read_decimals(reader: &mut Reader<'_>, exponent: u8, samples: &mut [Sample]) -> Option<()> {
    let apart = reader.count()?;
    let mut rest = reader.clone();
    for _ in 0..apart {
        reader.varint()?;
        reader.float()?;
    }
    column::take(reader, samples.len(), |at, number| {
        samples[at].value = decimal::value(number, exponent);
    })?;
    let mut at = 0_usize;
    for _ in 0..apart {
        at = at.checked_add(usize::try_from(rest.varint()?).ok()?)?;
        samples.get_mut(at)?.value = rest.float()?;
    }
    Some(())
}

fn read_xored(reader: &mut Reader<'_>, samples: &mut [Sample]) -> Option<()> {
    let mut value_bits = reader.float()?.to_bits();
    let (first, others) = samples.split_first_mut()?;
    first.value = f64::from_bits(value_bits);
    let mut bits = BitReader::new(reader.rest());
    let mut window = Window::default();
    for sample in others {
        value_bits ^= window.read(&mut bits)?;
        sample.value = f64::from_bits(value_bits);
    }
    Some(())
}

/// As [`read`], of the samples from `start_ms` to `end_ms`, both included, only.
pub(crate) fn read_within(
    bytes: &[u8],
    (first_ms, count): (i64, usize),
    (start_ms, end_ms): (i64, i64),
    into: &mut Vec<Sample>,
) -> Option<()> {
    let begin = into.len();
    read(bytes, first_ms, count, into)?;
    let read = &into[begin..];
    let before = read.partition_point(|sample| sample.timestamp_ms < start_ms);
    let wanted = read[before..].partition_point(|sample| sample.timestamp_ms <= end_ms);
    into.truncate(begin + before + wanted);
    into.drain(begin..begin + before);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(step: i64, value: impl FnMut(i64) -> f64) -> Vec<Sample> {
        let times = (0..240).map(|i| 1_800_000_000_000 + i * step);
        times
            .zip((0..240).map(value))
            .map(|(timestamp_ms, value)| Sample { timestamp_ms, value })
            .collect()
    }

    fn size(samples: &[Sample]) -> usize {
        let mut bytes = Vec::new();
        put(&mut bytes, samples);
        bytes.len()
    }

    #[test]
    fn what_clusters_expose_is_small() {
        let mut random = fastrand::Rng::with_seed(1);
        assert!(size(&samples(5000, |_| 0.0)) <= 12, "constant");
        assert!(size(&samples(5000, |_| 1.0 / 3.0)) <= 16, "constant and no decimal");
        assert!(size(&samples(5000, |i| i as f64 * 17.0)) <= 14, "an even counter");
        let mut total = 0;
        let counter = samples(5000, |_| {
            total += random.i64(0..50);
            total as f64
        });
        assert!(size(&counter) <= 240 * 3 / 4 + 20, "six bits a sample");
        let gauge = samples(5000, |_| random.i64(0..1000) as f64 / 1e6);
        assert!(size(&gauge) <= 240 * 11 / 8 + 20, "ten bits and a bit a sample");
        let mut ended = samples(5000, |i| i as f64);
        ended[239].value = crate::stale_marker();
        assert!(size(&ended) <= 32, "a series that ends");
    }

    #[test]
    fn a_part_is_what_lies_within() {
        let all = samples(1000, |i| (i * i) as f64 / 4.0);
        let mut bytes = Vec::new();
        put(&mut bytes, &all);
        let begin = all[0].timestamp_ms;
        for (first, last) in [(0, 239), (5, 5), (100, 180), (230, 400), (240, 300), (-9, -1)] {
            let mut read = vec![all[7]];
            let span = (begin + first * 1000 - 500, begin + last * 1000 + 500);
            read_within(&bytes, (begin, 240), span, &mut read).unwrap();
            let wanted = all.iter().filter(|s| (span.0..=span.1).contains(&s.timestamp_ms));
            assert_eq!(read[1..], wanted.copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn nonsense_gives_nothing() {
        let mut random = fastrand::Rng::with_seed(9);
        let all = samples(5000, |i| i as f64 * 0.5);
        let mut bytes = Vec::new();
        put(&mut bytes, &all);
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], 0, 240, &mut Vec::new()).is_none(), "{len}");
        }
        for _ in 0..5_000 {
            let mut damaged = bytes.clone();
            let at = random.usize(..damaged.len());
            damaged[at] = random.u8(..);
            // What it gives is wrong, and a checksum around it says so; it must not panic.
            let _nonsense = read(&damaged, random.i64(..), random.usize(0..500), &mut Vec::new());
        }
    }
}
