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
    /// Nobody is known to ask.
    pub const UNAUTHORIZED: Self = Self::lasting(101, "unauthorized");
    /// The channel's namespace is not configured.
    pub const UNKNOWN_CHANNEL: Self = Self::lasting(102, "unknown channel");
    /// The rules of the channel do not allow it.
    pub const PERMISSION_DENIED: Self = Self::lasting(103, "permission denied");
    /// There is no such procedure.
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
    /// What it is for ended before it began.
    pub const EXPIRED: Self = Self::lasting(110, "expired");
    /// More than the limits allow.
    pub const TOO_MANY_REQUESTS: Self =
        Self { code: 111, message: "too many requests", temporary: true };
    /// The position asked for cannot be continued.
    pub const UNRECOVERABLE_POSITION: Self = Self::lasting(112, "unrecoverable position");
    /// What is paged through is being changed by somebody else.
    pub const CONCURRENT_PAGINATION: Self =
        Self { code: 113, message: "concurrent pagination", temporary: true };
    /// Every error of the protocol, so that its metric shows all series from the start.
    pub const ALL: [Self; 14] = [
        Self::INTERNAL,
        Self::UNAUTHORIZED,
        Self::UNKNOWN_CHANNEL,
        Self::PERMISSION_DENIED,
        Self::METHOD_NOT_FOUND,
        Self::ALREADY_SUBSCRIBED,
        Self::LIMIT_EXCEEDED,
        Self::BAD_REQUEST,
        Self::NOT_AVAILABLE,
        Self::TOKEN_EXPIRED,
        Self::EXPIRED,
        Self::TOO_MANY_REQUESTS,
        Self::UNRECOVERABLE_POSITION,
        Self::CONCURRENT_PAGINATION,
    ];
}

/// A reason to end one subscription, pushed to the client. Below 2500 the subscription ends, from there on the SDK subscribes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubscribeCode {
    /// Number on the wire.
    pub code: u32,
    /// Short text on the wire.
    pub reason: &'static str,
}

impl UnsubscribeCode {
    /// The server ends it.
    pub const SERVER: Self = Self { code: 2000, reason: "server unsubscribe" };
    /// The subscription's token ran out and was not refreshed.
    pub const EXPIRED: Self = Self { code: 2501, reason: "subscription expired" };
    /// What the client holds of the channel is no longer valid.
    pub const STATE_INVALIDATED: Self = Self { code: 2502, reason: "state invalidated" };
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
    /// The token of a server-side subscription ran out and was not refreshed.
    pub const SUBSCRIPTION_EXPIRED: Self = Self::new(3006, "subscription expired");
    /// The client reads slower than it is sent to.
    pub const SLOW: Self = Self::new(3008, "slow");
    /// The socket did not take a write in time.
    pub const WRITE_ERROR: Self = Self::new(3009, "write error");
    /// Something may have been missed on a server-side subscription.
    pub const INSUFFICIENT_STATE: Self = Self::new(3010, "insufficient state");
    /// An operator wants the client to connect anew.
    pub const FORCE_RECONNECT: Self = Self::new(3011, "force reconnect");
    /// A ping was not answered in time.
    pub const NO_PONG: Self = Self::new(3012, "no pong");
    /// Far more commands than the limits allow.
    pub const TOO_MANY_REQUESTS: Self = Self::new(3013, "too many requests");
    /// What the client holds is no longer valid: the SDK drops token and positions.
    pub const STATE_INVALIDATED: Self = Self::new(3014, "state invalidated");
    /// The token is not one of ours.
    pub const INVALID_TOKEN: Self = Self::new(3500, "invalid token");
    /// The client broke the protocol.
    pub const BAD_REQUEST: Self = Self::new(3501, "bad request");
    /// No connect command arrived in time.
    pub const STALE: Self = Self::new(3502, "stale");
    /// An operator wants the client to go.
    pub const FORCE: Self = Self::new(3503, "force disconnect");
    /// The user has all the connections it may have.
    pub const CONNECTION_LIMIT: Self = Self::new(3504, "connection limit");
    /// The token names more channels than a connection may have.
    pub const CHANNEL_LIMIT: Self = Self::new(3505, "channel limit");
    /// A payload cannot be said in the client's form of the protocol.
    pub const INAPPROPRIATE_PROTOCOL: Self = Self::new(3506, "inappropriate protocol");
    /// Anonymous users are not let in.
    pub const PERMISSION_DENIED: Self = Self::new(3507, "permission denied");
    /// Messages without reply have no handler here.
    pub const NOT_AVAILABLE: Self = Self::new(3508, "not available");
    /// The client makes one error after the other.
    pub const TOO_MANY_ERRORS: Self = Self::new(3509, "too many errors");
    /// WebSocket's own code for a message over the limit.
    pub const MESSAGE_TOO_BIG: Self = Self::new(1009, "message size limit");

    /// Every code of the protocol, so that its metric shows all series from the start.
    pub const ALL: [Self; 23] = [
        Self::CONNECTION_CLOSED,
        Self::SHUTDOWN,
        Self::SERVER_ERROR,
        Self::EXPIRED,
        Self::SUBSCRIPTION_EXPIRED,
        Self::SLOW,
        Self::WRITE_ERROR,
        Self::INSUFFICIENT_STATE,
        Self::FORCE_RECONNECT,
        Self::NO_PONG,
        Self::TOO_MANY_REQUESTS,
        Self::STATE_INVALIDATED,
        Self::INVALID_TOKEN,
        Self::BAD_REQUEST,
        Self::STALE,
        Self::FORCE,
        Self::CONNECTION_LIMIT,
        Self::CHANNEL_LIMIT,
        Self::INAPPROPRIATE_PROTOCOL,
        Self::PERMISSION_DENIED,
        Self::NOT_AVAILABLE,
        Self::TOO_MANY_ERRORS,
        Self::MESSAGE_TOO_BIG,
    ];
}
