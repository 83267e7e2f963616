//! The head of a request that came in HTTP/2, as text of HTTP/1.1.
//!
//! The text is then read like any other ([`crate::message::request`]), so one set of rules decides what is refused, what ends at this hop
//! and what is added. Here is only what the translation itself could get wrong (RFC 9113 8.2, 8.3): whatever would make of one field two, or
//! of the target a host. The `h2` crate has refused already what is malformed within HTTP/2: upper case and other characters in names,
//! line breaks in values, fields of a connection, a length that is not that of the body.

use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderName, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, Method, Request};

use crate::message::websocket;

/// How a body reads in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none.
    None,
    /// As it is: its length is known, or there are no messages any more.
    Bare,
    /// In chunks.
    Chunked,
}

/// A request as HTTP/1.1 has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) head: Vec<u8>,
    pub(super) body: Body,
    pub(super) is_head: bool,
    /// The server has to answer this to a WebSocket's handshake (RFC 8441).
    pub(super) accept: Option<String>,
}

/// Fields after which a body or its host would be another one; in trailers they are left out.
const NO_TRAILERS: [HeaderName; 2] = [CONTENT_LENGTH, HOST];

/// Writes a request's head; `ended` if no body follows. `nonce` is for the key of a WebSocket.
///
/// # Errors
/// The text says what is malformed (RFC 9113 8.1.1).
pub(super) fn write(
    request: &Request<()>,
    ended: bool,
    nonce: impl FnOnce() -> u128,
) -> Result<Text, &'static str> {
    let (uri, fields) = (request.uri(), request.headers());
    let protocol = request.extensions().get::<Protocol>();
    let is_websocket = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
    let is_connect = request.method() == Method::CONNECT && !is_websocket;
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let target = if is_connect {
        authority.unwrap_or_default()
    } else {
        uri.path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default()
    };
    // Any other would be in absolute form, and its host would win over the authority.
    if !is_connect && !target.starts_with('/') && target != "*" {
        return Err("bad :path");
    }
    let method = if is_websocket { "GET" } else { request.method().as_str() };
    let mut head = Vec::with_capacity(512);
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    if let Some(authority) = authority {
        line(&mut head, "Host", authority.as_bytes());
    }
    let is_host = |value: &HeaderValue| {
        authority.is_some_and(|host| value.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    };
    for (name, value) in fields {
        let bytes = value.as_bytes();
        if bytes.trim_ascii().len() != bytes.len() {
            return Err("white space around a field's value");
        }
        let skipped = match name {
            // Said before; another one is written, for two of them are refused.
            &HOST => is_host(value),
            // Joined below; one length, which was compared with the others.
            &COOKIE | &CONTENT_LENGTH => true,
            &SEC_WEBSOCKET_KEY => is_websocket,
            _ => false,
        };
        if !skipped {
            line(&mut head, name.as_str(), bytes);
        }
    }
    cookies(fields, &mut head);
    let mut accept = None;
    let body = if is_websocket {
        let key = websocket::key(nonce());
        line(&mut head, "Connection", b"Upgrade");
        line(&mut head, "Upgrade", b"websocket");
        line(&mut head, "Sec-WebSocket-Key", key.as_bytes());
        accept = Some(websocket::accept(&key));
        Body::Bare
    } else if let Some(length) = fields.get(CONTENT_LENGTH) {
        line(&mut head, "Content-Length", length.as_bytes());
        if ended { Body::None } else { Body::Bare }
    } else if ended {
        Body::None
    } else {
        line(&mut head, "Transfer-Encoding", b"chunked");
        Body::Chunked
    };
    head.extend_from_slice(b"\r\n");
    Ok(Text { head, body, is_head: request.method() == Method::HEAD, accept })
}

/// One field, however many crumbs the client has made of it (RFC 9113 8.2.3).
fn cookies(fields: &HeaderMap, head: &mut Vec<u8>) {
    let mut separator: &[u8] = b"cookie: ";
    for crumb in fields.get_all(COOKIE) {
        head.extend_from_slice(separator);
        head.extend_from_slice(crumb.as_bytes());
        separator = b"; ";
    }
    if separator == b"; " {
        head.extend_from_slice(b"\r\n");
    }
}

/// The end of a body in chunks, with its trailers.
pub(super) fn last_chunk(trailers: Option<&HeaderMap>) -> Vec<u8> {
    let mut text = b"0\r\n".to_vec();
    for (name, value) in trailers.into_iter().flatten() {
        if !NO_TRAILERS.contains(name) {
            line(&mut text, name.as_str(), value.as_bytes());
        }
    }
    text.extend_from_slice(b"\r\n");
    text
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_str(value).unwrap());
        }
        request.body(()).unwrap()
    }

    fn text(request: &Request<()>, ended: bool) -> Result<(String, Body), &'static str> {
        let text = write(request, ended, || 7)?;
        Ok((String::from_utf8(text.head).unwrap(), text.body))
    }

    #[test]
    fn a_request_becomes_the_text_that_says_the_same() {
        let fields = [("accept", "*/*"), ("cookie", "a=1"), ("cookie", "b=2"), ("host", "A.test")];
        let got = text(&request("GET", "https://a.test/x?y", &fields), true).unwrap();
        let head = "GET /x?y HTTP/1.1\r\nHost: a.test\r\naccept: */*\r\ncookie: a=1; b=2\r\n\r\n";
        assert_eq!(got, (head.to_owned(), Body::None));
        let (head, body) = text(&request("POST", "https://a/", &[]), false).unwrap();
        assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n") && body == Body::Chunked);
        let sized = request("POST", "https://a/", &[("content-length", "5")]);
        let (head, body) = text(&sized, false).unwrap();
        assert!(head.contains("\r\nContent-Length: 5\r\n") && body == Body::Bare, "{head}");
        assert!(!head.contains("Transfer-Encoding"), "{head}");
    }

    #[test]
    fn nothing_of_one_field_gets_into_another() {
        // Two hosts are written as two, which the reader refuses.
        let (head, _) = text(&request("GET", "https://a/", &[("host", "b")]), true).unwrap();
        assert_eq!(head.matches("ost: ").count(), 2, "{head}");
        assert_eq!(
            text(&request("GET", "https://a/", &[("x", " b")]), true),
            Err("white space around a field's value")
        );
        // A proxy's form would name another host.
        let (head, _) = text(&request("GET", "https://a//b/", &[]), true).unwrap();
        assert!(head.starts_with("GET //b/ HTTP/1.1\r\nHost: a\r\n"), "{head}");
    }

    #[test]
    fn a_websocket_is_asked_for_as_http_1_does() {
        let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")];
        let mut asked = request("CONNECT", "https://a/ws", &fields);
        asked.extensions_mut().insert(Protocol::from("websocket"));
        let got = write(&asked, false, || 7).unwrap();
        let head = String::from_utf8(got.head).unwrap();
        assert!(head.starts_with("GET /ws HTTP/1.1\r\nHost: a\r\n"), "{head}");
        assert!(head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "{head}");
        let key = websocket::key(7);
        assert!(head.contains(&format!("Sec-WebSocket-Key: {key}\r\n\r\n")), "{head}");
        assert_eq!((got.body, got.accept), (Body::Bare, Some(websocket::accept(&key))));
        // Anything else is a tunnel, which the reader refuses.
        let (head, _) = text(&request("CONNECT", "a:443", &[]), false).unwrap();
        assert!(head.starts_with("CONNECT a:443 HTTP/1.1\r\n"), "{head}");
    }

    #[test]
    fn trailers_end_a_body_and_change_nothing_of_its_frame() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("content-length", HeaderValue::from_static("7"));
        assert_eq!(last_chunk(Some(&trailers)), b"0\r\nx-sum: 1\r\n\r\n");
        assert_eq!(last_chunk(None), b"0\r\n\r\n");
    }
}
