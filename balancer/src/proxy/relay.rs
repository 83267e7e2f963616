//! Bytes both ways between a client and a server, for upgraded and for TCP connections.
//!
//! One task, one loop, no copy but socket to buffer to socket. A buffer is lent only while there are bytes in it ([`super::buffers`]).
//! Rejected: tokio's `copy_bidirectional`, which holds two buffers for as long as the connection lives.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::session::{Phase, Session};
use super::stream::Stream;
use super::transfer::End;
use crate::metrics::Close;

/// What an end of one side means for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfClose {
    /// Nothing: it may send on (TCP).
    Kept,
    /// The server's end is the end: no upgraded protocol goes on without the server.
    ServerEnds,
}

/// How far one direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The sender has ended; the receiver is still to be told.
    Ending,
    Ended,
}

impl Direction {
    /// Passes on what there is. Ready when this direction has ended and its end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut End,
        to: &mut Stream,
        note: impl Fn(usize),
    ) -> Poll<io::Result<()>> {
        loop {
            match self {
                Self::Ended => return Poll::Ready(Ok(())),
                Self::Ending => {
                    from.buffer.settle();
                    // The other side may be gone already, which its own direction will tell.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    *self = Self::Ended;
                }
                Self::Open => {
                    while !from.buffer.is_empty() {
                        let bytes = from.buffer.filled();
                        match ready!(Pin::new(&mut *to).poll_write(cx, bytes))? {
                            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                            count => from.buffer.consume(count),
                        }
                    }
                    // What TLS has kept leaves when the socket takes it; there may be more to read meanwhile.
                    if let Poll::Ready(Err(error)) = Pin::new(&mut *to).poll_flush(cx) {
                        return Poll::Ready(Err(error));
                    }
                    match ready!(from.buffer.poll_fill(cx, &mut from.stream, 0))? {
                        0 => *self = Self::Ending,
                        count => note(count),
                    }
                }
            }
        }
    }
}

/// Relays until both sides have ended, one is broken, or the session is stopped.
pub(crate) async fn run(
    session: &Session,
    mut client: End,
    mut server: End,
    half_close: HalfClose,
) -> Close {
    let (mut up, mut down) = (Direction::Open, Direction::Open);
    let mut first = None;
    session.enter(Phase::Relay);
    poll_fn(move |cx| {
        if let Some(close) = session.poll_stop(cx) {
            return Poll::Ready(close);
        }
        let sent = up.poll(cx, &mut client, &mut server.stream, |n| session.note_received(n));
        let got = down.poll(cx, &mut server, &mut client.stream, |n| session.note_sent(n));
        if matches!(sent, Poll::Ready(Err(_))) || matches!(got, Poll::Ready(Err(_))) {
            return Poll::Ready(Close::Error);
        }
        let cause = *match (sent.is_ready(), got.is_ready()) {
            (false, false) => return Poll::Pending,
            (true, false) => first.get_or_insert(Close::Client),
            (_, true) => first.get_or_insert(Close::Server),
        };
        let server_ended = got.is_ready() && half_close == HalfClose::ServerEnds;
        if server_ended || (sent.is_ready() && got.is_ready()) {
            return Poll::Ready(cause);
        }
        if session.phase() != Phase::HalfClosed {
            session.enter(Phase::HalfClosed);
        }
        Poll::Pending
    })
    .await
}
