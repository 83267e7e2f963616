//! Fan-out on this node: which connections follow which channel, and their mailboxes.
//!
//! A publication becomes one finished frame, and every mailbox gets a pointer to it. Mailboxes are bounded by the bytes that wait in
//! them; a client that lets them pile up is cut, because dropping some of its events silently would be worse than making it recover.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::Audience;
use crate::metrics::Metrics;
use crate::protocol::{Disconnect, reply};
use crate::session::{Event, EventKind};
use crate::stream::{Lineage, Publication};

/// What an event costs in a mailbox beside its frame.
const EVENT_BYTES: usize = 64;

/// The way to one connection.
pub struct Mailbox {
    /// Unbounded in count, but every event counts at least [`EVENT_BYTES`] against `bytes_max`.
    sender: UnboundedSender<Arc<Event>>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    cut: CancellationToken,
    reason: OnceLock<Disconnect>,
    metrics: Metrics,
}

/// The connection's end of its mailbox.
pub struct Inbox {
    receiver: UnboundedReceiver<Arc<Event>>,
    bytes: Arc<AtomicUsize>,
    metrics: Metrics,
}

/// A mailbox that takes up to `bytes_max`.
pub fn mailbox(bytes_max: usize, metrics: &Metrics) -> (Arc<Mailbox>, Inbox) {
    let (sender, receiver) = unbounded_channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    let inbox = Inbox { receiver, bytes: Arc::clone(&bytes), metrics: metrics.clone() };
    let (cut, reason, metrics) = (CancellationToken::new(), OnceLock::new(), metrics.clone());
    (Arc::new(Mailbox { sender, bytes, bytes_max, cut, reason, metrics }), inbox)
}

fn size(event: &Event) -> usize {
    EVENT_BYTES
        + match &event.kind {
            EventKind::Publication { frame, .. } | EventKind::Membership { frame } => frame.len(),
            EventKind::Looked(_) => 0,
        }
}

#[expect(clippy::cast_possible_wrap, reason = "bounded by the mailbox's limit")]
fn gauge(bytes: usize) -> i64 {
    bytes as i64
}

impl Mailbox {
    fn push(&self, event: &Arc<Event>) {
        let size = size(event);
        if self.reason.get().is_some() {
            return;
        }
        if self.bytes.load(Ordering::Relaxed) + size > self.bytes_max {
            self.metrics.slow_consumers.inc();
            return self.cut(Disconnect::SLOW);
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        self.metrics.queue_bytes.add(gauge(size));
        // The connection may just have ended; its inbox settles the bytes.
        let _ = self.sender.send(Arc::clone(event));
    }

    /// Asks the connection to close; the first reason counts.
    pub fn cut(&self, reason: Disconnect) {
        if self.reason.set(reason).is_ok() {
            self.cut.cancel();
        }
    }

    /// Waits until the connection is to close, and why.
    ///
    /// # Cancel safety
    /// The request stays.
    pub async fn cut_requested(&self) -> Disconnect {
        self.cut.cancelled().await;
        // The reason is set before the cut is made.
        self.reason.get().copied().unwrap_or(Disconnect::SERVER_ERROR)
    }
}

impl Inbox {
    /// The next event. `None` is never seen while the connection holds its mailbox.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        let event = self.receiver.recv().await?;
        self.taken(&event);
        Some(event)
    }

    /// The next event if there is one already.
    pub fn next_now(&mut self) -> Option<Arc<Event>> {
        let event = self.receiver.try_recv().ok()?;
        self.taken(&event);
        Some(event)
    }

    fn taken(&self, event: &Event) {
        let size = size(event);
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        self.metrics.queue_bytes.sub(gauge(size));
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.receiver.close();
        while self.next_now().is_some() {}
    }
}

struct Channel {
    name: Arc<str>,
    subscribers: HashMap<u64, Arc<Mailbox>>,
    /// When a publication last came or the stream was last looked at.
    heard_at: Instant,
    /// The stream could not be looked at when that was due.
    overdue: bool,
}

/// All channels followed on this node.
pub struct Hub {
    channels: Mutex<HashMap<Arc<str>, Channel>>,
    interrupted: Notify,
    metrics: Metrics,
}

impl Hub {
    /// Without any channel.
    pub fn new(metrics: Metrics) -> Self {
        Self { channels: Mutex::default(), interrupted: Notify::new(), metrics }
    }

    /// Events of `channel` go to `mailbox` from now on.
    pub fn join(&self, channel: &Arc<str>, connection: u64, mailbox: &Arc<Mailbox>) {
        let mut channels = self.lock();
        let entry = channels.entry(Arc::clone(channel)).or_insert_with(|| Channel {
            name: Arc::clone(channel),
            subscribers: HashMap::new(),
            heard_at: Instant::now(),
            overdue: false,
        });
        if entry.subscribers.insert(connection, Arc::clone(mailbox)).is_none() {
            self.metrics.subscriptions.inc();
        }
    }

    /// Events of `channel` go to this connection no more. `last` is called, before anyone else can join, if nobody is left.
    pub fn leave(&self, channel: &str, connection: u64, last: impl FnOnce()) {
        let mut channels = self.lock();
        let Some(entry) = channels.get_mut(channel) else { return };
        if entry.subscribers.remove(&connection).is_some() {
            self.metrics.subscriptions.dec();
        }
        if entry.subscribers.is_empty() {
            channels.remove(channel);
            last();
        }
    }

    /// Sends what was found by looking at a stream.
    pub fn looked(&self, channel: &str, kind: EventKind) {
        self.deliver(channel, |_| kind);
    }

    /// A look at the stream failed; the channel is among the next quiet ones.
    pub fn not_heard(&self, channel: &str) {
        if let Some(entry) = self.lock().get_mut(channel) {
            entry.overdue = true;
        }
    }

    /// Channels that nothing was heard of for `quiet`, or whose last look failed; they count as heard of now.
    pub fn quiet_channels(&self, quiet: Duration) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut channels = self.lock();
        let quiet = channels
            .values_mut()
            .filter(|channel| now - channel.heard_at >= quiet || channel.overdue);
        quiet
            .map(|channel| {
                (channel.heard_at, channel.overdue) = (now, false);
                Arc::clone(&channel.name)
            })
            .collect()
    }

    /// Ready when following was interrupted since the last call.
    pub async fn interruption(&self) {
        self.interrupted.notified().await;
    }

    fn deliver(&self, channel: &str, kind: impl FnOnce(&str) -> EventKind) {
        let mut channels = self.lock();
        let Some(entry) = channels.get_mut(channel) else { return };
        entry.heard_at = Instant::now();
        let event = Arc::new(Event { channel: Arc::clone(&entry.name), kind: kind(channel) });
        for mailbox in entry.subscribers.values() {
            mailbox.push(&event);
        }
    }

    /// A panic while the lock is held is a bug that has been reported; the table is still who is subscribed.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audience for Hub {
    fn publication(&self, channel: &str, publication: &Publication, lineage: Option<Arc<Lineage>>) {
        self.deliver(channel, |channel| {
            let Publication { offset, time_ms, .. } = *publication;
            let news = lineage.as_deref().filter(|lineage| lineage.begins_at(offset));
            let epoch = news.map(|lineage| &**lineage.visible());
            let frame = Bytes::from(reply::push_publication(channel, publication, epoch));
            EventKind::Publication { offset, lineage, frame, time_ms }
        });
    }

    fn join(&self, channel: &str, info: &str) {
        self.deliver(channel, |channel| EventKind::Membership {
            frame: Bytes::from(reply::push_join(channel, info)),
        });
    }

    fn leave(&self, channel: &str, info: &str) {
        self.deliver(channel, |channel| EventKind::Membership {
            frame: Bytes::from(reply::push_leave(channel, info)),
        });
    }

    fn signal(&self, _channel: &str, _message: &Bytes) {
        // Nodes' own messages are parted from ours before they get here.
    }

    fn interrupted(&self) {
        self.interrupted.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_telemetry::Registry;

    fn publication(data: &str) -> Publication {
        Publication { data: data.to_owned().into(), ..Publication::default() }
    }

    #[test]
    fn everybody_in_a_channel_gets_the_same_frame() {
        let metrics = Metrics::register(&Registry::new());
        let hub = Hub::new(metrics.clone());
        let channel: Arc<str> = "a".into();
        let (first, mut first_inbox) = mailbox(1000, &metrics);
        let (second, mut second_inbox) = mailbox(1000, &metrics);
        hub.join(&channel, 1, &first);
        hub.join(&channel, 2, &second);
        hub.publication("a", &publication("1"), None);
        hub.publication("b", &publication("1"), None);
        assert!(Arc::ptr_eq(&first_inbox.next_now().unwrap(), &second_inbox.next_now().unwrap()));
        assert!(first_inbox.next_now().is_none());

        let mut emptied = false;
        hub.leave("a", 1, || emptied = true);
        assert!(!emptied);
        hub.leave("a", 2, || emptied = true);
        assert!(emptied);
        assert_eq!(metrics.subscriptions.get(), 0);
    }

    #[test]
    fn a_channel_whose_look_failed_is_due_again() {
        let metrics = Metrics::register(&Registry::new());
        let hub = Hub::new(metrics.clone());
        let (mailbox, _inbox) = mailbox(1000, &metrics);
        hub.join(&"a".into(), 1, &mailbox);
        hub.join(&"b".into(), 1, &mailbox);
        let quiet = Duration::from_hours(1);
        assert!(hub.quiet_channels(quiet).is_empty());
        hub.not_heard("a");
        // A publication proves nothing of those before it.
        hub.publication("a", &publication("1"), None);
        assert_eq!(hub.quiet_channels(quiet), ["a".into()]);
        assert!(hub.quiet_channels(quiet).is_empty());
    }

    #[test]
    fn a_mailbox_that_overflows_is_cut_and_settles_its_bytes() {
        let metrics = Metrics::register(&Registry::new());
        let hub = Hub::new(metrics.clone());
        let (mailbox, inbox) = mailbox(300, &metrics);
        hub.join(&"a".into(), 1, &mailbox);
        for _ in 0..5 {
            hub.publication("a", &publication("\"some text\""), None);
        }
        assert_eq!(mailbox.reason.get(), Some(&Disconnect::SLOW));
        assert_eq!(metrics.slow_consumers.get(), 1);
        assert!(metrics.queue_bytes.get() > 0 && metrics.queue_bytes.get() <= 300);
        drop(inbox);
        assert_eq!(metrics.queue_bytes.get(), 0);
    }
}
