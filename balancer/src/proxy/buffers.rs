//! Buffers of the relay, lent while a socket has bytes and given back when they are passed on.
//!
//! Ten thousand idle connections hold no buffer at all; a worker needs as many as it has connections with a slow side. The pool is per
//! thread, so lending takes no lock.

use std::cell::RefCell;

/// One TCP window of a local network; also the largest read, so that one busy connection does not starve the others.
pub(crate) const BUFFER_BYTES: usize = 16 * 1_024;
/// Buffers kept for later, 1 MiB per worker; more are freed.
const KEPT_MAX: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of [`BUFFER_BYTES`], with old bytes in it.
pub(crate) fn take() -> Box<[u8]> {
    let kept = POOL.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

/// Takes a buffer back.
pub(crate) fn give_back(buffer: Box<[u8]>) {
    if buffer.len() == BUFFER_BYTES {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < KEPT_MAX {
                pool.push(buffer);
            }
        });
    }
}
