//! Commands of a connected client, except those that make it connected or subscribed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::{Call, Note, Now, Output, Session, State};
use crate::broker::{BrokerError, Members, Range, Retention};
use crate::namespaces::{Asker, Options};
use crate::protocol::command::{self, Command, Request};
use crate::protocol::{Disconnect, ErrorCode, reply};
use crate::stream::Page;

/// Most publications of one history reply.
const HISTORY_PUBLICATIONS_MAX: usize = 300;

impl Session {
    pub(super) fn handle_command(&mut self, now: Now, command: Command, out: &mut Output) {
        let Command { id, request } = command;
        let Some(request) = request else {
            return match id {
                0 => self.pong(out),
                _ => out.close(Disconnect::BAD_REQUEST),
            };
        };
        out.notes.push(Note::Command(request.name()));
        if let Request::Connect(request) = request {
            return match id {
                0 => out.close(Disconnect::BAD_REQUEST),
                _ => self.connect(now, id, request, out),
            };
        }
        if !matches!(self.state, State::Connected) {
            return out.close(Disconnect::BAD_REQUEST);
        }
        if matches!(request, Request::Send) {
            return out.close(Disconnect::NOT_AVAILABLE);
        }
        if id == 0 || matches!(request, Request::Ping) || names_no_channel(&request) {
            return out.close(Disconnect::BAD_REQUEST);
        }
        let done = match request {
            Request::Subscribe(request) => self.begin_subscription(Some(id), request, out),
            Request::Unsubscribe(request) => {
                self.unsubscribe(&request.channel, out);
                out.send(reply::empty(id, "unsubscribe"));
                Ok(())
            }
            Request::Publish(request) => self.publish(id, request, out),
            Request::History(request) => self.history(id, request, out),
            Request::Presence(request) => self.presence(id, &request.channel, false, out),
            Request::PresenceStats(request) => self.presence(id, &request.channel, true, out),
            Request::Refresh(request) => {
                self.refresh(now, id, &request, out);
                Ok(())
            }
            // Subscriptions do not expire here, and there are no procedures to call.
            _ => Err(ErrorCode::NOT_AVAILABLE),
        };
        if let Err(error) = done {
            out.error(id, error);
        }
    }

    fn pong(&mut self, out: &mut Output) {
        if self.pong_by.take().is_none() {
            out.close(Disconnect::BAD_REQUEST);
        }
    }

    fn options(&self, channel: &str) -> Result<Arc<Options>, ErrorCode> {
        self.shared.namespaces.of(channel)
    }

    fn asker(&self, channel: &str) -> Asker<'_> {
        let subscription = self.subscriptions.get(channel);
        let subscribed = subscription.is_some_and(|subscription| !subscription.is_pending());
        Asker { user: &self.user, subscribed }
    }

    fn publish(
        &mut self,
        id: u32,
        request: command::Publish,
        out: &mut Output,
    ) -> Result<(), ErrorCode> {
        let options = self.options(&request.channel)?;
        let data = request.data.ok_or(ErrorCode::BAD_REQUEST)?;
        if !options.may_publish(self.asker(&request.channel)) {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        let size = if options.keeps_history() { options.history_size } else { 0 };
        let (ttl, meta_ttl) = (options.history_ttl, options.history_meta_ttl);
        let retention = Retention { size, ttl, meta_ttl };
        let (channel, data) = (request.channel.into(), Box::<str>::from(data));
        self.call(Call::Publish { id, channel, data, retention }, out);
        Ok(())
    }

    fn history(
        &mut self,
        id: u32,
        request: command::History,
        out: &mut Output,
    ) -> Result<(), ErrorCode> {
        let options = self.options(&request.channel)?;
        if !options.keeps_history() {
            return Err(ErrorCode::NOT_AVAILABLE);
        }
        if !options.may_read_history(self.asker(&request.channel)) {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        let command::History { channel, limit, since, reverse } = request;
        let start = since.as_ref().map(|since| since.offset);
        if reverse && start == Some(0) {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(HISTORY_PUBLICATIONS_MAX);
        let range = Range { since: start, limit, reverse };
        self.call(Call::History { id, channel: channel.into(), range, since }, out);
        Ok(())
    }

    fn presence(
        &mut self,
        id: u32,
        channel: &str,
        stats: bool,
        out: &mut Output,
    ) -> Result<(), ErrorCode> {
        let options = self.options(channel)?;
        if !options.presence {
            return Err(ErrorCode::NOT_AVAILABLE);
        }
        if !options.may_see_presence(self.asker(channel)) {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        self.call(Call::Presence { id, channel: channel.into(), stats }, out);
        Ok(())
    }

    /// Makes a call that will have an outcome.
    pub(super) fn call(&mut self, call: Call, out: &mut Output) {
        self.in_flight += 1;
        out.calls.push(call);
    }
}

fn names_no_channel(request: &Request) -> bool {
    match request {
        Request::Subscribe(request) => request.channel.is_empty(),
        Request::Publish(request) => request.channel.is_empty(),
        Request::History(request) => request.channel.is_empty(),
        Request::Unsubscribe(request)
        | Request::Presence(request)
        | Request::PresenceStats(request) => request.channel.is_empty(),
        _ => false,
    }
}

pub(super) fn answer_history(
    id: u32,
    since: Option<command::Since>,
    result: Result<Page, BrokerError>,
    out: &mut Output,
) {
    let Ok(page) = result else {
        return out.error(id, ErrorCode::INTERNAL);
    };
    let state = &page.state;
    if since.is_some_and(|since| !state.lineage.continues(&since.epoch, since.offset)) {
        return out.error(id, ErrorCode::UNRECOVERABLE_POSITION);
    }
    let publications: Vec<_> = page.publications.iter().filter_map(reply::publication).collect();
    out.send(reply::history(id, &publications, state.lineage.visible(), state.top));
}

pub(super) fn answer_presence(
    id: u32,
    stats: bool,
    result: Result<Members, BrokerError>,
    out: &mut Output,
) {
    match result {
        Err(_) => out.error(id, ErrorCode::INTERNAL),
        Ok(members) if stats => out.send(reply::presence_stats(id, members.len(), users(&members))),
        Ok(members) => out.send(reply::presence(id, &members)),
    }
}

/// How many different users the members are.
fn users(members: &Members) -> usize {
    #[derive(Deserialize)]
    struct User {
        #[serde(default)]
        user: String,
    }
    let users: BTreeSet<String> = BTreeMap::values(members)
        .filter_map(|info| serde_json::from_str::<User>(info.get()).ok())
        .map(|member| member.user)
        .collect();
    users.len()
}
