//! A response's head: turned into the head a client gets.

use std::mem::MaybeUninit;

use super::fields::{Connection, Field, Lines, classify};
use super::{FIELDS_MAX, Framing, Malformed, chunked::Chunked};

/// What the request asked for, as far as the response's head depends on it.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
pub struct Asked<'a> {
    /// `HEAD`.
    pub is_head: bool,
    /// To switch protocols.
    pub upgrade: bool,
    /// By a client that knows no chunks.
    pub http10: bool,
    /// And wants another request on this connection.
    pub keep_alive: bool,
    /// Lines of ours for the final response, each with its end.
    pub extra: &'a str,
}

/// What a head says beyond itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
pub struct ResponseHead {
    /// Bytes it had.
    pub length: usize,
    /// Its status.
    pub status: u16,
    /// How far its body reaches.
    pub framing: Framing,
    /// Whether the server's connection can be used again after the body.
    pub reusable: bool,
    /// Whether the client's connection ends with this response; the head written says so.
    pub close: bool,
    /// Whether the client gets the content of chunks without the chunks.
    pub unchunk: bool,
    /// Whether both sides speak WebSocket from here on.
    pub websocket: bool,
}

impl ResponseHead {
    /// Another response follows this one.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// Reads a head from the front of `bytes` and writes the one the client gets to the end of `out`. `None` while it is incomplete; `out`
/// is as it was then, and on an error.
///
/// # Errors
/// A response that nobody can be given.
pub fn read(
    bytes: &[u8],
    asked: &Asked<'_>,
    out: &mut Vec<u8>,
) -> Result<Option<ResponseHead>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let parsed = parser.parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed("the response is not HTTP/1.1")),
    };
    let head = &bytes[..length];
    if !super::has_strict_lines(head, response.headers) {
        return Err(Malformed("a line of the response does not end in CRLF"));
    }
    let status = response.code.unwrap_or_default();
    if !(100..1_000).contains(&status) {
        return Err(Malformed("the response has no status"));
    }
    let server_http10 = response.version == Some(0);
    let mut connection = Connection::default();
    let (mut content_length, mut chunked, mut websocket) = (None, false, false);
    for field in response.headers.iter() {
        match classify(field.name) {
            Field::Connection => connection.read(field.value),
            Field::ContentLength => {
                let length = super::length(field.value);
                // Repeated alike, as some servers do, it is still one length.
                if length.is_none() || content_length.is_some_and(|known| Some(known) != length) {
                    return Err(Malformed("bad Content-Length in the response"));
                }
                content_length = length;
            }
            Field::TransferEncoding => {
                if chunked || server_http10 || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("bad Transfer-Encoding in the response"));
                }
                chunked = true;
            }
            Field::Upgrade => {
                websocket = status == 101 && field.value.eq_ignore_ascii_case(b"websocket");
            }
            _ => {}
        }
    }
    let switching = status == 101;
    if switching && !asked.upgrade {
        return Err(Malformed("the server switched protocols unasked"));
    }
    let bodiless = asked.is_head || status < 200 || status == 204 || status == 304;
    let framing = match content_length {
        _ if bodiless => Framing::NONE,
        _ if chunked => Framing::Chunked(Chunked::default()),
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let unchunk = chunked && asked.http10;
    let endless = framing == Framing::UntilClose || (unchunk && !bodiless);
    let close = !asked.keep_alive || endless;
    // Where both lengths came, one of two programs has been fooled; the connection is not trusted further (RFC 9112 6.3).
    let contradicts = chunked && content_length.is_some();
    let server_keeps = if server_http10 { connection.keep_alive } else { !connection.close };
    let reusable = server_keeps && framing != Framing::UntilClose && !contradicts;

    out.extend_from_slice(b"HTTP/1.1 ");
    for divisor in [100, 10, 1] {
        // A digit of a number below 1,000.
        out.push(b'0' + u8::try_from(status / divisor % 10).unwrap_or(0));
    }
    out.push(b' ');
    out.extend_from_slice(response.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut lines = Lines::new(head);
    for field in response.headers.iter() {
        let goes_on = match classify(field.name) {
            Field::Connection | Field::Hop => false,
            Field::ContentLength => !chunked,
            Field::TransferEncoding => !(unchunk || status < 200 || status == 204),
            Field::Upgrade => switching,
            _ => !connection.names(field.name),
        };
        lines.take(field.name, goes_on, out);
    }
    lines.finish(out);
    if switching {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    } else if status >= 200 && close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if status >= 200 && asked.http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    if status >= 200 || switching {
        out.extend_from_slice(asked.extra.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(Some(ResponseHead { length, status, framing, reusable, close, unchunk, websocket }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> =
        Asked { is_head: false, upgrade: false, http10: false, keep_alive: true, extra: "" };

    fn read_all(head: &str, asked: Asked<'_>) -> Result<(ResponseHead, String), Malformed> {
        let mut out = Vec::new();
        let head = read(head.as_bytes(), &asked, &mut out)?.unwrap();
        Ok((head, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn the_hop_ends_here_and_the_rest_goes_on_as_it_came() {
        let (head, out) = read_all(
            "HTTP/1.1 200 Fine, thanks\r\nServer: s\r\nconnection: close, X-Hop\r\nX-Hop: 1\r\n\
             Content-length:  3\r\nKeep-Alive: timeout=5\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\nabc",
            ASKED,
        )
        .unwrap();
        assert_eq!(
            out,
            "HTTP/1.1 200 Fine, thanks\r\nServer: s\r\nContent-length:  3\r\n\
             set-cookie: a\r\nSet-Cookie: b\r\n\r\n"
        );
        assert_eq!((head.framing, head.reusable, head.close), (Framing::Length(3), false, false));
    }

    #[test]
    fn a_body_reaches_as_far_as_rfc_9112_says() {
        let chunked = Framing::Chunked(Chunked::default());
        let head = Asked { is_head: true, ..ASKED };
        let http10 = Asked { http10: true, ..ASKED };
        for (text, asked, framing, reusable, close) in [
            ("200 OK\r\nContent-Length: 7", ASKED, Framing::Length(7), true, false),
            ("200 OK\r\nTransfer-Encoding: chunked", ASKED, chunked, true, false),
            ("200 OK\r\nTransfer-Encoding: chunked", http10, chunked, true, true),
            ("200 OK\r\nContent-Length: 7", http10, Framing::Length(7), true, false),
            ("200 OK\r\nA: b", ASKED, Framing::UntilClose, false, true),
            ("200 OK\r\nContent-Length: 7", head, Framing::NONE, true, false),
            ("204 No Content\r\nA: b", ASKED, Framing::NONE, true, false),
            ("304 Not Modified\r\nContent-Length: 7", ASKED, Framing::NONE, true, false),
            (
                "200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked",
                ASKED,
                chunked,
                false,
                false,
            ),
        ] {
            let (got, out) = read_all(&format!("HTTP/1.1 {text}\r\n\r\n"), asked).unwrap();
            assert_eq!(
                (got.framing, got.reusable, got.close),
                (framing, reusable, close),
                "{text}"
            );
            assert_eq!(out.contains("Connection: close"), close, "{out}");
            let both = out.contains("Content-Length") && out.contains("Transfer-Encoding");
            assert!(!both, "{out}");
        }
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\nA: b\n\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ] {
            assert!(read_all(text, ASKED).is_err(), "{text:?}");
        }
        let asked = Asked { upgrade: true, ..ASKED };
        let text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        let (_, out) = read_all(text, asked).unwrap();
        assert!(out.contains("Upgrade: x") && out.contains("Connection: Upgrade"), "{out}");
    }
}
