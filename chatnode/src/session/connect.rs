//! `connect` and `refresh`: who the client is, and for how long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::subscriptions::Purpose;
use super::{
    Admitted, Call, EXPIRY_GRACE, MEMBERS_EVERY, Now, Output, Session, State, instant_of, lifetime,
};
use crate::access::{Admission, ConnectAsk, Denial, Grant, Term};
use crate::protocol::command::{self, Subscribe};
use crate::protocol::reply::{ClientInfo, ConnectResult, RefreshResult, Reply, SubscribeResult};
use crate::protocol::{Disconnect, ErrorCode};

/// What SDKs are told they talk to.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A connect that waits for the gate, then for its server-side subscriptions.
pub(super) struct Connecting {
    id: u32,
    /// Until when it may take, should it be refused.
    stale: std::time::Instant,
    /// Where the client wants to continue.
    positions: HashMap<String, Subscribe>,
    term: Term,
    data: Bytes,
    missing: BTreeSet<String>,
    done: BTreeMap<String, SubscribeResult>,
}

impl Session {
    pub(super) fn connect(&mut self, id: u32, request: command::Connect, out: &mut Output) {
        let State::New(stale) = self.state else {
            return out.close(Disconnect::BAD_REQUEST);
        };
        let command::Connect { token, data, subs, name, version, headers } = request;
        let mut origin = self.link.origin.clone();
        for (header, value) in headers {
            let header = header.to_ascii_lowercase().into_boxed_str();
            // What the request itself said cannot be replaced.
            if !origin.headers.iter().any(|(known, _)| *known == header) {
                origin.headers.push((header, value.into()));
            }
        }
        self.state = State::Connecting(Box::new(Connecting {
            id,
            stale,
            positions: subs,
            term: Term::default(),
            data: Bytes::new(),
            missing: BTreeSet::new(),
            done: BTreeMap::new(),
        }));
        let data = Some(data).filter(|data| !data.is_empty());
        let ask = ConnectAsk { origin, token, data, name, version };
        self.call(Call::Connect(Box::new(ask)), out);
    }

    /// The gate has decided.
    pub(super) fn admitted(
        &mut self,
        now: Now,
        result: Result<Box<Admitted>, Denial>,
        out: &mut Output,
    ) {
        let State::Connecting(connecting) = &mut self.state else { return };
        let Admitted { admission, user_bucket } = match result {
            Ok(admitted) => *admitted,
            Err(denial) => {
                out.error(connecting.id, denial);
                self.state = State::Refused(connecting.stale);
                // The SDK has sent more in the same frame, in the belief that it is connected by then.
                self.deferred.clear();
                return;
            }
        };
        let Admission { who, info, data, term, subscriptions } = admission;
        if subscriptions.len() > self.shared.limits.channels_max {
            return out.close(Disconnect::CHANNEL_LIMIT);
        }
        connecting.term = term;
        connecting.data = data.unwrap_or_default();
        connecting.missing = subscriptions.iter().map(|(channel, _)| channel.clone()).collect();
        let positions = std::mem::take(&mut connecting.positions);
        self.who = Some(who);
        self.user_bucket = user_bucket;
        if !self.show(info.unwrap_or_default()) {
            return out.close(Disconnect::SERVER_ERROR);
        }
        self.subscribe_server_side(subscriptions, positions, out);
        self.finish_connect(now, out);
    }

    /// From now on the connection is shown to others with this `conn_info`; false if it is not JSON.
    pub(super) fn show(&mut self, conn_info: Bytes) -> bool {
        let (user, client) = (self.user().to_owned(), self.client().to_owned());
        let info = ClientInfo { user, client, conn_info, chan_info: Bytes::new() };
        let document = info.document();
        if let Some(document) = &document {
            self.info = document.as_str().into();
        }
        document.is_some()
    }

    fn subscribe_server_side(
        &mut self,
        channels: Vec<(String, Grant)>,
        mut positions: HashMap<String, Subscribe>,
        out: &mut Output,
    ) {
        for (channel, grant) in channels {
            if self.subscriptions.contains_key(channel.as_str()) {
                continue;
            }
            let mut request = positions.remove(&channel).unwrap_or_default();
            request.channel.clone_from(&channel);
            let channel: Arc<str> = channel.into();
            self.reserve(&channel, Purpose::Connect, request);
            // The token is the operator's own; a channel that it names and that cannot be is our side's mistake.
            if self.take_up(&channel, grant, out).is_err() {
                return out.close(Disconnect::SERVER_ERROR);
            }
        }
    }

    /// A server-side subscription of the running connect was made.
    pub(super) fn server_side_subscribed(
        &mut self,
        now: Now,
        channel: &str,
        result: SubscribeResult,
        out: &mut Output,
    ) {
        if let State::Connecting(connecting) = &mut self.state {
            connecting.missing.remove(channel);
            connecting.done.insert(channel.to_owned(), result);
            self.finish_connect(now, out);
        }
    }

    /// Answers the connect once nothing is missing.
    fn finish_connect(&mut self, now: Now, out: &mut Output) {
        let State::Connecting(connecting) = &mut self.state else { return };
        if !connecting.missing.is_empty() || out.close.is_some() {
            return;
        }
        let (term, id) = (connecting.term, connecting.id);
        let (subs, data) =
            (std::mem::take(&mut connecting.done), std::mem::take(&mut connecting.data));
        let limits = &self.shared.limits;
        let (expires, ttl) = lifetime(told(term), now);
        let ping = if self.link.transport_pings { 0 } else { limits.ping_interval.as_secs() };
        let emulated = !self.link.session.is_empty();
        let connect = ConnectResult {
            client: self.link.origin.client.to_string(),
            version: VERSION.to_owned(),
            expires,
            ttl,
            data,
            subs,
            ping: u32::try_from(ping).unwrap_or(u32::MAX),
            pong: !self.link.transport_pings,
            session: self.link.session.to_string(),
            node: if emulated { self.shared.node.to_string() } else { String::new() },
        };
        out.send(&Reply { id, connect: Some(connect), ..Reply::default() });
        self.ping_at = Some(now.instant + limits.ping_interval.mul_f64(self.first_ping));
        self.members_at = Some(now.instant + MEMBERS_EVERY);
        self.state = State::Connected;
        self.set_term(term, now);
        self.release_server_side(now, out);
    }

    /// From now on the connection lives until then.
    pub(super) fn set_term(&mut self, term: Term, now: Now) {
        let end = term.ends_at.and_then(|end| instant_of(end, now));
        self.expires_at = end.and_then(|end| end.checked_add(EXPIRY_GRACE));
        self.prolong_at = end.filter(|_| term.by_server);
    }

    pub(super) fn refresh(
        &mut self,
        id: u32,
        request: command::Refresh,
        out: &mut Output,
    ) -> Result<(), Denial> {
        if request.token.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        self.call(Call::Refresh(Some(id), request.token), out);
        Ok(())
    }

    /// The gate has decided how long the connection lives on.
    pub(super) fn refreshed(
        &mut self,
        now: Now,
        id: Option<u32>,
        result: Result<Term, Denial>,
        out: &mut Output,
    ) {
        match (id, result) {
            (_, Ok(term)) => {
                self.set_term(term, now);
                if let Some(id) = id {
                    let (expires, ttl) = lifetime(told(term), now);
                    let (client, version) = (self.client().to_owned(), VERSION.to_owned());
                    let refresh = RefreshResult { client, version, expires, ttl };
                    out.send(&Reply { id, refresh: Some(refresh), ..Reply::default() });
                }
            }
            (Some(id), Err(denial)) => out.error(id, denial),
            // Our back end is out of reach, which is not the client's fault: the connection lives until the grace is over.
            (None, Err(Denial::Error { code, .. })) if code == ErrorCode::INTERNAL.code => {}
            (None, Err(Denial::Error { .. })) => out.close(Disconnect::EXPIRED),
            (None, Err(Denial::Close { code, reason })) => out.close(super::Close { code, reason }),
        }
    }
}

/// The end as the client is told of it.
pub(super) fn told(term: Term) -> Option<u64> {
    term.ends_at.filter(|_| !term.by_server)
}
