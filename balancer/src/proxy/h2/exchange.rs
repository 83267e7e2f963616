//! One stream of HTTP/2 in the guise of a connection that speaks HTTP/1.1: its request can be read there, and its response written.
//!
//! To everything behind it, from the choice of a server to the relay of a WebSocket, such a stream is a client like any other. What it
//! costs is a head written and read once more; what it saves is a second way for requests beside the first, with rules of its own to
//! keep in step. Flow control passes through: what is not read here is not granted to the client, and what the client does not grant is
//! not taken from the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::io::ReadBuf;

use super::request::{self, Body, Text};
use super::response::{self, Reach};
use crate::message::Malformed;
use crate::message::chunked::Chunked;

/// What an exchange knows of its connection.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) local: Option<SocketAddr>,
    pub(super) is_secure: bool,
    /// Requests the client has given up before they were answered.
    pub(super) given_up: AtomicU32,
}

/// One request and its response.
#[derive(Debug)]
pub(crate) struct Exchange {
    origin: Arc<Origin>,
    request: Incoming,
    response: Outgoing,
}

impl Exchange {
    pub(super) fn new(
        text: Text,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        origin: Arc<Origin>,
    ) -> Self {
        let Text { head, body: kind, is_head, accept } = text;
        let body = (kind != Body::None).then_some(body);
        Self {
            origin,
            request: Incoming {
                body,
                is_chunked: kind == Body::Chunked,
                at_trailers: false,
                text: head,
                at: 0,
                data: Bytes::new(),
            },
            response: Outgoing {
                sender: Sender::Head(respond),
                place: Place::Head,
                held: Vec::new(),
                is_head,
                accept,
            },
        }
    }

    /// Our end of the connection below.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.origin.local
    }

    /// Whether nobody else can read what is said here.
    pub(crate) fn is_secure(&self) -> bool {
        self.origin.is_secure
    }

    /// Ready when the client has given up.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.response.sender.poll_reset(cx)
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.request.poll_read(cx, buffer)
    }

    /// Takes what the client grants; never nothing of something.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.response.poll_write(cx, bytes)
    }

    /// Ends a response that reaches until its end.
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        if self.response.place == Place::UntilEnd {
            self.response.finish(&[])?;
        }
        Ok(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let response = &mut self.response;
        if response.place == Place::Done {
            return;
        }
        let reason = if response.place == Place::UntilEnd {
            Reason::CANCEL
        } else {
            let mut context = Context::from_waker(Waker::noop());
            if response.sender.poll_reset(&mut context).is_ready() {
                self.origin.given_up.fetch_add(1, Ordering::Relaxed);
            }
            Reason::INTERNAL_ERROR
        };
        response.sender.send_reset(reason);
    }
}

/// A request on its way in.
#[derive(Debug)]
struct Incoming {
    /// `None` once it has ended.
    body: Option<RecvStream>,
    is_chunked: bool,
    at_trailers: bool,
    /// The head, or what stands between chunks.
    text: Vec<u8>,
    at: usize,
    /// Content not yet read; the client is granted its size as it is read.
    data: Bytes,
}

impl Incoming {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            if self.at < self.text.len() {
                let text = &self.text[self.at..];
                let count = text.len().min(buffer.remaining());
                buffer.put_slice(&text[..count]);
                self.at += count;
            } else if !self.data.is_empty() {
                self.take_data(buffer)?;
            } else if self.body.is_none() {
                // With nothing read, it is the end.
                return Poll::Ready(Ok(()));
            } else {
                match self.poll_body(cx) {
                    Poll::Ready(Ok(())) => {}
                    // An error comes again with the next read.
                    _ if buffer.filled().len() > before => break,
                    other => return other,
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take_data(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let count = self.data.len().min(buffer.remaining());
        buffer.put_slice(&self.data.split_to(count));
        if let Some(body) = &mut self.body {
            body.flow_control().release_capacity(count).map_err(broken)?;
        }
        if self.data.is_empty() && self.is_chunked {
            self.say(b"\r\n".to_vec());
        }
        Ok(())
    }

    /// Gets the next piece, or notes the end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if !self.at_trailers {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // A chunk of no bytes would be the last.
                    if !data.is_empty() && self.is_chunked {
                        let size = format!("{:x}\r\n", data.len());
                        self.say(size.into_bytes());
                    }
                    self.data = data;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => self.at_trailers = true,
            }
        }
        let trailers = ready!(body.poll_trailers(cx)).map_err(broken)?;
        self.body = None;
        if self.is_chunked {
            self.say(request::last_chunk(trailers.as_ref()));
        }
        Poll::Ready(Ok(()))
    }

    fn say(&mut self, text: Vec<u8>) {
        self.text = text;
        self.at = 0;
    }
}

/// Where in a response we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilEnd,
    Done,
}

/// A response on its way out.
#[derive(Debug)]
struct Outgoing {
    sender: Sender,
    place: Place,
    /// A head, or the end of a body in chunks, as far as it has come.
    held: Vec<u8>,
    is_head: bool,
    accept: Option<String>,
}

impl Outgoing {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.place {
            Place::Head => Poll::Ready(self.take_head(bytes)),
            Place::Chunked(chunked) => self.poll_chunks(cx, bytes, chunked),
            Place::Length(left) => {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let count = ready!(self.sender.poll_room(cx, count))?;
                let left = left - count as u64;
                if left == 0 {
                    self.finish(&bytes[..count])?;
                } else {
                    self.place = Place::Length(left);
                    self.sender.send(&bytes[..count], false)?;
                }
                Poll::Ready(Ok(count))
            }
            Place::UntilEnd => {
                let count = ready!(self.sender.poll_room(cx, bytes.len()))?;
                self.sender.send(&bytes[..count], false)?;
                Poll::Ready(Ok(count))
            }
            Place::Done => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        }
    }

    /// Takes `bytes` as far as they belong to the head, and sends it once it is whole.
    fn take_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The end may be cut by what came before.
        let known = self.held.len();
        let from = known.saturating_sub(3);
        self.held.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(&self.held[from..], b"\r\n\r\n") else {
            return Ok(bytes.len());
        };
        let end = from + end + 4;
        let head = response::read(&self.held[..end], self.is_head, self.accept.as_deref());
        self.held.clear();
        let head = head.map_err(io::Error::other)?;
        if head.is_interim {
            self.sender.inform(head.response)?;
        } else {
            let is_done = head.reach == Reach::Length(0);
            self.sender.respond(head.response, is_done)?;
            self.place = match head.reach {
                _ if is_done => Place::Done,
                Reach::Length(length) => Place::Length(length),
                Reach::Chunked(chunked) => Place::Chunked(chunked),
                Reach::UntilEnd => Place::UntilEnd,
            };
        }
        Ok(end - known)
    }

    /// Sends the content of chunks. What stands between it needs no grant, or a client that has granted just the content would not be
    /// told of the end.
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        mut chunked: Chunked,
    ) -> Poll<io::Result<usize>> {
        let malformed = |fault: Malformed| io::Error::other(fault);
        let mut at = 0;
        while at < bytes.len() {
            let left = usize::try_from(chunked.content_left()).unwrap_or(usize::MAX);
            if left == 0 {
                chunked.advance(&bytes[at..=at], |_| {}).map_err(malformed)?;
                self.held.push(bytes[at]);
                at += 1;
                self.place = Place::Chunked(chunked);
                if chunked.is_done() {
                    let trailers = response::trailers(&self.held);
                    self.held.clear();
                    self.end(trailers)?;
                    break;
                }
                continue;
            }
            self.held.clear();
            let room = self.sender.poll_room(cx, left.min(bytes.len() - at))?;
            let Poll::Ready(count) = room else { break };
            chunked.advance(&bytes[at..at + count], |_| {}).map_err(malformed)?;
            self.place = Place::Chunked(chunked);
            self.sender.send(&bytes[at..at + count], false)?;
            at += count;
        }
        if at == 0 { Poll::Pending } else { Poll::Ready(Ok(at)) }
    }

    /// Sends the last bytes.
    fn finish(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.place = Place::Done;
        self.sender.send(bytes, true)
    }

    fn end(&mut self, trailers: HeaderMap) -> io::Result<()> {
        self.place = Place::Done;
        if trailers.is_empty() { self.sender.send(&[], true) } else { self.sender.trail(trailers) }
    }
}

/// The sending half of a stream.
#[derive(Debug)]
enum Sender {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

impl Sender {
    fn inform(&mut self, response: http::Response<()>) -> io::Result<()> {
        match self {
            Self::Head(sender) => sender.send_informational(response).map_err(broken),
            Self::Body(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn respond(&mut self, response: http::Response<()>, is_done: bool) -> io::Result<()> {
        let Self::Head(sender) = self else { return Err(io::ErrorKind::InvalidInput.into()) };
        *self = Self::Body(sender.send_response(response, is_done).map_err(broken)?);
        Ok(())
    }

    fn body(&mut self) -> io::Result<&mut SendStream<Bytes>> {
        match self {
            Self::Body(sender) => Ok(sender),
            Self::Head(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// How much of `wanted` bytes, more than none, the client and the connection's buffer take now.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let sender = self.body()?;
        sender.reserve_capacity(wanted);
        loop {
            let room = sender.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(wanted)));
            }
            match ready!(sender.poll_capacity(cx)) {
                Some(granted) => drop(granted.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<()> {
        self.body()?.send_data(Bytes::copy_from_slice(bytes), is_last).map_err(broken)
    }

    fn trail(&mut self, trailers: HeaderMap) -> io::Result<()> {
        self.body()?.send_trailers(trailers).map_err(broken)
    }

    /// Ready when the client, or the connection, has given up on it.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match self {
            Self::Head(sender) => sender.poll_reset(cx),
            Self::Body(sender) => sender.poll_reset(cx),
        };
        reset.map(drop)
    }

    fn send_reset(&mut self, reason: Reason) {
        match self {
            Self::Head(sender) => sender.send_reset(reason),
            Self::Body(sender) => sender.send_reset(reason),
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    } else {
        io::Error::other(error)
    }
}
