//! What is noted of a request while it goes on.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;

use super::{ERROR_STATUS, Sight};
use crate::message::request::RequestHead;
use crate::metrics::Close;
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::proxy::session::{Kind, Session};

/// Longer paths are cut: nobody reads further, and a line stays a line.
const PATH_BYTES_MAX: usize = 1_024;
/// As long as a host name may be, with a port.
const HOST_BYTES_MAX: usize = 262;
const REQUEST_ID_BYTES_MAX: usize = 128;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits (W3C Trace Context).
const TRACEPARENT_BYTES: usize = 55;

/// A request, or a connection of bytes, that is not over.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(super) begun: Instant,
    pub(super) line: Line,
    pub(super) span: Option<Span>,
}

/// Its place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: u64,
}

/// A line of the access log. Keys that say nothing are left out.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// When it began.
    pub(super) time: DateTime<Utc>,
    pub(super) listener: Arc<str>,
    /// Who it is, behind trusted proxies.
    pub(super) client: std::net::IpAddr,
    /// The other end of the connection.
    pub(super) peer: std::net::SocketAddr,
    pub(super) protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pool: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<Arc<str>>,
    /// Servers asked.
    pub(super) attempts: u8,
    /// Until a server was reached: waiting in line, connecting, and those that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connect_seconds: Option<f64>,
    /// From the request sent to the head of its response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_byte_seconds: Option<f64>,
    pub(super) total_seconds: f64,
    /// Why the connection ended, where the request ended with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) close: Option<&'static str>,
    /// Whether that is a failure.
    #[serde(skip)]
    broken: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<Box<str>>,
    /// The balancer has answered itself.
    pub(super) own_answer: bool,
}

impl Line {
    /// Whether it is written whatever the share.
    pub(super) fn is_error(&self) -> bool {
        self.own_answer || self.broken || self.status.is_some_and(|status| status >= ERROR_STATUS)
    }

    pub(super) fn end(&mut self, session: &Session, took: Duration, close: Option<Close>) {
        self.received_bytes = session.received().saturating_sub(self.received_bytes);
        self.sent_bytes = session.sent().saturating_sub(self.sent_bytes);
        self.total_seconds = seconds(took);
        self.broken = matches!(close, Some(Close::Error | Close::Timeout | Close::ServerSilent));
        self.close = close.map(Close::as_str);
    }
}

impl Draft {
    /// A connection of bytes, or one that never came to a request.
    pub(crate) fn connection(session: &Session, protocol: &'static str) -> Self {
        let peer = session.peer();
        Self {
            begun: Instant::now(),
            span: None,
            line: Line {
                time: Utc::now(),
                listener: session.listener_name(),
                client: peer.ip().to_canonical(),
                peer,
                protocol,
                method: None,
                host: None,
                path: None,
                status: None,
                received_bytes: session.received(),
                sent_bytes: session.sent(),
                pool: None,
                server: None,
                attempts: 0,
                connect_seconds: None,
                first_byte_seconds: None,
                total_seconds: 0.0,
                close: None,
                broken: false,
                request_id: None,
                trace_id: None,
                own_answer: false,
            },
        }
    }

    /// A request in `protocol` whose head goes to the server as `out`, where its place in the trace is written if it is to have one.
    pub(crate) fn request(
        sight: &Sight,
        session: &Session,
        protocol: &'static str,
        head: &RequestHead,
        pool: &Pool,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut draft = Self::connection(session, protocol);
        let line = &mut draft.line;
        line.client = head.client;
        line.pool = Some(Arc::clone(pool.name()));
        // The head itself has been counted.
        line.received_bytes = line.received_bytes.saturating_sub(head.length as u64);
        let found = Found::look(out);
        line.method = found.method.map(|method| text(method, PATH_BYTES_MAX));
        line.host = found.host.map(|host| text(host, HOST_BYTES_MAX));
        line.path = found.target.map(|target| {
            let path = target.split(|b| *b == b'?').next().unwrap_or(target);
            text(if sight.query { target } else { path }, PATH_BYTES_MAX)
        });
        line.request_id = found.request_id.map(|id| text(id, REQUEST_ID_BYTES_MAX));
        let known = found
            .traceparent
            .and_then(|at| Some((at, parse(out.get(at..at + TRACEPARENT_BYTES)?)?)));
        match known {
            Some((at, (trace, parent, sampled))) => {
                line.trace_id = Some(format!("{trace:032x}").into());
                if sampled && sight.spans.is_some() {
                    let id = fastrand::u64(1..);
                    out[at + 36..at + 52].copy_from_slice(format!("{id:016x}").as_bytes());
                    draft.span = Some(Span { trace, id, parent });
                }
            }
            None if found.traceparent.is_none() && sight.begins_trace() => {
                let (trace, id) = (fastrand::u128(1..), fastrand::u64(1..));
                line.trace_id = Some(format!("{trace:032x}").into());
                // Before the empty line that ends the head.
                out.truncate(out.len().saturating_sub(2));
                out.extend_from_slice(
                    format!("traceparent: 00-{trace:032x}-{id:016x}-01\r\n\r\n").as_bytes(),
                );
                draft.span = Some(Span { trace, id, parent: 0 });
            }
            // What we cannot read is not ours to change.
            None => {}
        }
        draft
    }

    /// A server was reached after `attempts`.
    pub(crate) fn reached(&mut self, server: &Server, attempts: usize) {
        self.line.server = Some(Arc::clone(server.name()));
        self.line.attempts = u8::try_from(attempts).unwrap_or(u8::MAX);
        self.line.connect_seconds = Some(seconds(self.begun.elapsed()));
    }

    /// A pool is to serve it.
    pub(crate) fn asks(&mut self, pool: &Pool) {
        self.line.pool = Some(Arc::clone(pool.name()));
    }

    /// The server has answered.
    pub(crate) fn answered(&mut self, status: u16, latency: Duration) {
        self.line.status = Some(status);
        self.line.first_byte_seconds = Some(seconds(latency));
    }

    /// We have.
    pub(crate) fn answered_ourselves(&mut self, status: u16) {
        self.line.status = Some(status);
        self.line.own_answer = true;
    }

    /// The server has switched protocols.
    pub(crate) fn switched(&mut self, kind: Kind) {
        self.line.protocol = match kind {
            Kind::Http => "http",
            Kind::WebSocket => "websocket",
            Kind::Upgrade => "upgrade",
            Kind::Tcp => "tcp",
        };
    }

    pub(super) fn took(&self) -> Duration {
        Duration::from_secs_f64(self.line.total_seconds)
    }
}

/// To a microsecond: more digits are noise.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

fn text(bytes: &[u8], max: usize) -> Box<str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into()
}

/// What a head that we have written ourselves says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found<'a> {
    method: Option<&'a [u8]>,
    target: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
    /// Where its value begins, if it is as long as it has to be.
    traceparent: Option<usize>,
}

impl<'a> Found<'a> {
    fn look(head: &'a [u8]) -> Self {
        let mut found = Self::default();
        let mut begin = 0;
        while let Some(length) = memchr::memchr(b'\n', &head[begin..]) {
            let line = head[begin..begin + length].trim_ascii_end();
            if begin == 0 {
                let mut words = line.split(|b| *b == b' ');
                (found.method, found.target) = (words.next(), words.next());
            } else if let Some(value) = value(line, b"host") {
                found.host = Some(value);
            } else if let Some(value) = value(line, b"x-request-id") {
                found.request_id = Some(value);
            } else if let Some(value) = value(line, b"traceparent") {
                let at = begin + line.len() - value.len();
                // Of several none is right; one that is not to be read stays as it is.
                found.traceparent = Some(if found.traceparent.is_some() {
                    usize::MAX - TRACEPARENT_BYTES
                } else {
                    at
                });
            }
            begin += length + 1;
        }
        found
    }
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let rest = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| rest.trim_ascii())
}

/// Trace, parent and whether it was decided to record it (W3C Trace Context, version 00 and those that begin like it).
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(value).ok()?;
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    let mut parts = text.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sizes = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    if !lower || !sizes || version == "ff" || parts.next().is_some() {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|parent| *parent != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, parent, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_a_head_says_is_found() {
        let head = format!(
            "GET /a?token=x HTTP/1.1\r\nHost: chat.example\r\nX-Request-ID: 7\r\nTraceparent: {PARENT}\r\n\r\n"
        );
        let found = Found::look(head.as_bytes());
        assert_eq!(found.method, Some(&b"GET"[..]));
        assert_eq!(found.target, Some(&b"/a?token=x"[..]));
        assert_eq!(found.host, Some(&b"chat.example"[..]));
        assert_eq!(found.request_id, Some(&b"7"[..]));
        let at = found.traceparent.unwrap();
        assert_eq!(&head[at..at + TRACEPARENT_BYTES], PARENT);
    }

    #[test]
    fn of_two_parents_none_is_taken() {
        let head =
            format!("GET / HTTP/1.1\r\ntraceparent: {PARENT}\r\ntraceparent: {PARENT}\r\n\r\n");
        let at = Found::look(head.as_bytes()).traceparent.unwrap();
        assert!(head.as_bytes().get(at..at + TRACEPARENT_BYTES).is_none());
    }

    #[test]
    fn a_parent_is_read_or_refused() {
        let read = parse(PARENT.as_bytes());
        assert_eq!(
            read,
            Some((0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, true))
        );
        assert_eq!(parse(PARENT.replace("-01", "-00").as_bytes()).map(|read| read.2), Some(false));
        for wrong in [
            PARENT.replace("00-4", "ff-4"),
            PARENT.replace("4bf9", "4BF9"),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            PARENT.replace('-', "_"),
            String::new(),
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
