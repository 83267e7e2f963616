//! Bytes both ways between a client and a server, for upgraded and for TCP connections.
//!
//! One task, one loop, no copy but socket to buffer to socket. A buffer is lent only while there are bytes in it ([`super::buffers`]). The
//! task is a struct and no async function, because what an idle connection costs is the size of this very struct: an async function would
//! hold a second copy of all it was called with. Rejected: tokio's `copy_bidirectional`, which holds two buffers for as long as the
//! connection lives.
//!
//! A WebSocket can be told to leave. The frames towards the client are followed from the first on (a few nanoseconds per message), since
//! their boundaries cannot be found later: a payload may look like anything. When it has to leave, what the server has sent is passed on
//! to the end of the frame under way, then comes a Close frame of ours and the end of our side. What the client still sends, its own Close
//! frame included, goes on to the server; what the server still sends is thrown away, for the client has been told that it is over. A
//! client whose frame is too long is told so in the same way (1009), but for what it still sends, which reaches nobody.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::session::{Kind, Phase, Session};
use super::stream::Stream;
use super::transfer::End;
use super::worker::SessionGuard;
use crate::message::frames::Frames;
use crate::metrics::Close;
use crate::pool::server::Lease;

/// Final fragment of a Close frame (RFC 6455 5.5.1), unmasked as everything from a server.
const CLOSE: u8 = 0x88;
/// The code for a frame that is too long to be passed on (RFC 6455 7.4.1).
const TOO_LONG: u16 = 1009;
/// A control frame's payload has 125 bytes at most, two of them the code.
const REASON_BYTES_MAX: usize = 123;

/// How far one direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The sender has ended; the receiver is still to be told.
    Ending,
    /// The sender has broken a bound: what it still says is thrown away.
    Refused,
    Ended,
}

impl Direction {
    /// Passes on what there is, for as long as `wrote` lets it. Ready when this direction has ended and its end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut End,
        to: &mut Stream,
        read: impl Fn(usize),
        mut wrote: impl FnMut(&[u8]) -> bool,
    ) -> Poll<io::Result<()>> {
        'step: loop {
            match self {
                Self::Ended => return Poll::Ready(Ok(())),
                Self::Ending => {
                    from.buffer.settle();
                    // The other side may be gone already, which its own direction will tell.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    *self = Self::Ended;
                }
                Self::Refused => {
                    from.buffer.consume(from.buffer.filled().len());
                    match ready!(from.buffer.poll_fill(cx, &mut from.stream, 0))? {
                        0 => *self = Self::Ended,
                        count => read(count),
                    }
                }
                Self::Open => {
                    while !from.buffer.is_empty() {
                        let bytes = from.buffer.filled();
                        let count = ready!(poll_write(cx, to, bytes))?;
                        let goes_on = wrote(&bytes[..count]);
                        from.buffer.consume(count);
                        if !goes_on {
                            *self = Self::Refused;
                            continue 'step;
                        }
                    }
                    // What TLS has kept leaves when the socket takes it; there may be more to read meanwhile.
                    if let Poll::Ready(Err(error)) = Pin::new(&mut *to).poll_flush(cx) {
                        return Poll::Ready(Err(error));
                    }
                    match ready!(from.buffer.poll_fill(cx, &mut from.stream, 0))? {
                        0 => *self = Self::Ending,
                        count => read(count),
                    }
                }
            }
        }
    }
}

/// The longest frame a client may send, and where its frames are.
#[derive(Debug)]
struct Bound {
    frames: Frames,
    payload_max: u64,
}

/// A client's last words from us.
#[derive(Debug)]
struct Goodbye {
    cause: Close,
    frame: Vec<u8>,
    written: usize,
    /// Whether our side of the client's connection has ended.
    said: bool,
}

/// Relays until both sides have ended, one is broken, or the session is stopped.
pub(crate) struct Relay {
    session: Rc<Session>,
    /// Given back at the end.
    held: Option<(SessionGuard, Lease)>,
    client: End,
    server: End,
    /// Which side has ended first.
    first: Option<Close>,
    up: Direction,
    down: Direction,
    /// Towards the client, of a WebSocket.
    frames: Frames,
    /// From the client, of a WebSocket whose frames are bounded.
    bound: Option<Box<Bound>>,
    goodbye: Option<Box<Goodbye>>,
}

impl Relay {
    /// The rest of a session whose server's bytes are its own from here on.
    pub(crate) fn new(
        guard: SessionGuard,
        lease: Lease,
        kind: Kind,
        client: End,
        server: End,
    ) -> Self {
        let session = Rc::clone(guard.session());
        session.bind(&lease, kind);
        session.enter(Phase::Relay);
        session.note(|draft| draft.switched(kind));
        let payload_max = session.listener.local_settings().config.frame_bytes_max;
        let payload_max = payload_max.filter(|_| kind == Kind::WebSocket);
        let bound = payload_max
            .map(|payload_max| Box::new(Bound { frames: Frames::default(), payload_max }));
        Self {
            session,
            held: Some((guard, lease)),
            client,
            server,
            first: None,
            up: Direction::Open,
            down: Direction::Open,
            frames: Frames::default(),
            bound,
            goodbye: None,
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        let Self { session, client, server, up, down, frames, bound, .. } = self;
        if let Some(close) = session.poll_stop(cx) {
            return Poll::Ready(close);
        }
        let note = |count| session.note_received(count);
        let mut too_long = false;
        let sent = up.poll(cx, client, &mut server.stream, note, |bytes| {
            if let Some(bound) = bound {
                too_long |= bound.frames.advance_within(bytes, bound.payload_max).is_err();
            }
            !too_long
        });
        // Its head has gone on, and what follows does not: the server sees a frame that is cut off.
        if too_long {
            if !session.leave(Close::FrameTooLong) {
                return Poll::Ready(Close::FrameTooLong);
            }
            self.goodbye = Some(Box::new(Goodbye::new(Close::FrameTooLong, TOO_LONG)));
        }
        if self.goodbye.is_some() {
            return self.poll_goodbye(cx, &sent);
        }
        let follow = session.kind() == Kind::WebSocket;
        let got = down.poll(
            cx,
            server,
            &mut client.stream,
            |count| session.note_sent(count),
            |bytes| {
                // Nobody can be told where the frames of a server end that breaks the rules.
                if follow && frames.advance(bytes).is_err() {
                    tracing::debug!("a server's frame has no valid length");
                }
                true
            },
        );
        if matches!(sent, Poll::Ready(Err(_))) || matches!(got, Poll::Ready(Err(_))) {
            return Poll::Ready(Close::Error);
        }
        let cause = match (sent.is_ready(), got.is_ready()) {
            (false, false) => {
                let Some((cause, code)) = session.farewell() else { return Poll::Pending };
                self.goodbye = Some(Box::new(Goodbye::new(cause, code)));
                return self.poll_goodbye(cx, &sent);
            }
            (true, false) => *self.first.get_or_insert(Close::Client),
            (_, true) => *self.first.get_or_insert(Close::Server),
        };
        // No upgraded protocol goes on without the server; a TCP client may send on.
        let server_ended = got.is_ready() && session.kind() != Kind::Tcp;
        if server_ended || (sent.is_ready() && got.is_ready()) {
            return Poll::Ready(cause);
        }
        if session.phase() != Phase::HalfClosed {
            session.enter(Phase::HalfClosed);
        }
        Poll::Pending
    }

    /// After the client was told to leave; `sent` is how its own direction fares.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>, sent: &Poll<io::Result<()>>) -> Poll<Close> {
        let Some(goodbye) = &mut self.goodbye else { return Poll::Pending };
        let cause = goodbye.cause;
        if matches!(sent, Poll::Ready(Err(_))) {
            return Poll::Ready(cause);
        }
        let (client, server) = (&mut self.client.stream, &mut self.server);
        if !goodbye.said {
            if ready!(goodbye.poll_say(cx, &mut self.frames, server, client)).is_err() {
                return Poll::Ready(cause);
            }
            goodbye.said = true;
            if self.up == Direction::Refused {
                // It awaits the rest of a frame that will not come; if it has gone itself, all the better.
                let _ = Pin::new(&mut server.stream).poll_shutdown(cx);
            }
        }
        if self.up == Direction::Refused {
            // While the client sends on, closing its connection would make its kernel throw away what we have said.
            return Poll::Pending;
        }
        if sent.is_ready() && cause == Close::FrameTooLong {
            return Poll::Ready(cause);
        }
        // A server that has heard the client's last words ends its side; whether the client ends its own then does not matter.
        loop {
            server.buffer.consume(server.buffer.filled().len());
            if !matches!(ready!(server.buffer.poll_fill(cx, &mut server.stream, 0)), Ok(1..)) {
                return Poll::Ready(cause);
            }
        }
    }
}

impl Goodbye {
    fn new(cause: Close, code: u16) -> Self {
        let frame = close_frame(code, cause.as_str());
        Self { cause, frame, written: 0, said: false }
    }

    /// Passes on the frame under way to its end, then our own, and ends our side.
    fn poll_say(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Frames,
        server: &mut End,
        client: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !frames.at_boundary() {
            if server.buffer.is_empty()
                && ready!(server.buffer.poll_fill(cx, &mut server.stream, 0))? == 0
            {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let bytes = server.buffer.filled();
            let bytes = &bytes[..frames.rest(bytes)];
            let count = ready!(poll_write(cx, client, bytes))?;
            if frames.advance(&bytes[..count]).is_err() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            server.buffer.consume(count);
        }
        while self.written < self.frame.len() {
            self.written += ready!(poll_write(cx, client, &self.frame[self.written..]))?;
        }
        Pin::new(client).poll_shutdown(cx)
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let close = ready!(this.poll_close(cx));
        if let Some((guard, lease)) = this.held.take() {
            lease.metrics.session.observe(this.session.age().as_secs_f64());
            drop(lease);
            guard.end(close);
        }
        Poll::Ready(())
    }
}

/// A Close frame from a server.
pub(crate) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(REASON_BYTES_MAX)];
    // At most 125.
    let length = u8::try_from(reason.len() + 2).unwrap_or(2);
    [&[CLOSE, length][..], &code.to_be_bytes(), reason].concat()
}

fn poll_write(cx: &mut Context<'_>, to: &mut Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        count => Poll::Ready(Ok(count)),
    }
}
