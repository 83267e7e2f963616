//! WebSocket frames as they come in (RFC 6455). Pure: bytes in, messages out.
//!
//! Own framing, because what a library keeps for each connection is a multiple of all else that an idle connection needs, and
//! because outgoing frames are shared between connections, which no library offers. Nothing is kept between messages.

use bytes::{Buf as _, Bytes, BytesMut};

/// Most bytes of a control frame.
const CONTROL_MAX: usize = 125;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message; text or binary is not told apart.
    Message(Bytes),
    /// To be answered with the same payload.
    Ping(Bytes),
    /// Answers a ping.
    Pong,
    /// The client closes.
    Close,
}

/// Why reading cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A message over the limit.
    TooBig,
    /// No frame that a client may send.
    Protocol,
}

/// Collects frames into messages.
#[derive(Debug)]
pub(super) struct Reader {
    buffer: BytesMut,
    /// Parts of a message that is not complete; `None` between messages.
    parts: Option<BytesMut>,
    message_bytes_max: usize,
}

struct Header {
    last: bool,
    opcode: u8,
    size: usize,
    mask: [u8; 4],
    payload: usize,
}

impl Reader {
    /// Nothing read yet.
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), parts: None, message_bytes_max }
    }

    /// Takes what arrived.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if it is complete.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, Fault> {
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            if self.buffer.len() < header.size + header.payload {
                return Ok(None);
            }
            self.buffer.advance(header.size);
            let mut payload = self.buffer.split_to(header.payload);
            for (byte, key) in payload.iter_mut().zip(header.mask.iter().cycle()) {
                *byte ^= key;
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            match header.opcode {
                0x0 => self.parts.as_mut().ok_or(Fault::Protocol)?.unsplit(payload),
                0x1 | 0x2 if self.parts.is_none() => self.parts = Some(payload),
                0x8 => return Ok(Some(Incoming::Close)),
                0x9 => return Ok(Some(Incoming::Ping(payload.freeze()))),
                0xA => return Ok(Some(Incoming::Pong)),
                _ => return Err(Fault::Protocol),
            }
            if header.last {
                let message = self.parts.take().unwrap_or_default();
                return Ok(Some(Incoming::Message(message.freeze())));
            }
        }
    }

    /// The header at the front of the buffer, if it is complete.
    fn header(&self) -> Result<Option<Header>, Fault> {
        let buffer = &self.buffer[..];
        let [first, second, ..] = *buffer else { return Ok(None) };
        let (last, opcode, control) = (first & 0x80 != 0, first & 0x0F, first & 0x08 != 0);
        // Extensions were not agreed on, and what a client sends is masked.
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(Fault::Protocol);
        }
        let (start, payload) = match second & 0x7F {
            126 => match buffer.get(2..4) {
                Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
                _ => return Ok(None),
            },
            127 => match buffer.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => (10, u64::from_be_bytes(bytes)),
                None => return Ok(None),
            },
            short => (2, u64::from(short)),
        };
        let payload = usize::try_from(payload).map_err(|_| Fault::TooBig)?;
        if control && (!last || payload > CONTROL_MAX) {
            return Err(Fault::Protocol);
        }
        let before = if control { 0 } else { self.parts.as_ref().map_or(0, BytesMut::len) };
        if payload > self.message_bytes_max.saturating_sub(before) && !control {
            return Err(Fault::TooBig);
        }
        let mask = buffer.get(start..start + 4).and_then(|mask| mask.try_into().ok());
        Ok(mask.map(|mask| Header { last, opcode, size: start + 4, mask, payload }))
    }
}

/// A control frame of ours; longer payloads are cut, which only happens to reasons.
fn control(opcode: u8, payload: &[u8]) -> Bytes {
    let payload = &payload[..payload.len().min(CONTROL_MAX)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    #[expect(clippy::cast_possible_truncation, reason = "at most CONTROL_MAX")]
    frame.extend_from_slice(&[0x80 | opcode, payload.len() as u8]);
    frame.extend_from_slice(payload);
    frame.into()
}

/// A ping.
pub(super) fn ping() -> Bytes {
    Bytes::from_static(&[0x89, 0])
}

/// Answers a ping.
pub(super) fn pong(payload: &[u8]) -> Bytes {
    control(0xA, payload)
}

/// Closes the connection.
pub(super) fn close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    control(0x8, &[&code.to_be_bytes(), &reason.as_bytes()[..end]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                frame.push(0x80 | 0x7E);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    fn read(bytes: &[u8]) -> Result<Vec<Incoming>, Fault> {
        let mut reader = Reader::new(1000);
        let mut incoming = Vec::new();
        // Byte by byte, so that every incomplete state is seen.
        for byte in bytes {
            reader.extend(&[*byte]);
            while let Some(next) = reader.next()? {
                incoming.push(next);
            }
        }
        Ok(incoming)
    }

    fn message(text: &'static str) -> Incoming {
        Incoming::Message(text.into())
    }

    #[test]
    fn messages_are_read_whatever_way_they_arrive() {
        let two = [frame(0x81, b"one"), frame(0x82, b"two")].concat();
        assert_eq!(read(&two).unwrap(), [message("one"), message("two")]);
        let long = read(&frame(0x81, &[b'x'; 300])).unwrap();
        assert_eq!(long, [Incoming::Message(vec![b'x'; 300].into())]);
    }

    #[test]
    fn fragments_are_joined_with_control_frames_between_them() {
        let parts = [frame(0x01, b"a"), frame(0x89, b"p"), frame(0x00, b"b"), frame(0x80, b"c")];
        assert_eq!(read(&parts.concat()).unwrap(), [Incoming::Ping("p".into()), message("abc")]);
        assert_eq!(read(&frame(0x88, b"")).unwrap(), [Incoming::Close]);
        assert_eq!(read(&frame(0x8A, b"")).unwrap(), [Incoming::Pong]);
    }

    #[test]
    fn frames_that_no_client_may_send_are_refused() {
        for bad in [
            &b"\x81\x01x"[..],                                // not masked
            &frame(0xC1, b"x"),                               // a reserved bit
            &frame(0x83, b"x"),                               // a reserved opcode
            &frame(0x80, b"x"),                               // goes on with nothing
            &frame(0x09, b"x"),                               // a control frame in parts
            &frame(0x89, &[0; 126]),                          // a long one
            &[frame(0x01, b"a"), frame(0x81, b"b")].concat(), // a message within a message
        ] {
            assert_eq!(read(bad), Err(Fault::Protocol), "{bad:?}");
        }
    }

    #[test]
    fn messages_over_the_limit_are_refused_before_they_are_read() {
        assert_eq!(read(&frame(0x81, &[0; 1001])[..8]), Err(Fault::TooBig));
        assert_eq!(read(b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Err(Fault::TooBig));
        let parts = [frame(0x01, &[0; 600]), frame(0x80, &[0; 401])].concat();
        assert_eq!(read(&parts), Err(Fault::TooBig));
    }

    #[test]
    fn reasons_are_cut_to_what_fits() {
        let frame = close(3501, &"ä".repeat(100));
        assert!(frame.len() <= 2 + CONTROL_MAX);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
        assert_eq!(&close(3001, "x")[..], b"\x88\x03\x0b\xb9x");
    }
}
