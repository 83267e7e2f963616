//! HTTP/1.1 from one client: a head is read, [`forward`] finds it a server and a response, and the next one follows. What is upgraded
//! goes on in [`super::relay`] in a task of its own, which is smaller than this one.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::{ControlFlow, RangeInclusive};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::buffers::{self, SMALL_BYTES};
use super::forward::{self, Failure, Outcome};
use super::listener::Settings;
use super::relay::Relay;
use super::session::{Kind, Phase, Session};
use super::transfer::End;
use super::upstream::Idle;
use super::worker::SessionGuard;
use crate::limits::Offence;
use crate::limits::protection::Refusal;
use crate::message::choice::Seen;
use crate::message::request::{self, Peer, Reading, Refused, RequestHead};
use crate::metrics::{Close, Rejection};
use crate::pool::server::Lease;
use crate::published::Local;
use crate::sight::Draft;

/// A client that was refused gets this long to read why; what it still sends is thrown away. Closed at once, its kernel might throw
/// away our answer instead (RFC 9112 9.6).
const LINGER: Duration = Duration::from_secs(1);
/// And this much is thrown away.
const LINGER_BYTES_MAX: usize = 256 * 1_024;

/// When a client that found no server may come again: servers return within seconds, or not soon.
const RETRY_SECONDS: RangeInclusive<u32> = 1..=5;

/// One client connection that speaks HTTP.
pub(crate) struct Conversation {
    pub(crate) client: End,
    pub(crate) session: Rc<Session>,
    pub(crate) idle: Rc<Idle>,
    pub(crate) address: SocketAddr,
    pub(crate) peer: Peer,
}

/// How a conversation ended.
enum Ended {
    Closed(Close),
    /// The server has switched protocols.
    Upgraded(Box<(End, Lease, Kind)>),
}

/// What a client asks for, and the settings by which it was read.
type Asked = (RequestHead, Rc<Local<Settings>>);

/// Why there is no head.
enum NoHead {
    /// The client has had enough.
    Closed,
    Broken(io::Error),
    Refused(Refused),
    TooLong,
}

/// Serves one client until it or we have had enough.
pub(crate) async fn serve(guard: SessionGuard, idle: Rc<Idle>, client: End, peer: SocketAddr) {
    let session = Rc::clone(guard.session());
    let scheme = if client.stream.is_secure() { "https" } else { "http" };
    let mut conversation = Conversation {
        client,
        session: Rc::clone(&session),
        idle,
        address: peer,
        peer: Peer::new(peer.ip(), scheme),
    };
    let ended = {
        let talk = pin!(conversation.talk());
        session.until_stopped(talk).await
    };
    match ended.unwrap_or_else(Ended::Closed) {
        Ended::Closed(close) => {
            if close == Close::Timeout && session.phase() == Phase::Head {
                session.listener.metrics.reject(Rejection::HeaderTimeout);
                let protection = &session.listener.settings().protection;
                protection.offend(peer.ip(), Offence::HeaderTimeout);
            }
            guard.end(close);
        }
        Ended::Upgraded(upgraded) => {
            let (server, lease, kind) = *upgraded;
            let relay = Relay::new(guard, lease, kind, conversation.client, server);
            tokio::task::spawn_local(relay);
        }
    }
}

/// Tells a client with too many connections why it is not served, if the fresh socket takes that at once. A client that has sent
/// something already may see a reset instead; waiting for it would cost what the limit is there to save.
pub(crate) fn turn_away(stream: TcpStream, reason: Rejection) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\
        Connection: close\r\n\r\n";
    if matches!(reason, Rejection::ClientConnections | Rejection::ConnectionRate)
        && let Ok(stream) = stream.into_std()
    {
        // It is closed in any case.
        let _ = (&stream).write(ANSWER);
    }
}

impl Conversation {
    async fn talk(&mut self) -> Ended {
        loop {
            if let ControlFlow::Break(ended) = self.serve_one().await {
                return ended;
            }
            self.session.enter(if self.client.buffer.is_empty() {
                Phase::Idle
            } else {
                Phase::Head
            });
        }
    }

    /// One request and its response.
    async fn serve_one(&mut self) -> ControlFlow<Ended> {
        let mut out = buffers::take_head();
        let (mut head, settings) = match poll_fn(|cx| self.poll_head(cx, &mut out)).await {
            Ok(read) => read,
            Err(NoHead::Closed) => return ControlFlow::Break(Ended::Closed(Close::Client)),
            Err(NoHead::Broken(error)) => {
                tracing::debug!(%error, "client connection broke in a head");
                return ControlFlow::Break(Ended::Closed(Close::Error));
            }
            Err(NoHead::TooLong) => return self.refuse(431, "the head is too long").await,
            Err(NoHead::Refused(Refused::TooManyFields)) => {
                return self.refuse(431, "too many header fields").await;
            }
            Err(NoHead::Refused(Refused::Malformed(text))) => return self.refuse(400, text).await,
            Err(NoHead::Refused(Refused::Version)) => {
                return self.refuse(505, "HTTP/1.1 is spoken here").await;
            }
            Err(NoHead::Refused(Refused::Method)) => {
                return self.refuse(405, "this method is not forwarded").await;
            }
        };
        self.client.buffer.consume(head.length);
        let token = head.choice.token;
        let pool = settings.pool_of(&head.choice);
        let protocol = self.protocol();
        self.session.begin_draft(|sight| {
            Draft::request(sight, &self.session, protocol, &head, pool, &mut out)
        });
        let allowed = settings.protection.request(self.address.ip(), head.client, token);
        if let Err(refusal) = allowed {
            return self.turn_down(refusal, &head).await;
        }
        if let Some(max) = settings.config.body_bytes_max
            && !head.framing.limit(max)
        {
            return self.fail(Failure::TooLong, &head).await;
        }
        match forward::forward(self, pool, &head, out).await {
            Ok(Outcome::Done { close: false }) => {
                self.session.end_draft(None);
                ControlFlow::Continue(())
            }
            Ok(Outcome::Done { close: true }) => {
                self.end(!head.framing.is_done()).await;
                ControlFlow::Break(Ended::Closed(Close::Client))
            }
            Ok(Outcome::Cut) => ControlFlow::Break(Ended::Closed(Close::Error)),
            Ok(Outcome::Upgraded(upgraded)) => ControlFlow::Break(Ended::Upgraded(upgraded)),
            Err(Failure::Gone) => ControlFlow::Break(Ended::Closed(Close::Client)),
            Err(failure) => self.fail(failure, &head).await,
        }
    }

    /// What is spoken with the client, as the access log names it.
    fn protocol(&self) -> &'static str {
        if self.client.stream.is_exchange() { "http2" } else { "http" }
    }

    /// Waits for the head of the next request, and writes the one the server gets to `out`.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Asked, NoHead>> {
        let (buffer, stream) = (&mut self.client.buffer, &mut self.client.stream);
        let listener = &self.session.listener;
        // Bytes that are known to hold no end of a head.
        let mut seen = 0;
        let mut limit = SMALL_BYTES;
        loop {
            let fresh = &buffer.filled()[seen..];
            if memchr::memchr(b'\n', fresh).is_some() {
                let settings = listener.local_settings();
                limit = settings.config.header_bytes_max;
                let reading = Reading {
                    peer: &self.peer,
                    trusted: &settings.config.trusted_proxies,
                    forwarded: settings.config.forwarded,
                    request_id: settings.config.request_id.then(|| fastrand::u128(..)),
                    trace: settings.config.trace.then(|| (fastrand::u128(..), fastrand::u64(..))),
                };
                let choose = |seen: &Seen<'_>| settings.choose(seen);
                match request::read(buffer.filled(), &reading, out, choose) {
                    Ok(Some(head)) if head.length > limit => {
                        return Poll::Ready(Err(NoHead::TooLong));
                    }
                    Ok(Some(head)) => return Poll::Ready(Ok((head, settings))),
                    Ok(None) => {}
                    Err(refused) => return Poll::Ready(Err(NoHead::Refused(refused))),
                }
            }
            seen = buffer.filled().len();
            if seen >= SMALL_BYTES {
                limit = listener.local_settings().config.header_bytes_max;
            }
            if seen >= limit {
                return Poll::Ready(Err(NoHead::TooLong));
            }
            let filled = buffer.poll_fill(cx, stream, limit);
            // At the end those who have been served and say nothing are sent away. Who was let in and has not asked yet may do so,
            // within the time for a head: a connection closed without an answer is an error to its client.
            if filled.is_pending()
                && self.session.is_finishing()
                && self.session.phase() == Phase::Idle
            {
                return Poll::Ready(Err(NoHead::Closed));
            }
            match ready!(filled) {
                Ok(0) if seen == 0 => return Poll::Ready(Err(NoHead::Closed)),
                Ok(0) => {
                    let early = io::ErrorKind::UnexpectedEof.into();
                    return Poll::Ready(Err(NoHead::Broken(early)));
                }
                Ok(count) => self.session.note_received(count),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    return Poll::Ready(Err(NoHead::TooLong));
                }
                Err(error) => return Poll::Ready(Err(NoHead::Broken(error))),
            }
        }
    }

    /// Answers a head that is not forwarded. What follows on this connection cannot be trusted to begin where we think.
    async fn refuse(&mut self, status: u16, text: &'static str) -> ControlFlow<Ended> {
        let reason = if status == 405 { Rejection::Method } else { Rejection::BadRequest };
        let listener = &self.session.listener;
        listener.metrics.reject(reason);
        if reason == Rejection::BadRequest {
            listener.settings().protection.offend(self.address.ip(), Offence::BadRequest);
        }
        self.session.begin_draft(|_| Draft::connection(&self.session, self.protocol()));
        self.answer(status, text, None, false, false).await;
        self.end(true).await;
        ControlFlow::Break(Ended::Closed(Close::Error))
    }

    /// Answers a request that no server has answered.
    async fn fail(&mut self, failure: Failure, head: &RequestHead) -> ControlFlow<Ended> {
        let (status, text) = match failure {
            Failure::NoServer => (503, "no server is available\n"),
            Failure::QueueFull | Failure::QueueTimeout => (503, "every server is busy\n"),
            Failure::Connect => (502, "no server could be reached\n"),
            Failure::NoResponse => (502, "the server gave no response\n"),
            Failure::Timeout => (504, "the server took too long\n"),
            Failure::Client | Failure::Gone => (400, "the request ended early\n"),
            Failure::Malformed(text) => {
                self.session.listener.metrics.reject(Rejection::BadRequest);
                (400, text)
            }
            Failure::TooLong => {
                self.session.listener.metrics.reject(Rejection::BodyTooLong);
                (413, "the body is too long\n")
            }
            Failure::ClientTimeout => (408, "the request did not arrive in time\n"),
            Failure::Injected(status) => (status.as_u16(), "an injected fault\n"),
        };
        // Those who are turned away together shall not come back together.
        let retry = (status == 503).then(|| fastrand::u32(RETRY_SECONDS));
        self.respond(status, text, retry, head).await
    }

    /// Answers a request that its client's limits keep from a server.
    async fn turn_down(&mut self, refusal: Refusal, head: &RequestHead) -> ControlFlow<Ended> {
        self.session.listener.metrics.reject(refusal.reason);
        if refusal.reason == Rejection::LimitsUnavailable {
            let retry = Some(fastrand::u32(RETRY_SECONDS));
            return self.respond(503, "limits cannot be kept\n", retry, head).await;
        }
        let Some(retry) = refusal.retry else {
            self.answer(403, "you are not served here\n", None, false, head.is_head).await;
            self.end(!head.framing.is_done()).await;
            return ControlFlow::Break(Ended::Closed(Close::Error));
        };
        // Whole seconds only (RFC 9110 10.2.3), and not too early.
        let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
        let retry = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self.respond(429, "too many requests\n", retry, head).await
    }

    /// Says something in answer to a request, and goes on with the next one if there can be one.
    async fn respond(
        &mut self,
        status: u16,
        text: &str,
        retry: Option<u32>,
        head: &RequestHead,
    ) -> ControlFlow<Ended> {
        // Where a body ends that nobody has read, nobody knows.
        let keep = head.keep_alive && head.framing.is_done() && !self.session.is_finishing();
        if !self.answer(status, text, retry, keep, head.is_head).await {
            return ControlFlow::Break(Ended::Closed(Close::Error));
        }
        if keep {
            self.session.end_draft(None);
            return ControlFlow::Continue(());
        }
        self.end(!head.framing.is_done()).await;
        ControlFlow::Break(Ended::Closed(Close::Client))
    }

    /// Says something in our own name, to be asked again after `retry` seconds; whether it got through.
    async fn answer(
        &mut self,
        status: u16,
        text: &str,
        retry: Option<u32>,
        keep: bool,
        is_head: bool,
    ) -> bool {
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = code.canonical_reason().unwrap_or_default();
        let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
        let connection = if keep { "" } else { "Connection: close\r\n" };
        let retry = retry.map(|seconds| format!("Retry-After: {seconds}\r\n"));
        let retry = retry.unwrap_or_default();
        let body = if is_head { "" } else { text };
        let message = format!(
            "HTTP/1.1 {status} {reason}\r\nDate: {date}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n{retry}{connection}\r\n{body}",
            text.len()
        );
        self.session.enter(Phase::Body);
        self.session.listener.metrics.request(code);
        self.session.note(|draft| draft.answered_ourselves(status));
        let stream = &mut self.client.stream;
        let written = match stream.write_all(message.as_bytes()).await {
            Ok(()) => stream.flush().await,
            Err(error) => Err(error),
        };
        if written.is_ok() {
            self.session.note_sent(message.len());
        }
        written.is_ok()
    }

    /// Closes our side, and lets the client read what we said if it may still be `sending`.
    async fn end(&mut self, sending: bool) {
        // A client that is gone needs no farewell.
        let _ = self.client.stream.shutdown().await;
        // A stream of HTTP/2 is told by itself.
        if !sending || self.client.stream.is_exchange() {
            return;
        }
        let stream = &mut self.client.stream;
        let linger = async {
            let mut scrap = [0; 2_048];
            let mut left = LINGER_BYTES_MAX;
            while let Ok(count @ 1..) = stream.read(&mut scrap).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    return;
                }
            }
        };
        // Either way it is over.
        let _ = timeout(LINGER, Box::pin(linger)).await;
    }
}
