//! One client connection, as a state machine without socket and clock.
//!
//! In go messages, broker outcomes, events of channels and the passing of time; out come frames for the client, calls to the broker
//! and, at most once, a close. Commands are taken in order and may be under way together, except that nothing happens to a channel
//! while a subscribe to it is under way, and nothing at all before the connect is answered. What cannot be taken yet waits, and
//! meanwhile the socket is not read: a client that sends faster than Redis answers is slowed down, not buffered.

mod commands;
mod connect;
mod position;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::{BrokerError, Members, Range, Retention};
use crate::config;
use crate::namespaces::Namespaces;
use crate::protocol::command::{self, Command, Request};
use crate::protocol::{Disconnect, ErrorCode, reply};
use crate::stream::{Lineage, Page, StreamState};
use crate::tokens::Verifier;
use connect::Connecting;
use subscriptions::Subscription;

/// Commands of one connection that may wait for the broker together. A publish takes about a millisecond, so this is well above what
/// one client needs, and it bounds what one client can hold in our queues.
const IN_FLIGHT_MAX: usize = 64;

/// Members expire after 60 s; refreshed at this pace, one refresh may fail.
const MEMBERS_EVERY: Duration = Duration::from_secs(27);

/// How long an expired connection may take to bring a new token.
const EXPIRY_GRACE: Duration = Duration::from_secs(25);

/// What all sessions of a node share.
pub struct Shared {
    /// Bounds and timers.
    pub limits: config::Client,
    /// What channels offer.
    pub namespaces: Namespaces,
    /// Who may connect.
    pub tokens: Verifier,
}

/// The present moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// For tokens and time stamps: milliseconds since 1970.
    pub unix_ms: u64,
}

/// Something that happened in a channel, shared by all its subscribers.
#[derive(Debug)]
pub struct Event {
    /// The channel.
    pub channel: Arc<str>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened in a channel.
#[derive(Debug)]
pub enum EventKind {
    /// A publication.
    Publication {
        /// Its position; 0 without history.
        offset: u64,
        /// The stream's identity; `None` without history.
        lineage: Option<Arc<Lineage>>,
        /// The finished push.
        frame: Bytes,
        /// When it was accepted, in milliseconds since 1970.
        time_ms: u64,
    },
    /// A client came or left.
    Membership {
        /// The finished push.
        frame: Bytes,
    },
    /// The stream was looked at, because something may have been missed.
    Looked(StreamState),
}

/// What the session wants from the broker. Calls with an id are answered by an [`Outcome`].
#[derive(Debug)]
pub enum Call {
    /// Store and send a publication.
    Publish {
        /// Command.
        id: u32,
        /// Channel.
        channel: Arc<str>,
        /// Payload.
        data: Box<str>,
        /// How it is kept.
        retention: Retention,
    },
    /// Receive the channel's events from now on, then read what was asked.
    Subscribe {
        /// Channel.
        channel: Arc<str>,
        /// Part of the stream to read; `None` without history.
        range: Option<Range>,
        /// Become one of its members.
        presence: bool,
    },
    /// Receive no more events of the channel.
    Unsubscribe {
        /// Channel.
        channel: Arc<str>,
        /// Stop being a member.
        presence: bool,
        /// Tell the others.
        leave: bool,
    },
    /// Tell the others that the client came.
    Join {
        /// Channel.
        channel: Arc<str>,
    },
    /// Stay a member.
    KeepMember {
        /// Channel.
        channel: Arc<str>,
    },
    /// Read a stream.
    History {
        /// Command.
        id: u32,
        /// Channel.
        channel: Arc<str>,
        /// Part to read.
        range: Range,
        /// Position the client starts from: offset and epoch.
        since: Option<command::Since>,
    },
    /// Read the members.
    Presence {
        /// Command.
        id: u32,
        /// Channel.
        channel: Arc<str>,
        /// Only count them.
        stats: bool,
    },
}

/// How a call ended.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Call::Publish`].
    Published(u32, Result<(), BrokerError>),
    /// Of [`Call::Subscribe`].
    Subscribed(Arc<str>, Result<Option<Page>, BrokerError>),
    /// Of [`Call::History`].
    History(u32, Option<command::Since>, Result<Page, BrokerError>),
    /// Of [`Call::Presence`]; with whether only the count was asked for.
    Presence(u32, bool, Result<Members, BrokerError>),
}

/// What the edge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A command was taken.
    Command(&'static str),
    /// A command was answered with this error.
    Error(u32),
    /// A subscription asked to continue, and whether it did.
    Recovery(bool),
    /// A subscription ended because something may have been missed.
    InsufficientState,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Output {
    /// Frames for the client, in order.
    pub frames: Vec<Bytes>,
    /// Calls, to be started in order.
    pub calls: Vec<Call>,
    /// Figures.
    pub notes: Vec<Note>,
    /// Close the connection after the frames.
    pub close: Option<Disconnect>,
}

impl Output {
    fn send(&mut self, document: String) {
        self.frames.push(Bytes::from(document));
    }

    fn error(&mut self, id: u32, error: ErrorCode) {
        self.notes.push(Note::Error(error.code));
        self.send(reply::error(id, error));
    }

    fn close(&mut self, disconnect: Disconnect) {
        self.close.get_or_insert(disconnect);
    }
}

enum State {
    /// No connect command yet; closed as stale at this time.
    New(Instant),
    /// Server-side subscriptions are being made.
    Connecting(Box<Connecting>),
    /// In use.
    Connected,
    /// The connect was refused; nothing else is taken.
    Refused(Instant),
}

/// The state machine.
pub struct Session {
    shared: Arc<Shared>,
    client: String,
    user: String,
    /// Finished `ClientInfo` document.
    info: Arc<str>,
    state: State,
    subscriptions: HashMap<Arc<str>, Subscription>,
    deferred: VecDeque<Command>,
    in_flight: usize,
    /// Share of the ping interval before the first ping, so that pings of a reconnect storm spread out.
    first_ping: f64,
    ping_at: Option<Instant>,
    pong_by: Option<Instant>,
    expires_at: Option<Instant>,
    members_at: Option<Instant>,
    suspects_at: Option<Instant>,
}

impl Session {
    /// A connection that was just opened. `client` is its unique id, `random` a number in `0.0..1.0`.
    pub fn new(shared: Arc<Shared>, client: String, random: f64, now: Now) -> Self {
        let stale = now.instant + shared.limits.stale_timeout;
        Self {
            shared,
            client,
            user: String::new(),
            info: "{}".into(),
            state: State::New(stale),
            subscriptions: HashMap::new(),
            deferred: VecDeque::new(),
            in_flight: 0,
            first_ping: random.mul_add(0.5, 0.5),
            ping_at: None,
            pong_by: None,
            expires_at: None,
            members_at: None,
            suspects_at: None,
        }
    }

    /// The connection's `ClientInfo` document.
    pub fn info(&self) -> &Arc<str> {
        &self.info
    }

    /// The connection's id.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The user's id; empty for nobody in particular.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// How many channels it is subscribed to.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether the socket is to be read.
    pub fn wants_input(&self) -> bool {
        self.deferred.is_empty() && self.takes_commands()
    }

    fn takes_commands(&self) -> bool {
        self.in_flight < IN_FLIGHT_MAX && !matches!(self.state, State::Connecting(_))
    }

    /// A message arrived.
    pub fn handle_message(&mut self, now: Now, frame: &str, out: &mut Output) {
        if frame.is_empty() {
            return out.close(Disconnect::BAD_REQUEST);
        }
        for document in command::documents(frame) {
            let Ok(command) = command::decode(document) else {
                // What came before it in the frame is still executed; its replies are flushed before the close.
                self.advance(now, out);
                return out.close(Disconnect::BAD_REQUEST);
            };
            self.deferred.push_back(command);
        }
        self.advance(now, out);
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
    }

    /// Whether the command is about a channel that is being subscribed to.
    fn is_blocked(&self, command: &Command) -> bool {
        let channel = match &command.request {
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
            Outcome::Published(id, result) => match result {
                Ok(()) => out.send(reply::empty(id, "publish")),
                Err(_) => out.error(id, ErrorCode::INTERNAL),
            },
            Outcome::Subscribed(channel, result) => self.subscribed(now, &channel, result, out),
            Outcome::History(id, since, result) => commands::answer_history(id, since, result, out),
            Outcome::Presence(id, stats, result) => {
                commands::answer_presence(id, stats, result, out);
            }
        }
        self.advance(now, out);
    }

    /// When [`Self::handle_time`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stale = match self.state {
            State::New(at) | State::Refused(at) => Some(at),
            State::Connecting(_) | State::Connected => None,
        };
        [stale, self.ping_at, self.pong_by, self.expires_at, self.members_at, self.suspects_at]
            .into_iter()
            .flatten()
            .min()
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
        if due(self.ping_at) {
            out.send(reply::PING.to_owned());
            self.ping_at = Some(now.instant + self.shared.limits.ping_interval);
            self.pong_by = Some(now.instant + self.shared.limits.pong_timeout);
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
}
