//! Commands of a connected client, except those that make it connected or subscribed.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::{Call, Note, Now, Output, Publish, REFUSED_MAX, Session, State};
use crate::access::Denial;
use crate::broker::{BrokerError, MemberCounts, Members, Range};
use crate::namespaces::{Asker, Options};
use crate::protocol::command::{self, Command, Request};
use crate::protocol::reply::{
    ClientInfo, Empty, HistoryResult, PresenceResult, PresenceStatsResult, Publication, Reply,
    RpcResult,
};
use crate::protocol::{Disconnect, ErrorCode};
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
                _ => self.connect(id, *request, out),
            };
        }
        if !matches!(self.state, State::Connected) {
            return out.close(Disconnect::BAD_REQUEST);
        }
        if matches!(request, Request::Send(_)) {
            return out.close(Disconnect::NOT_AVAILABLE);
        }
        let nameless = request.channel().is_some_and(str::is_empty);
        if id == 0 || matches!(request, Request::Ping) || nameless {
            return out.close(Disconnect::BAD_REQUEST);
        }
        if let Some(whose) = self.refuses(now, &request) {
            out.notes.push(Note::Limited(whose));
            self.refused += 1;
            if self.refused > REFUSED_MAX {
                return out.close(Disconnect::TOO_MANY_REQUESTS);
            }
            return out.error(id, ErrorCode::TOO_MANY_REQUESTS);
        }
        if let Err(denial) = self.execute(id, request, out) {
            out.error(id, denial);
        }
    }

    fn execute(&mut self, id: u32, request: Request, out: &mut Output) -> Result<(), Denial> {
        match request {
            Request::Subscribe(request) => self.begin_subscription(id, *request, out),
            Request::Unsubscribe(request) => {
                self.unsubscribe(&request.channel, out);
                out.send(&Reply { id, unsubscribe: Some(Empty {}), ..Reply::default() });
                Ok(())
            }
            Request::Publish(request) => self.publish(id, request, out),
            Request::History(request) => self.history(id, request, out),
            Request::Presence(request) => {
                let channel = self.present(&request.channel)?;
                self.call(Call::Presence(id, channel), out);
                Ok(())
            }
            Request::PresenceStats(request) => {
                let channel = self.present(&request.channel)?;
                self.call(Call::PresenceStats(id, channel), out);
                Ok(())
            }
            Request::Refresh(request) => self.refresh(id, request, out),
            Request::SubRefresh(request) => self.sub_refresh(id, request, out),
            Request::Rpc(request) => {
                self.call(Call::Rpc(id, request.method, request.data), out);
                Ok(())
            }
            // Seen to before.
            Request::Connect(_) | Request::Send(_) | Request::Ping => {
                Err(ErrorCode::NOT_AVAILABLE.into())
            }
        }
    }

    /// Whose limit the command is over. What ends something or keeps it alive is never refused: that would cost more than it saves.
    fn refuses(&mut self, now: Now, request: &Request) -> Option<&'static str> {
        let vital = matches!(
            request,
            Request::Unsubscribe(_) | Request::Refresh(_) | Request::SubRefresh(_)
        );
        if vital {
            return None;
        }
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.take(now.instant)) {
            return Some("connection");
        }
        let bucket = self.user_bucket.as_ref()?;
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        (!bucket.take(now.instant)).then_some("user")
    }

    fn pong(&mut self, out: &mut Output) {
        if self.pong_by.take().is_none() {
            out.close(Disconnect::BAD_REQUEST);
        }
    }

    fn insecure(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.insecure)
    }

    /// The rules of `channel` as they hold for this connection: those it was subscribed under, or else those of the present.
    fn options(&self, channel: &str) -> Result<Arc<Options>, ErrorCode> {
        match self.subscriptions.get(channel).and_then(|subscription| subscription.options()) {
            Some(options) => Ok(Arc::clone(options)),
            None => self.shared.namespaces.of(channel),
        }
    }

    fn asker(&self, channel: &str) -> Asker<'_> {
        let subscription = self.subscriptions.get(channel);
        let subscribed = subscription.is_some_and(|subscription| !subscription.is_pending());
        Asker { user: self.user(), subscribed }
    }

    fn publish(
        &mut self,
        id: u32,
        request: command::Publish,
        out: &mut Output,
    ) -> Result<(), Denial> {
        if request.kind != 0 {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        let options = self.shared.namespaces.of(&request.channel)?;
        if request.data.is_empty() {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        let asker = self.asker(&request.channel);
        let proxied = !options.publish_proxy.is_empty();
        if !proxied && !options.may_publish(asker) && !self.insecure() {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        let subscribed = asker.subscribed;
        let free = !proxied && options.rate().is_none();
        self.asking_publishes += usize::from(!free);
        let info = self.info_in(&request.channel);
        let (channel, data) = (request.channel.into(), request.data);
        let publish = Publish { id, channel, data, options, info, subscribed, free };
        self.call(Call::Publish(Box::new(publish)), out);
        Ok(())
    }

    fn history(
        &mut self,
        id: u32,
        request: command::History,
        out: &mut Output,
    ) -> Result<(), Denial> {
        let options = self.options(&request.channel)?;
        if !options.keeps_history() {
            return Err(ErrorCode::NOT_AVAILABLE.into());
        }
        if !options.may_read_history(self.asker(&request.channel)) && !self.insecure() {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        let command::History { channel, limit, since, reverse } = request;
        let start = since.as_ref().map(|since| since.offset);
        if reverse && start == Some(0) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(HISTORY_PUBLICATIONS_MAX);
        let range = Range { since: start, limit, reverse };
        self.call(Call::History { id, channel: channel.into(), range, since }, out);
        Ok(())
    }

    /// The channel, if the client may know who is there.
    fn present(&self, channel: &str) -> Result<Arc<str>, ErrorCode> {
        let options = self.options(channel)?;
        if !options.presence {
            return Err(ErrorCode::NOT_AVAILABLE);
        }
        if !options.may_see_presence(self.asker(channel)) && !self.insecure() {
            return Err(ErrorCode::PERMISSION_DENIED);
        }
        Ok(channel.into())
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
    let publications = page.publications.iter().map(Publication::new).collect();
    let (epoch, offset) = (state.lineage.visible().to_string(), state.top);
    let history = HistoryResult { publications, epoch, offset };
    out.send(&Reply { id, history: Some(history), ..Reply::default() });
}

pub(super) fn answer_presence(id: u32, result: Result<Members, BrokerError>, out: &mut Output) {
    let Ok(members) = result else {
        return out.error(id, ErrorCode::INTERNAL);
    };
    let read = |(client, info): (String, Box<serde_json::value::RawValue>)| {
        ClientInfo::read(info.get().as_bytes()).map(|info| (client, info))
    };
    let presence = PresenceResult { presence: members.into_iter().filter_map(read).collect() };
    out.send(&Reply { id, presence: Some(presence), ..Reply::default() });
}

pub(super) fn answer_stats(id: u32, result: &Result<MemberCounts, BrokerError>, out: &mut Output) {
    let Ok(MemberCounts { clients, users }) = result else {
        return out.error(id, ErrorCode::INTERNAL);
    };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let stats = PresenceStatsResult { num_clients: count(*clients), num_users: count(*users) };
    out.send(&Reply { id, presence_stats: Some(stats), ..Reply::default() });
}

pub(super) fn answer_rpc(id: u32, result: Result<Bytes, Denial>, out: &mut Output) {
    match result {
        Ok(data) => out.send(&Reply { id, rpc: Some(RpcResult { data }), ..Reply::default() }),
        Err(denial) => out.error(id, denial),
    }
}
