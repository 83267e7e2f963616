//! The head and the trailers of a response, as HTTP/2 has them.
//!
//! What comes here was written by [`crate::message::response`] or by ourselves, so it is well formed; what the fields mean for framing
//! is read once more, because an HTTP/2 stream is framed in another way.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::message::chunked::Chunked;
use crate::message::{FIELDS_MAX, Malformed};

/// Lines of our own in a response: its connection, a cookie and what else may come.
const OWN_FIELDS: usize = 16;
const NOT_HTTP: Malformed = Malformed("a response cannot be said in HTTP/2");

/// How far the body of a response reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Length(u64),
    Chunked(Chunked),
    /// Until our side is shut down.
    UntilEnd,
}

/// What a head says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) reach: Reach,
    /// Another response follows.
    pub(super) is_interim: bool,
}

/// Reads a whole head. `is_head` if it answers a `HEAD`; `accept` is what the server had to answer to a WebSocket's handshake.
///
/// # Errors
/// It cannot be said in HTTP/2, or the server has not understood the handshake.
pub(super) fn read(head: &[u8], is_head: bool, accept: Option<&str>) -> Result<Head, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX + OWN_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    parsed.parse(head).map_err(|_| NOT_HTTP)?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| NOT_HTTP)?;
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut response = Response::new(());
    *response.status_mut() = if switching { StatusCode::OK } else { status };
    let (mut length, mut is_chunked, mut accepted) = (None, false, None);
    let map = response.headers_mut();
    map.reserve(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NOT_HTTP)?;
        if name == TRANSFER_ENCODING {
            is_chunked = true;
        } else if name == SEC_WEBSOCKET_ACCEPT && switching {
            accepted = Some(field.value);
        } else if name != CONNECTION && name != UPGRADE {
            if name == CONTENT_LENGTH {
                length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
            }
            let value = HeaderValue::from_bytes(field.value).map_err(|_| NOT_HTTP)?;
            map.append(name, value);
        }
    }
    if switching && accepted != accept.map(str::as_bytes) {
        return Err(Malformed("the server has not understood a WebSocket's handshake"));
    }
    let bodiless = is_head
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || status.is_informational();
    let reach = match length {
        _ if switching => Reach::UntilEnd,
        _ if bodiless => Reach::Length(0),
        _ if is_chunked => Reach::Chunked(Chunked::default()),
        Some(length) => Reach::Length(length),
        None => Reach::UntilEnd,
    };
    Ok(Head { response, reach, is_interim: status.is_informational() && !switching })
}

/// The trailers behind the last chunk. `bytes` is all that came since the last content: the end of its chunk, the size line of the last
/// one, the trailers, and the empty line. Those that cannot be said in HTTP/2 are left out, as anybody on the way may do.
pub(super) fn trailers(bytes: &[u8]) -> HeaderMap {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let mut map = HeaderMap::new();
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else { return map };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let Ok(httparse::Status::Complete((_, fields))) =
        httparse::parse_headers(&bytes[end + 2..], &mut fields)
    else {
        return map;
    };
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value))
            && ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name)
        {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        read(text.as_bytes(), false, None).unwrap()
    }

    #[test]
    fn what_belongs_to_http_1_stays_behind() {
        let read = head(
            "HTTP/1.1 200 Fine\r\nServer: s\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\
             Set-Cookie: a\r\nset-cookie: b\r\n\r\n",
        );
        let fields: Vec<_> =
            read.response.headers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(fields, ["server", "set-cookie", "set-cookie"]);
        assert!(matches!(read.reach, Reach::Chunked(_)) && !read.is_interim);
        for (text, is_head, reach) in [
            ("200 OK\r\nContent-Length: 7", false, Reach::Length(7)),
            ("200 OK\r\nContent-Length: 7", true, Reach::Length(0)),
            ("304 Not Modified\r\nContent-Length: 7", false, Reach::Length(0)),
            ("204 No Content\r\nA: b", false, Reach::Length(0)),
            ("200 OK\r\nA: b", false, Reach::UntilEnd),
        ] {
            let text = format!("HTTP/1.1 {text}\r\n\r\n");
            assert_eq!(read_reach(&text, is_head), reach, "{text}");
        }
        assert!(head("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").is_interim);
    }

    fn read_reach(text: &str, is_head: bool) -> Reach {
        read(text.as_bytes(), is_head, None).unwrap().reach
    }

    #[test]
    fn a_switch_counts_if_the_server_has_understood_the_key() {
        let text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\
                    Sec-WebSocket-Protocol: chat\r\nConnection: Upgrade\r\n\r\n";
        let head = read(text.as_bytes(), false, Some("x")).unwrap();
        assert_eq!((head.response.status().as_u16(), head.reach), (200, Reach::UntilEnd));
        assert_eq!(head.response.headers().len(), 1);
        assert!(read(text.as_bytes(), false, Some("y")).is_err());
    }

    #[test]
    fn trailers_are_found_behind_the_last_size() {
        for before in ["0\r\n", "\r\n0\r\n", "\r\n000;a=b\r\n"] {
            let text = format!("{before}X-Sum: 1\r\nContent-Length: 3\r\n\r\n");
            let map = trailers(text.as_bytes());
            assert_eq!(map.len(), 1, "{text}");
            assert_eq!(map["x-sum"], "1");
            assert!(trailers(format!("{before}\r\n").as_bytes()).is_empty());
        }
    }
}
