//! Where the frames of a WebSocket begin and end (RFC 6455 5.2).
//!
//! Whoever wants to say a word of its own between two parties (a Close frame, when a server is drained) may do so only between two
//! frames, or the receiver reads it as the middle of a message. This follows one direction byte by byte and knows nothing but lengths: it
//! unmasks nothing, keeps nothing, and its cost is that of reading a head of two to fourteen bytes per frame. A control frame may come
//! between the fragments of a message (5.4), so a boundary of frames is enough. Sixteen bytes, because every idle WebSocket has one.

use super::Malformed;

/// Bits of the second byte of a head.
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Lengths in the second byte that announce one in the two or eight bytes that follow.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;
const MASK_BYTES: u8 = 4;
/// The most significant bit of a length has to be 0.
const PAYLOAD_MAX: u64 = u64::MAX >> 1;

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Next {
    /// The first byte of a frame.
    #[default]
    First,
    /// The byte with the short length.
    Second,
    /// Bytes of a long length, then the mask if there is one.
    Length { missing: u8, masked: bool },
    /// Bytes of the mask.
    Mask { missing: u8 },
    /// Bytes of the payload, at least one.
    Payload,
}

/// A position in one direction of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frames {
    next: Next,
    /// Bytes of the payload that are missing, or its length as far as it is known.
    payload: u64,
}

impl Frames {
    /// Whether nothing of a frame is under way.
    pub fn at_boundary(&self) -> bool {
        self.next == Next::First
    }

    /// Moves past `bytes`.
    ///
    /// # Errors
    /// A payload is longer than RFC 6455 allows.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.advance_within(bytes, PAYLOAD_MAX)
    }

    /// Moves past `bytes`.
    ///
    /// # Errors
    /// A payload is longer than `payload_max` bytes.
    pub fn advance_within(&mut self, bytes: &[u8], payload_max: u64) -> Result<(), Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest, payload_max)?;
            rest = &rest[used..];
        }
        Ok(())
    }

    /// How many of `bytes`, which come next, belong to the frame under way: none at a boundary, all if it goes on after them.
    pub fn rest(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        let mut used = 0;
        while used < bytes.len() && !ahead.at_boundary() {
            match ahead.step(&bytes[used..], PAYLOAD_MAX) {
                Ok(count) => used += count,
                // What follows cannot be told apart any more.
                Err(_) => return bytes.len(),
            }
        }
        used
    }

    /// Takes in a byte of a head or a run of payload; `bytes` is not empty. Returns how many it took.
    fn step(&mut self, bytes: &[u8], payload_max: u64) -> Result<usize, Malformed> {
        let byte = bytes[0];
        match self.next {
            Next::First => self.next = Next::Second,
            Next::Second => {
                let masked = byte & MASKED != 0;
                let (missing, payload) = match byte & LENGTH {
                    LENGTH_16 => (2, 0),
                    LENGTH_64 => (8, 0),
                    short => (0, u64::from(short)),
                };
                self.payload = payload;
                self.expect(missing, masked, payload_max)?;
            }
            Next::Length { missing, masked } => {
                self.payload = self.payload << 8 | u64::from(byte);
                self.expect(missing - 1, masked, payload_max)?;
            }
            Next::Mask { missing: 1 } => self.expect_payload(),
            Next::Mask { missing } => self.next = Next::Mask { missing: missing - 1 },
            Next::Payload => {
                let count = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= count as u64;
                if self.payload == 0 {
                    self.next = Next::First;
                }
                return Ok(count);
            }
        }
        Ok(1)
    }

    /// After the short length or a byte of the long one, of which `missing` are to come.
    fn expect(&mut self, missing: u8, masked: bool, payload_max: u64) -> Result<(), Malformed> {
        if missing > 0 {
            self.next = Next::Length { missing, masked };
            return Ok(());
        }
        if self.payload > payload_max {
            return Err(Malformed("a frame is too long"));
        }
        if masked {
            self.next = Next::Mask { missing: MASK_BYTES };
        } else {
            self.expect_payload();
        }
        Ok(())
    }

    fn expect_payload(&mut self) {
        self.next = if self.payload == 0 { Next::First } else { Next::Payload };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with a payload of `length` bytes, and where it ends.
    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![0x82];
        match length {
            0..126 => bytes.push(mask | u8::try_from(length).unwrap()),
            126..0x1_0000 => {
                bytes.push(mask | LENGTH_16);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | LENGTH_64);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        // Bytes that look like heads.
        bytes.extend(std::iter::repeat_n(0x81, length));
        bytes
    }

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        let lengths = [0, 1, 125, 126, 127, 300, 65_535, 65_536, 0, 5];
        for masked in [false, true] {
            let frames: Vec<_> = lengths.iter().map(|length| frame(*length, masked)).collect();
            let ends: Vec<usize> = frames
                .iter()
                .scan(0, |end, frame| {
                    *end += frame.len();
                    Some(*end)
                })
                .collect();
            let stream = frames.concat();
            for step in [1, 2, 3, 7, 13, 1_000, 64 * 1_024, stream.len()] {
                let mut position = Frames::default();
                let mut read = 0;
                for piece in stream.chunks(step) {
                    let next = ends.iter().find(|end| **end > read).unwrap();
                    let inside = !ends.contains(&read) && read > 0;
                    let expected = if inside { (next - read).min(piece.len()) } else { 0 };
                    assert_eq!(position.rest(piece), expected, "{step} at {read}");
                    position.advance(piece).unwrap();
                    read += piece.len();
                    assert_eq!(position.at_boundary(), ends.contains(&read), "{step} at {read}");
                }
            }
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_payload() {
        let mut position = Frames::default();
        assert_eq!(position.advance_within(&[0x82, 0xfe, 0x01], 300), Ok(()));
        assert!(position.advance_within(&[0x2d], 300).is_err());
        assert!(Frames::default().advance(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert_eq!(Frames::default().advance(&[0x82, 127, 0x7f, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Frames>(), 16);
    }
}
