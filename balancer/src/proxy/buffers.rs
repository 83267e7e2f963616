//! Buffers, lent while a socket has bytes and given back when they are passed on.
//!
//! Ten thousand idle connections hold no buffer at all; a worker needs as many as it has connections with a slow side. The pool is per
//! thread, so lending takes no lock. There are two sizes: most reads are a head or a chat message, and a connection that fills the small
//! one is moving bulk, for which every system call saved counts.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Holds any head of usual size and any chat message; also small enough that a thousand of them, all busy, are 16 MiB.
pub(crate) const SMALL_BYTES: usize = 16 * 1_024;
/// A quarter of the system calls, and still within a core's second-level cache; also the largest read, so that one busy connection does not
/// starve the others.
pub(crate) const LARGE_BYTES: usize = 64 * 1_024;
/// Buffers of each size kept for later, 1 MiB each; more are freed.
const SMALL_KEPT_MAX: usize = 64;
const LARGE_KEPT_MAX: usize = 16;
/// Heads under construction kept for later. More than one per request in flight on a thread is never needed.
const HEADS_KEPT_MAX: usize = 64;
/// A head that grew beyond this is freed.
pub(super) const HEAD_BYTES_KEPT: usize = 4_096;

#[derive(Default)]
struct Kept {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    heads: Vec<Vec<u8>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Lends a buffer, with old bytes in it.
fn take(large: bool) -> Box<[u8]> {
    let kept =
        KEPT.with_borrow_mut(|kept| if large { &mut kept.large } else { &mut kept.small }.pop());
    let bytes = if large { LARGE_BYTES } else { SMALL_BYTES };
    kept.unwrap_or_else(|| vec![0; bytes].into_boxed_slice())
}

/// Takes a buffer back.
fn give_back(buffer: Box<[u8]>) {
    KEPT.with_borrow_mut(|kept| match buffer.len() {
        SMALL_BYTES if kept.small.len() < SMALL_KEPT_MAX => kept.small.push(buffer),
        LARGE_BYTES if kept.large.len() < LARGE_KEPT_MAX => kept.large.push(buffer),
        // Grown for a long head, or one too many.
        _ => drop(buffer),
    });
}

/// Lends an empty vector to write a head into.
pub(crate) fn take_head() -> Vec<u8> {
    let kept = KEPT.with_borrow_mut(|kept| kept.heads.pop());
    kept.unwrap_or_else(|| Vec::with_capacity(HEAD_BYTES_KEPT))
}

/// Takes a head back.
pub(crate) fn give_back_head(mut head: Vec<u8>) {
    if (1..=HEAD_BYTES_KEPT).contains(&head.capacity()) {
        head.clear();
        KEPT.with_borrow_mut(|kept| {
            if kept.heads.len() < HEADS_KEPT_MAX {
                kept.heads.push(head);
            }
        });
    }
}

/// What was read from a socket and not yet used; holds memory only while there is any.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Empty when nothing is lent.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read filled it.
    bulk: bool,
}

impl Buffer {
    /// What there is.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Marks the first `count` bytes as used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the memory back if there is nothing in it.
    pub(crate) fn settle(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            give_back(mem::take(&mut self.bytes));
        }
    }

    /// Reads once, after what there is, and says how much came; 0 is the end of the stream. What does not fit into `limit` bytes, or
    /// the usual size if that is more, is [`io::ErrorKind::StorageFull`].
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        self.make_room(limit)?;
        let mut space = ReadBuf::new(&mut self.bytes[self.end..]);
        let room = space.capacity();
        let polled = Pin::new(stream).poll_read(cx, &mut space);
        let count = space.filled().len();
        if polled.is_pending() {
            self.settle();
        }
        ready!(polled)?;
        self.end += count;
        self.bulk = count == room;
        Poll::Ready(Ok(count))
    }

    fn make_room(&mut self, limit: usize) -> io::Result<()> {
        if self.is_empty() {
            let wanted = if self.bulk { LARGE_BYTES } else { SMALL_BYTES };
            if self.bytes.len() != wanted {
                self.settle();
                self.bytes = take(self.bulk);
            }
            (self.start, self.end) = (0, 0);
        }
        if self.end < self.bytes.len() {
            return Ok(());
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            return Ok(());
        }
        if self.bytes.len() >= limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut larger = vec![0; limit.min(self.bytes.len() * 2)].into_boxed_slice();
        larger[..self.end].copy_from_slice(&self.bytes);
        give_back(mem::replace(&mut self.bytes, larger));
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            give_back(mem::take(&mut self.bytes));
        }
    }
}
