//! The chunked transfer coding (RFC 9112 7.1), measured byte by byte as it passes.
//!
//! Stricter than the grammar where programs are known to differ: no whitespace around a size, no lone CR or LF anywhere, extensions and
//! trailers bounded and without control characters. What passes here is read alike by everybody.

use std::ops::Range;

use super::Malformed;

/// Digits of a size: with 15 the largest is below 2^60 and no sum of sizes overflows soon.
const DIGITS_MAX: u8 = 15;
/// Bytes of extensions in one body. Nobody uses them; what reads like a use of them is an attack more often than not.
const EXTENSION_BYTES_MAX: u16 = 256;
/// Bytes of trailers in one body.
const TRAILER_BYTES_MAX: u16 = 8_192;

/// What a body beyond its limit is refused with.
pub const TOO_LONG: Malformed = Malformed("the body is too long\n");

/// Where in a chunked body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Size {
        digits: u8,
    },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer line, or of the last line.
    LineStart,
    /// Inside the name of a trailer field.
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// A decoder that is told the bytes of a body as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    place: Place,
    /// Of the chunk at hand, still to come.
    left: u64,
    /// Content that may still come, the chunk at hand not counted.
    room: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            place: Place::Size { digits: 0 },
            left: 0,
            room: u64::MAX,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }
}

impl Chunked {
    /// Lets no more than so many bytes of content pass; a chunk that goes beyond is refused by its size, with [`TOO_LONG`].
    pub fn limit(&mut self, bytes_max: u64) {
        self.room = bytes_max;
    }

    /// Whether the last line has passed.
    pub fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// How much content comes next; 0 where something else does.
    pub fn content_left(&self) -> u64 {
        if self.place == Place::Data { self.left } else { 0 }
    }

    /// How many of `bytes` belong to the body; `data` is told which of them are content.
    ///
    /// # Errors
    /// The chunks break the rules. Nothing after the fault may be used.
    pub fn advance(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(Range<usize>),
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.place != Place::Done {
            if self.place == Place::Data {
                let rest = bytes.len() - at;
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
                data(at..at + count);
                at += count;
                self.left -= count as u64;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// One byte that is not content.
    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.place = match (self.place, byte) {
            (Place::Size { digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == DIGITS_MAX {
                    return Err(Malformed("chunk size is too large"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left * 16 + u64::from(digit);
                Place::Size { digits: digits + 1 }
            }
            (Place::Size { digits: 1.. } | Place::Extension, b'\r') => Place::SizeLf,
            (Place::Size { digits: 1.. }, b';') => Place::Extension,
            (Place::Size { .. }, _) => return Err(Malformed("bad chunk size")),
            (Place::Extension, byte) => {
                self.extension_bytes += 1;
                if is_control(byte) || self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(Malformed("bad chunk extension"));
                }
                Place::Extension
            }
            (Place::SizeLf, b'\n') if self.left > 0 => {
                self.room = self.room.checked_sub(self.left).ok_or(TOO_LONG)?;
                Place::Data
            }
            (Place::SizeLf | Place::TrailerLf, b'\n') => Place::LineStart,
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size { digits: 0 },
            (Place::LineStart, b'\r') => Place::LastLf,
            (Place::LastLf, b'\n') => Place::Done,
            (Place::LineStart | Place::TrailerName, byte) if super::is_token(byte) => {
                self.note_trailer(Place::TrailerName)?
            }
            (Place::TrailerName, b':') => self.note_trailer(Place::TrailerValue)?,
            (Place::TrailerValue, b'\r') => Place::TrailerLf,
            (Place::TrailerValue, byte) if !is_control(byte) => {
                self.note_trailer(Place::TrailerValue)?
            }
            (Place::LineStart | Place::TrailerName | Place::TrailerValue, _) => {
                return Err(Malformed("bad trailer"));
            }
            _ => return Err(Malformed("chunk does not end where it should")),
        };
        Ok(())
    }

    fn note_trailer(&mut self, next: Place) -> Result<Place, Malformed> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Malformed("trailers are too long"));
        }
        Ok(next)
    }
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content and how many bytes were of the body, fed in pieces of `step`.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut chunked, mut content, mut used) = (Chunked::default(), Vec::new(), 0);
        for piece in bytes.chunks(step) {
            let count = chunked.advance(piece, |range| content.extend_from_slice(&piece[range]))?;
            used += count;
            if count < piece.len() {
                break;
            }
        }
        Ok((content, used, chunked.is_done()))
    }

    #[test]
    fn content_is_found_however_the_bytes_are_cut() {
        let body =
            b"5\r\nhello\r\nB;name=\"v\"\r\n, wide world\r\n000\r\nX-Sum: 1\r\nY:\r\n\r\nGET /";
        let content = b"hello, wide worl";
        for step in 1..=body.len() {
            let (got, used, done) = read(&body[..0], step).unwrap();
            assert!(got.is_empty() && used == 0 && !done);
            let result = read(body, step);
            // The second chunk says 11 and has 12: the rest is no end of a chunk.
            assert_eq!(result, Err(Malformed("chunk does not end where it should")), "{step}");
            let right = [&body[..24], &body[25..]].concat();
            let (got, used, done) = read(&right, step).unwrap();
            assert!(done && used == right.len() - 5, "{step}: {used}");
            assert_eq!(got.len(), content.len(), "{step}");
        }
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        for bytes in [
            &b"\r\n"[..],
            b" 5\r\n",
            b"5 \r\n",
            b"0x5\r\n",
            b"+5\r\n",
            b"-1\r\n",
            b"5\nhello",
            b"5\r\r\n",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"5;a\nb\r\n",
            b"5;a\0\r\n",
            b"1000000000000000\r\n",
            b"0\r\nbad name: x\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\n: x\r\n\r\n",
            b"0\r\nX: a\nY: b\r\n\r\n",
            b"0\r\n\n",
        ] {
            assert!(read(bytes, bytes.len()).is_err(), "{:?}", String::from_utf8_lossy(bytes));
            assert!(read(bytes, 1).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn content_is_bounded_by_the_sizes_of_its_chunks() {
        let mut chunked = Chunked::default();
        chunked.limit(10);
        assert_eq!(chunked.advance(b"5\r\nhello\r\n5\r\nworld\r\n", |_| {}), Ok(20));
        let mut more = chunked;
        assert_eq!(chunked.advance(b"0\r\n\r\n", |_| {}), Ok(5));
        assert_eq!(more.advance(b"1\r\n!", |_| {}), Err(TOO_LONG));
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = [b"5;".to_vec(), vec![b'x'; 300]].concat();
        assert_eq!(read(&extension, 7), Err(Malformed("bad chunk extension")));
        let trailer = [b"0\r\nX: ".to_vec(), vec![b'x'; 9_000]].concat();
        assert_eq!(read(&trailer, 7), Err(Malformed("trailers are too long")));
    }
}
