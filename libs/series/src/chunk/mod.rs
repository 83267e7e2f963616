//! Samples of one series, compressed.
//!
//! A chunk that is being filled takes one sample at a time and can be read meanwhile ([`OpenChunk`]). Once it is full it is written anew
//! with all its samples at hand ([`packed`]), which makes it a third of the size; blocks hold their samples the same way.

mod bits;
mod column;
mod decimal;
mod open;
pub(crate) mod packed;
mod xor;

pub(crate) use open::OpenChunk;

use crate::Sample;

/// Samples in a sealed chunk. Two minutes at one sample a second: few bytes are wasted at the edge of retention, and the fixed part
/// of a chunk is spread over enough samples.
pub(crate) const CHUNK_SAMPLES: u16 = 120;

/// A full chunk, never changed again.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    count: u16,
    bytes: Box<[u8]>,
}

impl Chunk {
    /// Of some samples in order; there must be one at least.
    fn new(samples: &[Sample]) -> Self {
        let mut bytes = Vec::with_capacity(samples.len());
        packed::put(&mut bytes, samples);
        Self {
            first_ms: samples[0].timestamp_ms,
            last_ms: samples[samples.len() - 1].timestamp_ms,
            count: u16::try_from(samples.len()).unwrap_or(u16::MAX),
            bytes: bytes.into_boxed_slice(),
        }
    }

    /// Bytes it occupies, its fixed part included.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// How many samples it holds.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Adds the samples from `start_ms` to `end_ms`, both included, to `into`.
    pub(crate) fn within(&self, start_ms: i64, end_ms: i64, into: &mut Vec<Sample>) {
        let span = (start_ms, end_ms);
        let read = packed::read_within(&self.bytes, (self.first_ms, self.len()), span, into);
        debug_assert!(read.is_some(), "a chunk in memory is as it was written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(samples: &[Sample]) -> usize {
        let mut open = OpenChunk::default();
        for (index, &sample) in samples.iter().enumerate() {
            open.push(sample);
            assert_eq!(open.len(), index + 1);
        }
        let shown = |read: &[Sample]| -> Vec<(i64, u64)> {
            read.iter().map(|sample| (sample.timestamp_ms, sample.value.to_bits())).collect()
        };
        assert_eq!(shown(&open.samples().collect::<Vec<_>>()), shown(samples));
        let chunk = open.seal();
        let mut sealed = Vec::new();
        chunk.within(i64::MIN, i64::MAX, &mut sealed);
        assert_eq!(shown(&sealed), shown(samples));
        chunk.bytes.len()
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(1..=usize::from(CHUNK_SAMPLES));
            let mut timestamp_ms = random.i64(-1_000_000_000_000..2_000_000_000_000);
            let mut value = random.f64() * 1e6;
            let style = random.u8(0..7);
            let mut samples = Vec::new();
            for _ in 0..count {
                samples.push(Sample { timestamp_ms, value });
                timestamp_ms += match random.u8(0..12) {
                    0 => 1,
                    1 => random.i64(1..1 << 40),
                    2..=5 => 1000 + random.i64(-70..70),
                    _ => 1000,
                };
                value = match style {
                    0 => value,
                    1 => value + 1.0,
                    2 => random.f64(),
                    3 => f64::from_bits(random.u64(..)),
                    4 => random.i64(-500..500) as f64 / 1e3,
                    5 if random.u8(0..30) == 0 => crate::stale_marker(),
                    5 => (random.u64(..) >> random.u32(0..64)) as f64,
                    _ => [0.0, -0.0, f64::NAN, f64::INFINITY, crate::stale_marker(), f64::MIN]
                        [random.usize(0..6)],
                };
            }
            let shown = std::panic::catch_unwind(|| round_trip(&samples));
            assert!(shown.is_ok(), "seed {seed}");
        }
    }

    #[test]
    fn the_ends_of_the_range_survive() {
        round_trip(&[
            Sample { timestamp_ms: i64::MIN, value: 1.0 },
            Sample { timestamp_ms: 0, value: f64::from_bits(1) },
            Sample { timestamp_ms: i64::MAX, value: f64::from_bits(u64::MAX) },
        ]);
    }

    #[test]
    fn steady_series_are_small() {
        let steady: Vec<Sample> =
            (0..120).map(|i| Sample { timestamp_ms: i * 1000, value: 42.0 }).collect();
        assert!(round_trip(&steady) < 16, "a time, a step and a value");
        let counter: Vec<Sample> =
            (0..120).map(|i| Sample { timestamp_ms: i * 1000, value: i as f64 }).collect();
        assert!(round_trip(&counter) < 16, "steps of values cost no more");
    }
}
