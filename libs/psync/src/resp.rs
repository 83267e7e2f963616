//! RESP2 as bytes: replies to our commands, and commands in both directions.
//!
//! Pure and bounded: the functions here look at bytes already received and say what is there or that more is needed. Rejected: a full
//! client library, because none hands over the raw stream behind a reply, which is where replication begins.

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

/// A header, simple string or error is never longer; Redis itself stops at 64 KiB.
pub(crate) const LINE_BYTES_MAX: usize = 64 * 1024;

/// A reply is never larger: the replies we ask for (`INFO`, `ROLE`, `DUMP` of one key) are kilobytes.
pub(crate) const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Arrays in arrays in arrays: `ROLE` needs three levels.
const DEPTH_MAX: usize = 8;

/// Arguments of one command; Redis' own limit for its clients.
const ARGUMENTS_MAX: usize = 1024 * 1024;

/// A reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR …`
    Error(String),
    /// `:5`
    Integer(i64),
    /// A string of bytes, or nil.
    Bulk(Option<Bytes>),
    /// Several replies, or nil.
    Array(Option<Vec<Self>>),
}

impl Reply {
    /// The text of a simple or bulk reply.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) => Some(text.clone()),
            Self::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The number in an integer reply.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// The bytes are not RESP2, or they exceed a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) String);

/// A command as an array of bulk strings.
pub fn encode_command<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The reply at the start of `bytes` and its length; `None` if it is not all there yet.
///
/// # Errors
/// The bytes are not a reply, or it exceeds a bound.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let parsed = parse_at(bytes, 0, 0)?;
    if parsed.is_none() && bytes.len() > REPLY_BYTES_MAX {
        return Err(Malformed(format!("a reply of more than {REPLY_BYTES_MAX} bytes")));
    }
    Ok(parsed)
}

fn parse_at(bytes: &[u8], at: usize, depth: usize) -> Result<Option<(Reply, usize)>, Malformed> {
    let Some((line, next)) = line_at(bytes, at)? else { return Ok(None) };
    let Some((kind, rest)) = line.split_first() else {
        return Err(Malformed("an empty line where a reply was expected".to_owned()));
    };
    let reply = match kind {
        b'+' => Reply::Simple(String::from_utf8_lossy(rest).into_owned()),
        b'-' => Reply::Error(String::from_utf8_lossy(rest).into_owned()),
        b':' => Reply::Integer(number(rest)?),
        b'$' | b'*' if rest == b"-1" => {
            if *kind == b'$' {
                Reply::Bulk(None)
            } else {
                Reply::Array(None)
            }
        }
        b'$' => {
            let length = size(rest, REPLY_BYTES_MAX)?;
            let Some(body) = bytes.get(next..next + length + 2) else { return Ok(None) };
            let reply = Reply::Bulk(Some(Bytes::copy_from_slice(&body[..length])));
            return Ok(Some((reply, next + length + 2)));
        }
        b'*' => {
            if depth == DEPTH_MAX {
                return Err(Malformed(format!("arrays nested deeper than {DEPTH_MAX}")));
            }
            let mut items = Vec::new();
            let mut next = next;
            for _ in 0..size(rest, ARGUMENTS_MAX)? {
                let Some((item, after)) = parse_at(bytes, next, depth + 1)? else {
                    return Ok(None);
                };
                items.push(item);
                next = after;
            }
            return Ok(Some((Reply::Array(Some(items)), next)));
        }
        other => return Err(Malformed(format!("byte {other:#04x} where a reply was expected"))),
    };
    Ok(Some((reply, next)))
}

/// The line that starts at `at`, without its end, and where the next one starts.
fn line_at(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = &rest[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1)))
        }
        None if rest.len() >= LINE_BYTES_MAX => {
            Err(Malformed(format!("a line of more than {LINE_BYTES_MAX} bytes")))
        }
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Malformed(format!("{:?} is not a number", String::from_utf8_lossy(digits))))
}

fn size(digits: &[u8], max: usize) -> Result<usize, Malformed> {
    let number = number(digits)?;
    usize::try_from(number)
        .ok()
        .filter(|size| *size <= max)
        .ok_or_else(|| Malformed(format!("length {number} is outside 0 to {max}")))
}

/// Cuts commands out of a stream (a client's, or a replication stream) and counts the offset.
///
/// Every byte of the stream counts, the bare newlines between commands included, as they do for Redis itself.
#[derive(Debug)]
pub struct CommandParser {
    /// The offset before the first byte that is not part of a command handed out.
    offset: u64,
    command_bytes_max: usize,
    /// Of the command being received: how far it was read, where its arguments lie, how many are missing.
    position: usize,
    arguments: Vec<Range<usize>>,
    missing: Option<usize>,
}

/// The arguments of a command, and its length in the stream.
pub type RawCommand = (Vec<Bytes>, usize);

impl CommandParser {
    /// A parser for a stream that starts at `offset`; a longer command is refused.
    pub fn new(offset: u64, command_bytes_max: usize) -> Self {
        Self { offset, command_bytes_max, position: 0, arguments: Vec::new(), missing: None }
    }

    /// The offset up to which commands (and newlines between them) were handed out.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next command off the front of `buffer`; `None` if it is not all there yet.
    ///
    /// # Errors
    /// The bytes are not a command, or it exceeds the bound.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<RawCommand>, Malformed> {
        loop {
            match self.missing {
                None => {
                    while buffer.first() == Some(&b'\n') {
                        buffer.advance(1);
                        self.offset += 1;
                    }
                    let Some((count, next)) = header(buffer, 0, b'*', ARGUMENTS_MAX)? else {
                        return Ok(None);
                    };
                    self.missing = Some(count);
                    self.position = next;
                }
                Some(0) => {
                    self.missing = None;
                    let length = std::mem::take(&mut self.position);
                    let whole = buffer.split_to(length).freeze();
                    self.offset += length as u64;
                    let arguments = self.arguments.drain(..).map(|range| whole.slice(range));
                    return Ok(Some((arguments.collect(), length)));
                }
                Some(missing) => {
                    let max = self.command_bytes_max;
                    let Some((length, start)) = header(buffer, self.position, b'$', max)? else {
                        return Ok(None);
                    };
                    let end = start + length;
                    if end > max {
                        return Err(Malformed(format!("a command of more than {max} bytes")));
                    }
                    let Some(terminator) = buffer.get(end..end + 2) else { return Ok(None) };
                    if terminator != b"\r\n" {
                        return Err(Malformed(
                            "an argument that does not end where it should".into(),
                        ));
                    }
                    self.arguments.push(start..end);
                    self.position = end + 2;
                    self.missing = Some(missing - 1);
                }
            }
        }
    }
}

/// The number behind `kind` at `at`, and where the next line starts.
fn header(
    bytes: &[u8],
    at: usize,
    kind: u8,
    max: usize,
) -> Result<Option<(usize, usize)>, Malformed> {
    match bytes.get(at) {
        None => Ok(None),
        Some(found) if *found == kind => match line_at(bytes, at)? {
            Some((line, next)) => Ok(Some((size(&line[1..], max)?, next))),
            None => Ok(None),
        },
        Some(found) => Err(Malformed(format!(
            "byte {found:#04x} where {:?} was expected in the command stream",
            char::from(kind)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: &[u8]) -> Reply {
        let (reply, length) = parse_reply(bytes).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        reply
    }

    #[test]
    fn replies_of_every_kind_are_read() {
        assert_eq!(reply(b"+OK\r\n"), Reply::Simple("OK".into()));
        assert_eq!(reply(b"-ERR no\r\n"), Reply::Error("ERR no".into()));
        assert_eq!(reply(b":-7\r\n"), Reply::Integer(-7));
        assert_eq!(reply(b"$-1\r\n"), Reply::Bulk(None));
        assert_eq!(reply(b"$4\r\na\r\nb\r\n"), Reply::Bulk(Some(Bytes::from_static(b"a\r\nb"))));
        assert_eq!(
            reply(b"*2\r\n:1\r\n*1\r\n+x\r\n"),
            Reply::Array(Some(vec![
                Reply::Integer(1),
                Reply::Array(Some(vec![Reply::Simple("x".into())]))
            ]))
        );
    }

    #[test]
    fn a_part_of_a_reply_is_not_a_reply() {
        let whole = b"*3\r\n$5\r\nhello\r\n:12\r\n*1\r\n$0\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse_reply(&whole[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn what_is_not_resp_or_too_large_is_refused() {
        let deep = b"*1\r\n".repeat(20);
        let long = vec![b'+'; LINE_BYTES_MAX + 1];
        for bytes in
            [&b"?x\r\n"[..], b"$x\r\n", b"$99999999999\r\n", b":\r\n", b"\r\n", &deep, &long]
        {
            assert!(parse_reply(bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes[..4]));
        }
    }

    #[test]
    fn commands_come_out_with_offsets_wherever_the_stream_is_cut() {
        let mut stream = encode_command(&["SELECT", "0"]);
        stream.extend_from_slice(b"\n\n");
        stream.extend(encode_command(&[&b"SET"[..], b"k\r\n", b"", b"$3\r\n"]));
        for size in 1..stream.len() {
            let mut parser = CommandParser::new(100, 1024);
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some((arguments, length)) = parser.next(&mut buffer).unwrap() {
                    found.push((arguments.len(), length, parser.offset()));
                }
            }
            assert_eq!(found, [(2, 23, 123), (4, 38, 163)], "pieces of {size}");
        }
    }

    #[test]
    fn a_command_beyond_the_bound_is_refused() {
        let command = encode_command(&["SET", "k", &"v".repeat(100)]);
        let mut buffer = BytesMut::from(&command[..]);
        assert!(CommandParser::new(0, 64).next(&mut buffer).is_err());
        let mut buffer = BytesMut::from(&b"garbage"[..]);
        assert!(CommandParser::new(0, 64).next(&mut buffer).is_err());
    }
}
