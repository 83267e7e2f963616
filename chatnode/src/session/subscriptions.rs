//! Subscriptions of one connection: asked for, made, prolonged, ended.
//!
//! The order that the protocol promises: events of the channel are received before its stream is read, and held back until the reply
//! is out; then those the reply covers are dropped and the others delivered. A gap, whenever it shows, ends a client-side subscription
//! with a push that makes the SDK subscribe and recover, and ends the connection for a server-side one. While subscribing Centrifugo
//! closes the connection for a gap instead; the push tells the client the same and costs it one channel, not all.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::connect::told;
use super::position::Position;
use super::{Call, EXPIRY_GRACE, Event, Now, Output, Session, instant_of, lifetime, recovery};
use crate::access::{Denial, Grant, SubscribeAsk, Term};
use crate::broker::BrokerError;
use crate::namespaces::{Asker, DeltaType, NAME_BYTES_MAX, Options};
use crate::protocol::command::{self, Subscribe};
use crate::protocol::filter::Filter;
use crate::protocol::reply::{
    ClientInfo, Push, Reply, SubRefreshResult, SubscribePush, SubscribeResult,
};
use crate::protocol::{Disconnect, ErrorCode, UnsubscribeCode};
use crate::stream::Page;

/// One subscription.
pub(super) struct Subscription {
    /// `None` until the gate has granted it.
    options: Option<Arc<Options>>,
    pub(super) server_side: bool,
    pub(super) join_leave: bool,
    /// The others were told that the client came.
    joined: bool,
    pub(super) stage: Stage,
    /// `None` if the subscription is not positioned.
    pub(super) position: Option<Position>,
    /// The stream had publications up to this offset that had not arrived.
    pub(super) suspect: Option<u64>,
    /// What few subscriptions have.
    pub(super) extra: Option<Box<Extra>>,
}

/// What few subscriptions have.
#[derive(Default)]
pub(super) struct Extra {
    /// The client as it is shown in this channel.
    info: Option<Arc<str>>,
    /// Only these publications.
    pub(super) filter: Option<Filter>,
    /// Takes differences.
    pub(super) delta: bool,
    /// The latest publication that was sent, against which the next difference is.
    pub(super) last: Option<Bytes>,
    pub(super) term: Term,
    /// When the subscription ends, and whether the gate is being asked about it.
    ends_at: Option<Instant>,
}

pub(super) enum Stage {
    /// The gate or the broker is at it; events wait.
    Pending(Box<Pending>),
    /// The reply is out, or in the connect reply that is still to come.
    Active,
}

/// Who waits for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A command.
    Command(u32),
    /// The connect reply.
    Connect,
    /// An order of the back end.
    Order,
}

pub(super) struct Pending {
    purpose: Purpose,
    pub(super) request: Subscribe,
    pub(super) data: Bytes,
    pub(super) held: Vec<Arc<Event>>,
    /// To be ended as soon as it is made.
    pub(super) end: Option<(u32, std::borrow::Cow<'static, str>)>,
}

impl Subscription {
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Pending(_))
    }

    /// The rules it lives by.
    pub(super) fn options(&self) -> Option<&Arc<Options>> {
        self.options.as_ref()
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

impl Session {
    /// The client wants to subscribe.
    pub(super) fn begin_subscription(
        &mut self,
        id: u32,
        request: Subscribe,
        out: &mut Output,
    ) -> Result<(), Denial> {
        if request.channel.len() > NAME_BYTES_MAX {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        if self.subscriptions.contains_key(request.channel.as_str()) {
            return Err(ErrorCode::ALREADY_SUBSCRIBED.into());
        }
        if self.subscriptions.len() >= self.shared.limits.channels_max {
            return Err(ErrorCode::LIMIT_EXCEEDED.into());
        }
        self.shared.namespaces.of(&request.channel)?;
        if request.kind != 0 {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        let ask = SubscribeAsk {
            channel: request.channel.clone(),
            token: request.token.clone(),
            data: Some(request.data.clone()).filter(|data| !data.is_empty()),
        };
        let channel: Arc<str> = request.channel.as_str().into();
        self.reserve(&channel, Purpose::Command(id), request);
        self.call(Call::Grant(channel, Box::new(ask)), out);
        Ok(())
    }

    /// The channel is taken from now on.
    pub(super) fn reserve(&mut self, channel: &Arc<str>, purpose: Purpose, request: Subscribe) {
        let (held, data) = (Vec::new(), Bytes::new());
        let pending = Pending { purpose, request, data, held, end: None };
        let subscription = Subscription {
            options: None,
            server_side: !matches!(purpose, Purpose::Command(_)),
            join_leave: false,
            joined: false,
            stage: Stage::Pending(Box::new(pending)),
            position: None,
            suspect: None,
            extra: None,
        };
        self.subscriptions.insert(Arc::clone(channel), subscription);
    }

    /// The gate has decided about a subscription.
    pub(super) fn granted(
        &mut self,
        now: Now,
        channel: &Arc<str>,
        result: Result<Box<Grant>, Denial>,
        out: &mut Output,
    ) {
        let Some(Subscription { stage: Stage::Pending(pending), .. }) =
            self.subscriptions.get(channel)
        else {
            return;
        };
        let Purpose::Command(id) = pending.purpose else { return };
        let taken_up = result.and_then(|grant| {
            let ended = grant.term.ends_at.is_some_and(|end| end <= now.unix_ms / 1000);
            if ended && !grant.term.by_server {
                return Err(ErrorCode::EXPIRED.into());
            }
            self.take_up(channel, *grant, out).map_err(Denial::from)
        });
        if let Err(denial) = taken_up {
            self.subscriptions.remove(channel);
            out.error(id, denial);
        }
    }

    /// Makes a reserved subscription on the terms that were granted.
    pub(super) fn take_up(
        &mut self,
        channel: &Arc<str>,
        grant: Grant,
        out: &mut Output,
    ) -> Result<(), ErrorCode> {
        let base: ClientInfo = ClientInfo::read(self.info.as_bytes()).unwrap_or_default();
        let (user, shown) = (self.user().to_owned(), Arc::clone(&self.info));
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return Ok(()) };
        let Stage::Pending(pending) = &mut subscription.stage else { return Ok(()) };
        let (request, options) = (&pending.request, Arc::clone(&grant.options));
        let filter = match &request.tf {
            Some(_) if !options.allow_tags_filter => return Err(ErrorCode::BAD_REQUEST),
            Some(node) => Some(Filter::new(node).ok_or(ErrorCode::BAD_REQUEST)?),
            None => None,
        };
        let delta = request.delta == "fossil" && options.allows_delta(DeltaType::Fossil);
        let asked =
            request.join_leave && options.may_see_presence(Asker { user: &user, subscribed: true });
        let range = recovery::range(&options, request);
        pending.data = grant.data.unwrap_or_default();
        subscription.join_leave = options.join_leave && (options.force_push_join_leave || asked);
        subscription.options = Some(Arc::clone(&options));
        let chan_info = grant.info.filter(|info| !info.is_empty());
        let info = match chan_info {
            Some(chan_info) => {
                let document = ClientInfo { chan_info, ..base }.document();
                Some(Arc::from(document.ok_or(ErrorCode::INTERNAL)?))
            }
            None => None,
        };
        let member = options.presence.then(|| info.clone().unwrap_or(shown));
        if filter.is_some() || delta || info.is_some() || grant.term.ends_at.is_some() {
            *subscription.extra() =
                Extra { info, filter, delta, last: None, term: grant.term, ends_at: None };
        }
        self.call(Call::Subscribe { channel: Arc::clone(channel), range, member }, out);
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
        let protocol = self.link.protocol;
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return };
        let Stage::Pending(pending) = std::mem::replace(&mut subscription.stage, Stage::Active)
        else {
            return;
        };
        let answer = result
            .map_err(|_| ErrorCode::INTERNAL)
            .and_then(|page| recovery::answer(now, protocol, subscription, &pending, page, out));
        match (pending.purpose, answer) {
            (Purpose::Command(id), Ok(answer)) => {
                out.send(&Reply { id, subscribe: Some(answer), ..Reply::default() });
                self.activate(now, channel, *pending, out);
            }
            (Purpose::Command(id), Err(error)) => {
                self.end_subscription(channel, out);
                out.error(id, error);
            }
            (Purpose::Connect, Ok(answer)) => {
                // Held until the connect reply is out.
                subscription.stage = Stage::Pending(pending);
                self.server_side_subscribed(now, channel, answer, out);
            }
            (Purpose::Order, Ok(answer)) => {
                let SubscribeResult { recoverable, epoch, offset, positioned, data, .. } = answer;
                let push = SubscribePush { recoverable, epoch, offset, positioned, data };
                let push = Push { subscribe: Some(push), ..Push::default() };
                out.send(&Reply::push(channel, push));
                self.activate(now, channel, *pending, out);
            }
            (Purpose::Connect, Err(_)) => out.close(Disconnect::SERVER_ERROR),
            // The back end asked for it and the client does not know of it; nobody waits.
            (Purpose::Order, Err(_)) => self.end_subscription(channel, out),
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
                self.activate(now, &channel, *pending, out);
            }
        }
    }

    /// The reply is out: others are told, and what was held back follows.
    fn activate(&mut self, now: Now, channel: &Arc<str>, pending: Pending, out: &mut Output) {
        let info = self.info_in(channel);
        if let Some(subscription) = self.subscriptions.get_mut(channel) {
            if subscription.options.as_ref().is_some_and(|options| options.join_leave) {
                subscription.joined = true;
                out.calls.push(Call::Join(Arc::clone(channel), info));
            }
            if let Some(extra) = &mut subscription.extra {
                extra.ends_at = extra.end(now);
                self.ends_at = earlier(self.ends_at, extra.ends_at);
            }
        }
        for event in pending.held {
            self.handle_event(now, &event, out);
        }
        if let Some((code, reason)) = pending.end {
            self.end_by_server(channel, code, &reason, out);
        }
    }

    /// The client as it is shown in `channel`.
    pub(super) fn info_in(&self, channel: &str) -> Arc<str> {
        let extra = self.subscriptions.get(channel).and_then(|found| found.extra.as_ref());
        Arc::clone(extra.and_then(|extra| extra.info.as_ref()).unwrap_or(&self.info))
    }

    /// The client wants to keep a subscription.
    pub(super) fn sub_refresh(
        &mut self,
        id: u32,
        request: command::SubRefresh,
        out: &mut Output,
    ) -> Result<(), Denial> {
        let Some((channel, _)) = self.subscriptions.get_key_value(request.channel.as_str()) else {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        };
        let channel = Arc::clone(channel);
        self.call(Call::SubRefresh(Some(id), channel, request.token), out);
        Ok(())
    }

    /// The gate has decided how long a subscription lives on.
    pub(super) fn sub_refreshed(
        &mut self,
        now: Now,
        id: Option<u32>,
        channel: &Arc<str>,
        result: Result<Term, Denial>,
        out: &mut Output,
    ) {
        match (id, result) {
            (_, Ok(term)) => {
                if let Some(subscription) = self.subscriptions.get_mut(channel) {
                    let extra = subscription.extra();
                    extra.term = term;
                    extra.ends_at = extra.end(now);
                    self.ends_at = earlier(self.ends_at, extra.ends_at);
                }
                if let Some(id) = id {
                    let (expires, ttl) = lifetime(told(term), now);
                    let sub_refresh = Some(SubRefreshResult { expires, ttl });
                    out.send(&Reply { id, sub_refresh, ..Reply::default() });
                }
            }
            (Some(id), Err(denial)) => out.error(id, denial),
            (None, Err(_)) => self.expire(channel, out),
        }
    }

    /// Some subscription has come to its end.
    pub(super) fn end_expired(&mut self, now: Now, out: &mut Output) {
        let mut next = None;
        let mut due = Vec::new();
        for (channel, subscription) in &mut self.subscriptions {
            let Some(extra) = &mut subscription.extra else { continue };
            if extra.ends_at.is_some_and(|end| end <= now.instant) {
                extra.ends_at = None;
                due.push((Arc::clone(channel), extra.term.by_server));
            }
            next = earlier(next, extra.ends_at);
        }
        self.ends_at = next;
        for (channel, by_server) in due {
            if by_server {
                self.call(Call::SubRefresh(None, channel, String::new()), out);
            } else {
                self.expire(&channel, out);
            }
        }
    }

    fn expire(&mut self, channel: &Arc<str>, out: &mut Output) {
        match self.subscriptions.get(channel) {
            Some(subscription) if subscription.server_side => {
                out.close(Disconnect::SUBSCRIPTION_EXPIRED);
            }
            Some(_) => {
                let UnsubscribeCode { code, reason } = UnsubscribeCode::EXPIRED;
                self.end_by_server(channel, code, reason, out);
            }
            None => {}
        }
    }

    /// The client leaves a channel; no error if it is not there.
    pub(super) fn unsubscribe(&mut self, channel: &str, out: &mut Output) {
        if let Some((channel, _)) = self.subscriptions.get_key_value(channel) {
            let channel = Arc::clone(channel);
            self.end_subscription(&channel, out);
        }
    }

    /// The server ends a subscription and says why.
    pub(super) fn end_by_server(
        &mut self,
        channel: &Arc<str>,
        code: u32,
        reason: &str,
        out: &mut Output,
    ) {
        self.end_subscription(channel, out);
        out.send(&Reply::unsubscribe(channel, code, reason));
    }

    fn end_subscription(&mut self, channel: &Arc<str>, out: &mut Output) {
        let info = self.info_in(channel);
        if let Some(subscription) = self.subscriptions.remove(channel)
            && let Some(options) = subscription.options
        {
            let (member, leave) = (options.presence, subscription.joined.then_some(info));
            out.calls.push(Call::Unsubscribe { channel: Arc::clone(channel), member, leave });
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
            let present = subscription.options.as_ref().is_some_and(|options| options.presence);
            if present && !subscription.is_pending() {
                let info = self.info_in(channel);
                out.calls.push(Call::KeepMember(Arc::clone(channel), info));
            }
        }
    }
}

impl Extra {
    /// When the subscription is to be looked at again.
    fn end(&self, now: Now) -> Option<Instant> {
        let end = instant_of(self.term.ends_at?, now)?;
        if self.term.by_server { Some(end) } else { end.checked_add(EXPIRY_GRACE) }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}
