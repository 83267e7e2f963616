//! Values as the XOR with the one before, as in Facebook's Gorilla paper (VLDB 2015, 4.1.2): for values that are no decimals.

use super::bits::{BitReader, BitWriter};

/// Most leading zeros that five bits can name.
const LEADING_MAX: u32 = 31;

/// The bits that the last value written in full changed; none before the first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    leading: u8,
    trailing: u8,
}

impl Window {
    fn width(self) -> u32 {
        64 - u32::from(self.leading) - u32::from(self.trailing)
    }

    /// Writes what a value changed.
    #[expect(clippy::cast_possible_truncation, reason = "numbers of bits are at most 64")]
    pub(crate) fn write(&mut self, bits: &mut BitWriter, xor: u64) {
        if xor == 0 {
            bits.write(0, 1);
            return;
        }
        let next = Self {
            leading: xor.leading_zeros().min(LEADING_MAX) as u8,
            trailing: xor.trailing_zeros() as u8,
        };
        // The window of the value before is reused while it fits; a window exists once both are not zero.
        let exists = self.leading + self.trailing > 0;
        if exists && next.leading >= self.leading && next.trailing >= self.trailing {
            bits.write(0b10, 2);
        } else {
            *self = next;
            bits.write(0b11, 2);
            bits.write(u64::from(next.leading), 5);
            bits.write(u64::from(next.width() - 1), 6);
        }
        bits.write(xor >> self.trailing, self.width());
    }

    /// Reads what a value changed.
    #[expect(clippy::cast_possible_truncation, reason = "eleven bits were read")]
    pub(crate) fn read(&mut self, bits: &mut BitReader<'_>) -> Option<u64> {
        if bits.read(1)? == 0 {
            return Some(0);
        }
        if bits.read(1)? == 1 {
            let window = bits.read(11)?;
            self.leading = (window >> 6) as u8;
            let width = (window & 0x3f) as u8 + 1;
            self.trailing = 64_u8.checked_sub(self.leading + width)?;
        }
        Some(bits.read(self.width())? << self.trailing)
    }
}
