//! HTTP/2 from clients: the `h2` crate keeps frames, header compression and flow control, and each stream becomes an [`Exchange`] that is
//! served like a connection of its own ([`super::http`]), towards servers that speak HTTP/1.1.
//!
//! What a client can make us do is bounded by what its connection is granted: so many streams at a time, so much header, so many bytes
//! that no server has taken yet. The floods known to harm servers end the connection with `ENHANCE_YOUR_CALM`: streams opened and reset
//! (CVE-2023-44487), headers continued without end, small frames without end. The crate counts those that it sees; requests that reach a
//! server and are given up before its answer are counted here.

mod exchange;
mod request;
mod response;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::http;
use super::session::{Phase, Session};
use super::stream::Stream;
use super::transfer::End;
use super::upstream::Idle;
use super::worker::SessionGuard;
use crate::config::ListenerConfig;
use crate::metrics::{Close, Rejection};

pub(crate) use exchange::Exchange;
use exchange::Origin;

/// What a client that speaks HTTP/2 without being asked in TLS begins with (RFC 9113 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request that a server has not taken yet. Enough for 20 Mbit/s over 100 ms.
const STREAM_WINDOW: u32 = 256 * 1_024;
/// Of all requests of a connection together; the most that one connection can make us hold.
const CONNECTION_WINDOW: u32 = 1_024 * 1_024;
/// Bytes of a response that the connection has not taken yet: a large buffer's worth.
const SEND_BUFFER: usize = 64 * 1_024;
/// Streams that a client has reset before we came to them; more at a time is a flood.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we had to reset for breaking the rules, in the life of a connection.
const FAULTS_MAX: usize = 100;
/// A client may give up this many requests before their answer...
const GIVEN_UP_MIN: u32 = 100;
/// ...and beyond that not more than one in so many of all. People who leave a page early give up fewer.
const GIVEN_UP_SHARE: u32 = 2;
/// A client whose connection ends is told so for as long.
const FAREWELL: Duration = Duration::from_secs(1);

type Connection = h2::server::Connection<Io, Bytes>;

/// Serves one client connection until it or we have had enough.
pub(crate) async fn serve(guard: SessionGuard, idle: Rc<Idle>, client: End, peer: SocketAddr) {
    let session = Rc::clone(guard.session());
    let builder = builder(&session.listener.settings().config);
    let origin = Arc::new(Origin {
        local: client.stream.local_addr(),
        is_secure: client.stream.is_secure(),
        given_up: AtomicU32::new(0),
    });
    let handshake = {
        let handshake = pin!(builder.handshake(Io(client)));
        session.until_stopped(handshake).await
    };
    let mut connection = match handshake {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return guard.end(judge(&session, &error)),
        Err(close) => {
            if close == Close::Timeout {
                session.listener.metrics.reject(Rejection::HeaderTimeout);
            }
            return guard.end(close);
        }
    };
    session.enter(Phase::Idle);
    let close = Client { guard: &guard, idle, peer, origin, requests: 0, floods: false }
        .talk(&mut connection)
        .await;
    if close != Close::Client && close != Close::Error {
        connection.abrupt_shutdown(Reason::NO_ERROR);
    }
    // Whoever is told to end hears why, if it listens.
    let farewell = pin!(poll_fn(|cx| connection.poll_closed(cx)));
    let _ = timeout(FAREWELL, farewell).await;
    guard.end(close);
}

fn builder(config: &ListenerConfig) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(config.http2_streams_max)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(FAULTS_MAX))
        .enable_connect_protocol();
    builder
}

/// Why a connection ends that broke; one that breaks the rules is counted.
fn judge(session: &Session, error: &h2::Error) -> Close {
    tracing::debug!(%error, "HTTP/2 connection ended");
    if error.is_remote() {
        return Close::Client;
    }
    if !error.is_io() {
        session.listener.metrics.reject(Rejection::Http2);
    }
    Close::Error
}

/// A client and what it has asked so far.
struct Client<'a> {
    guard: &'a SessionGuard,
    idle: Rc<Idle>,
    peer: SocketAddr,
    origin: Arc<Origin>,
    requests: u32,
    /// It has given up too many.
    floods: bool,
}

impl Client<'_> {
    async fn talk(mut self, connection: &mut Connection) -> Close {
        let session = Rc::clone(self.guard.session());
        // A listener that goes takes its connections with it, once they have nothing to do.
        let mut listener_closed = pin!(session.listener.closed());
        let mut leaving = false;
        poll_fn(|cx| {
            if let Some(close) = session.poll_stop(cx) {
                return Poll::Ready(close);
            }
            if !leaving && (session.is_finishing() || listener_closed.as_mut().poll(cx).is_ready())
            {
                leaving = true;
                connection.graceful_shutdown();
            }
            let ended = self.poll(cx, connection);
            let phase = if connection.has_streams() { Phase::Streams } else { Phase::Idle };
            if session.phase() != phase {
                session.enter(phase);
            }
            Poll::Ready(match ready!(ended) {
                Ok(()) if self.floods => {
                    session.listener.metrics.reject(Rejection::Http2);
                    Close::Error
                }
                Ok(()) => Close::Client,
                Err(error) => judge(&session, &error),
            })
        })
        .await
    }

    /// Takes the requests that have come; ready when the connection has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
    ) -> Poll<Result<(), h2::Error>> {
        while let Some(next) = ready!(connection.poll_accept(cx)) {
            let (request, respond) = next?;
            self.requests = self.requests.saturating_add(1);
            let given_up = self.origin.given_up.load(Ordering::Relaxed);
            if given_up > GIVEN_UP_MIN && given_up > self.requests / GIVEN_UP_SHARE {
                self.floods = true;
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                break;
            }
            self.begin(request, respond);
        }
        Poll::Ready(Ok(()))
    }

    fn begin(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        match request::write(&head, body.is_end_stream(), || fastrand::u128(..)) {
            Ok(text) => {
                let exchange = Exchange::new(text, body, respond, Arc::clone(&self.origin));
                let client = Stream::Exchange(Box::new(exchange)).into();
                let guard = self.guard.stream(self.peer);
                let served = http::serve(guard, Rc::clone(&self.idle), client, self.peer);
                tokio::task::spawn_local(served);
            }
            Err(error) => {
                tracing::debug!(error, "malformed request in HTTP/2");
                self.guard.session().listener.metrics.reject(Rejection::BadRequest);
                respond.send_reset(Reason::PROTOCOL_ERROR);
            }
        }
    }
}

/// The connection below, from where `End` has come to.
struct Io(End);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let End { stream, buffer: known } = &mut self.get_mut().0;
        if known.is_empty() {
            return Pin::new(stream).poll_read(cx, buffer);
        }
        let count = known.filled().len().min(buffer.remaining());
        buffer.put_slice(&known.filled()[..count]);
        known.consume(count);
        known.settle();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0.stream).poll_shutdown(cx)
    }
}
