//! A WebSocket client that does as little as possible: for load that must not cost more than what it measures, and for sending what no
//! proper client would send.
//!
//! Frames go out masked with a key of zeros, which is a mask as the standard wants it and costs nothing.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Room made for each read.
const READ_BYTES: usize = 4 * 1024;

/// Longest answer to the upgrade request.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// Bits and lengths of a frame's first two bytes.
const LAST: u8 = 0x80;
const MASKED: u8 = 0x80;
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;

/// Opcode of a text frame.
pub const TEXT: u8 = 1;
/// Opcode of a binary frame.
pub const BINARY: u8 = 2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its opcode.
    pub opcode: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// An open connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    /// Connects and upgrades; `protocol` is the subprotocol to offer, if any.
    ///
    /// # Errors
    /// No connection, or the answer is not 101; then the error's text is the answer's first line.
    pub async fn open(address: SocketAddr, protocol: Option<&str>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, input: Vec::new() };
        let protocol =
            protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        wire.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some(end) = wire.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let answer = String::from_utf8_lossy(&wire.input[..end]).into_owned();
                let first = answer.lines().next().unwrap_or_default();
                if !first.contains(" 101 ") {
                    return Err(io::Error::other(first.to_owned()));
                }
                wire.input.drain(..end + 4);
                return Ok(wire);
            }
            if wire.input.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the answer to the upgrade has no end"));
            }
            wire.fill().await?;
        }
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.send_frame(TEXT, text.as_bytes()).await
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.send_raw(&frame(opcode, payload)).await
    }

    /// Sends bytes as they are, which may be no frame at all.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next frame.
    ///
    /// # Errors
    /// The connection is gone.
    ///
    /// # Cancel safety
    /// What was received stays for the next call.
    pub async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some((start, end)) = bounds(&self.input)
                && self.input.len() >= end
            {
                let frame =
                    Frame { opcode: self.input[0] & 15, payload: self.input[start..end].to_vec() };
                self.input.drain(..end);
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The next text.
    ///
    /// # Errors
    /// The connection is gone, or what came is not text; a close frame is told with its code.
    pub async fn next_text(&mut self) -> io::Result<String> {
        let frame = self.next().await?;
        match frame.opcode {
            TEXT => String::from_utf8(frame.payload).map_err(io::Error::other),
            CLOSE => Err(io::Error::other(format!("closed with {:?}", close_code(&frame)))),
            other => Err(io::Error::other(format!("a frame with opcode {other}"))),
        }
    }

    /// The code the server closes with; frames before that are dropped. `None`: it closed without one.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn closed(&mut self) -> io::Result<Option<u16>> {
        loop {
            match self.next().await {
                Ok(frame) if frame.opcode == CLOSE => return Ok(close_code(&frame)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket, for what this type does not offer.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.input.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A masked frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![LAST | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..TWO_BYTES), _) => bytes.push(MASKED | length),
        (_, Ok(length)) => {
            bytes.push(MASKED | TWO_BYTES);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | EIGHT_BYTES);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Where the payload of the first frame in `input` starts and ends, once its head is there. Servers do not mask.
fn bounds(input: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match input.get(1)? & !MASKED {
        TWO_BYTES => (4, u64::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?))),
        EIGHT_BYTES => (10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)),
        length => (2, u64::from(length)),
    };
    Some((start, start + usize::try_from(length).ok()?))
}

fn close_code(frame: &Frame) -> Option<u16> {
    Some(u16::from_be_bytes(frame.payload.get(..2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_form_have_their_bounds() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let mut bytes = frame(BINARY, &vec![7; length]);
            // As a server sends it: without the mask.
            bytes[1] &= !MASKED;
            let head = bytes.len() - length - 4;
            bytes.drain(head..head + 4);
            assert_eq!(bounds(&bytes), Some((head, head + length)));
            assert_eq!(bounds(&bytes[..1]), None);
        }
    }
}
