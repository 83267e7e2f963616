//! Waiting for a server that has room, when every usable one has as many connections as it may.
//!
//! Whoever waits is woken when a place is given back, first come first served; the line is bounded in length and in time, because a client
//! that waits longer than its own patience is work for nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_telemetry::IntGauge;
use tokio::sync::Notify;

/// The line of one pool.
#[derive(Debug)]
pub(crate) struct Room {
    waiting: AtomicUsize,
    freed: Notify,
    gauge: IntGauge,
}

impl Room {
    /// An empty line whose length `gauge` shows.
    pub(crate) fn new(gauge: IntGauge) -> Self {
        Self { waiting: AtomicUsize::new(0), freed: Notify::new(), gauge }
    }

    /// Whether anybody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// A place has become free.
    pub(crate) fn note_free(&self) {
        if self.is_awaited() {
            self.freed.notify_one();
        }
    }

    /// Something else has changed that everybody who waits should look at.
    pub(crate) fn note_change(&self) {
        self.freed.notify_waiters();
    }

    /// Tries again and again, each time a place becomes free, until `attempt` yields something; `None` if the line has `length_max` in it
    /// already. The caller bounds the time.
    ///
    /// # Cancel safety
    /// Dropping it leaves the line.
    pub(crate) async fn wait<T>(
        &self,
        length_max: usize,
        attempt: impl Fn() -> Option<T>,
    ) -> Option<T> {
        let enter = |length: usize| (length < length_max).then_some(length + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).ok()?;
        self.gauge.inc();
        let _place = Place(self);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on no place that becomes free is missed.
            freed.as_mut().enable();
            if let Some(found) = attempt() {
                return Some(found);
            }
            freed.await;
        }
    }
}

/// A place in the line, given back when it is dropped.
struct Place<'a>(&'a Room);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.gauge.dec();
        // If a wake-up was meant for this place, the next one gets it; if not, somebody looks in vain.
        self.0.note_free();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn room() -> Room {
        Room::new(IntGauge::new("waiting", "Waiting").unwrap())
    }

    #[test]
    fn a_place_goes_to_the_first_in_line_and_the_line_is_bounded() {
        let (room, free) = (room(), Cell::new(0));
        let take = || {
            let free_now = free.get();
            (free_now > 0).then(|| free.set(free_now - 1))
        };
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(room.wait(2, take)), pin!(room.wait(2, take)));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert_eq!(room.gauge.get(), 2);
        assert_eq!(pin!(room.wait(2, take)).poll(&mut context), Poll::Ready(None));
        free.set(1);
        room.note_free();
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(Some(())));
        assert!(second.as_mut().poll(&mut context).is_pending());
        free.set(1);
        room.note_change();
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(Some(())));
    }

    #[test]
    fn a_wake_up_of_one_who_has_left_goes_to_the_next() {
        let (room, free) = (room(), Cell::new(false));
        let take = || free.get().then_some(());
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(room.wait(2, take));
        let mut second = Box::pin(room.wait(2, take));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        free.set(true);
        room.note_free();
        drop(first);
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(Some(())));
        drop(second);
        assert_eq!(room.gauge.get(), 0);
    }
}
