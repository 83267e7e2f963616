//! The numbers of the protocol: error replies, unsubscribe pushes, close codes.
//!
//! Each number decides what an SDK does next. An error below 100, `109` or a temporary one is tried again, any other ends the call or
//! the subscription. An unsubscribe code from 2500 on makes the SDK subscribe again. A close code of 3500..=3999 ends the client for
//! good, anything else makes it reconnect.

/// An error reply: the command failed, the connection lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// Number on the wire.
    pub code: u32,
    /// Short text on the wire.
    pub message: &'static str,
    /// Whether trying again may help.
    pub temporary: bool,
}

impl ErrorCode {
    const fn lasting(code: u32, message: &'static str) -> Self {
        Self { code, message, temporary: false }
    }

    /// Our side failed; for a publish its outcome is unknown.
    pub const INTERNAL: Self =
        Self { code: 100, message: "internal server error", temporary: true };
    /// The channel's namespace is not configured.
    pub const UNKNOWN_CHANNEL: Self = Self::lasting(102, "unknown channel");
    /// The rules of the channel do not allow it.
    pub const PERMISSION_DENIED: Self = Self::lasting(103, "permission denied");
    /// There is no such procedure or API method.
    pub const METHOD_NOT_FOUND: Self = Self::lasting(104, "method not found");
    /// The connection is subscribed to this channel already.
    pub const ALREADY_SUBSCRIBED: Self = Self::lasting(105, "already subscribed");
    /// Too many channels on one connection.
    pub const LIMIT_EXCEEDED: Self = Self::lasting(106, "limit exceeded");
    /// The request cannot be right.
    pub const BAD_REQUEST: Self = Self::lasting(107, "bad request");
    /// The channel, or this node, does not offer it.
    pub const NOT_AVAILABLE: Self = Self::lasting(108, "not available");
    /// The SDK must fetch a new token.
    pub const TOKEN_EXPIRED: Self = Self::lasting(109, "token expired");
    /// What was asked for has ended.
    pub const EXPIRED: Self = Self::lasting(110, "expired");
    /// The position asked for cannot be continued.
    pub const UNRECOVERABLE_POSITION: Self = Self::lasting(112, "unrecoverable position");
    /// Every error this node sends, so that its metric shows all series from the start.
    pub const ALL: [Self; 11] = [
        Self::INTERNAL,
        Self::UNKNOWN_CHANNEL,
        Self::PERMISSION_DENIED,
        Self::METHOD_NOT_FOUND,
        Self::ALREADY_SUBSCRIBED,
        Self::LIMIT_EXCEEDED,
        Self::BAD_REQUEST,
        Self::NOT_AVAILABLE,
        Self::TOKEN_EXPIRED,
        Self::EXPIRED,
        Self::UNRECOVERABLE_POSITION,
    ];
}

/// A reason to end one subscription, pushed to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubscribeCode {
    /// Number on the wire.
    pub code: u32,
    /// Short text on the wire.
    pub reason: &'static str,
}

impl UnsubscribeCode {
    /// Something may have been missed: the SDK subscribes again and recovers.
    pub const INSUFFICIENT_STATE: Self = Self { code: 2500, reason: "insufficient state" };
}

/// A reason to close the connection, sent as WebSocket close code and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// Close code.
    pub code: u16,
    /// Close reason; plain text, since an SDK would parse JSON here.
    pub reason: &'static str,
}

impl Disconnect {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    /// The client closed, or its connection broke; never sent.
    pub const CONNECTION_CLOSED: Self = Self::new(3000, "connection closed");
    /// The node is drained.
    pub const SHUTDOWN: Self = Self::new(3001, "shutdown");
    /// Our side failed in a way the connection cannot survive.
    pub const SERVER_ERROR: Self = Self::new(3004, "internal server error");
    /// The connection's token ran out and was not refreshed.
    pub const EXPIRED: Self = Self::new(3005, "connection expired");
    /// The client reads slower than it is sent to.
    pub const SLOW: Self = Self::new(3008, "slow");
    /// The socket did not take a write in time.
    pub const WRITE_ERROR: Self = Self::new(3009, "write error");
    /// Something may have been missed on a server-side subscription.
    pub const INSUFFICIENT_STATE: Self = Self::new(3010, "insufficient state");
    /// A ping was not answered in time.
    pub const NO_PONG: Self = Self::new(3012, "no pong");
    /// The token is not one of ours.
    pub const INVALID_TOKEN: Self = Self::new(3500, "invalid token");
    /// The client broke the protocol.
    pub const BAD_REQUEST: Self = Self::new(3501, "bad request");
    /// No connect command arrived in time.
    pub const STALE: Self = Self::new(3502, "stale");
    /// Anonymous users are not let in.
    pub const PERMISSION_DENIED: Self = Self::new(3507, "permission denied");
    /// Messages without reply have no handler here.
    pub const NOT_AVAILABLE: Self = Self::new(3508, "not available");
    /// WebSocket's own code for a message over the limit.
    pub const MESSAGE_TOO_BIG: Self = Self::new(1009, "message size limit");

    /// Every code this node counts, so that its metric shows all series from the start.
    pub const ALL: [Self; 14] = [
        Self::CONNECTION_CLOSED,
        Self::SHUTDOWN,
        Self::SERVER_ERROR,
        Self::EXPIRED,
        Self::SLOW,
        Self::WRITE_ERROR,
        Self::INSUFFICIENT_STATE,
        Self::NO_PONG,
        Self::INVALID_TOKEN,
        Self::BAD_REQUEST,
        Self::STALE,
        Self::PERMISSION_DENIED,
        Self::NOT_AVAILABLE,
        Self::MESSAGE_TOO_BIG,
    ];
}
