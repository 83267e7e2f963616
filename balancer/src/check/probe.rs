//! One question to one server.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::config::{Address, CheckKind, CheckPlace, CheckRules, Expected, PoolRules, Question};
use crate::message::websocket;
use crate::proxy::upstream;

/// A head of a health check's answer is shorter.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// Of a body, this much is looked through.
const BODY_BYTES_MAX: usize = 16 * 1_024;
/// Header fields of an answer.
const FIELDS_MAX: usize = 64;
/// Close, normally (1000), masked with a key of zeros: an opened WebSocket is ended in form (RFC 6455 5.5.1).
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// What was wrong with the answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("ask")]
    Exchange(#[source] io::Error),
    #[error("closed without an answer")]
    Closed,
    #[error("not HTTP")]
    NotHttp,
    #[error("status {0}")]
    Status(u16),
    #[error("the body does not hold what is expected")]
    Body,
    #[error("no WebSocket: {0}")]
    NoWebSocket(&'static str),
}

/// The head of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    length: usize,
    status: u16,
    accept: Option<Vec<u8>>,
    upgrades: bool,
}

/// Asks once. The caller bounds the time.
///
/// # Cancel safety
/// Dropping it closes the connection; nothing else is affected.
pub(super) async fn probe(
    check: &CheckRules,
    place: &CheckPlace,
    address: &Address,
    rules: &PoolRules,
) -> Result<(), ProbeError> {
    let at = place.port.or(check.port).map(|port| address.with_port(port));
    let at = at.as_ref().unwrap_or(address);
    let tls = rules.tls.as_ref().filter(|_| check.tls);
    let mut stream = upstream::establish(at, &rules.tcp, tls, rules.send_proxy, None)
        .await
        .map_err(ProbeError::Connect)?;
    match &check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http(question, expected) => {
            let request = request(question, place, address, "Connection: close");
            ask(&mut stream, &request).await?;
            expect(&mut stream, expected).await
        }
        CheckKind::WebSocket(question) => {
            let key = websocket::key(fastrand::u128(..));
            let upgrade = format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {key}"
            );
            ask(&mut stream, &request(question, place, address, &upgrade)).await?;
            let mut answer = Vec::new();
            let head = read_head(&mut stream, &mut answer).await?;
            opens(&head, &key)?;
            // It has shown that it works; whether it reads the farewell is its own affair.
            let _ = stream.write_all(&CLOSE).await;
            let _ = stream.flush().await;
            Ok(())
        }
    }
}

/// The head of a question, with `fields` beside the usual ones.
fn request(question: &Question, place: &CheckPlace, address: &Address, fields: &str) -> String {
    let path = place.path.as_ref().unwrap_or(&question.path);
    let host = question.host.as_deref().unwrap_or(address.as_str());
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: holdfast-balancer\r\n{fields}\r\n\r\n"
    )
}

pub(super) async fn ask<S: AsyncWrite + Unpin>(
    stream: &mut S,
    request: &str,
) -> Result<(), ProbeError> {
    stream.write_all(request.as_bytes()).await.map_err(ProbeError::Exchange)?;
    stream.flush().await.map_err(ProbeError::Exchange)
}

/// Reads as much of the answer as it takes to know whether it is as expected.
async fn expect<S: AsyncRead + Unpin>(
    stream: &mut S,
    expected: &Expected,
) -> Result<(), ProbeError> {
    let mut answer = Vec::new();
    let head = read_head(stream, &mut answer).await?;
    if !expected.status.iter().any(|range| range.contains(&head.status)) {
        return Err(ProbeError::Status(head.status));
    }
    let Some(text) = &expected.body else { return Ok(()) };
    answer.drain(..head.length);
    while memchr::memmem::find(&answer, text.as_bytes()).is_none() {
        let full = answer.len() >= BODY_BYTES_MAX;
        if full || stream.read_buf(&mut answer).await.map_err(ProbeError::Exchange)? == 0 {
            return Err(ProbeError::Body);
        }
    }
    Ok(())
}

/// Reads the body of an answer with a status of 2xx, up to `max` bytes of it.
pub(super) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    max: usize,
) -> Result<Vec<u8>, ProbeError> {
    let mut answer = Vec::new();
    let head = read_head(stream, &mut answer).await?;
    if !(200..300).contains(&head.status) {
        return Err(ProbeError::Status(head.status));
    }
    answer.drain(..head.length);
    read_line(stream, &mut answer, max).await?;
    Ok(answer)
}

/// Reads on until there is a line, the end, or `max` bytes.
pub(super) async fn read_line<S: AsyncRead + Unpin>(
    stream: &mut S,
    answer: &mut Vec<u8>,
    max: usize,
) -> Result<(), ProbeError> {
    while !answer.contains(&b'\n') && answer.len() < max {
        if stream.read_buf(answer).await.map_err(ProbeError::Exchange)? == 0 {
            break;
        }
    }
    answer.truncate(max);
    Ok(())
}

async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    answer: &mut Vec<u8>,
) -> Result<Head, ProbeError> {
    loop {
        if let Some(head) = parse(answer)? {
            return Ok(head);
        }
        if answer.len() >= HEAD_BYTES_MAX {
            return Err(ProbeError::NotHttp);
        }
        if stream.read_buf(answer).await.map_err(ProbeError::Exchange)? == 0 {
            return Err(ProbeError::Closed);
        }
    }
}

/// The head at the front of `answer`; `None` while it is incomplete.
fn parse(answer: &[u8]) -> Result<Option<Head>, ProbeError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ProbeError::NotHttp),
    };
    let field = |name: &str| {
        let mut fields = response.headers.iter();
        fields.find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    Ok(Some(Head {
        length,
        status: response.code.unwrap_or_default(),
        accept: field("sec-websocket-accept").map(<[u8]>::to_vec),
        upgrades: field("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")),
    }))
}

/// Whether `head` opens a WebSocket that was asked for with `key` (RFC 6455 4.1).
fn opens(head: &Head, key: &str) -> Result<(), ProbeError> {
    if head.status != 101 {
        return Err(ProbeError::Status(head.status));
    }
    if !head.upgrades {
        return Err(ProbeError::NoWebSocket("the answer names another protocol"));
    }
    if head.accept.as_deref() != Some(websocket::accept(key).as_bytes()) {
        return Err(ProbeError::NoWebSocket("the answer is not to our key"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(status: &[std::ops::RangeInclusive<u16>], body: Option<&str>) -> Expected {
        Expected { status: status.into(), body: body.map(Box::from) }
    }

    async fn judge(answer: &[u8], expected: &Expected) -> Result<(), String> {
        expect(&mut &*answer, expected).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_answer_is_held_against_what_is_expected() {
        let any = expected(&[200..=399], None);
        let exact = expected(&[204..=204, 299..=299], None);
        let body = expected(&[200..=299], Some("all is well"));
        let cases: [(&[u8], &Expected, Result<(), &str>); 11] = [
            (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", &any, Ok(())),
            (b"HTTP/1.0 302 Found\r\n\r\n", &any, Ok(())),
            (b"HTTP/1.1 503 Gone\r\n\r\n", &any, Err("status 503")),
            (b"HTTP/1.1 200 OK\r\n\r\n", &exact, Err("status 200")),
            (b"HTTP/1.1 299 Fine\r\n\r\n", &exact, Ok(())),
            (b"HTTP/1.1 200 OK\r\n\r\n{\"say\":\"all is well\"}", &body, Ok(())),
            (
                b"HTTP/1.1 200 OK\r\n\r\nall is bad",
                &body,
                Err("the body does not hold what is expected"),
            ),
            (b"HTTP/1.1 500 No\r\n\r\nall is well", &body, Err("status 500")),
            (b"SSH-2.0-OpenSSH_9.2\r\n", &any, Err("not HTTP")),
            (b"HTTP/1.1 200 OK\r\nServer", &any, Err("closed without an answer")),
            (b"", &any, Err("closed without an answer")),
        ];
        for (answer, expected, verdict) in cases {
            let text = String::from_utf8_lossy(answer);
            assert_eq!(judge(answer, expected).await, verdict.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_websocket_opens_with_the_answer_to_our_key_only() {
        // The example of RFC 6455 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let open = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let verdict = |answer: &str| {
            let head = parse(answer.as_bytes()).unwrap().unwrap();
            opens(&head, key).map_err(|error| error.to_string())
        };
        assert_eq!(verdict(open), Ok(()));
        assert_eq!(verdict(&open.replace("101", "200")), Err("status 200".to_owned()));
        assert!(verdict(&open.replace("xOo=", "xO0=")).is_err());
        assert!(verdict(&open.replace("WebSocket", "h2c")).is_err());
        assert!(verdict("HTTP/1.1 101 Switching Protocols\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn an_agent_speaks_over_http_as_well() {
        let mut answer: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup 50% #x";
        assert_eq!(read_body(&mut answer, 1_024).await.unwrap(), b"up 50% #x");
        let mut answer: &[u8] = b"HTTP/1.1 404 No\r\n\r\nup";
        assert!(read_body(&mut answer, 1_024).await.is_err());
        let mut long: &[u8] = &[b'x'; 2_000];
        let mut read = Vec::new();
        read_line(&mut long, &mut read, 100).await.unwrap();
        assert_eq!(read.len(), 100);
    }

    #[test]
    fn a_server_may_be_asked_elsewhere_than_the_others() {
        let question = Question { path: "/health".into(), host: Some("chat.example".into()) };
        let address = Address::try_new("[::1]:8100").unwrap();
        let place = CheckPlace { path: Some("/own".into()), ..CheckPlace::default() };
        let head = request(&question, &place, &address, "Connection: close");
        assert!(head.starts_with("GET /own HTTP/1.1\r\nHost: chat.example\r\n"), "{head}");
        let port = std::num::NonZeroU16::new(9_000).unwrap();
        assert_eq!(address.with_port(port).as_str(), "[::1]:9000");
        assert_eq!(address.with_port(port).socket().unwrap().to_string(), "[::1]:9000");
    }
}
