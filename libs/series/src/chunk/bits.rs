//! Single bits, written to bytes and read from them, the highest bit of a byte first.

/// An open chunk grows by this much: doubling would leave half of the memory of 200,000 series empty.
const GROW_BYTES: usize = 48;

/// The lowest `bits` bits.
pub(crate) fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    pub(crate) bytes: Vec<u8>,
    /// Bits still free in the last byte.
    pub(crate) free: u32,
}

impl BitWriter {
    /// Goes on behind whole bytes.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most eight bits are taken at a time")]
    pub(crate) fn write(&mut self, value: u64, mut bits: u32) {
        while bits > 0 {
            if self.free == 0 {
                if self.bytes.len() == self.bytes.capacity() {
                    self.bytes.reserve_exact(GROW_BYTES);
                }
                self.bytes.push(0);
                self.free = 8;
            }
            let take = bits.min(self.free);
            let part = (value >> (bits - take)) & mask(take);
            let last = self.bytes.last_mut().expect("a byte was pushed when none was free");
            *last |= (part as u8) << (self.free - take);
            self.free -= take;
            bits -= take;
        }
    }
}

#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    buffer: u64,
    /// Bits of the buffer not read yet.
    left: u32,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, buffer: 0, left: 0 }
    }

    /// Reads two bits if both are zero and in the buffer.
    #[inline]
    pub(crate) fn skip_zeros(&mut self) -> bool {
        let left = self.left.checked_sub(2);
        let Some(left) = left.filter(|left| (self.buffer >> left).trailing_zeros() >= 2) else {
            return false;
        };
        self.left = left;
        true
    }

    #[inline]
    pub(crate) fn read(&mut self, bits: u32) -> Option<u64> {
        if bits <= self.left {
            self.left -= bits;
            return Some((self.buffer >> self.left) & mask(bits));
        }
        self.read_over(bits)
    }

    /// Reads on from the next eight bytes.
    #[expect(clippy::cast_possible_truncation, reason = "at most eight bytes are taken at a time")]
    fn read_over(&mut self, bits: u32) -> Option<u64> {
        let high = self.buffer & mask(self.left);
        let rest = bits - self.left;
        let take = self.bytes.len().min(8);
        if let Some((next, tail)) = self.bytes.split_first_chunk::<8>() {
            self.buffer = u64::from_be_bytes(*next);
            self.bytes = tail;
        } else {
            self.buffer = self.bytes.iter().fold(0, |buffer, &byte| buffer << 8 | u64::from(byte));
            self.bytes = &[];
        }
        self.left = (take as u32 * 8).checked_sub(rest)?;
        let low = (self.buffer >> self.left) & mask(rest);
        Some(high.unbounded_shl(rest) | low)
    }
}
