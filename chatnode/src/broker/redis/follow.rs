//! Following channels: one pub/sub connection for all of them.
//!
//! What is wanted stands in a table; the task brings the connection in line with it, and does so from the start after each reconnect.
//! So a lost connection needs no list of what to repeat, and wanting and no longer wanting a channel in quick succession costs at most
//! one command each. Bounded by the channels in use on this node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{Connection, ConnectionError};
use super::link::Link;
use super::names;
use super::resp::{self, Value};
use super::scripts::{Envelope, envelope};
use super::tails::Tails;
use crate::broker::Audience;
use crate::metrics::Metrics;

/// Channels of one `SUBSCRIBE` command.
const BATCH_MAX: usize = 256;

/// What is wanted, and how far the connection is.
#[derive(Default)]
pub(super) struct Interest {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    channels: HashMap<Box<str>, Entry>,
    /// Channels to look at; may name one twice.
    dirty: Vec<Box<str>>,
}

#[derive(Default)]
struct Entry {
    wanted: bool,
    /// The last command sent for it was `SUBSCRIBE`.
    sent: bool,
    /// `SUBSCRIBE` commands not confirmed yet. An earlier confirmation may precede an `UNSUBSCRIBE`, so only the last one counts.
    unconfirmed: u32,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Entry {
    fn active(&self) -> bool {
        self.sent && self.unconfirmed == 0
    }
}

impl Table {
    /// As [`Interest::commands`].
    fn commands(&mut self) -> BytesMut {
        let Self { channels, dirty } = self;
        let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
        for channel in dirty.drain(..) {
            let Some(entry) = channels.get_mut(&channel) else { continue };
            if entry.wanted && !entry.sent {
                entry.sent = true;
                entry.unconfirmed += 1;
                subscribe.push(names::events(&channel));
            } else if !entry.wanted {
                if std::mem::replace(&mut entry.sent, false) {
                    unsubscribe.push(names::events(&channel));
                }
                if entry.unconfirmed == 0 {
                    channels.remove(&channel);
                }
            }
        }
        let mut out = BytesMut::new();
        // Unsubscribing first: a channel is in one of the lists only, and the confirmations then come in the order of the entries.
        for (command, names) in [("UNSUBSCRIBE", unsubscribe), ("SUBSCRIBE", subscribe)] {
            for batch in names.chunks(BATCH_MAX) {
                let names = batch.iter().map(|name| &name[..]);
                let words: Vec<&[u8]> = std::iter::once(command.as_bytes()).chain(names).collect();
                resp::encode(&mut out, &words);
            }
        }
        out
    }
}

impl Interest {
    /// Wants `channel`; the receiver hears when it is followed.
    pub(super) fn want(&self, channel: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.lock();
        let entry = table.channels.entry(channel.into()).or_default();
        entry.wanted = true;
        if entry.active() {
            // The receiver is in our hands.
            let _ = sender.send(());
        } else {
            entry.waiters.push(sender);
            if !entry.sent {
                table.dirty.push(channel.into());
                self.changed.notify_one();
            }
        }
        receiver
    }

    /// No longer wants `channel`.
    pub(super) fn forget(&self, channel: &str) {
        let mut table = self.lock();
        if let Some(entry) = table.channels.get_mut(channel) {
            entry.wanted = false;
            entry.waiters.clear();
            table.dirty.push(channel.into());
            self.changed.notify_one();
        }
    }

    /// Starts over on a new connection: commands that follow all that is wanted, and how many confirmations they will have.
    fn restart(&self) -> (BytesMut, usize) {
        let mut table = self.lock();
        let Table { channels, dirty } = &mut *table;
        channels.retain(|_, entry| {
            entry.sent = false;
            entry.unconfirmed = 0;
            entry.wanted
        });
        *dirty = channels.keys().cloned().collect();
        // Under the same lock: a channel that is left in between would be counted and never confirmed.
        let count = dirty.len();
        (table.commands(), count)
    }

    /// Commands that bring the connection in line, empty if it is.
    fn commands(&self) -> BytesMut {
        self.lock().commands()
    }

    /// A `SUBSCRIBE` was confirmed.
    fn confirmed(&self, channel: &str) {
        let mut table = self.lock();
        let Some(entry) = table.channels.get_mut(channel) else { return };
        entry.unconfirmed = entry.unconfirmed.saturating_sub(1);
        if entry.active() {
            for waiter in entry.waiters.drain(..) {
                // Whoever waited may have gone away.
                let _ = waiter.send(());
            }
        } else if !entry.wanted && entry.unconfirmed == 0 {
            table.channels.remove(channel);
        }
    }

    /// A panic while the lock is held is a bug that has been reported; the table is still what is wanted.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task.
pub(super) struct Follower {
    pub(super) link: Link,
    pub(super) interest: Arc<Interest>,
    pub(super) audience: Arc<dyn Audience>,
    pub(super) tails: Arc<Tails>,
    pub(super) write_timeout: Duration,
    pub(super) metrics: Metrics,
}

impl Follower {
    /// Follows what is wanted until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let error = tokio::select! {
                () = shutdown.cancelled() => return,
                primary = self.link.connect() => tokio::select! {
                    () = shutdown.cancelled() => return,
                    ended = self.serve(primary.connection) => ended.err(),
                },
            };
            if let Some(error) = error {
                self.link.failed(&error);
            }
        }
    }

    /// Follows over one connection until it fails or the primary moves.
    async fn serve(&mut self, mut connection: Connection) -> Result<(), ConnectionError> {
        let started = Instant::now();
        let (mut commands, mut to_confirm) = self.interest.restart();
        loop {
            if !commands.is_empty() {
                let write = timeout(self.write_timeout, connection.write(&commands));
                write.await.map_err(|_| ConnectionError::Timeout)??;
            }
            tokio::select! {
                message = connection.read() => {
                    if self.handle(&message?) && to_confirm > 0 {
                        to_confirm -= 1;
                        if to_confirm == 0 {
                            self.metrics.broker.resubscribe_seconds.observe(started.elapsed().as_secs_f64());
                            self.audience.interrupted();
                        }
                    }
                }
                () = self.interest.changed.notified() => {}
                () = self.link.moved() => return Ok(()),
            }
            commands = self.interest.commands();
        }
    }

    /// Passes a message on; true if it was the confirmation of a subscription.
    fn handle(&self, message: &Value) -> bool {
        let Some([kind, name, content]) = message.array() else { return false };
        let Some(channel) = name.text().and_then(names::channel_of_events) else {
            return false;
        };
        match kind.text() {
            Some("subscribe") => {
                self.interest.confirmed(channel);
                return true;
            }
            Some("message") => match content.bytes().and_then(envelope) {
                Some(Envelope::Publication { publication, lineage, body }) => {
                    if let Some(lineage) = &lineage {
                        let offset = publication.offset;
                        self.tails.heard(Instant::now(), channel, lineage, offset, &body);
                    }
                    self.audience.publication(channel, &publication, lineage.map(Arc::new));
                }
                Some(Envelope::Join(info)) => self.audience.join(channel, &info),
                Some(Envelope::Signal(message)) => self.audience.signal(channel, &message),
                Some(Envelope::Leave(info)) => self.audience.leave(channel, &info),
                None => warn!("message from Redis that no chat node wrote"),
            },
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(interest: &Interest) -> String {
        let mut bytes = interest.commands();
        let mut text = Vec::new();
        while let Some(Value::Array(words)) = resp::decode(&mut bytes).unwrap() {
            text.push(words.iter().filter_map(Value::text).collect::<Vec<_>>().join(" "));
        }
        text.join("; ").replace("holdfast:{", "").replace("}:events", "")
    }

    #[test]
    fn a_channel_is_followed_once_it_is_confirmed() {
        let interest = Interest::default();
        let mut first = interest.want("a");
        let mut second = interest.want("a");
        assert_eq!(commands(&interest), "SUBSCRIBE a");
        assert!(first.try_recv().is_err());
        interest.confirmed("a");
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
        assert!(interest.want("a").try_recv().is_ok());
        interest.forget("a");
        assert_eq!(commands(&interest), "UNSUBSCRIBE a");
        assert!(interest.lock().channels.is_empty());
    }

    #[test]
    fn wanting_and_forgetting_quickly_ends_at_the_last_word() {
        let interest = Interest::default();
        let _gone = interest.want("a");
        interest.forget("a");
        assert_eq!(commands(&interest), "");
        let _first = interest.want("a");
        assert_eq!(commands(&interest), "SUBSCRIBE a");
        interest.forget("a");
        assert_eq!(commands(&interest), "UNSUBSCRIBE a");
        let mut again = interest.want("a");
        assert_eq!(commands(&interest), "SUBSCRIBE a");
        interest.confirmed("a");
        assert!(again.try_recv().is_err(), "that was the confirmation of the first SUBSCRIBE");
        interest.confirmed("a");
        assert!(again.try_recv().is_ok());
    }

    #[test]
    fn a_new_connection_starts_with_everything_wanted() {
        let interest = Interest::default();
        let _wanted = interest.want("a");
        let _forgotten = interest.want("b");
        commands(&interest);
        interest.confirmed("a");
        interest.forget("b");
        let (mut first, count) = interest.restart();
        assert_eq!(count, 1);
        let first = resp::decode(&mut first).unwrap().unwrap();
        assert_eq!(first.array().unwrap()[1].text(), Some("holdfast:{a}:events"));
        // Whoever leaves now is unsubscribed from what was just subscribed to, so that the count still comes true.
        interest.forget("a");
        assert_eq!(commands(&interest), "UNSUBSCRIBE a");
        assert!(interest.want("a").try_recv().is_err());
    }
}
