//! Fan-out on this node: which connections follow which channel.
//!
//! Every mailbox in a channel gets a pointer to the same event, and the frame in it is encoded once for all who take it in one form.
//! Where publications may be sent as differences, the channel keeps the latest one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::broker::Audience;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::session::{Basis, Event, EventKind, News, Presence};
use crate::stream::{Lineage, Publication};

struct Channel {
    name: Arc<str>,
    subscribers: HashMap<u64, Arc<Mailbox>>,
    /// When a publication last came or the stream was last looked at.
    heard_at: Instant,
    /// The stream could not be looked at when that was due.
    overdue: bool,
    /// The latest publication, if the next one may be sent as a difference to it.
    latest: Option<Basis>,
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
            latest: None,
        });
        if entry.subscribers.insert(connection, Arc::clone(mailbox)).is_none() {
            self.metrics.subscriptions.inc();
        }
        #[expect(clippy::cast_possible_wrap, reason = "far below the range")]
        self.metrics.channels.set(channels.len() as i64);
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
        #[expect(clippy::cast_possible_wrap, reason = "far below the range")]
        self.metrics.channels.set(channels.len() as i64);
    }

    /// Channels with subscribers on this node, and how many they have.
    pub fn channels(&self) -> Vec<(Arc<str>, usize)> {
        let channels = self.lock();
        channels.values().map(|entry| (Arc::clone(&entry.name), entry.subscribers.len())).collect()
    }

    /// How many channels have subscribers on this node.
    pub fn channel_count(&self) -> usize {
        self.lock().len()
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

    fn deliver(&self, channel: &str, kind: impl FnOnce(&mut Channel) -> EventKind) {
        let mut channels = self.lock();
        let Some(entry) = channels.get_mut(channel) else { return };
        entry.heard_at = Instant::now();
        let kind = kind(entry);
        let event = Arc::new(Event { channel: Arc::clone(&entry.name), kind });
        for mailbox in entry.subscribers.values() {
            mailbox.deliver(&event);
        }
    }

    /// A panic while the lock is held is a bug that has been reported; the table is still who is subscribed.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audience for Hub {
    fn publication(&self, channel: &str, publication: &Publication, lineage: Option<Arc<Lineage>>) {
        self.deliver(channel, |entry| {
            let Publication { id, data, delta, .. } = publication;
            let latest = delta.then(|| Basis { id: id.clone(), data: data.clone() });
            let previous = std::mem::replace(&mut entry.latest, latest);
            EventKind::Publication(Box::new(News::new(publication.clone(), lineage, previous)))
        });
    }

    fn join(&self, channel: &str, info: &str) {
        self.deliver(channel, |_| EventKind::Membership(Presence::new(true, info)));
    }

    fn leave(&self, channel: &str, info: &str) {
        self.deliver(channel, |_| EventKind::Membership(Presence::new(false, info)));
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

    fn publication(id: &'static str, delta: bool) -> Publication {
        Publication { id: id.into(), data: "1".into(), delta, ..Publication::default() }
    }

    fn event(mailbox: &Mailbox) -> Option<Arc<Event>> {
        mailbox.take(true).events.pop_front()
    }

    #[test]
    fn everybody_in_a_channel_gets_the_same_event() {
        let metrics = Metrics::register(&Registry::new());
        let hub = Hub::new(metrics.clone());
        let channel: Arc<str> = "a".into();
        let first = Arc::new(Mailbox::new("1", 1000, &metrics));
        let second = Arc::new(Mailbox::new("2", 1000, &metrics));
        hub.join(&channel, 1, &first);
        hub.join(&channel, 2, &second);
        assert_eq!(hub.channels(), [("a".into(), 2)]);
        hub.publication("a", &publication("p", false), None);
        hub.publication("b", &publication("p", false), None);
        assert!(Arc::ptr_eq(&event(&first).unwrap(), &event(&second).unwrap()));
        assert!(event(&first).is_none());

        let mut emptied = false;
        hub.leave("a", 1, || emptied = true);
        assert!(!emptied);
        hub.leave("a", 2, || emptied = true);
        assert!(emptied);
        assert_eq!((metrics.subscriptions.get(), hub.channel_count()), (0, 0));
    }

    #[test]
    fn a_channel_whose_look_failed_is_due_again() {
        let metrics = Metrics::register(&Registry::new());
        let hub = Hub::new(metrics.clone());
        let mailbox = Arc::new(Mailbox::new("1", 1000, &metrics));
        hub.join(&"a".into(), 1, &mailbox);
        hub.join(&"b".into(), 1, &mailbox);
        let quiet = Duration::from_hours(1);
        assert!(hub.quiet_channels(quiet).is_empty());
        hub.not_heard("a");
        // A publication proves nothing of those before it.
        hub.publication("a", &publication("p", false), None);
        assert_eq!(hub.quiet_channels(quiet), ["a".into()]);
        assert!(hub.quiet_channels(quiet).is_empty());
    }

    #[test]
    fn differences_are_against_the_publication_before_if_both_allow_them() {
        let metrics = Metrics::register(&Registry::new());
        let hub = Hub::new(metrics.clone());
        let mailbox = Arc::new(Mailbox::new("1", 10_000, &metrics));
        hub.join(&"a".into(), 1, &mailbox);
        for (id, delta) in [("1", true), ("2", true), ("3", false), ("4", true)] {
            hub.publication("a", &publication(id, delta), None);
        }
        let previous = mailbox.take(true).events.into_iter().map(|event| match &event.kind {
            EventKind::Publication(news) => news.previous.as_ref().map(|basis| basis.id.clone()),
            _ => None,
        });
        let expected = [None, Some("1".into()), Some("2".into()), None];
        assert_eq!(previous.collect::<Vec<Option<Bytes>>>(), expected);
    }
}
