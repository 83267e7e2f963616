//! One client connection, as a state machine without socket and clock.
//!
//! In go messages, outcomes of calls, events of channels, orders and the passing of time; out come frames for the client, calls to the
//! gate and the broker and, at most once, a close. Commands are taken in order and may be under way together, except that nothing
//! happens to a channel while a subscribe to it is under way, and nothing at all before the connect is answered. What cannot be taken
//! yet waits, and meanwhile the socket is not read: a client that sends faster than Redis answers is slowed down, not buffered.

mod commands;
mod connect;
mod event;
mod io;
mod orders;
mod position;
mod rate;
mod recovery;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::access::{Origin, Who};
use crate::config;
use crate::namespaces::Namespaces;
use crate::protocol::command::{Command, Request};
use crate::protocol::reply::{Empty, Reply};
use crate::protocol::{Disconnect, Protocol};
use connect::Connecting;
pub use event::{Basis, Event, EventKind, Form, News, Presence};
pub use io::{Admitted, Call, Close, Note, Now, Order, Outcome, Output, Publish};
pub use rate::Bucket;
use subscriptions::Subscription;

/// Commands of one connection that may wait for the broker together. A publish takes about a millisecond, so this is well above what
/// one client needs, and it bounds what one client can hold in our queues.
const IN_FLIGHT_MAX: usize = 64;

/// Members expire after 60 s; refreshed at this pace, one refresh may fail.
const MEMBERS_EVERY: Duration = Duration::from_secs(27);

/// How long an expired connection or subscription may take to bring a new token.
const EXPIRY_GRACE: Duration = Duration::from_secs(25);

/// Commands a client may have refused for their number before it is cut off: it does not listen.
const REFUSED_MAX: u32 = 1000;

/// What all sessions of a node share.
pub struct Shared {
    /// Bounds and timers.
    pub limits: config::Client,
    /// What channels offer.
    pub namespaces: Namespaces,
    /// The node's id, told to clients whose commands come by separate requests.
    pub node: Arc<str>,
}

/// How a client is connected.
#[derive(Debug, Clone)]
pub struct Link {
    /// Form it speaks.
    pub protocol: Protocol,
    /// How it came; with the connection's unique id.
    pub origin: Origin,
    /// Secret of a connection whose commands come by separate requests; empty for others.
    pub session: Box<str>,
    /// Ping it in the transport's own way.
    pub transport_pings: bool,
}

enum State {
    /// No connect command yet; closed as stale at this time.
    New(Instant),
    /// The gate is being asked, or server-side subscriptions are being made.
    Connecting(Box<Connecting>),
    /// In use.
    Connected,
    /// The connect was refused; nothing else is taken.
    Refused(Instant),
}

/// The state machine.
pub struct Session {
    shared: Arc<Shared>,
    link: Box<Link>,
    who: Option<Arc<Who>>,
    /// Finished `ClientInfo` document.
    info: Arc<str>,
    state: State,
    subscriptions: HashMap<Arc<str>, Subscription>,
    deferred: VecDeque<Command>,
    in_flight: usize,
    /// Publishes under way that had to ask before; others wait, so that they stay in order.
    asking_publishes: usize,
    bucket: Option<Bucket>,
    user_bucket: Option<Arc<Mutex<Bucket>>>,
    refused: u32,
    /// Share of the ping interval before the first ping, so that pings of a reconnect storm spread out.
    first_ping: f64,
    ping_at: Option<Instant>,
    pong_by: Option<Instant>,
    /// The gate is asked to prolong the connection, by the node itself.
    prolong_at: Option<Instant>,
    expires_at: Option<Instant>,
    /// The first end of a subscription.
    ends_at: Option<Instant>,
    members_at: Option<Instant>,
    suspects_at: Option<Instant>,
}

impl Session {
    /// A connection that was just opened. `random` is a number in `0.0..1.0`.
    pub fn new(shared: Arc<Shared>, link: Link, random: f64, now: Now) -> Self {
        let stale = now.instant + shared.limits.stale_timeout;
        let bucket = Bucket::full(shared.limits.command_rate, now.instant);
        Self {
            shared,
            link: Box::new(link),
            who: None,
            info: "{}".into(),
            state: State::New(stale),
            subscriptions: HashMap::new(),
            deferred: VecDeque::new(),
            in_flight: 0,
            asking_publishes: 0,
            bucket,
            user_bucket: None,
            refused: 0,
            first_ping: random.mul_add(0.5, 0.5),
            ping_at: None,
            pong_by: None,
            prolong_at: None,
            expires_at: None,
            ends_at: None,
            members_at: None,
            suspects_at: None,
        }
    }

    /// Nothing to do yet.
    pub fn output(&self) -> Output {
        Output::new(self.link.protocol)
    }

    /// Form the client speaks.
    pub fn protocol(&self) -> Protocol {
        self.link.protocol
    }

    /// The connection's id.
    pub fn client(&self) -> &str {
        &self.link.origin.client
    }

    /// Whose connection it is, once that is known.
    pub fn who(&self) -> Option<&Arc<Who>> {
        self.who.as_ref()
    }

    fn user(&self) -> &str {
        self.who.as_ref().map_or("", |who| &who.user)
    }

    /// Whether the socket is to be read.
    pub fn wants_input(&self) -> bool {
        self.deferred.is_empty() && self.takes_commands()
    }

    fn takes_commands(&self) -> bool {
        self.in_flight < IN_FLIGHT_MAX && !matches!(self.state, State::Connecting(_))
    }

    /// A message arrived.
    pub fn handle_message(&mut self, now: Now, frame: Bytes, out: &mut Output) {
        for command in self.link.protocol.decode(frame) {
            let Ok(command) = command else {
                // What came before it in the frame is still executed; its replies are flushed before the close.
                self.advance(now, out);
                return out.close(Disconnect::BAD_REQUEST);
            };
            self.deferred.push_back(command);
        }
        self.advance(now, out);
    }

    /// The client answered a ping in the transport's own way.
    pub fn handle_transport_pong(&mut self) {
        if self.link.transport_pings {
            self.pong_by = None;
        }
    }

    /// Takes waiting commands as far as possible.
    fn advance(&mut self, now: Now, out: &mut Output) {
        while out.close.is_none()
            && self.takes_commands()
            && let Some(command) = self.deferred.pop_front()
        {
            if self.is_blocked(&command) {
                self.deferred.push_front(command);
                return;
            }
            self.handle_command(now, command, out);
        }
        // A frame may have brought thousands; an idle connection does not keep their room.
        if self.deferred.is_empty() {
            self.deferred = VecDeque::new();
        }
    }

    /// Whether something is under way that the command has to wait for.
    fn is_blocked(&self, command: &Command) -> bool {
        let channel = match &command.request {
            Some(Request::Publish(_)) => return self.asking_publishes > 0,
            Some(Request::Subscribe(request)) => &request.channel,
            Some(Request::Unsubscribe(request)) => &request.channel,
            _ => return false,
        };
        self.subscriptions.get(channel.as_str()).is_some_and(Subscription::is_pending)
    }

    /// A call ended.
    pub fn handle_outcome(&mut self, now: Now, outcome: Outcome, out: &mut Output) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Admitted(result) => self.admitted(now, result, out),
            Outcome::Refreshed(id, result) => self.refreshed(now, id, result, out),
            Outcome::Granted(channel, result) => self.granted(now, &channel, result, out),
            Outcome::SubRefreshed(id, channel, result) => {
                self.sub_refreshed(now, id, &channel, result, out);
            }
            Outcome::Published(id, free, result) => {
                self.asking_publishes -= usize::from(!free);
                match result {
                    Ok(()) => {
                        let publish = Some(Empty {});
                        out.send(&Reply { id, publish, ..Reply::default() });
                    }
                    Err(denial) => out.error(id, denial),
                }
            }
            Outcome::Subscribed(channel, result) => self.subscribed(now, &channel, result, out),
            Outcome::History(id, since, result) => commands::answer_history(id, since, result, out),
            Outcome::Presence(id, result) => commands::answer_presence(id, result, out),
            Outcome::PresenceStats(id, result) => commands::answer_stats(id, &result, out),
            Outcome::Rpc(id, result) => commands::answer_rpc(id, result, out),
        }
        self.advance(now, out);
    }

    /// When [`Self::handle_time`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stale = match self.state {
            State::New(at) | State::Refused(at) => Some(at),
            State::Connecting(_) | State::Connected => None,
        };
        let own = [stale, self.ping_at, self.pong_by, self.prolong_at, self.expires_at];
        let channels = [self.ends_at, self.members_at, self.suspects_at];
        own.into_iter().chain(channels).flatten().min()
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Now, out: &mut Output) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        if let State::New(at) | State::Refused(at) = self.state
            && due(Some(at))
        {
            return out.close(Disconnect::STALE);
        }
        if due(self.pong_by) {
            return out.close(Disconnect::NO_PONG);
        }
        if due(self.expires_at) {
            return out.close(Disconnect::EXPIRED);
        }
        if due(self.prolong_at) {
            self.prolong_at = None;
            self.call(Call::Refresh(None, String::new()), out);
        }
        if due(self.ping_at) {
            if self.link.transport_pings {
                out.ping = true;
            } else {
                out.send(&Reply::ping());
            }
            self.ping_at = Some(now.instant + self.shared.limits.ping_interval);
            self.pong_by = Some(now.instant + self.shared.limits.pong_timeout);
        }
        if due(self.ends_at) {
            self.end_expired(now, out);
        }
        if due(self.members_at) {
            self.members_at = Some(now.instant + MEMBERS_EVERY);
            self.keep_members(out);
        }
        if due(self.suspects_at) {
            self.suspects_at = None;
            self.judge_suspects(out);
        }
    }

    /// Makes a call that will have an outcome.
    fn call(&mut self, call: Call, out: &mut Output) {
        self.in_flight += 1;
        out.calls.push(call);
    }
}

/// `expires` and `ttl` as the client is told. Whose end has come has a second left to bring a new token.
fn lifetime(ends_at: Option<u64>, now: Now) -> (bool, u32) {
    ends_at.map_or((false, 0), |end| {
        let left = end.saturating_sub(now.unix_ms / 1000).max(1);
        (true, u32::try_from(left).unwrap_or(u32::MAX))
    })
}

/// The instant of a time in seconds since 1970; `None` if it is beyond what an instant can hold, which is never.
fn instant_of(ends_at: u64, now: Now) -> Option<Instant> {
    let left = Duration::from_millis(ends_at.saturating_mul(1000).saturating_sub(now.unix_ms));
    now.instant.checked_add(left)
}
