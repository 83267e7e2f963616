//! Whole numbers in few bits.
//!
//! What is stored is how far the numbers are from what one would expect: from each other, from the step before, from a straight line, or
//! from a fixed number, whichever is the smallest. Those distances lie around their median within a fixed width, the same for all; the
//! few that do not fit follow as exceptions, so that one restart of a counter does not widen the rest. Rejected: classes of widths per
//! number, which cost a prefix each, and a general compressor behind, which needs hundreds of numbers before it pays.

use super::bits::{BitReader, BitWriter};
use crate::codec::{Reader, put_len, put_signed, put_varint};

/// The widest distance that is packed; what is wider is an exception.
const WIDTH_MAX: u32 = 56;
/// Bits of the width in the first byte; the two above them name the expectation.
const WIDTH_BITS: u32 = 6;

/// What a number is expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Always the same.
    Fixed,
    /// The one before.
    Before,
    /// The one before and a step as long as the last one.
    SameStep,
    /// A fixed step more for each number since the first.
    Line,
}

const ALL: [Expected; 4] = [Expected::Fixed, Expected::Before, Expected::SameStep, Expected::Line];

/// How a column is going to be written.
#[derive(Debug)]
struct Plan {
    expected: Expected,
    /// Step of [`Expected::Line`].
    step: i64,
    /// Median of the distances.
    base: i64,
    width: u32,
    bytes: usize,
}

/// Appends `numbers` to `out`; there must be one at least.
pub(crate) fn put(out: &mut Vec<u8>, numbers: &[i64]) {
    let mut distances = Vec::with_capacity(numbers.len());
    let plan = plan(numbers, &mut distances);
    measure(plan.expected, plan.step, numbers, &mut distances);
    // At most 56 and 3, so both fit a byte.
    out.push((plan.expected as u8) << WIDTH_BITS | u8::try_from(plan.width).unwrap_or_default());
    if plan.expected != Expected::Fixed {
        put_signed(out, numbers[0]);
    }
    match plan.expected {
        Expected::Fixed | Expected::Before => {}
        Expected::SameStep => put_signed(out, numbers[1].wrapping_sub(numbers[0])),
        Expected::Line => put_signed(out, plan.step),
    }
    put_signed(out, plan.base);
    let fits = |distance: u64| bits_of(distance) <= plan.width;
    for distance in &mut distances {
        *distance = zigzag((*distance).wrapping_sub(plan.base)).cast_signed();
    }
    let packed = distances.iter().map(|distance| distance.cast_unsigned());
    put_len(out, packed.clone().filter(|&distance| !fits(distance)).count());
    let mut last = 0;
    for (at, distance) in packed.clone().enumerate().filter(|&(_, distance)| !fits(distance)) {
        put_len(out, at - last);
        put_varint(out, distance);
        last = at;
    }
    let mut bits = BitWriter::after(std::mem::take(out));
    for distance in packed {
        bits.write(if fits(distance) { distance } else { 0 }, plan.width);
    }
    *out = bits.bytes;
}

/// Reads `count` numbers that [`put`] wrote, and calls `each` with the place and the value of every one.
pub(crate) fn take(
    reader: &mut Reader<'_>,
    count: usize,
    mut each: impl FnMut(usize, i64),
) -> Option<()> {
    let head = reader.byte()?;
    let (expected, width) = (ALL[usize::from(head >> WIDTH_BITS)], head & 0x3f);
    if count == 0 || u32::from(width) > WIDTH_MAX {
        return None;
    }
    let mut number = if expected == Expected::Fixed { 0 } else { reader.signed()? };
    let mut step = match expected {
        Expected::Fixed | Expected::Before => 0,
        Expected::SameStep | Expected::Line => reader.signed()?,
    };
    let heads = expected.heads();
    let left = count.checked_sub(heads)?;
    let mut distances = Distances::read(reader, left, width.into())?;
    match expected {
        Expected::Fixed => {
            for at in 0..count {
                each(at, distances.next()?);
            }
        }
        Expected::Before => {
            each(0, number);
            for at in 1..count {
                number = number.wrapping_add(distances.next()?);
                each(at, number);
            }
        }
        Expected::SameStep => {
            each(0, number);
            number = number.wrapping_add(step);
            each(1, number);
            for at in 2..count {
                step = step.wrapping_add(distances.next()?);
                number = number.wrapping_add(step);
                each(at, number);
            }
        }
        Expected::Line => {
            each(0, number);
            for at in 1..count {
                number = number.wrapping_add(step);
                each(at, number.wrapping_add(distances.next()?));
            }
        }
    }
    Some(())
}

impl Expected {
    /// Numbers at the beginning that need no distance.
    fn heads(self) -> usize {
        match self {
            Self::Fixed => 0,
            Self::Before | Self::Line => 1,
            Self::SameStep => 2,
        }
    }
}

/// The smallest way to write `numbers`.
fn plan(numbers: &[i64], distances: &mut Vec<i64>) -> Plan {
    let fixed = plan_one(Expected::Fixed, 0, numbers, distances);
    // All equal: as small as it gets.
    if numbers.len() < 3 || fixed.width == 0 && fixed.bytes <= 1 {
        return fixed;
    }
    let before = plan_one(Expected::Before, 0, numbers, distances);
    let step = before.base;
    let even = before.width == 0 && before.bytes <= 1;
    let mut best = if before.bytes < fixed.bytes { before } else { fixed };
    if even {
        return best;
    }
    for (expected, step) in [(Expected::SameStep, 0), (Expected::Line, step)] {
        let next = plan_one(expected, step, numbers, distances);
        // One head more costs a byte or two.
        if next.bytes + 2 < best.bytes {
            best = next;
        }
    }
    best
}

fn plan_one(expected: Expected, step: i64, numbers: &[i64], distances: &mut Vec<i64>) -> Plan {
    measure(expected, step, numbers, distances);
    let middle = distances.len() / 2;
    let base = if distances.is_empty() { 0 } else { *distances.select_nth_unstable(middle).1 };
    let mut lengths = [0_usize; 65];
    for distance in &*distances {
        lengths[bits_of(zigzag(distance.wrapping_sub(base))) as usize] += 1;
    }
    // From the widest on: what is wider than that is an exception, with a byte for its place and those of its varint.
    let mut exceptions: usize = 0;
    let (mut width, mut bytes) = (0, usize::MAX);
    for bits in (0..=64_u32).rev() {
        let all = 1 + exceptions + (distances.len() * bits as usize).div_ceil(8);
        if bits <= WIDTH_MAX && all < bytes {
            (width, bytes) = (bits, all);
        }
        exceptions += lengths[bits as usize] * (1 + bits.div_ceil(7) as usize);
    }
    Plan { expected, step, base, width, bytes }
}

/// How far `numbers` are from what is expected.
fn measure(expected: Expected, step: i64, numbers: &[i64], distances: &mut Vec<i64>) {
    distances.clear();
    let pairs = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    match expected {
        Expected::Fixed => distances.extend_from_slice(numbers),
        Expected::Before => distances.extend(pairs),
        Expected::SameStep => distances.extend(numbers.windows(3).map(|three| {
            let (step, before) = (three[2].wrapping_sub(three[1]), three[1].wrapping_sub(three[0]));
            step.wrapping_sub(before)
        })),
        Expected::Line => {
            let mut on_line = numbers[0];
            distances.extend(numbers[1..].iter().map(|number| {
                on_line = on_line.wrapping_add(step);
                number.wrapping_sub(on_line)
            }));
        }
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn bits_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Reads distances one after the other.
struct Distances<'a> {
    bits: BitReader<'a>,
    width: u32,
    base: i64,
    at: usize,
    exceptions: Reader<'a>,
    exceptions_left: usize,
    next_exception: Option<usize>,
}

impl<'a> Distances<'a> {
    fn read(reader: &mut Reader<'a>, count: usize, width: u32) -> Option<Self> {
        let base = reader.signed()?;
        let exceptions_left = reader.count().filter(|&exceptions| exceptions <= count)?;
        let exceptions = reader.clone();
        for _ in 0..exceptions_left {
            reader.varint()?;
            reader.varint()?;
        }
        let bits = BitReader::new(reader.bytes((count * width as usize).div_ceil(8))?);
        let mut distances =
            Self { bits, width, base, at: 0, exceptions, exceptions_left, next_exception: None };
        distances.find_exception(0)?;
        Some(distances)
    }

    /// Moves on to the next exception, which is so far behind `at`.
    fn find_exception(&mut self, at: usize) -> Option<()> {
        let left = self.exceptions_left.checked_sub(1);
        self.next_exception = match left {
            None => None,
            Some(left) => {
                self.exceptions_left = left;
                at.checked_add(usize::try_from(self.exceptions.varint()?).ok()?)
            }
        };
        Some(())
    }

    #[inline]
    fn next(&mut self) -> Option<i64> {
        let mut raw = if self.width == 0 { 0 } else { self.bits.read(self.width)? };
        if self.next_exception == Some(self.at) {
            raw = self.exceptions.varint()?;
            self.find_exception(self.at)?;
        }
        self.at += 1;
        let distance = (raw >> 1).cast_signed() ^ -((raw & 1).cast_signed());
        Some(self.base.wrapping_add(distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(numbers: &[i64]) -> usize {
        let mut bytes = vec![7, 7];
        put(&mut bytes, numbers);
        let mut read = Vec::new();
        let mut reader = Reader::new(&bytes[2..]);
        take(&mut reader, numbers.len(), |at, number| {
            assert_eq!(at, read.len());
            read.push(number);
        })
        .unwrap();
        assert_eq!(read, numbers);
        assert!(reader.is_empty());
        for len in 2..bytes.len() {
            let cut = take(&mut Reader::new(&bytes[2..len]), numbers.len(), |_, _| {});
            assert!(cut.is_none(), "{len} of {} bytes were enough", bytes.len());
        }
        bytes.len() - 2
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        for seed in 0..600 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (wide, style) = (random.u32(0..64), random.u8(0..6));
            let mut number = random.i64(..) >> random.u32(0..64);
            let mut step = random.i64(..) >> random.u32(20..64);
            let mut numbers = Vec::new();
            for _ in 0..random.usize(1..300) {
                numbers.push(number);
                let noise = random.i64(..) >> wide;
                match style {
                    0 => number = noise,
                    1 => number = number.wrapping_add(noise),
                    3 => {
                        step = step.wrapping_add(noise);
                        number = number.wrapping_add(step);
                    }
                    4 if random.u8(0..20) == 0 => number = random.i64(..),
                    2 | 4 => number = number.wrapping_add(step),
                    _ => {}
                }
            }
            let shown = std::panic::catch_unwind(|| round_trip(&numbers));
            assert!(shown.is_ok(), "seed {seed}");
        }
    }

    #[test]
    fn the_ends_of_the_range_survive() {
        round_trip(&[i64::MIN]);
        round_trip(&[i64::MAX, i64::MIN]);
        round_trip(&[i64::MIN, 0, i64::MAX, -1, i64::MIN, i64::MAX]);
        let spread: Vec<i64> = (0..64).map(|bit| (1_i64 << bit).wrapping_mul(-3)).collect();
        round_trip(&spread);
    }

    #[test]
    fn each_expectation_pays() {
        let size = |number: fn(i64) -> i64| round_trip(&(0..240).map(number).collect::<Vec<_>>());
        assert!(size(|_| 1_000_000) <= 6, "fixed");
        assert!(size(|i| i * 5000) <= 6, "a straight line");
        assert!(size(|i| i * i) <= 10, "steps that grow evenly");
        let noise = |i: i64| (i * 7919) % 16;
        assert!(size(|i| 1_000_000 + (i * 7919) % 16) <= 8 + 240 / 2, "four bits around a level");
        // Each number is off its place, not off the one before.
        let jitter = |i: i64| i * 5000 + (i * 7919) % 16;
        let jitter: Vec<i64> = (0..240).map(jitter).collect();
        assert!(round_trip(&jitter) <= 12 + 240 / 2, "four bits around a line");
        let reset: Vec<i64> = (0..240).map(|i| (i % 100) * 13 + noise(i) / 8).collect();
        assert!(round_trip(&reset) <= 16 + 240 / 2, "two restarts do not widen the rest");
    }

    #[test]
    fn nonsense_gives_nothing() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..5_000 {
            let bytes: Vec<u8> = (0..random.usize(0..24)).map(|_| random.u8(..)).collect();
            let count = random.usize(0..2_000);
            let mut seen = 0;
            let read = take(&mut Reader::new(&bytes), count, |_, _| seen += 1);
            assert!(read.is_none() || seen == count);
        }
    }
}
