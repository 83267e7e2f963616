//! One client connection as its worker sees it: which phase it is in, since when, and whether it has to end.
//!
//! A worker looks over its sessions a few times a second and ends those that are overdue, so no connection needs a timer of its own:
//! what would be an allocation and two changes to the timer wheel per request is here the store of a small number. The price is that a
//! timeout may come up to one [`TICK`] late. A session is only ever touched by its worker's thread.
//!
//! There are two ways to end one from outside. [`Session::stop`] cuts it. [`Session::leave`] is for connections that live long and whose
//! clients come back: a WebSocket is told by a Close frame and has [`GOODBYE_MAX`] to answer; what has no word for it is cut.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::listener::Listener;
use crate::config::ListenerConfig;
use crate::metrics::Close;
use crate::pool::server::Lease;
use crate::sight::{Draft, Sight};

/// How often a worker looks over its sessions.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// A client that is told to leave answers within a round trip; one on a slow link may still be reading a large message.
const GOODBYE_MAX: Duration = Duration::from_secs(10);

/// Over which time a client that is waited for has to keep its rate: a phone that changes cells is silent for some seconds.
const PACE_WINDOW: Duration = Duration::from_secs(10);

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Between requests.
    Idle,
    /// The head of a request is on its way; also from the start, so that a silent client does not stay.
    Head,
    /// A connection to a server is being made; its own timeout rules.
    Connecting,
    /// A server is at work.
    Waiting,
    /// A response is on its way.
    Body,
    /// Bytes go both ways, for as long as both like.
    Relay,
    /// One side has finished.
    HalfClosed,
    /// The client was told to leave.
    Leaving,
    /// Streams of HTTP/2 are open, each with a session of its own.
    Streams,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Requests and responses.
    Http,
    /// A WebSocket.
    WebSocket,
    /// Another protocol it was upgraded to.
    Upgrade,
    /// Bytes.
    Tcp,
}

/// Where a client stood that is waited for.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// Tick of the moment; 0 while nobody waits for it.
    since: u32,
    /// Bytes it had sent and taken.
    bytes: u64,
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) listener: Arc<Listener>,
    /// The worker's clock.
    clock: Rc<Cell<u32>>,
    /// Server this session is bound to while it relays, else 0.
    server: Cell<u64>,
    received: Cell<u64>,
    sent: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// What is noted of the request in flight, where somebody wants to know.
    draft: RefCell<Option<Box<Draft>>>,
    /// How far a client has come that is waited for, where it has to come on.
    pace: Cell<Pace>,
    /// The client, in half the memory of a [`SocketAddr`].
    peer: Cell<(Ipv6Addr, u16)>,
    /// Tick of its first moment.
    began: u32,
    /// Tick of the last event that counts in this phase.
    since: Cell<u32>,
    /// While a server is at work: ticks it has for its response. While bytes are relayed: the tick at which it has grown too old, or 0.
    due: Cell<u32>,
    /// What a WebSocket's Close frame says.
    close_code: Cell<u16>,
    phase: Cell<Phase>,
    kind: Cell<Kind>,
    /// Whether a server has used up its time.
    late: Cell<bool>,
    /// Whether the client is waited for: a server would take more of the request, or it has to take more of the response.
    awaits_client: Cell<bool>,
    stop: Cell<Option<Close>>,
    leave: Cell<Option<Close>>,
    finish: Cell<bool>,
}

impl Session {
    pub(crate) fn new(listener: Arc<Listener>, clock: Rc<Cell<u32>>, peer: SocketAddr) -> Self {
        let now = clock.get();
        Self {
            listener,
            clock,
            server: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
            waker: RefCell::new(None),
            draft: RefCell::new(None),
            pace: Cell::default(),
            peer: Cell::new(compact(peer)),
            began: now,
            since: Cell::new(now),
            due: Cell::new(0),
            close_code: Cell::new(0),
            phase: Cell::new(Phase::Head),
            kind: Cell::new(Kind::Http),
            late: Cell::new(false),
            awaits_client: Cell::new(false),
            stop: Cell::new(None),
            leave: Cell::new(None),
            finish: Cell::new(false),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        if self.phase.get() != Phase::Leaving {
            self.phase.set(phase);
            self.since.set(self.clock.get());
        }
    }

    /// Binds it to a server whose connection is its own from here on, and to the rules for connections that live long.
    pub(crate) fn bind(&self, lease: &Lease, kind: Kind) {
        self.server.set(lease.id());
        self.kind.set(kind);
        self.close_code.set(lease.lifetime.close_code());
        let age_max = lease.lifetime.draw_age(fastrand::f64());
        self.due.set(age_max.map_or(0, |age| self.clock.get().saturating_add(ticks(age)).max(1)));
    }

    /// Begins to note what happens to a request; `draft` is asked only where somebody wants to know.
    pub(crate) fn begin_draft(&self, draft: impl FnOnce(&Sight) -> Draft) {
        if let Some(sight) = &self.listener.sight {
            *self.draft.borrow_mut() = Some(Box::new(draft(sight)));
        }
    }

    /// Notes something of the request in flight.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Draft)) {
        if let Some(draft) = &mut *self.draft.borrow_mut() {
            note(draft);
        }
    }

    /// The request in flight is over, and its connection with it if `close` says why.
    pub(crate) fn end_draft(&self, close: Option<Close>) {
        let Some(sight) = &self.listener.sight else { return };
        let draft = self.draft.borrow_mut().take();
        if let Some(draft) = draft {
            sight.tell(draft, self, close);
        }
    }

    /// Name of its listener.
    pub(crate) fn listener_name(&self) -> Arc<str> {
        Arc::clone(&self.listener.settings().config.name)
    }

    /// The server it is bound to, or 0.
    pub(crate) fn server(&self) -> u64 {
        self.server.get()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind.get()
    }

    /// The client's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        let (address, port) = self.peer.get();
        SocketAddr::new(address.to_canonical(), port)
    }

    /// A trusted proxy has said who the client is.
    pub(crate) fn set_peer(&self, peer: SocketAddr) {
        self.peer.set(compact(peer));
    }

    /// Time since its connection was accepted, to a [`TICK`].
    pub(crate) fn age(&self) -> Duration {
        TICK.saturating_mul(self.clock.get().saturating_sub(self.began))
    }

    /// Time since the last byte, to a [`TICK`].
    pub(crate) fn rest(&self) -> Duration {
        TICK.saturating_mul(self.clock.get().saturating_sub(self.since.get()))
    }

    /// Bytes that came from the client, as they were before TLS.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes that went to the client.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Waits for a server's response, for `limit` without a byte from the client: a long upload is no slow server.
    pub(crate) fn await_server(&self, limit: Duration) {
        self.enter(Phase::Waiting);
        self.due.set(ticks(limit));
        self.late.set(false);
        self.awaits_client.set(false);
    }

    /// Whether the server's time is over.
    pub(crate) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Notes whether the client is waited for in the middle of a request or of a response.
    pub(crate) fn await_client(&self, waiting: bool) {
        self.awaits_client.set(waiting);
    }

    pub(crate) fn awaits_client(&self) -> bool {
        self.awaits_client.get()
    }

    /// Notes that bytes came from the client.
    pub(crate) fn note_received(&self, bytes: usize) {
        self.listener.metrics.received.inc_by(bytes as u64);
        self.received.set(self.received.get() + bytes as u64);
        match self.phase.get() {
            Phase::Idle => self.enter(Phase::Head),
            // Only the first byte of a head counts, or a byte now and then would hold the connection; and whoever has to leave has no
            // more time for sending on.
            Phase::Head | Phase::Leaving => {}
            _ => self.since.set(self.clock.get()),
        }
    }

    /// Notes that bytes went to the client.
    pub(crate) fn note_sent(&self, bytes: usize) {
        self.listener.metrics.sent.inc_by(bytes as u64);
        self.sent.set(self.sent.get() + bytes as u64);
        if !matches!(self.phase.get(), Phase::Head | Phase::Leaving) {
            self.since.set(self.clock.get());
        }
    }

    /// Ends it, or tells it that its server is late, if it has been in its phase for too long.
    pub(crate) fn look_over(&self, config: &ListenerConfig) {
        let now = self.clock.get();
        let passed = now.saturating_sub(self.since.get());
        let limit = match self.phase.get() {
            Phase::Connecting | Phase::Streams => return,
            Phase::Relay => {
                let due = self.due.get();
                if due != 0 && now >= due {
                    self.leave(Close::MaxAge);
                }
                return;
            }
            Phase::Waiting => {
                if passed > self.due.get() || self.is_slow(config, now) {
                    self.late.set(true);
                    self.wake();
                }
                return;
            }
            Phase::Leaving => {
                if TICK.saturating_mul(passed) > GOODBYE_MAX {
                    self.stop(self.leave.get().unwrap_or(Close::Timeout));
                }
                return;
            }
            Phase::Body if self.is_slow(config, now) => return self.stop(Close::SlowClient),
            Phase::Head => config.header_timeout,
            Phase::Idle | Phase::Body | Phase::HalfClosed => config.idle_timeout,
        };
        if TICK.saturating_mul(passed) > limit {
            self.stop(Close::Timeout);
        }
    }

    /// Whether the client has been waited for too long for what it has sent or taken meanwhile.
    fn is_slow(&self, config: &ListenerConfig, now: u32) -> bool {
        let Some(rate) = config.client_rate_min else { return false };
        if !self.awaits_client.get() {
            self.pace.set(Pace::default());
            return false;
        }
        let bytes = self.received.get() + self.sent.get();
        let Pace { since, bytes: before } = self.pace.get();
        let passed = TICK.saturating_mul(now.saturating_sub(since));
        if since != 0 && passed < PACE_WINDOW {
            return false;
        }
        self.pace.set(Pace { since: now, bytes });
        since != 0 && bytes - before < u64::from(rate.get()) * PACE_WINDOW.as_secs()
    }

    /// Asks it to end now.
    pub(crate) fn stop(&self, close: Close) {
        if self.stop.get().is_none() {
            self.stop.set(Some(close));
        }
        self.wake();
    }

    /// Tells the client to leave, if there is a word for it, or ends it. Whether that is news: it was not about to end already.
    pub(crate) fn leave(&self, cause: Close) -> bool {
        if self.stop.get().is_some() || self.leave.get().is_some() {
            return false;
        }
        if self.kind.get() != Kind::WebSocket || self.phase.get() != Phase::Relay {
            self.stop(cause);
            return true;
        }
        self.enter(Phase::Leaving);
        self.leave.set(Some(cause));
        self.wake();
        true
    }

    /// Why the client has to leave, and what its Close frame says, if it has to.
    pub(crate) fn farewell(&self) -> Option<(Close, u16)> {
        Some((self.leave.get()?, self.close_code.get()))
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

fn compact(peer: SocketAddr) -> (Ipv6Addr, u16) {
    let address = match peer.ip() {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
        std::net::IpAddr::V6(address) => address,
    };
    (address, peer.port())
}

/// Ticks that last at least for `duration`.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX)
}
