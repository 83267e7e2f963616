//! The gate: who may connect, subscribe, publish and call, and on what terms.
//!
//! A session decides what the protocol decides (states, limits, order) and asks the [`Gate`] for everything that depends on a token, on
//! the operator's rules or on somebody's back end. The gate answers with *terms*: the options a subscription lives by with the
//! overrides of its token already applied, who is shown to others, and when it ends. So the session never sees a token's claims, and a
//! new way to let clients in changes nothing there.

mod doorkeeper;
mod revocations;
mod setup;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use doorkeeper::{Doorkeeper, Rules};
pub(crate) use doorkeeper::{grant, unix_seconds};
pub use revocations::{REVOKED_FOR, Revocation, Revocations};
pub use setup::{Entrance, SetupError, Surroundings, start};

use crate::namespaces::Options;
use crate::protocol::{Disconnect, ErrorCode};

/// An answer to come. Ready at once unless a back end, Redis or a key server has to be asked.
pub type Decision<T> = BoxFuture<'static, Result<T, Denial>>;

/// Why something is not to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// An error reply; the connection lives on.
    Error {
        /// Number on the wire.
        code: u32,
        /// Short text on the wire.
        message: Cow<'static, str>,
        /// Whether trying again may help.
        temporary: bool,
    },
    /// The connection is closed.
    Close {
        /// Close code.
        code: u16,
        /// Close reason.
        reason: Cow<'static, str>,
    },
}

impl From<ErrorCode> for Denial {
    fn from(error: ErrorCode) -> Self {
        let ErrorCode { code, message, temporary } = error;
        Self::Error { code, message: message.into(), temporary }
    }
}

impl From<Disconnect> for Denial {
    fn from(disconnect: Disconnect) -> Self {
        Self::Close { code: disconnect.code, reason: disconnect.reason.into() }
    }
}

/// How a client reaches the node.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Unique id of the connection.
    pub client: Box<str>,
    /// `websocket`, `http_stream` or `sse`.
    pub transport: &'static str,
    /// `json` or `protobuf`.
    pub encoding: &'static str,
    /// Headers of the request that opened the connection which a back end may be shown; names in lower case. Empty without back ends.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

/// Whose connection it is.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// How it came.
    pub origin: Origin,
    /// User id; empty: anonymous.
    pub user: Box<str>,
    /// JSON for back ends, never shown to clients.
    pub meta: Option<Bytes>,
    /// Id of the token it came with (`jti`), for revocation.
    pub token_id: Option<Box<str>>,
    /// When that token was issued, in seconds since 1970.
    pub issued_at: Option<u64>,
    /// No rules hold for it: the node runs in insecure mode.
    pub insecure: bool,
}

/// A client wants to connect.
#[derive(Debug, Default)]
pub struct ConnectAsk {
    /// How it came.
    pub origin: Origin,
    /// Its token; may be empty.
    pub token: String,
    /// Data for a back end: a JSON document, or whatever a protobuf client sent.
    pub data: Option<Bytes>,
    /// What kind of client it says it is.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The client is let in.
#[derive(Debug)]
pub struct Admission {
    /// Whose connection it is from now on.
    pub who: Arc<Who>,
    /// JSON shown to others as `conn_info`.
    pub info: Option<Bytes>,
    /// Data for the connect reply.
    pub data: Option<Bytes>,
    /// When it ends unless refreshed.
    pub term: Term,
    /// Server-side subscriptions.
    pub subscriptions: Vec<(String, Grant)>,
}

/// Until when something holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Term {
    /// In seconds since 1970; `None`: for ever.
    pub ends_at: Option<u64>,
    /// The node asks the gate again when it ends, without a token; the client is not told of an end.
    pub by_server: bool,
}

/// A client wants to subscribe.
#[derive(Debug, Default)]
pub struct SubscribeAsk {
    /// Channel; its namespace exists.
    pub channel: String,
    /// Subscription token; may be empty.
    pub token: String,
    /// Data for a back end.
    pub data: Option<Bytes>,
}

/// Terms of a subscription.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// The rules it lives by.
    pub options: Arc<Options>,
    /// JSON shown to others as `chan_info`.
    pub info: Option<Bytes>,
    /// Data for the subscribe reply.
    pub data: Option<Bytes>,
    /// When it ends unless refreshed.
    pub term: Term,
}

/// A client wants to publish.
#[derive(Debug)]
pub struct PublishAsk {
    /// Channel; its namespace exists.
    pub channel: String,
    /// Payload.
    pub data: Bytes,
    /// Whether the connection is subscribed to the channel.
    pub subscribed: bool,
}

/// A publication is accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The rules it is kept by.
    pub options: Arc<Options>,
    /// Payload, which a back end may have changed.
    pub data: Bytes,
    /// Not to be kept.
    pub skip_history: bool,
}

/// Decides. A decision that waits for somebody gives up by itself in time; dropping it before loses nothing.
pub trait Gate: Send + Sync + 'static {
    /// Whether the client may connect.
    fn connect(&self, ask: ConnectAsk) -> Decision<Admission>;
    /// Until when the connection lives with this token; empty where the node asks by itself ([`Term::by_server`]).
    fn refresh(&self, who: &Arc<Who>, token: String) -> Decision<Term>;
    /// Whether the client may subscribe.
    fn subscribe(&self, who: &Arc<Who>, ask: SubscribeAsk) -> Decision<Grant>;
    /// Until when the subscription lives with this token; empty where the node asks by itself.
    fn sub_refresh(&self, who: &Arc<Who>, channel: String, token: String) -> Decision<Term>;
    /// Whether the client may publish.
    fn publish(&self, who: &Arc<Who>, ask: PublishAsk) -> Decision<Accepted>;
    /// Calls a procedure; the answer is JSON.
    fn rpc(&self, who: &Arc<Who>, method: String, data: Option<Bytes>) -> Decision<Bytes>;
}
