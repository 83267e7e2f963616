//! What goes into a session and what comes out of it, beside the client's own frames.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;

use super::rate::Bucket;
use crate::access::{Admission, ConnectAsk, Denial, Grant, SubscribeAsk, Term};
use crate::broker::{BrokerError, MemberCounts, Members, Range};
use crate::namespaces::Options;
use crate::protocol::command::Since;
use crate::protocol::reply::{self, Reply};
use crate::protocol::{Disconnect, Frame, Protocol};
use crate::stream::Page;

/// The present moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// For tokens and time stamps: milliseconds since 1970.
    pub unix_ms: u64,
}

/// What the session wants from gate and broker. Each call is answered by the [`Outcome`] of its name, where there is one.
#[derive(Debug)]
pub enum Call {
    /// Ask whether the client may connect.
    Connect(Box<ConnectAsk>),
    /// Ask how long the connection lives on; the command, if the client asked.
    Refresh(Option<u32>, String),
    /// Ask whether the client may subscribe.
    Grant(Arc<str>, Box<SubscribeAsk>),
    /// Ask how long a subscription lives on; the command, if the client asked.
    SubRefresh(Option<u32>, Arc<str>, String),
    /// Store and send a publication.
    Publish(Box<Publish>),
    /// Receive the channel's events from now on, then read what was asked.
    Subscribe {
        /// Channel.
        channel: Arc<str>,
        /// Part of the stream to read; `None` without history.
        range: Option<Range>,
        /// Become one of its members, with this `ClientInfo` document.
        member: Option<Arc<str>>,
    },
    /// Receive no more events of the channel.
    Unsubscribe {
        /// Channel.
        channel: Arc<str>,
        /// Stop being a member.
        member: bool,
        /// Tell the others, with this `ClientInfo` document.
        leave: Option<Arc<str>>,
    },
    /// Tell the others that the client came.
    Join(Arc<str>, Arc<str>),
    /// Stay a member.
    KeepMember(Arc<str>, Arc<str>),
    /// Read a stream.
    History {
        /// Command.
        id: u32,
        /// Channel.
        channel: Arc<str>,
        /// Part to read.
        range: Range,
        /// Position the client starts from.
        since: Option<Since>,
    },
    /// Read the members.
    Presence(u32, Arc<str>),
    /// Count the members.
    PresenceStats(u32, Arc<str>),
    /// Call a procedure.
    Rpc(u32, String, Bytes),
}

/// A publication of the client.
#[derive(Debug)]
pub struct Publish {
    /// Command.
    pub id: u32,
    /// Channel.
    pub channel: Arc<str>,
    /// Payload.
    pub data: Bytes,
    /// The rules it is kept by.
    pub options: Arc<Options>,
    /// The publisher's `ClientInfo` document.
    pub info: Arc<str>,
    /// Whether the publisher is subscribed.
    pub subscribed: bool,
    /// Nothing but the broker has to be asked.
    pub free: bool,
}

/// How a call ended.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Call::Connect`].
    Admitted(Result<Box<Admitted>, Denial>),
    /// Of [`Call::Refresh`].
    Refreshed(Option<u32>, Result<Term, Denial>),
    /// Of [`Call::Grant`].
    Granted(Arc<str>, Result<Box<Grant>, Denial>),
    /// Of [`Call::SubRefresh`].
    SubRefreshed(Option<u32>, Arc<str>, Result<Term, Denial>),
    /// Of [`Call::Publish`]; with whether it was free.
    Published(u32, bool, Result<(), Denial>),
    /// Of [`Call::Subscribe`].
    Subscribed(Arc<str>, Result<Option<Page>, BrokerError>),
    /// Of [`Call::History`].
    History(u32, Option<Since>, Result<Page, BrokerError>),
    /// Of [`Call::Presence`].
    Presence(u32, Result<Members, BrokerError>),
    /// Of [`Call::PresenceStats`].
    PresenceStats(u32, Result<MemberCounts, BrokerError>),
    /// Of [`Call::Rpc`].
    Rpc(u32, Result<Bytes, Denial>),
}

/// The client is let in.
#[derive(Debug)]
pub struct Admitted {
    /// On these terms.
    pub admission: Admission,
    /// What all connections of its user here may send together; `None`: as much as they like.
    pub user_bucket: Option<Arc<Mutex<Bucket>>>,
}

/// What the operator's back end wants from a connection.
#[derive(Debug, Clone)]
pub enum Order {
    /// Subscribe it.
    Subscribe {
        /// Channel.
        channel: String,
        /// On these terms.
        grant: Grant,
        /// Continue from this offset and epoch.
        since: Option<(u64, String)>,
    },
    /// Unsubscribe it.
    Unsubscribe {
        /// Channel; empty: all.
        channel: String,
        /// Number of the reason.
        code: u32,
        /// Short text.
        reason: Cow<'static, str>,
    },
    /// Close it.
    Disconnect {
        /// Close code.
        code: u16,
        /// Close reason.
        reason: Cow<'static, str>,
    },
    /// It ends at another time, and its user is shown differently.
    Refresh {
        /// When it ends.
        term: Term,
        /// `conn_info` from now on, if it changes.
        info: Option<Bytes>,
    },
    /// Send it a message.
    Message(Bytes),
    /// Commands that the client sent by another way than the connection itself.
    Input(Bytes),
}

/// What the edge counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A command was taken.
    Command(&'static str),
    /// A command was answered with this error.
    Error(u32),
    /// A command was refused because there were too many; of the connection or of its user.
    Limited(&'static str),
    /// A subscription asked to continue, and whether it did.
    Recovery(bool),
    /// A subscription ended because something may have been missed.
    InsufficientState,
}

/// The connection is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Close code.
    pub code: u16,
    /// Close reason.
    pub reason: Cow<'static, str>,
}

impl From<Disconnect> for Close {
    fn from(disconnect: Disconnect) -> Self {
        Self { code: disconnect.code, reason: disconnect.reason.into() }
    }
}

/// What is to be done now.
#[derive(Debug)]
pub struct Output {
    protocol: Protocol,
    /// Frames for the client, in order.
    pub frames: Vec<Frame>,
    /// Ping it in the transport's own way.
    pub ping: bool,
    /// Calls, to be started in order.
    pub calls: Vec<Call>,
    /// Figures.
    pub notes: Vec<Note>,
    /// Close the connection after the frames.
    pub close: Option<Close>,
}

impl Output {
    /// Nothing yet, for a client that speaks `protocol`.
    pub fn new(protocol: Protocol) -> Self {
        let (frames, calls, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { protocol, frames, ping: false, calls, notes, close: None }
    }

    pub(super) fn send(&mut self, reply: &Reply) {
        match self.protocol.encode(reply) {
            Ok(frame) => self.frames.push(frame),
            Err(_) => self.close(Disconnect::INAPPROPRIATE_PROTOCOL),
        }
    }

    pub(super) fn error(&mut self, id: u32, denial: impl Into<Denial>) {
        match denial.into() {
            Denial::Error { code, message, temporary } => {
                self.notes.push(Note::Error(code));
                let error = reply::Error { code, message: message.into_owned(), temporary };
                self.send(&Reply { id, error: Some(error), ..Reply::default() });
            }
            Denial::Close { code, reason } => self.close(Close { code, reason }),
        }
    }

    pub(super) fn close(&mut self, close: impl Into<Close>) {
        self.close.get_or_insert_with(|| close.into());
    }
}
