//! How members of the group talk: requests and replies, one after the other, over TLS connections that stay open.
//!
//! Both ends prove who they are before the first request. With a certificate authority of the operator's, TLS does it. With a shared
//! secret, both use certificates made up at the start, and each proves the secret over a value that only the two ends of this very
//! TLS session know (RFC 9266's channel binding); so the secret never travels, and whoever sits in between has two sessions and no proof
//! for either. There is no plain mode. Messages are JSON behind a length, bounded in size and time. Rejected: HTTP with a bearer token
//! (the token would be worth as much to whoever sees it as the secret), and one multiplexed connection per member (one slow snapshot would
//! stand before every heartbeat).

mod client;
mod server;
mod tls;
mod wire;

use std::io;
use std::time::Duration;

use crate::cluster::Address;

pub(super) use client::{Peers, Target};
pub(super) use server::{Handler, serve};
pub use tls::{Credentials, CredentialsError, TlsFiles};
pub(super) use wire::{MemberFacts, Reply, Request, StatusReply};

/// A connection with its handshakes must stand within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a request to another member has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection.
    #[error("connect to {address}")]
    Connect {
        /// The member.
        address: Address,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("talk to {address}")]
    Talk {
        /// The member.
        address: Address,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} did not answer within {} ms", limit.as_millis())]
    Late {
        /// The member.
        address: Address,
        /// The limit.
        limit: Duration,
    },
    /// It does not accept us, or we do not accept it.
    #[error("{address}: {why}")]
    Refused {
        /// The member.
        address: Address,
        /// In its words, or ours.
        why: String,
    },
}

impl TransportError {
    /// Whether the host itself said that nobody listens there, which a broken path cannot feign.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}
