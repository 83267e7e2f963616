//! Closed sets of label values: what may stand in `reason` and `cause`.

use serde::{Deserialize, Serialize};

/// A fieldless enum whose values are label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            pub(super) const TEXTS: &[&str] = &[$($text),+];

            /// As in the metric's label and in logs.
            pub fn as_str(self) -> &'static str {
                Self::TEXTS[self as usize]
            }
        }
    };
}

labels! {
    /// Why a client was turned away before any server was asked.
    Rejection {
        /// The listener has as many connections as it may.
        ConnectionLimit = "connection_limit",
        /// Not HTTP, or ambiguous HTTP.
        BadRequest = "bad_request",
        /// The head of a request did not arrive in time.
        HeaderTimeout = "header_timeout",
        /// A method that is not forwarded.
        Method = "method",
        /// An HTTP/2 connection that broke its rules, or flooded us.
        Http2 = "http2",
        /// No TLS, or none we could agree on.
        TlsHandshake = "tls_handshake",
        /// No PROXY header where there has to be one, or from a peer that has no say.
        ProxyHeader = "proxy_header",
        /// Its address is on the `deny` list, or not on the `allow` list.
        Denied = "denied",
        /// It is banned.
        Banned = "banned",
        /// It has as many connections as one client may.
        ClientConnections = "client_connections",
        /// It connects more often than one client may.
        ConnectionRate = "connection_rate",
        /// It asks more often than one client may.
        RequestRate = "request_rate",
        /// More is asked under its token than may be.
        TokenRate = "token_rate",
        /// Its limits are shared, and what they are shared by cannot be reached.
        LimitsUnavailable = "limits_unavailable",
        /// The body of its request is longer than allowed.
        BodyTooLong = "body_too_long",
    }
}

impl Rejection {
    /// Those that limits and bans are the reason for.
    pub(super) const BY_LIMITS: &[Self] = &[
        Self::Denied,
        Self::Banned,
        Self::ClientConnections,
        Self::ConnectionRate,
        Self::RequestRate,
        Self::TokenRate,
        Self::LimitsUnavailable,
    ];
}

labels! {
    /// What counts towards a ban.
    Offence {
        /// Connections beyond a limit.
        ConnectionFlood = "connection_flood",
        /// No TLS or PROXY header where there has to be one.
        BadHandshake = "bad_handshake",
        /// Not HTTP, or ambiguous HTTP.
        BadRequest = "bad_request",
        /// A head that did not arrive in time.
        HeaderTimeout = "header_timeout",
        /// None: an operator wanted it.
        Operator = "operator",
    }
}

labels! {
    /// Why a request or connection could not be served by the pool.
    PoolError {
        /// No server may take it.
        NoServer = "no_server",
        /// No server could be connected to.
        Connect = "connect",
        /// Every usable server has as many connections as it may, and no more clients may wait.
        QueueFull = "queue_full",
        /// None of them had room in time.
        QueueTimeout = "queue_timeout",
        /// A server took the request and closed without a response.
        NoResponse = "no_response",
        /// A server did not respond in time.
        Timeout = "timeout",
    }
}

labels! {
    /// What became of two connections of which one was needed.
    Hedge {
        /// The first was made after all, the second closed.
        First = "first",
        /// The second was made before the first, which was closed.
        Second = "second",
        /// Neither could be made.
        Neither = "neither",
    }
}

labels! {
    /// Why a connection ended.
    Close {
        /// The client closed it.
        Client = "client",
        /// The server closed it.
        Server = "server",
        /// It broke.
        Error = "error",
        /// It rested or stalled for longer than `idle_timeout`, or its head for longer than `header_timeout`.
        Timeout = "timeout",
        /// It sent or took less than `min_client_rate` while it was waited for.
        SlowClient = "slow_client",
        /// It sent a frame longer than `max_frame_bytes`.
        FrameTooLong = "frame_too_long",
        /// Its server gave no sign of life.
        ServerSilent = "server_silent",
        /// Its server was removed by force.
        ServerRemoved = "server_removed",
        /// The balancer ended and the drain period was over.
        Shutdown = "shutdown",
        /// Its server was drained at a set pace.
        Drained = "drained",
        /// It was older than the pool's connections may be.
        MaxAge = "max_age",
        /// Its server had more than its share, as after another was added.
        Rebalanced = "rebalanced",
        /// An operator closed it.
        Operator = "operator",
    }
}
