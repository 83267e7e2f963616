//! `connect` and `refresh`: who the client is, and for how long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::{EXPIRY_GRACE, MEMBERS_EVERY, Now, Output, Session, State};
use crate::protocol::command;
use crate::protocol::reply::{self, ClientInfo, ConnectResult, RefreshResult, SubscribeResult};
use crate::protocol::{Disconnect, ErrorCode};
use crate::tokens::{Identity, TokenError};

/// What SDKs are told they talk to.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A connect that waits for its server-side subscriptions.
#[derive(Debug)]
pub(super) struct Connecting {
    id: u32,
    ends_at: Option<u64>,
    missing: BTreeSet<String>,
    done: BTreeMap<String, SubscribeResult>,
}

impl Session {
    pub(super) fn connect(
        &mut self,
        now: Now,
        id: u32,
        request: command::Connect,
        out: &mut Output,
    ) {
        let State::New(stale) = self.state else {
            return out.close(Disconnect::BAD_REQUEST);
        };
        if request.token.is_empty() {
            return out.close(Disconnect::BAD_REQUEST);
        }
        let identity = match self.shared.tokens.verify(&request.token, now.unix_ms / 1000) {
            Ok(identity) => identity,
            Err(TokenError::Expired) => {
                self.state = State::Refused(stale);
                // The SDK has sent more in the same frame, in the belief that it is connected by then.
                self.deferred.clear();
                return out.error(id, ErrorCode::TOKEN_EXPIRED);
            }
            Err(TokenError::Invalid | TokenError::UnknownKey) => {
                return out.close(Disconnect::INVALID_TOKEN);
            }
            Err(TokenError::Anonymous) => return out.close(Disconnect::PERMISSION_DENIED),
        };
        let Identity { user, info, ends_at, channels } = identity;
        let client_info =
            ClientInfo { user: &user, client: &self.client, conn_info: info.as_deref() };
        self.info = reply::client_info(&client_info).into();
        self.user = user;
        let missing = channels.iter().cloned().collect();
        let connecting = Connecting { id, ends_at, missing, done: BTreeMap::new() };
        self.state = State::Connecting(Box::new(connecting));
        if let Err(disconnect) = self.subscribe_server_side(channels, request.subs, out) {
            return out.close(disconnect);
        }
        self.finish_connect(now, out);
    }

    fn subscribe_server_side(
        &mut self,
        channels: Vec<String>,
        mut positions: HashMap<String, command::Subscribe>,
        out: &mut Output,
    ) -> Result<(), Disconnect> {
        for channel in channels {
            if self.subscriptions.contains_key(channel.as_str()) {
                continue;
            }
            let mut request = positions.remove(&channel).unwrap_or_default();
            request.channel = channel;
            // The token is the operator's own; a channel that it names and that cannot be is our side's mistake.
            self.begin_subscription(None, request, out).map_err(|_| Disconnect::SERVER_ERROR)?;
        }
        Ok(())
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
        let State::Connecting(connecting) = &self.state else { return };
        if !connecting.missing.is_empty() {
            return;
        }
        let limits = &self.shared.limits;
        let (expires, ttl) = lifetime(connecting.ends_at, now);
        out.send(reply::connect(
            connecting.id,
            &ConnectResult {
                client: &self.client,
                version: VERSION,
                expires,
                ttl,
                ping: limits.ping_interval.as_secs(),
                pong: true,
                subs: &connecting.done,
            },
        ));
        self.expires_at = expiry(connecting.ends_at, now);
        self.ping_at = Some(now.instant + limits.ping_interval.mul_f64(self.first_ping));
        self.members_at = Some(now.instant + MEMBERS_EVERY);
        self.state = State::Connected;
        self.release_server_side(now, out);
    }

    pub(super) fn refresh(
        &mut self,
        now: Now,
        id: u32,
        request: &command::Refresh,
        out: &mut Output,
    ) {
        if request.token.is_empty() {
            return out.close(Disconnect::BAD_REQUEST);
        }
        match self.shared.tokens.verify(&request.token, now.unix_ms / 1000) {
            Ok(identity) if identity.user == self.user => {
                let (expires, ttl) = lifetime(identity.ends_at, now);
                self.expires_at = expiry(identity.ends_at, now);
                let client = &self.client;
                out.send(reply::refresh(
                    id,
                    &RefreshResult { client, version: VERSION, expires, ttl },
                ));
            }
            Err(TokenError::Expired) => out.close(Disconnect::EXPIRED),
            Ok(_) | Err(_) => out.close(Disconnect::INVALID_TOKEN),
        }
    }
}

/// `expires` and `ttl` as the client is told. A connection whose end has come has a second left to bring a new token.
fn lifetime(ends_at: Option<u64>, now: Now) -> (bool, u64) {
    ends_at.map_or((false, 0), |end| (true, end.saturating_sub(now.unix_ms / 1000).max(1)))
}

/// When the connection is closed unless refreshed.
fn expiry(ends_at: Option<u64>, now: Now) -> Option<Instant> {
    let left = Duration::from_millis(ends_at?.saturating_mul(1000).saturating_sub(now.unix_ms));
    // An end beyond what an instant can hold is none.
    now.instant.checked_add(left)?.checked_add(EXPIRY_GRACE)
}
