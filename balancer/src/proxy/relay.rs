//! Bytes both ways between a client and a server, for upgraded and for TCP connections.
//!
//! One task, one loop, no copy but socket to buffer to socket. A buffer is lent only while there are bytes in it ([`buffers`]). Rejected:
//! tokio's `copy_bidirectional`, which holds two buffers for as long as the connection lives.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffers;
use super::session::{Phase, Session};
use crate::metrics::Close;

/// What an end of one side means for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfClose {
    /// Nothing: it may send on (TCP).
    Kept,
    /// The server's end is the end: no upgraded protocol goes on without the server.
    ServerEnds,
}

/// A socket and what was already read from it.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) stream: TcpStream,
    pub(crate) early: Bytes,
}

impl From<TcpStream> for Side {
    fn from(stream: TcpStream) -> Self {
        Self { stream, early: Bytes::new() }
    }
}

/// Bytes on their way in one direction.
struct Direction {
    /// Empty slice when no buffer is lent.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    read_closed: bool,
    done: bool,
}

impl Direction {
    fn new(early: &Bytes) -> Self {
        let buffer: Box<[u8]> = early.as_ref().into();
        Self { start: 0, end: buffer.len(), buffer, read_closed: false, done: false }
    }

    /// Passes on what there is. Ready when this direction has ended and its end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        mut note: impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        while !self.done {
            while self.start < self.end {
                let written =
                    ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
            }
            if self.read_closed {
                buffers::give_back(std::mem::take(&mut self.buffer));
                // The other side may be gone already, which its own direction will tell.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.done = true;
                break;
            }
            if self.buffer.len() != buffers::BUFFER_BYTES {
                self.buffer = buffers::take();
            }
            let mut space = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut space) {
                Poll::Pending => {
                    buffers::give_back(std::mem::take(&mut self.buffer));
                    (self.start, self.end) = (0, 0);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
                    (self.start, self.end) = (0, space.filled().len());
                    self.read_closed = self.end == 0;
                    note(self.end);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Relays until both sides have ended, one is broken, or the session is stopped.
pub(crate) async fn run(
    session: &Session,
    mut client: Side,
    mut server: Side,
    half_close: HalfClose,
) -> Close {
    let mut up = Direction::new(&client.early);
    let mut down = Direction::new(&server.early);
    (client.early, server.early) = (Bytes::new(), Bytes::new());
    let mut first = None;
    session.enter(Phase::Relay);
    poll_fn(move |cx| {
        if let Some(close) = session.poll_stop(cx) {
            return Poll::Ready(close);
        }
        let sent =
            up.poll(cx, &mut client.stream, &mut server.stream, |n| session.note_received(n));
        let got = down.poll(cx, &mut server.stream, &mut client.stream, |n| session.note_sent(n));
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
