//! The two ways to a client: a WebSocket, or the body of a response that does not end.
//!
//! Frames are gathered and leave together, by one system call for many of them, each still shared with the other connections.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio_util::sync::PollSender;

use super::websocket::{self, Fault, Incoming, Reader};
use crate::mailbox::Mailbox;
use crate::protocol::reply::{DisconnectPush, Push, Reply};
use crate::protocol::{Disconnect, Frame, Protocol};
use crate::session::Close;

/// Frames of one system call; the kernel takes up to 1024.
const SLICES_MAX: usize = 64;

/// Read at once, on the stack: a connection that says nothing has no buffer.
const READ_BYTES: usize = 4096;

/// Reads in a row before others get their turn.
const READS_MAX: usize = 8;

/// WebSocket's own code for a frame that is none.
const PROTOCOL_ERROR: Close =
    Close { code: 1002, reason: std::borrow::Cow::Borrowed("protocol error") };

/// A way to a client.
pub(super) enum Pipe {
    /// Both ways.
    Socket(Socket),
    /// To the client; commands come by separate requests.
    Body(Body),
}

/// A WebSocket.
pub(super) struct Socket {
    stream: TcpStream,
    reader: Reader,
    queue: VecDeque<Bytes>,
}

/// How documents are set apart in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapping {
    /// By line breaks, or by their own length.
    Plain,
    /// As server-sent events.
    Events,
}

/// The body of a response.
pub(super) struct Body {
    sender: PollSender<Bytes>,
    wrapping: Wrapping,
    protocol: Protocol,
    queue: BytesMut,
}

/// The client's end of a body has been dropped: its connection closes.
pub(super) struct Hangup(pub(super) Arc<Mailbox>);

impl Drop for Hangup {
    fn drop(&mut self) {
        self.0.cut(Disconnect::CONNECTION_CLOSED);
    }
}

impl Pipe {
    /// Over `stream`, of which `early` was read already.
    pub(super) fn socket(stream: TcpStream, early: &[u8], message_bytes_max: usize) -> Self {
        let mut reader = Reader::new(message_bytes_max);
        reader.extend(early);
        Self::Socket(Socket { stream, reader, queue: VecDeque::new() })
    }

    /// Into `sender`.
    pub(super) fn body(sender: PollSender<Bytes>, wrapping: Wrapping, protocol: Protocol) -> Self {
        Self::Body(Body { sender, wrapping, protocol, queue: BytesMut::new() })
    }

    /// Puts a frame behind the others.
    pub(super) fn push(&mut self, frame: &Frame) {
        match self {
            Self::Socket(socket) => socket.queue.push_back(frame.bytes().clone()),
            Self::Body(body) => {
                let before: &[u8] = if body.wrapping == Wrapping::Events { b"data: " } else { b"" };
                let after: &[u8] = match (body.wrapping, body.protocol) {
                    (Wrapping::Events, _) => b"\n\n",
                    (Wrapping::Plain, Protocol::Json) => b"\n",
                    (Wrapping::Plain, Protocol::Protobuf) => b"",
                };
                for part in [before, &frame.document(), after] {
                    body.queue.extend_from_slice(part);
                }
            }
        }
    }

    /// Puts a ping of the transport's own behind the others, if it has such.
    pub(super) fn push_ping(&mut self) {
        if let Self::Socket(socket) = self {
            socket.queue.push_back(websocket::ping());
        }
    }

    /// Puts a close behind the others.
    pub(super) fn push_close(&mut self, close: &Close) {
        let Close { code, reason } = close;
        match self {
            Self::Socket(socket) => socket.queue.push_back(websocket::close(*code, reason)),
            Self::Body(body) => {
                let disconnect =
                    DisconnectPush { code: (*code).into(), reason: reason.to_string() };
                let push = Push { disconnect: Some(disconnect), ..Push::default() };
                // Without a payload there is nothing that could not be encoded.
                if let Ok(frame) = body.protocol.encode(&Reply::push("", push)) {
                    self.push(&frame);
                }
            }
        }
    }

    /// Drops what waits.
    pub(super) fn clear(&mut self) {
        match self {
            // A frame that is partly written would be cut in two, so its rest stays.
            Self::Socket(socket) => socket.queue.truncate(1),
            Self::Body(body) => body.queue.clear(),
        }
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_clear(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.queue.is_empty(),
            Self::Body(body) => body.queue.is_empty(),
        }
    }

    /// Writes as much as the client takes; ready when nothing waits.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match self {
            Self::Socket(socket) => socket.poll_write(context),
            Self::Body(body) => body.poll_write(context),
        }
    }

    /// Ready when something can be read.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            // What was read with the request is already here, and an error shows in reading.
            Self::Socket(socket) => socket.stream.poll_read_ready(context).map(|_| ()),
            Self::Body(_) => Poll::Pending,
        }
    }

    /// Reads what is there into messages; what is complete before a fault is still handed out.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub(super) fn read(&mut self, messages: &mut Vec<Incoming>) -> Result<(), Close> {
        match self {
            Self::Socket(socket) => socket.read(messages),
            Self::Body(_) => Ok(()),
        }
    }

    /// Answers a ping of the transport's own.
    pub(super) fn push_pong(&mut self, payload: &[u8]) {
        if let Self::Socket(socket) = self {
            socket.queue.push_back(websocket::pong(payload));
        }
    }
}

/// The client does not take anything any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone;

impl Socket {
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.queue.len().min(SLICES_MAX);
            for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(bytes);
            }
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Poll::Ready(Err(Gone)),
                Ok(written) => self.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.stream.poll_write_ready(context)).is_err() {
                        return Poll::Ready(Err(Gone));
                    }
                }
                Err(_) => return Poll::Ready(Err(Gone)),
            }
        }
        // A burst may have made it large; an idle connection does not keep that.
        if self.queue.capacity() > SLICES_MAX {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, mut written: usize) {
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                return front.advance(written);
            }
            written -= front.len();
            self.queue.pop_front();
        }
    }

    fn read(&mut self, messages: &mut Vec<Incoming>) -> Result<(), Close> {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            loop {
                match self.reader.next() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(Fault::TooBig) => return Err(Disconnect::MESSAGE_TOO_BIG.into()),
                    Err(Fault::Protocol) => return Err(PROTOCOL_ERROR),
                }
            }
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(Disconnect::CONNECTION_CLOSED.into()),
                Ok(size) => self.reader.extend(&buffer[..size]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Disconnect::CONNECTION_CLOSED.into()),
            }
        }
        Ok(())
    }
}

impl Body {
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while !self.queue.is_empty() {
            if ready!(self.sender.poll_reserve(context)).is_err() {
                return Poll::Ready(Err(Gone));
            }
            let chunk = std::mem::take(&mut self.queue).freeze();
            if self.sender.send_item(chunk).is_err() {
                return Poll::Ready(Err(Gone));
            }
        }
        Poll::Ready(Ok(()))
    }
}
