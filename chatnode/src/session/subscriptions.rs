//! Subscriptions of one connection: made, kept without gap, ended.
//!
//! The order that the protocol promises: events of the channel are received before its stream is read, and held back until the reply
//! is out; then those the reply covers are dropped and the others delivered. A gap, whenever it shows, ends a client-side subscription
//! with a push that makes the SDK subscribe and recover, and ends the connection for a server-side one. While subscribing Centrifugo
//! closes the connection for a gap instead; the push tells the client the same and costs it one channel, not all.

use std::sync::Arc;
use std::time::Duration;

use super::position::{Position, Standing, Verdict, recovers};
use super::{Call, Event, EventKind, Note, Now, Output, Session};
use crate::broker::{BrokerError, Range};
use crate::namespaces::{Asker, Options};
use crate::protocol::command::Subscribe;
use crate::protocol::reply::{self, SubscribeResult};
use crate::protocol::{Disconnect, ErrorCode, UnsubscribeCode};
use crate::stream::Page;

/// Most publications of one recovery.
const RECOVERY_PUBLICATIONS_MAX: usize = 300;

/// Most events held back while a subscribe is under way; beyond, what is dropped shows as a gap.
const HELD_MAX: usize = 1024;

/// How long publications that are known to exist may be on their way before they count as missed. Over ten times what pub/sub takes.
const SUSPECT_FOR: Duration = Duration::from_millis(300);

/// One subscription.
pub(super) struct Subscription {
    options: Arc<Options>,
    server_side: bool,
    join_leave: bool,
    /// The others were told that the client came.
    joined: bool,
    stage: Stage,
    /// `None` if the subscription is not positioned.
    position: Option<Position>,
    /// The stream had publications up to this offset that had not arrived.
    suspect: Option<u64>,
}

enum Stage {
    /// The broker is at it; events wait.
    Pending(Box<Pending>),
    /// The reply is out, or in the connect reply that is still to come.
    Active,
}

struct Pending {
    /// Command; `None` for a server-side subscription.
    id: Option<u32>,
    request: Subscribe,
    held: Vec<Arc<Event>>,
}

impl Subscription {
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Pending(_))
    }

    fn positioned(&self, request: &Subscribe) -> bool {
        let options = &self.options;
        options.keeps_history()
            && (options.force_positioning
                || (request.positioned && options.allow_positioning)
                || self.recoverable(request))
    }

    fn recoverable(&self, request: &Subscribe) -> bool {
        let options = &self.options;
        options.keeps_history()
            && (options.force_recovery
                || (request.recoverable
                    && (options.allow_recovery || options.allow_history_for_client)))
    }
}

impl Session {
    /// Starts a subscription; `id` is `None` for a server-side one.
    pub(super) fn begin_subscription(
        &mut self,
        id: Option<u32>,
        request: Subscribe,
        out: &mut Output,
    ) -> Result<(), ErrorCode> {
        let options = self.shared.namespaces.of(&request.channel)?;
        if self.subscriptions.contains_key(request.channel.as_str()) {
            return Err(ErrorCode::ALREADY_SUBSCRIBED);
        }
        if self.subscriptions.len() >= self.shared.limits.channels_max {
            return Err(ErrorCode::LIMIT_EXCEEDED);
        }
        let allowed = id.is_none() || options.may_subscribe(&request.channel, &self.user);
        if request.kind != 0 || !allowed {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        let channel: Arc<str> = request.channel.as_str().into();
        let asker = Asker { user: &self.user, subscribed: true };
        let wanted = request.join_leave && options.may_see_presence(asker);
        let join_leave = options.join_leave && (options.force_push_join_leave || wanted);
        let mut subscription = Subscription {
            server_side: id.is_none(),
            join_leave,
            joined: false,
            stage: Stage::Active,
            position: None,
            suspect: None,
            options,
        };
        let range = subscription.positioned(&request).then(|| {
            let recover = request.recover && subscription.recoverable(&request);
            let limit = if recover { RECOVERY_PUBLICATIONS_MAX } else { 0 };
            Range { since: Some(request.offset), limit, reverse: false }
        });
        let presence = subscription.options.presence;
        subscription.stage = Stage::Pending(Box::new(Pending { id, request, held: Vec::new() }));
        self.subscriptions.insert(Arc::clone(&channel), subscription);
        self.call(Call::Subscribe { channel, range, presence }, out);
        Ok(())
    }

    /// The broker has done its part of a subscribe.
    pub(super) fn subscribed(
        &mut self,
        now: Now,
        channel: &Arc<str>,
        result: Result<Option<Page>, BrokerError>,
        out: &mut Output,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return };
        let Stage::Pending(pending) = std::mem::replace(&mut subscription.stage, Stage::Active)
        else {
            return;
        };
        let Pending { id, request, held } = *pending;
        let answer = result.map_err(|_| ErrorCode::INTERNAL).and_then(|page| {
            let answer = match page {
                None => SubscribeResult::default(),
                Some(page) => {
                    subscription.position = Some(Position::at(&page.state));
                    answer(subscription, &request, &page, out)
                }
            };
            let reject = request.flag & Subscribe::REJECT_UNRECOVERED != 0;
            if reject && answer.was_recovering && !answer.recovered {
                return Err(ErrorCode::UNRECOVERABLE_POSITION);
            }
            Ok(answer)
        });
        match (id, answer) {
            (Some(id), Ok(answer)) => {
                out.send(reply::subscribe(id, &answer));
                self.activate(now, channel, held, out);
            }
            (Some(id), Err(error)) => {
                self.end_subscription(channel, out);
                out.error(id, error);
            }
            (None, Ok(answer)) => {
                // Held until the connect reply is out.
                subscription.stage = Stage::Pending(Box::new(Pending { id: None, request, held }));
                self.server_side_subscribed(now, channel, answer, out);
            }
            (None, Err(_)) => out.close(Disconnect::SERVER_ERROR),
        }
    }

    /// The connect reply is out: server-side subscriptions begin to deliver.
    pub(super) fn release_server_side(&mut self, now: Now, out: &mut Output) {
        let channels: Vec<_> = self.subscriptions.keys().cloned().collect();
        for channel in channels {
            let Some(subscription) = self.subscriptions.get_mut(&channel) else { continue };
            if let Stage::Pending(pending) =
                std::mem::replace(&mut subscription.stage, Stage::Active)
            {
                self.activate(now, &channel, pending.held, out);
            }
        }
    }

    /// The reply is out: others are told, and what was held back follows.
    fn activate(&mut self, now: Now, channel: &Arc<str>, held: Vec<Arc<Event>>, out: &mut Output) {
        if let Some(subscription) = self.subscriptions.get_mut(channel)
            && subscription.options.join_leave
        {
            subscription.joined = true;
            out.calls.push(Call::Join { channel: Arc::clone(channel) });
        }
        for event in held {
            self.handle_event(now, &event, out);
        }
    }

    /// Something happened in a channel; true if the client is sent a publication.
    pub fn handle_event(&mut self, now: Now, event: &Arc<Event>, out: &mut Output) -> bool {
        // Events of a channel that was just left are still in the queue.
        let Some(subscription) = self.subscriptions.get_mut(&event.channel) else { return false };
        if let Stage::Pending(pending) = &mut subscription.stage {
            if pending.held.len() < HELD_MAX {
                pending.held.push(Arc::clone(event));
            }
            return false;
        }
        match &event.kind {
            EventKind::Publication { offset, lineage, frame, .. } => {
                let verdict = match (&mut subscription.position, lineage) {
                    (Some(position), Some(lineage)) => position.advance(*offset, lineage),
                    _ => Verdict::Deliver,
                };
                match verdict {
                    Verdict::Deliver => {
                        out.frames.push(frame.clone());
                        return true;
                    }
                    Verdict::Drop => {}
                    Verdict::Gap => self.insufficient_state(&event.channel, out),
                }
            }
            EventKind::Membership { frame } => {
                if subscription.join_leave {
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
        self.end_subscription(channel, out);
        out.send(reply::push_unsubscribe(channel, UnsubscribeCode::INSUFFICIENT_STATE));
    }

    /// The client leaves a channel; no error if it is not there.
    pub(super) fn unsubscribe(&mut self, channel: &str, out: &mut Output) {
        if let Some((channel, _)) = self.subscriptions.get_key_value(channel) {
            let channel = Arc::clone(channel);
            self.end_subscription(&channel, out);
        }
    }

    fn end_subscription(&mut self, channel: &Arc<str>, out: &mut Output) {
        if let Some(subscription) = self.subscriptions.remove(channel) {
            let (presence, leave) = (subscription.options.presence, subscription.joined);
            out.calls.push(Call::Unsubscribe { channel: Arc::clone(channel), presence, leave });
        }
    }

    /// The connection is over: leaves every channel.
    pub fn end(&mut self, out: &mut Output) {
        let channels: Vec<_> = self.subscriptions.keys().cloned().collect();
        for channel in channels {
            self.end_subscription(&channel, out);
        }
    }

    /// Stays a member where it is one.
    pub(super) fn keep_members(&mut self, out: &mut Output) {
        for (channel, subscription) in &self.subscriptions {
            if subscription.options.presence && !subscription.is_pending() {
                out.calls.push(Call::KeepMember { channel: Arc::clone(channel) });
            }
        }
    }
}

/// The answer to a positioned subscribe.
fn answer(
    subscription: &Subscription,
    request: &Subscribe,
    page: &Page,
    out: &mut Output,
) -> SubscribeResult {
    let recoverable = subscription.recoverable(request);
    let was_recovering = recoverable && request.recover;
    let recovered = was_recovering && recovers(page, &request.epoch, request.offset);
    if was_recovering {
        out.notes.push(Note::Recovery(recovered));
    }
    let publications = if recovered {
        page.publications.iter().filter_map(reply::publication).collect()
    } else {
        Vec::new()
    };
    SubscribeResult {
        recoverable,
        positioned: true,
        epoch: page.state.lineage.visible().to_string(),
        // A recovering client moves on by itself, publication by publication.
        offset: if recovered { request.offset } else { page.state.top },
        was_recovering,
        recovered,
        publications,
    }
}
