//! HTTP/1.1 messages as bytes: where a head ends, what it asks of a proxy, how long the body is, and the head that goes on.
//!
//! Pure: bytes in, bytes and verdicts out. `httparse` splits heads into lines; what the lines mean for framing and for this hop is decided
//! here, strictly (RFC 9112 2.2, 3.2, 6, 7.1; RFC 9110 7.6): whatever two programs could read in two ways is refused, not repaired. Heads go
//! on as they came but for the lines that concern this hop, in runs of bytes, so a field nobody here cares about costs no more than its
//! copy. Bodies are measured, never changed.
//!
//! Rejected: a general HTTP library on the data path. Tuned as far as it goes (own pool, one runtime per core), hyper still spends most of
//! its time on a map of header fields that a proxy takes apart only to write it again, and it repairs where we would rather refuse.

pub mod choice;
pub mod chunked;
mod fields;
pub mod frames;
pub mod request;
pub mod response;
mod trace;
pub(crate) mod websocket;

use chunked::Chunked;

/// Header fields of one message; browsers send about 15.
pub const FIELDS_MAX: usize = 100;

/// A message that breaks the rules; the text says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// How far a body reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes are still to come; none at the end of every body.
    Length(u64),
    /// In chunks.
    Chunked(Chunked),
    /// Until the sender closes.
    UntilClose,
}

impl Framing {
    /// No body, or no more of it.
    pub const NONE: Self = Self::Length(0);

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::UntilClose => false,
        }
    }

    /// Whether no more than `bytes_max` bytes are announced; of chunks, no more are let pass from here on.
    pub fn limit(&mut self, bytes_max: u64) -> bool {
        match self {
            Self::Length(left) => *left <= bytes_max,
            Self::Chunked(chunked) => {
                chunked.limit(bytes_max);
                true
            }
            Self::UntilClose => true,
        }
    }

    /// How many of `bytes`, the next ones on the connection, belong to the body.
    ///
    /// # Errors
    /// The chunks break the rules.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                Ok(count)
            }
            Self::Chunked(chunked) => chunked.advance(bytes, |_| {}),
            Self::UntilClose => Ok(bytes.len()),
        }
    }
}

/// A length as a field's value has it: digits and nothing else, so that no other program reads another number.
fn length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let digit = |number: u64, byte: &u8| number * 10 + u64::from(byte - b'0');
    // 19 digits always fit.
    digits.then(|| value.iter().fold(0, digit))
}

/// Whether `byte` may stand in a field's name (RFC 9110 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether every line of a head, of which `fields` lie in it, ends in CRLF. A lone LF ends a line for some programs and for others not.
///
/// `httparse` lets LF stand nowhere but at the end of a line, so it is enough to look before each field, where the line above ends, at the
/// end, and at empty lines in front.
fn has_strict_lines(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let mut rest = head;
    while let Some(next) = rest.strip_prefix(b"\r\n") {
        rest = next;
    }
    !rest.starts_with(b"\n")
        && fields.iter().all(|field| head[..position(head, field.name)].ends_with(b"\r\n"))
        && rest.ends_with(b"\r\n\r\n")
}

/// Where a slice of a head begins in it.
fn position(head: &[u8], part: &str) -> usize {
    part.as_ptr().addr() - head.as_ptr().addr()
}

/// The members of a comma-separated list.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_lf_is_found_wherever_it_stands() {
        let all = ["", "", "GET / HTTP/1.1", "Host: a", "X:", "Y: b c", ""];
        let none = ["GET / HTTP/1.1", ""];
        for lines in [&all[..], &all[1..], &all[2..], &none[..]] {
            for lone in 0..1_u32 << lines.len() {
                let end = |n: usize| if lone >> n & 1 == 1 { "\n" } else { "\r\n" };
                let head: String =
                    lines.iter().enumerate().flat_map(|(n, line)| [*line, end(n)]).collect();
                let mut fields = [httparse::EMPTY_HEADER; 3];
                let mut request = httparse::Request::new(&mut fields);
                let read = request.parse(head.as_bytes());
                assert_eq!(read, Ok(httparse::Status::Complete(head.len())), "{head:?}");
                let strict = has_strict_lines(head.as_bytes(), request.headers);
                assert_eq!(strict, lone == 0, "{head:?}");
            }
        }
    }
}
