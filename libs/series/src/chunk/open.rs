//! The chunk that is being filled.
//!
//! Timestamps are stored as the change of their distance, values as the XOR with the value before (the scheme of Facebook's Gorilla
//! paper, VLDB 2015, sections 4.1.1 and 4.1.2): it takes one sample at a time. A steady counter scraped at a steady pace costs two bits and
//! a half a sample, a noisy one about ten bytes. The classes for timestamps fit scrapes that jitter by some milliseconds.

use super::bits::{BitReader, BitWriter, mask};
use super::xor::Window;
use super::{CHUNK_SAMPLES, Chunk};
use crate::Sample;

/// Width classes of a change of distance: prefix, its length, payload bits (two's complement).
const CLASSES: [(u64, u32, u32); 4] =
    [(0b10, 2, 7), (0b110, 3, 12), (0b1110, 4, 20), (0b1111, 4, 64)];

/// An open chunk notes its state this often, so that its last samples can be read without decoding it from the start: rules ask for
/// some minutes. At least so many samples, at most twice as many are decoded then; a note costs 32 bytes, and two are kept.
const MARK_EVERY: u16 = 20;

/// The chunk that is being filled.
#[derive(Debug, Default)]
pub(crate) struct OpenChunk {
    bits: BitWriter,
    count: u16,
    first_ms: i64,
    last_ms: i64,
    delta: i64,
    value_bits: u64,
    window: Window,
    /// Whether there is a newest sample, here or in the chunk sealed before.
    any: bool,
    /// The last two notes, the older one first.
    marks: [Mark; 2],
}

/// The state of a chunk after so many samples.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    count: u16,
    window: Window,
    bits: u32,
    last_ms: i64,
    delta: i64,
    value_bits: u64,
}

impl OpenChunk {
    /// Adds a sample; timestamps must ascend.
    pub(crate) fn push(&mut self, sample: Sample) {
        let value_bits = sample.value.to_bits();
        if self.count == 0 {
            self.first_ms = sample.timestamp_ms;
            self.bits.write(value_bits, 64);
        } else {
            let delta = sample.timestamp_ms.wrapping_sub(self.last_ms);
            self.write_change(delta.wrapping_sub(self.delta));
            self.delta = delta;
            self.window.write(&mut self.bits, value_bits ^ self.value_bits);
        }
        self.last_ms = sample.timestamp_ms;
        self.value_bits = value_bits;
        self.any = true;
        self.count += 1;
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks = [self.marks[1], self.mark()];
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a chunk has far below 2^32 bits")]
    fn mark(&self) -> Mark {
        Mark {
            count: self.count,
            window: self.window,
            bits: self.bits.bytes.len() as u32 * 8 - self.bits.free,
            last_ms: self.last_ms,
            delta: self.delta,
            value_bits: self.value_bits,
        }
    }

    fn write_change(&mut self, change: i64) {
        if change == 0 {
            self.bits.write(0, 1);
            return;
        }
        for (prefix, prefix_bits, payload_bits) in CLASSES {
            let limit = 1_i64.checked_shl(payload_bits - 1).filter(|_| payload_bits < 64);
            if limit.is_none_or(|limit| (-limit..limit).contains(&change)) {
                self.bits.write(prefix, prefix_bits);
                self.bits.write(change.cast_unsigned() & mask(payload_bits), payload_bits);
                return;
            }
        }
    }

    /// Whether it has taken all the samples it should.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= CHUNK_SAMPLES
    }

    /// How many samples it holds.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes it occupies besides its fixed part.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bits.bytes.capacity()
    }

    /// The newest sample, known also after [`OpenChunk::seal`].
    pub(crate) fn newest(&self) -> Option<Sample> {
        let value = f64::from_bits(self.value_bits);
        self.any.then_some(Sample { timestamp_ms: self.last_ms, value })
    }

    /// Forgets all it holds.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// First and last timestamp.
    pub(crate) fn span(&self) -> Option<(i64, i64)> {
        (self.count > 0).then_some((self.first_ms, self.last_ms))
    }

    /// Its samples in order.
    pub(crate) fn samples(&self) -> Samples<'_> {
        Samples::new(&self.bits.bytes, self.first_ms, self.count)
    }

    /// Samples in order, those from `start_ms` on among them; some older ones may come first.
    pub(crate) fn samples_from(&self, start_ms: i64) -> Samples<'_> {
        let usable = |mark: &&Mark| mark.count > 0 && mark.last_ms < start_ms;
        match self.marks.iter().rev().find(usable) {
            Some(mark) => Samples::resume(&self.bits.bytes, mark, self.count),
            None => self.samples(),
        }
    }

    /// Takes what it holds as a sealed chunk and starts anew. It must hold something.
    pub(crate) fn seal(&mut self) -> Chunk {
        let full = std::mem::take(self);
        (self.any, self.last_ms, self.value_bits) = (full.any, full.last_ms, full.value_bits);
        Chunk::new(&full.samples().collect::<Vec<_>>())
    }
}

/// Decodes an open chunk.
#[derive(Debug)]
pub(crate) struct Samples<'a> {
    bits: BitReader<'a>,
    left: u16,
    first: bool,
    timestamp_ms: i64,
    delta: i64,
    value_bits: u64,
    window: Window,
}

impl<'a> Samples<'a> {
    fn new(bytes: &'a [u8], first_ms: i64, count: u16) -> Self {
        Self {
            bits: BitReader::new(bytes),
            left: count,
            first: true,
            timestamp_ms: first_ms,
            delta: 0,
            value_bits: 0,
            window: Window::default(),
        }
    }

    fn resume(bytes: &'a [u8], mark: &Mark, count: u16) -> Self {
        let (whole, part) = (mark.bits as usize / 8, mark.bits % 8);
        let mut bits = BitReader::new(bytes.get(whole..).unwrap_or_default());
        // The bits of the byte in which the mark lies that come before it.
        let skipped = bits.read(part);
        Self {
            bits,
            left: if skipped.is_some() { count - mark.count } else { 0 },
            first: false,
            timestamp_ms: mark.last_ms,
            delta: mark.delta,
            value_bits: mark.value_bits,
            window: mark.window,
        }
    }

    fn read_change(&mut self) -> Option<i64> {
        if self.bits.read(1)? == 0 {
            return Some(0);
        }
        let mut class = 0;
        while class < 3 && self.bits.read(1)? == 1 {
            class += 1;
        }
        let payload_bits = CLASSES[class].2;
        let raw = self.bits.read(payload_bits)?;
        // Two's complement of `payload_bits`: shift the sign to the top and back.
        let shift = 64 - payload_bits;
        Some((raw << shift).cast_signed() >> shift)
    }
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        self.left = self.left.checked_sub(1)?;
        // As far away as the one before, and the same value: what a quiet gauge consists of.
        if !self.first && self.bits.skip_zeros() {
            self.timestamp_ms = self.timestamp_ms.wrapping_add(self.delta);
            let value = f64::from_bits(self.value_bits);
            return Some(Sample { timestamp_ms: self.timestamp_ms, value });
        }
        if self.first {
            self.first = false;
            self.value_bits = self.bits.read(64)?;
        } else {
            self.delta = self.delta.wrapping_add(self.read_change()?);
            self.timestamp_ms = self.timestamp_ms.wrapping_add(self.delta);
            self.value_bits ^= self.window.read(&mut self.bits)?;
        }
        Some(Sample { timestamp_ms: self.timestamp_ms, value: f64::from_bits(self.value_bits) })
    }
}

impl Samples<'_> {
    /// Adds the samples from `start_ms` to `end_ms`, both included, to `into`.
    pub(crate) fn within(self, start_ms: i64, end_ms: i64, into: &mut Vec<Sample>) {
        for sample in self {
            if sample.timestamp_ms > end_ms {
                return;
            }
            if sample.timestamp_ms >= start_ms {
                into.push(sample);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_open_chunk_is_read_from_a_mark() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut open = OpenChunk::default();
        let mut all = Vec::new();
        for index in 0..i64::from(CHUNK_SAMPLES) {
            let timestamp_ms = index * 1000 + random.i64(0..3);
            let sample = Sample { timestamp_ms, value: random.i64(0..4) as f64 };
            open.push(sample);
            all.push(sample);
            let start_ms = timestamp_ms - random.i64(0..40_000);
            let decoded: Vec<Sample> = open.samples_from(start_ms).collect();
            assert!(all.ends_with(&decoded), "after {index}");
            assert!(decoded.len() <= 80 || decoded.len() == all.len());
            let wanted = all.iter().filter(|sample| sample.timestamp_ms >= start_ms).count();
            assert!(decoded.len() >= wanted, "after {index}");
        }
        let newest = open.samples_from(100_000).count();
        assert!(newest <= 2 * usize::from(MARK_EVERY), "{newest} decoded for twenty");
    }
}
