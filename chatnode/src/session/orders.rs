//! What happens to a connection from outside: events of its channels, and orders of the back end.

use std::sync::Arc;
use std::time::Duration;

use super::position::{Standing, Verdict};
use super::subscriptions::{Purpose, Stage};
use super::{Close, Event, EventKind, Form, News, Note, Now, Order, Output, Session, State};
use crate::protocol::command::Subscribe;
use crate::protocol::reply::{MessagePush, Push, Reply};
use crate::protocol::{Disconnect, UnsubscribeCode};

/// Most events held back while a subscribe is under way; beyond, what is dropped shows as a gap.
const HELD_MAX: usize = 1024;

/// How long publications that are known to exist may be on their way before they count as missed. Over ten times what pub/sub takes.
const SUSPECT_FOR: Duration = Duration::from_millis(300);

impl Session {
    /// Something happened in a channel; true if the client is sent a publication.
    pub fn handle_event(&mut self, now: Now, event: &Arc<Event>, out: &mut Output) -> bool {
        let protocol = self.link.protocol;
        // Events of a channel that was just left are still in the queue.
        let Some(subscription) = self.subscriptions.get_mut(&event.channel) else { return false };
        if let Stage::Pending(pending) = &mut subscription.stage {
            if pending.held.len() < HELD_MAX {
                pending.held.push(Arc::clone(event));
            }
            return false;
        }
        match &event.kind {
            EventKind::Publication(news) => return self.handle_publication(event, news, out),
            EventKind::Membership(presence) => {
                if subscription.join_leave
                    && let Some(frame) = presence.frame(&event.channel, protocol)
                {
                    out.frames.push(frame.clone());
                }
            }
            EventKind::Looked(state) => {
                match subscription.position.as_mut().map(|p| p.compare(state)) {
                    Some(Standing::Lost) => self.insufficient_state(&event.channel, out),
                    Some(Standing::Behind(top)) => {
                        subscription.suspect = Some(top);
                        self.suspects_at.get_or_insert(now.instant + SUSPECT_FOR);
                    }
                    Some(Standing::Current) | None => {}
                }
            }
        }
        false
    }

    fn handle_publication(&mut self, event: &Arc<Event>, news: &News, out: &mut Output) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(&event.channel) else { return false };
        let offset = news.publication.offset;
        let verdict = match (&mut subscription.position, &news.lineage) {
            (Some(position), Some(lineage)) => position.advance(offset, lineage),
            _ => Verdict::Deliver,
        };
        match verdict {
            Verdict::Deliver => {}
            Verdict::Drop => return false,
            Verdict::Gap => {
                self.insufficient_state(&event.channel, out);
                return false;
            }
        }
        let mut form = Form::Plain;
        if let Some(extra) = &mut subscription.extra {
            if extra.filter.as_ref().is_some_and(|filter| !filter.accepts(news.tags())) {
                return false;
            }
            if extra.delta {
                let follows = news.publication.delta && news.follows(extra.last.as_ref());
                form = if follows { Form::Difference } else { Form::Whole };
                extra.last = Some(news.publication.id.clone());
            }
        }
        match news.frame(&event.channel, self.link.protocol, form) {
            Some(frame) => out.frames.push(frame.clone()),
            None => out.close(Disconnect::INAPPROPRIATE_PROTOCOL),
        }
        true
    }

    /// Suspected gaps have had their time to close.
    pub(super) fn judge_suspects(&mut self, out: &mut Output) {
        let mut missed = Vec::new();
        for (channel, subscription) in &mut self.subscriptions {
            let suspect = subscription.suspect.take();
            if let (Some(top), Some(position)) = (suspect, &subscription.position)
                && !position.has_reached(top)
            {
                missed.push(Arc::clone(channel));
            }
        }
        for channel in missed {
            self.insufficient_state(&channel, out);
        }
    }

    fn insufficient_state(&mut self, channel: &Arc<str>, out: &mut Output) {
        out.notes.push(Note::InsufficientState);
        if self.subscriptions.get(channel).is_some_and(|subscription| subscription.server_side) {
            return out.close(Disconnect::INSUFFICIENT_STATE);
        }
        let UnsubscribeCode { code, reason } = UnsubscribeCode::INSUFFICIENT_STATE;
        self.end_by_server(channel, code, reason, out);
    }

    /// The back end wants something of the connection.
    pub fn handle_order(&mut self, now: Now, order: Order, out: &mut Output) {
        match order {
            Order::Input(frame) => self.handle_message(now, frame, out),
            Order::Disconnect { code, reason } => out.close(Close { code, reason }),
            // The rest is about what only a connected client has.
            _ if !matches!(self.state, State::Connected) => {}
            Order::Message(data) => {
                let message = Some(MessagePush { data });
                out.send(&Reply::push("", Push { message, ..Push::default() }));
            }
            Order::Refresh { term, info } => {
                self.set_term(term, now);
                // What is not JSON is not shown; the back end's answer said so before.
                if let Some(info) = info {
                    self.show(info);
                }
            }
            Order::Subscribe { channel, grant, since } => {
                let full = self.subscriptions.len() >= self.shared.limits.channels_max;
                if full || self.subscriptions.contains_key(channel.as_str()) {
                    return;
                }
                let (offset, epoch) = since.clone().unwrap_or_default();
                let recover = since.is_some();
                let channel: Arc<str> = channel.into();
                let request = Subscribe {
                    channel: channel.to_string(),
                    recover,
                    offset,
                    epoch,
                    ..Subscribe::default()
                };
                self.reserve(&channel, Purpose::Order, request);
                if self.take_up(&channel, grant, out).is_err() {
                    self.subscriptions.remove(&channel);
                }
            }
            Order::Unsubscribe { channel, code, reason } => {
                let channels: Vec<_> = if channel.is_empty() {
                    self.subscriptions.keys().cloned().collect()
                } else {
                    self.subscriptions
                        .get_key_value(channel.as_str())
                        .into_iter()
                        .map(|(channel, _)| Arc::clone(channel))
                        .collect()
                };
                for channel in channels {
                    match self.subscriptions.get_mut(&channel).map(|found| &mut found.stage) {
                        Some(Stage::Pending(pending)) => pending.end = Some((code, reason.clone())),
                        Some(Stage::Active) => self.end_by_server(&channel, code, &reason, out),
                        None => {}
                    }
                }
            }
        }
    }
}
