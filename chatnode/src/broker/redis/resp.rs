//! RESP2: commands out, replies in. Pure.
//!
//! A reply is parsed only once it is complete: a first pass over the received bytes finds its end (it skips over payloads, so it costs
//! as much as there are elements, not bytes), then the values are cut out of the buffer without copying.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest payload of one value. Redis itself allows 512 MiB; a chat message is three orders below this.
const BULK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most elements of one array: a full history page or a channel's members, with room.
const ELEMENTS_MAX: usize = 4_000_000;

/// Deepest nesting; what we ask for needs 4.
const DEPTH_MAX: usize = 8;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A bulk string or a status.
    Text(Bytes),
    /// An error reply.
    Error(String),
    /// An integer.
    Integer(i64),
    /// No value.
    Null,
    /// Values in order.
    Array(Vec<Self>),
}

/// The bytes are not RESP2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply is not RESP2")]
pub(super) struct Malformed;

impl Value {
    /// The text, if it is one and UTF-8.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The bytes, if it is a text.
    pub(super) fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub(super) fn array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The number, if it is one, written either way.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            _ => self.text()?.parse().ok(),
        }
    }
}

/// Appends a command to `out`.
pub(super) fn encode<A: AsRef<[u8]>>(out: &mut BytesMut, arguments: &[A]) {
    header(out, b'*', arguments.len());
    for argument in arguments {
        let argument = argument.as_ref();
        header(out, b'$', argument.len());
        out.put_slice(argument);
        out.put_slice(b"\r\n");
    }
}

fn header(out: &mut BytesMut, kind: u8, number: usize) {
    out.put_u8(kind);
    out.put_slice(number.to_string().as_bytes());
    out.put_slice(b"\r\n");
}

/// Takes the next complete reply out of `input`; `None` if there is not all of it yet.
///
/// # Errors
/// The bytes are not RESP2; the connection is of no more use.
pub(super) fn decode(input: &mut BytesMut) -> Result<Option<Value>, Malformed> {
    let Some(end) = end_of(input, 0, 0)? else { return Ok(None) };
    let mut reply = input.split_to(end).freeze();
    Ok(Some(take(&mut reply)))
}

/// Where the value that starts at `at` ends.
fn end_of(input: &[u8], at: usize, depth: usize) -> Result<Option<usize>, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed);
    }
    let Some((line, after)) = line(input, at)? else { return Ok(None) };
    let (&kind, rest) = line.split_first().ok_or(Malformed)?;
    match kind {
        b'+' | b'-' => Ok(Some(after)),
        b':' => number(rest).map(|_| Some(after)),
        b'$' => match length(rest, BULK_BYTES_MAX)? {
            None => Ok(Some(after)),
            Some(length) => {
                let end = after + length + 2;
                Ok((input.len() >= end).then_some(end))
            }
        },
        b'*' => {
            let mut end = after;
            for _ in 0..length(rest, ELEMENTS_MAX)?.unwrap_or(0) {
                let Some(next) = end_of(input, end, depth + 1)? else { return Ok(None) };
                end = next;
            }
            Ok(Some(end))
        }
        _ => Err(Malformed),
    }
}

/// The line that starts at `at`, and where the next one starts.
fn line(input: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let rest = &input[at.min(input.len())..];
    let Some(end) = rest.iter().position(|b| *b == b'\n') else {
        return if rest.len() > 64 * 1024 { Err(Malformed) } else { Ok(None) };
    };
    let line = rest[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    Ok(Some((line, at + end + 1)))
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

/// A length; `None` for the null forms `$-1` and `*-1`.
fn length(digits: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
    match number(digits)? {
        -1 => Ok(None),
        length => {
            usize::try_from(length).ok().filter(|length| *length <= max).map(Some).ok_or(Malformed)
        }
    }
}

/// Cuts the first value off `reply`, which [`end_of`] has found complete and well formed.
fn take(reply: &mut Bytes) -> Value {
    const CHECKED: &str = "end_of has seen this value";
    let (line, after) = line(reply, 0).expect(CHECKED).expect(CHECKED);
    let kind = line[0];
    let content = reply.slice(1..line.len());
    reply.advance(after);
    match kind {
        b'+' => Value::Text(content),
        b'-' => Value::Error(String::from_utf8_lossy(&content).into_owned()),
        b':' => Value::Integer(number(&content).expect(CHECKED)),
        b'$' => match length(&content, BULK_BYTES_MAX).expect(CHECKED) {
            None => Value::Null,
            Some(length) => {
                let text = reply.split_to(length);
                reply.advance(2);
                Value::Text(text)
            }
        },
        _ => match length(&content, ELEMENTS_MAX).expect(CHECKED) {
            None => Value::Null,
            Some(length) => Value::Array((0..length).map(|_| take(reply)).collect()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    const SAMPLE: &[u8] =
        b"*5\r\n$3\r\na\r\n\r\n:-7\r\n*2\r\n+OK\r\n-ERR no\r\n$-1\r\n*-1\r\n+next\r\n";

    #[test]
    fn replies_are_read_whole_and_in_order() {
        let mut input = BytesMut::from(SAMPLE);
        let first = decode(&mut input).unwrap().unwrap();
        assert_eq!(
            first,
            Value::Array(vec![
                text("a\r\n"),
                Value::Integer(-7),
                Value::Array(vec![text("OK"), Value::Error("ERR no".into())]),
                Value::Null,
                Value::Null,
            ])
        );
        assert_eq!(decode(&mut input), Ok(Some(text("next"))));
        assert_eq!(decode(&mut input), Ok(None));
    }

    #[test]
    fn bytes_may_arrive_one_by_one() {
        let mut input = BytesMut::new();
        let mut replies = 0;
        for byte in SAMPLE {
            input.put_u8(*byte);
            replies += usize::from(decode(&mut input).unwrap().is_some());
        }
        assert_eq!((replies, input.len()), (2, 0));
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        for bad in [
            "hello\r\n",
            "$x\r\n",
            "$-2\r\n",
            ":\r\n",
            "\r\n",
            "+a\n",
            "$99999999999\r\n",
            "*9999999\r\n",
        ] {
            assert_eq!(decode(&mut BytesMut::from(bad)), Err(Malformed), "{bad:?}");
        }
        let deep = "*1\r\n".repeat(20);
        assert_eq!(decode(&mut BytesMut::from(deep.as_str())), Err(Malformed));
    }

    #[test]
    fn commands_carry_their_lengths() {
        let mut out = BytesMut::new();
        encode(&mut out, &["PING", "a\r\n"]);
        assert_eq!(&out[..], b"*2\r\n$4\r\nPING\r\n$3\r\na\r\n\r\n");
    }
}
