//! One message on its way from one connection to another: a head of ours, then the body as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffers::{self, Buffer, HEAD_BYTES_KEPT};
use super::stream::Stream;
use crate::message::{Framing, Malformed};

/// One side of an exchange: its socket, and what was read from it and not yet used.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) stream: Stream,
    pub(crate) buffer: Buffer,
}

impl From<Stream> for End {
    fn from(stream: Stream) -> Self {
        Self { stream, buffer: Buffer::default() }
    }
}

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// Its sender closed early, or its connection broke.
    #[error("from its sender: {0}")]
    From(io::Error),
    /// The receiver's connection broke.
    #[error("to its receiver: {0}")]
    To(io::Error),
    /// Its body breaks the rules.
    #[error("{0}")]
    Malformed(Malformed),
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Transfer {
    head: Vec<u8>,
    /// Of the head.
    written: usize,
    /// Bytes at the front of the sender's buffer that are known to belong to the body.
    ready: usize,
    framing: Framing,
    /// The receiver knows no chunks: it gets their content.
    unchunk: bool,
    /// Whether any byte of the body was written.
    begun: bool,
    /// Whether all that was written has left (TLS keeps what the socket does not take).
    flushed: bool,
}

impl Transfer {
    /// A message of `head` and a body that reaches as far as `framing` says.
    pub(crate) fn new(head: Vec<u8>, framing: Framing, unchunk: bool) -> Self {
        Self { head, written: 0, ready: 0, framing, unchunk, begun: false, flushed: true }
    }

    /// Whether all of it was written.
    pub(crate) fn is_done(&self) -> bool {
        let written = self.ready == 0 && self.written == self.head.len();
        self.framing.is_done() && written && self.flushed
    }

    /// Whether nothing was written yet.
    pub(crate) fn is_unsent(&self) -> bool {
        self.written == 0
    }

    /// Whether there is nothing to write before the sender sends more.
    pub(crate) fn awaits_sender(&self) -> bool {
        self.written == self.head.len() && self.ready == 0 && !self.framing.is_done()
    }

    /// The same once more from its beginning, unless a part of the body is gone.
    pub(crate) fn rewind(&mut self) -> bool {
        self.written = 0;
        !self.begun
    }

    /// Writes and reads as far as both sides let it. Ready once all is written; `read` and `wrote` are told of every byte.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut End,
        to: &mut Stream,
        read: impl Fn(usize),
        wrote: impl Fn(usize),
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.ready == 0 && !from.buffer.is_empty() && !self.framing.is_done() {
                self.measure(&mut from.buffer).map_err(Broken::Malformed)?;
            }
            if self.written == 0 && self.ready > 0 {
                self.join(&mut from.buffer);
            }
            if self.written < self.head.len() || self.ready > 0 {
                let count = ready!(self.poll_write(cx, &from.buffer, to)).map_err(Broken::To)?;
                wrote(count);
                self.note_written(count, &mut from.buffer);
                continue;
            }
            if !self.flushed {
                let flushed = Pin::new(&mut *to).poll_flush(cx).map_err(Broken::To)?;
                self.flushed = flushed.is_ready();
            }
            if self.framing.is_done() {
                return if self.flushed { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            // All that was measured is written, so the buffer is empty.
            let filled = ready!(from.buffer.poll_fill(cx, &mut from.stream, 0));
            match filled.map_err(Broken::From)? {
                0 if self.framing == Framing::UntilClose => self.framing = Framing::NONE,
                0 => return Poll::Ready(Err(Broken::From(io::ErrorKind::UnexpectedEof.into()))),
                count => read(count),
            }
        }
    }

    /// Finds out how much of what was read belongs to the body.
    fn measure(&mut self, buffer: &mut Buffer) -> Result<(), Malformed> {
        let Framing::Chunked(chunked) = &mut self.framing else {
            self.ready = self.framing.advance(buffer.filled())?;
            return Ok(());
        };
        if !self.unchunk {
            self.ready = chunked.advance(buffer.filled(), |_| {})?;
            return Ok(());
        }
        // The head's place is free for content by now, or the content follows it.
        let (head, bytes) = (&mut self.head, buffer.filled());
        if self.written == head.len() {
            head.clear();
            self.written = 0;
        }
        let used = chunked.advance(bytes, |content| head.extend_from_slice(&bytes[content]))?;
        buffer.consume(used);
        Ok(())
    }

    /// Puts a short body behind its head: copying it costs less than a system call that takes two pieces instead of one.
    fn join(&mut self, buffer: &mut Buffer) {
        if self.head.len() + self.ready <= HEAD_BYTES_KEPT {
            self.head.extend_from_slice(&buffer.filled()[..self.ready]);
            buffer.consume(self.ready);
            self.ready = 0;
        }
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buffer: &Buffer,
        to: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        let head = &self.head[self.written..];
        let body = &buffer.filled()[..self.ready];
        let to = Pin::new(to);
        let count = ready!(match (head.is_empty(), body.is_empty()) {
            (true, _) => to.poll_write(cx, body),
            (_, true) => to.poll_write(cx, head),
            _ => to.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]),
        })?;
        Poll::Ready(if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) })
    }

    fn note_written(&mut self, count: usize, buffer: &mut Buffer) {
        self.flushed = false;
        let of_head = count.min(self.head.len() - self.written);
        self.written += of_head;
        let of_body = count - of_head;
        self.ready -= of_body;
        self.begun |= of_body > 0;
        buffer.consume(of_body);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        buffers::give_back_head(std::mem::take(&mut self.head));
    }
}
