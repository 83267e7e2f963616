//! The way to one connection: what happens in its channels, what others order, that time has passed, that it is to close.
//!
//! Bounded by the bytes that wait in it. A client that lets them pile up is cut, because dropping some of its events silently would
//! be worse than making it recover. One lock and one waker for all of it, because an idle connection is mostly its mailbox.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use holdfast_telemetry::{IntCounter, IntGauge};

use crate::access::Who;
use crate::metrics::Metrics;
use crate::protocol::Disconnect;
use crate::session::{Close, Event, Order};

/// What an event costs in a mailbox beside its contents.
const EVENT_BYTES: usize = 64;

/// What an order costs beside its payload.
const ORDER_BYTES: usize = 256;

/// The way to one connection.
pub struct Mailbox {
    client: Box<str>,
    who: OnceLock<Arc<Who>>,
    mail: Mutex<Mail>,
    waker: AtomicWaker,
    bytes_max: usize,
    queue_bytes: IntGauge,
    slow_consumers: IntCounter,
}

/// What waits for a connection.
#[derive(Default)]
pub struct Mail {
    /// What happened in its channels.
    pub events: VecDeque<Arc<Event>>,
    /// What others want of it.
    pub orders: VecDeque<Order>,
    /// Time has passed.
    pub due: bool,
    /// It is to close; this is asked once and stays.
    pub close: Option<Close>,
    bytes: usize,
    /// Nobody reads it any more.
    ended: bool,
}

fn cost(order: &Order) -> usize {
    ORDER_BYTES
        + match order {
            Order::Input(data) | Order::Message(data) => data.len(),
            _ => 0,
        }
}

#[expect(clippy::cast_possible_wrap, reason = "bounded by the mailbox's limit")]
fn signed(bytes: usize) -> i64 {
    bytes as i64
}

impl Mailbox {
    /// Of the connection with the id `client`; takes up to `bytes_max`.
    pub fn new(client: &str, bytes_max: usize, metrics: &Metrics) -> Self {
        Self {
            client: client.into(),
            who: OnceLock::new(),
            mail: Mutex::default(),
            waker: AtomicWaker::new(),
            bytes_max,
            queue_bytes: metrics.queue_bytes.clone(),
            slow_consumers: metrics.slow_consumers.clone(),
        }
    }

    /// The connection's id.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Whose connection it is; `None` until it is connected.
    pub fn who(&self) -> Option<&Arc<Who>> {
        self.who.get()
    }

    /// The connection belongs to `who`, which cannot change any more.
    pub fn set_who(&self, who: Arc<Who>) {
        // Set by the one admission a connection has.
        let _ = self.who.set(who);
    }

    /// Something happened in a channel.
    pub fn deliver(&self, event: &Arc<Event>) {
        let size = EVENT_BYTES + event.size();
        self.put(size, |mail| mail.events.push_back(Arc::clone(event)));
    }

    /// The back end wants something.
    pub fn order(&self, order: Order) {
        self.put(cost(&order), |mail| mail.orders.push_back(order));
    }

    fn put(&self, size: usize, put: impl FnOnce(&mut Mail)) {
        let mut mail = self.lock();
        if mail.ended || mail.close.is_some() {
            return;
        }
        if mail.bytes + size > self.bytes_max {
            mail.close = Some(Disconnect::SLOW.into());
            self.slow_consumers.inc();
        } else {
            mail.bytes += size;
            self.queue_bytes.add(signed(size));
            put(&mut mail);
        }
        drop(mail);
        self.waker.wake();
    }

    /// Asks the connection to close; the first reason counts.
    pub fn cut(&self, close: impl Into<Close>) {
        self.lock().close.get_or_insert_with(|| close.into());
        self.waker.wake();
    }

    /// Tells the connection that time has passed.
    pub fn ring(&self) {
        self.lock().due = true;
        self.waker.wake();
    }

    /// Ready when there is mail: of any kind, or, if not `all`, a close or the passing of time.
    pub fn poll(&self, all: bool, context: &mut Context<'_>) -> Poll<()> {
        if self.has_mail(all) {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // Something may have come before the waker was known.
        if self.has_mail(all) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_mail(&self, all: bool) -> bool {
        let mail = self.lock();
        mail.due
            || mail.close.is_some()
            || (all && !(mail.events.is_empty() && mail.orders.is_empty()))
    }

    /// Takes the mail out; events and orders stay if not `all`.
    pub fn take(&self, all: bool) -> Mail {
        let mut mail = self.lock();
        let (due, close) = (std::mem::take(&mut mail.due), mail.close.clone());
        if !all {
            return Mail { due, close, ..Mail::default() };
        }
        let bytes = std::mem::take(&mut mail.bytes);
        let (events, orders) = (std::mem::take(&mut mail.events), std::mem::take(&mut mail.orders));
        drop(mail);
        self.queue_bytes.sub(signed(bytes));
        Mail { events, orders, due, close, bytes, ended: false }
    }

    /// Nothing is taken any more.
    pub fn end(&self) {
        self.lock().ended = true;
        drop(self.take(true));
    }

    /// A panic while the lock is held is a bug that has been reported; the queue is still what waits.
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{EventKind, Presence};
    use holdfast_telemetry::Registry;

    #[test]
    fn a_mailbox_that_overflows_is_cut_and_settles_its_bytes() {
        let metrics = Metrics::register(&Registry::new());
        let mailbox = Mailbox::new("c", 300, &metrics);
        let kind = EventKind::Membership(Presence::new(true, r#"{"user":"a","client":"c"}"#));
        let event = Arc::new(Event { channel: "a".into(), kind });
        for _ in 0..5 {
            mailbox.deliver(&event);
        }
        assert_eq!(mailbox.take(false).close, Some(Disconnect::SLOW.into()));
        assert_eq!(metrics.slow_consumers.get(), 1);
        assert!(metrics.queue_bytes.get() > 0 && metrics.queue_bytes.get() <= 300);
        drop(mailbox);
        assert_eq!(metrics.queue_bytes.get(), 0);
    }

    #[test]
    fn the_first_reason_to_close_counts_and_stays() {
        let mailbox = Mailbox::new("c", 300, &Metrics::register(&Registry::new()));
        mailbox.cut(Disconnect::SHUTDOWN);
        mailbox.cut(Disconnect::SLOW);
        mailbox.order(Order::Message("1".into()));
        for _ in 0..2 {
            let mail = mailbox.take(true);
            assert_eq!(mail.close, Some(Disconnect::SHUTDOWN.into()));
            assert!(mail.orders.is_empty());
        }
    }
}
