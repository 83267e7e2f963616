//! Samples of one series, compressed.
//!
//! Timestamps are stored as the change of their distance, values as the XOR with the value before (the scheme of Facebook's Gorilla
//! paper, VLDB 2015, sections 4.1.1 and 4.1.2). A steady counter scraped at a steady pace costs two bits and a half a sample, a noisy
//! one about ten bytes. The classes for timestamps fit scrapes that jitter by some milliseconds. Rejected: whole columns through zstd,
//! which compress better but cannot take one sample at a time.

use crate::Sample;
use crate::bits::{BitReader, BitWriter, mask};

/// Samples in a sealed chunk. Two minutes at one sample a second: few bytes are wasted at the edge of retention, and the fixed part
/// of a chunk is spread over enough samples.
pub(crate) const CHUNK_SAMPLES: u16 = 120;

/// Width classes of a change of distance: prefix, its length, payload bits (two's complement).
const CLASSES: [(u64, u32, u32); 4] =
    [(0b10, 2, 7), (0b110, 3, 12), (0b1110, 4, 20), (0b1111, 4, 64)];

/// An open chunk notes its state this often, so that its last samples can be read without decoding it from the start: rules ask for
/// some minutes. At least so many samples, at most twice as many are decoded then; a note costs 32 bytes, and two are kept.
const MARK_EVERY: u16 = 20;

/// Most leading zeros that five bits can name.
const LEADING_MAX: u32 = 31;

/// A full chunk, never changed again.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    count: u16,
    bytes: Box<[u8]>,
}

impl Chunk {
    /// Bytes it occupies, its fixed part included.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// How many samples it holds.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Its samples in order.
    pub(crate) fn samples(&self) -> Samples<'_> {
        Samples::new(&self.bytes, self.first_ms, self.count)
    }

    /// Its samples as they are stored; [`Samples::new`] reads them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The chunk that is being filled.
#[derive(Debug, Default)]
pub(crate) struct OpenChunk {
    bits: BitWriter,
    count: u16,
    first_ms: i64,
    last_ms: i64,
    delta: i64,
    value_bits: u64,
    leading: u32,
    trailing: u32,
    /// Whether there is a newest sample, here or in the chunk sealed before.
    any: bool,
    /// The last two notes, the older one first.
    marks: [Mark; 2],
}

/// The state of a chunk after so many samples.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    count: u16,
    leading: u8,
    trailing: u8,
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
            self.write_xor(value_bits ^ self.value_bits);
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
            leading: self.leading as u8,
            trailing: self.trailing as u8,
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

    fn write_xor(&mut self, xor: u64) {
        if xor == 0 {
            self.bits.write(0, 1);
            return;
        }
        let leading = xor.leading_zeros().min(LEADING_MAX);
        let trailing = xor.trailing_zeros();
        // The window of the value before is reused while it fits; a window exists once both are not zero.
        let fits = self.leading + self.trailing > 0
            && leading >= self.leading
            && trailing >= self.trailing;
        if fits {
            self.bits.write(0b10, 2);
        } else {
            self.leading = leading;
            self.trailing = trailing;
            let width = 64 - leading - trailing;
            self.bits.write(0b11, 2);
            self.bits.write(u64::from(leading), 5);
            self.bits.write(u64::from(width - 1), 6);
        }
        self.bits.write(xor >> self.trailing, 64 - self.leading - self.trailing);
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

    /// Takes what it holds as a sealed chunk and starts anew.
    pub(crate) fn seal(&mut self) -> Chunk {
        let full = std::mem::take(self);
        (self.any, self.last_ms, self.value_bits) = (full.any, full.last_ms, full.value_bits);
        Chunk {
            first_ms: full.first_ms,
            last_ms: full.last_ms,
            count: full.count,
            bytes: full.bits.bytes.into_boxed_slice(),
        }
    }
}

/// Decodes a chunk. Ends early if bits are missing, which can happen only to bytes from a disk.
#[derive(Debug)]
pub(crate) struct Samples<'a> {
    bits: BitReader<'a>,
    left: u16,
    first: bool,
    timestamp_ms: i64,
    delta: i64,
    value_bits: u64,
    leading: u32,
    trailing: u32,
}

impl<'a> Samples<'a> {
    pub(crate) fn new(bytes: &'a [u8], first_ms: i64, count: u16) -> Self {
        Self {
            bits: BitReader::new(bytes),
            left: count,
            first: true,
            timestamp_ms: first_ms,
            delta: 0,
            value_bits: 0,
            leading: 0,
            trailing: 0,
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
            leading: mark.leading.into(),
            trailing: mark.trailing.into(),
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

    #[expect(clippy::cast_possible_truncation, reason = "eleven bits were read")]
    fn read_xor(&mut self) -> Option<u64> {
        if self.bits.read(1)? == 0 {
            return Some(0);
        }
        if self.bits.read(1)? == 1 {
            let window = self.bits.read(11)?;
            self.leading = (window >> 6) as u32;
            let width = (window & 0x3f) as u32 + 1;
            self.trailing = 64_u32.checked_sub(self.leading + width)?;
        }
        let raw = self.bits.read(64 - self.leading - self.trailing)?;
        Some(raw << self.trailing)
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
            self.value_bits ^= self.read_xor()?;
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

    fn round_trip(samples: &[Sample]) -> usize {
        let mut open = OpenChunk::default();
        for (index, &sample) in samples.iter().enumerate() {
            open.push(sample);
            assert_eq!(open.len(), index + 1);
        }
        let read = |read: Samples<'_>| -> Vec<(i64, u64)> {
            read.map(|sample| (sample.timestamp_ms, sample.value.to_bits())).collect()
        };
        let expected: Vec<(i64, u64)> =
            samples.iter().map(|sample| (sample.timestamp_ms, sample.value.to_bits())).collect();
        assert_eq!(read(open.samples()), expected);
        let chunk = open.seal();
        assert_eq!(read(chunk.samples()), expected);
        chunk.bytes.len()
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(1..=usize::from(CHUNK_SAMPLES));
            let mut timestamp_ms = random.i64(-1_000_000_000_000..2_000_000_000_000);
            let mut value = random.f64() * 1e6;
            let style = random.u8(0..5);
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
                    _ => [0.0, -0.0, f64::NAN, f64::INFINITY, crate::stale_marker(), f64::MIN]
                        [random.usize(0..6)],
                };
            }
            let shown = std::panic::catch_unwind(|| round_trip(&samples));
            assert!(shown.is_ok(), "seed {seed}");
        }
    }

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
        assert!(round_trip(&steady) < 48, "two bits a sample");
        let counter: Vec<Sample> =
            (0..120).map(|i| Sample { timestamp_ms: i * 1000, value: i as f64 }).collect();
        assert!(round_trip(&counter) < 240, "two bytes a sample");
    }
}
