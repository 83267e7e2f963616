//! Numbers and strings as bytes: what log, checkpoint and block have in common.
//!
//! Numbers are little-endian, or variable-length with seven bits a byte, signed ones zigzag. Reading never panics and never trusts a
//! length: whatever does not fit gives `None`, and the caller says which file it was.

use std::io::Read as _;
use std::sync::Arc;

use crate::labels::{Label, Labels};

/// Most bytes one compressed piece may expand to; a length beyond is a flipped bit.
pub(crate) const EXPANDED_MAX: u64 = 256 * 1024 * 1024;
/// Most labels of one series.
const LABELS_MAX: u64 = 1024;
/// Fast level: the log is written every second, and most of the gain is in the order of the columns.
const LEVEL: i32 = 1;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_varint(out, len as u64);
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_float(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(crate) fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_len(out, labels.len());
    for (name, value) in labels.iter() {
        put_text(out, name);
        put_text(out, value);
    }
}

/// `bytes`, compressed, after the length they expand to.
pub(crate) fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    put_len(&mut out, bytes.len());
    out.extend_from_slice(&zstd::bulk::compress(bytes, LEVEL)?);
    Ok(out)
}

/// The opposite of [`compress`].
pub(crate) fn expand(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    let len = reader.varint().filter(|&len| len <= EXPANDED_MAX)?;
    // As a stream, so that memory is taken for what is there and not for what the length says.
    let stream = zstd::stream::read::Decoder::with_buffer(reader.rest()).ok()?;
    let mut expanded = Vec::new();
    stream.take(len + 1).read_to_end(&mut expanded).ok()?;
    (expanded.len() as u64 == len).then_some(expanded)
}

/// Reads what the functions above wrote.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        let bytes = self.bytes(4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    pub(crate) fn float(&mut self) -> Option<f64> {
        let bytes = self.bytes(8)?.try_into().ok()?;
        Some(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    /// A number of things that take at least a byte each in what is left.
    pub(crate) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.count()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    pub(crate) fn labels(&mut self) -> Option<Labels> {
        let count = self.varint().filter(|&count| count <= LABELS_MAX)?;
        let mut labels = Vec::new();
        for _ in 0..count {
            let (name, value) = (self.text()?, self.text()?);
            labels.push(Label { name: Arc::from(name), value: Arc::from(value) });
        }
        Some(Labels::from_labels(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written() {
        let mut out = Vec::new();
        for value in [0, 1, 127, 128, u64::MAX] {
            put_varint(&mut out, value);
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            put_signed(&mut out, value);
        }
        put_text(&mut out, "ä");
        let labels = Labels::from_pairs([("a", "1"), ("b", "2")]);
        put_labels(&mut out, &labels);
        let mut reader = Reader::new(&out);
        for value in [0, 1, 127, 128, u64::MAX] {
            assert_eq!(reader.varint(), Some(value));
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(reader.signed(), Some(value));
        }
        assert_eq!(reader.text(), Some("ä"));
        assert_eq!(reader.labels(), Some(labels));
        assert!(reader.is_empty());
    }

    #[test]
    fn nonsense_gives_nothing() {
        assert_eq!(Reader::new(&[0xff; 12]).varint(), None);
        assert_eq!(Reader::new(&[200, 1, 0]).text(), None);
        let mut long = Vec::new();
        put_varint(&mut long, EXPANDED_MAX + 1);
        assert_eq!(expand(&long), None);
        assert_eq!(expand(&compress(b"abc").unwrap()).as_deref(), Some(&b"abc"[..]));
    }
}
