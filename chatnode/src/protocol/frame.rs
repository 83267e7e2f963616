//! A finished document, ready for every connection that wants it.
//!
//! What a server sends over a WebSocket is not masked, so the frame around a document is the same for all its receivers: it is built
//! once, header and all, and shared. Transports without such frames take the document out of it.

use bytes::Bytes;

/// Room for the longest header: opcode, length mark, 64-bit length.
pub(super) const HEADER_MAX: usize = 10;

/// A document within its WebSocket frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    header: u8,
}

impl Frame {
    /// Finishes a frame. `buffer` holds the document after [`HEADER_MAX`] bytes of room.
    pub(super) fn finish(mut buffer: Vec<u8>, binary: bool) -> Self {
        let length = buffer.len() - HEADER_MAX;
        let first = if binary { 0x82 } else { 0x81 };
        let mut header = [0; HEADER_MAX];
        let size = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..126), _) => {
                header[..2].copy_from_slice(&[first, short]);
                2
            }
            (_, Ok(medium)) => {
                header[..2].copy_from_slice(&[first, 126]);
                header[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                header[..2].copy_from_slice(&[first, 127]);
                header[2..].copy_from_slice(&(length as u64).to_be_bytes());
                HEADER_MAX
            }
        };
        let start = HEADER_MAX - size;
        buffer[start..HEADER_MAX].copy_from_slice(&header[..size]);
        #[expect(clippy::cast_possible_truncation, reason = "at most HEADER_MAX")]
        let header = size as u8;
        Self { bytes: Bytes::from(buffer).slice(start..), header }
    }

    /// The whole WebSocket frame.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The document in it.
    pub fn document(&self) -> Bytes {
        self.bytes.slice(usize::from(self.header)..)
    }

    /// Size on the wire.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Frame {
        let mut buffer = vec![0; HEADER_MAX];
        buffer.resize(HEADER_MAX + length, b'x');
        Frame::finish(buffer, false)
    }

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        for (length, header) in [
            (0, &b"\x81\x00"[..]),
            (125, b"\x81\x7d"),
            (126, b"\x81\x7e\x00\x7e"),
            (65_535, b"\x81\x7e\xff\xff"),
            (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ] {
            let frame = frame(length);
            assert_eq!(&frame.bytes()[..header.len()], header);
            assert_eq!(frame.document().len(), length);
            assert_eq!(frame.len(), header.len() + length);
        }
    }
}
