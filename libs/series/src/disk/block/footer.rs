//! The end of a block: what it holds and where its parts are.

use super::{END_MAGIC, MAGIC};
use crate::codec::{Reader, put_len, put_signed, put_varint};

/// Most blocks one block can replace; compaction takes far fewer.
const REPLACES_MAX: usize = 4096;
/// Checksum, length and magic behind the footer.
const TRAILER_BYTES: usize = 16;

/// Where a part of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) checksum: u32,
}

/// What a block that was cut from memory says about the log: samples before `until_ms` in segments up to `segment` are in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) until_ms: i64,
    pub(crate) segment: u64,
}

/// What a block holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Footer {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) series: u64,
    pub(crate) samples: u64,
    pub(crate) cut: Option<Cut>,
    /// Numbers of blocks whose samples are all in this one.
    pub(crate) replaces: Vec<u64>,
    pub(crate) symbols: Part,
    pub(crate) postings: Part,
    pub(crate) pages: Part,
}

impl Footer {
    /// The footer with all that comes behind it.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_signed(&mut out, self.first_ms);
        put_signed(&mut out, self.last_ms);
        put_varint(&mut out, self.series);
        put_varint(&mut out, self.samples);
        out.push(u8::from(self.cut.is_some()));
        if let Some(cut) = self.cut {
            put_signed(&mut out, cut.until_ms);
            put_varint(&mut out, cut.segment);
        }
        put_len(&mut out, self.replaces.len());
        for &number in &self.replaces {
            put_varint(&mut out, number);
        }
        for part in [self.symbols, self.postings, self.pages] {
            put_varint(&mut out, part.offset);
            put_varint(&mut out, part.len.into());
            out.extend_from_slice(&part.checksum.to_le_bytes());
        }
        let (checksum, len) = (crc32fast::hash(&out), out.len());
        out.extend_from_slice(&checksum.to_le_bytes());
        // A footer has some dozens of bytes, and at most REPLACES_MAX numbers.
        out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(END_MAGIC);
        out
    }

    /// The footer of a file that ends with `tail`.
    pub(crate) fn read(tail: &[u8]) -> Option<Self> {
        let trailer = tail.len().checked_sub(TRAILER_BYTES)?;
        let mut reader = Reader::new(&tail[trailer..]);
        let (checksum, len) = (reader.u32()?, reader.u32()? as usize);
        if reader.rest() != END_MAGIC {
            return None;
        }
        let body = &tail[trailer.checked_sub(len)?..trailer];
        if crc32fast::hash(body) != checksum {
            return None;
        }
        Self::parse(&mut Reader::new(body))
    }

    fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let mut footer = Self {
            first_ms: reader.signed()?,
            last_ms: reader.signed()?,
            series: reader.varint()?,
            samples: reader.varint()?,
            ..Self::default()
        };
        if reader.byte()? != 0 {
            footer.cut = Some(Cut { until_ms: reader.signed()?, segment: reader.varint()? });
        }
        for _ in 0..reader.count()?.min(REPLACES_MAX) {
            footer.replaces.push(reader.varint()?);
        }
        for part in [&mut footer.symbols, &mut footer.postings, &mut footer.pages] {
            part.offset = reader.varint()?;
            part.len = u32::try_from(reader.varint()?).ok()?;
            part.checksum = reader.u32()?;
            if part.offset < MAGIC.len() as u64 {
                return None;
            }
        }
        Some(footer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_comes_back_and_a_flipped_one_does_not() {
        let part = Part { offset: 8, len: 3, checksum: 9 };
        let footer = Footer {
            first_ms: -5,
            last_ms: 7,
            series: 2,
            samples: 30,
            cut: Some(Cut { until_ms: 8, segment: 4 }),
            replaces: vec![1, 2],
            symbols: part,
            postings: part,
            pages: part,
        };
        let bytes = footer.write();
        assert_eq!(Footer::read(&bytes).as_ref(), Some(&footer));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(Footer::read(&flipped), None, "byte {at}");
        }
    }
}
