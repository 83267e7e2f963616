//! One client connection as its worker sees it: which phase it is in, since when, and whether it has to end.
//!
//! A worker looks over its sessions a few times a second and ends those that are overdue, so no connection needs a timer of its own:
//! what would be an allocation and two changes to the timer wheel per request is here the store of a small number. The price is that a
//! timeout may come up to one [`TICK`] late. A session is only ever touched by its worker's thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::listener::Listener;
use crate::config::ListenerConfig;
use crate::metrics::Close;

/// How often a worker looks over its sessions.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between requests.
    Idle,
    /// The head of a request is on its way; also from the start, so that a silent client does not stay.
    Head,
    /// A connection to a server is being made; its own timeout rules.
    Connecting,
    /// A server is at work; [`Session::await_server`] says for how long.
    Waiting,
    /// A response is on its way.
    Body,
    /// Bytes go both ways, for as long as both like.
    Relay,
    /// One side has finished.
    HalfClosed,
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) listener: Arc<Listener>,
    phase: Cell<Phase>,
    /// Tick of the last event that counts in this phase.
    since: Cell<u64>,
    /// The worker's clock.
    clock: Rc<Cell<u64>>,
    /// Ticks a server has for its response.
    patience: Cell<u64>,
    /// Whether it has used them up.
    late: Cell<bool>,
    /// Whether a server would take more of the request than the client has sent.
    awaits_client: Cell<bool>,
    /// Server this session is bound to while it relays, else 0.
    server: Cell<u64>,
    stop: Cell<Option<Close>>,
    finish: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Session {
    pub(crate) fn new(listener: Arc<Listener>, clock: Rc<Cell<u64>>) -> Self {
        Self {
            listener,
            phase: Cell::new(Phase::Head),
            since: Cell::new(clock.get()),
            clock,
            patience: Cell::new(0),
            late: Cell::new(false),
            awaits_client: Cell::new(false),
            server: Cell::new(0),
            stop: Cell::new(None),
            finish: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.get());
    }

    /// Binds it to a server whose silence ends it.
    pub(crate) fn bind(&self, server: u64) {
        self.server.set(server);
    }

    pub(crate) fn server(&self) -> u64 {
        self.server.get()
    }

    /// Waits for a server's response, for `limit` without a byte from the client: a long upload is no slow server.
    pub(crate) fn await_server(&self, limit: Duration) {
        self.enter(Phase::Waiting);
        let ticks = limit.as_nanos().div_ceil(TICK.as_nanos());
        self.patience.set(u64::try_from(ticks).unwrap_or(u64::MAX));
        self.late.set(false);
        self.awaits_client.set(false);
    }

    /// Whether the server's time is over.
    pub(crate) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Notes whether the client is waited for in the middle of a request.
    pub(crate) fn await_client(&self, waiting: bool) {
        self.awaits_client.set(waiting);
    }

    pub(crate) fn awaits_client(&self) -> bool {
        self.awaits_client.get()
    }

    /// Notes that bytes came from the client.
    pub(crate) fn note_received(&self, bytes: usize) {
        self.listener.metrics.received.inc_by(bytes as u64);
        match self.phase.get() {
            Phase::Idle => self.enter(Phase::Head),
            // Only the first byte of a head counts, or a byte now and then would hold the connection.
            Phase::Head => {}
            _ => self.since.set(self.clock.get()),
        }
    }

    /// Notes that bytes went to the client.
    pub(crate) fn note_sent(&self, bytes: usize) {
        self.listener.metrics.sent.inc_by(bytes as u64);
        if self.phase.get() != Phase::Head {
            self.since.set(self.clock.get());
        }
    }

    /// Ends it, or tells it that its server is late, if it has been in its phase for too long.
    pub(crate) fn look_over(&self, config: &ListenerConfig) {
        let ticks = self.clock.get().saturating_sub(self.since.get());
        let limit = match self.phase.get() {
            Phase::Connecting | Phase::Relay => return,
            Phase::Waiting => {
                if ticks > self.patience.get() {
                    self.late.set(true);
                    self.wake();
                }
                return;
            }
            Phase::Head => config.header_timeout,
            Phase::Idle | Phase::Body | Phase::HalfClosed => config.idle_timeout,
        };
        if TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)) > limit {
            self.stop(Close::Timeout);
        }
    }

    /// Asks it to end now.
    pub(crate) fn stop(&self, close: Close) {
        if self.stop.get().is_none() {
            self.stop.set(Some(close));
        }
        self.wake();
    }

    /// Asks it to end after what is in flight.
    pub(crate) fn finish(&self) {
        self.finish.set(true);
        self.wake();
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.finish.get()
    }

    /// For the session's own task, at the start of each poll: why it has to end, if it has to; otherwise it is woken once it has.
    pub(crate) fn poll_stop(&self, cx: &Context<'_>) -> Option<Close> {
        if let Some(close) = self.stop.get() {
            return Some(close);
        }
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        None
    }

    /// Does `work` until it is done or the session has to end.
    pub(crate) async fn until_stopped<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Close> {
        poll_fn(|cx| match self.poll_stop(cx) {
            Some(close) => Poll::Ready(Err(close)),
            None => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    fn wake(&self) {
        // Taken out first: waking may run code that borrows again.
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
