//! Who may connect and how much a client may ask for: lists of networks, limits per client and per token, bans.
//!
//! A listener has a `Protection`, asked at two moments: when a connection's client is known (at the accept, or after the PROXY header, in
//! both cases before TLS), and for each HTTP request. The answers come from this process alone and at once; what several balancers
//! are to share is told to Redis afterwards (`shared`). Everything remembered lies in tables of bounded size.
//!
//! - [`rate`]: how many events in a time (pure).
//! - [`networks`]: lists of networks (pure).
//! - `table`: what is remembered of clients (pure).
//! - `bans`: clients that have misbehaved.
//! - `protection`: all of it, for one listener.
//! - `shared`: what several balancers keep together.

pub(crate) mod bans;
pub mod networks;
pub(crate) mod protection;
pub mod rate;
pub(crate) mod shared;
pub(crate) mod table;

use std::net::IpAddr;
use std::num::NonZeroU32;

pub use bans::BanRules;
pub(crate) use bans::{Bans, Offence};
pub(crate) use protection::{Limits, Place, Protection};

use crate::message::choice::Key;
use networks::Networks;
use rate::Rate;

/// The limits of one listener.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRules {
    /// Whether what would be turned away is only counted.
    pub observe: bool,
    /// If given, nobody else is served.
    pub allow: Option<Networks>,
    /// Not served.
    pub deny: Networks,
    /// Bound by none of the limits below, and never banned.
    pub exempt: Networks,
    /// Bits of an IPv6 address that make a client.
    pub ipv6_prefix: u8,
    /// Clients remembered, and tokens.
    pub clients_max: usize,
    /// Connections of a client at a time.
    pub connections: Option<NonZeroU32>,
    /// New connections of a client.
    pub connection_rate: Option<Rate>,
    /// Requests of a client.
    pub request_rate: Option<Rate>,
    /// Requests under one token.
    pub token: Option<TokenRules>,
    /// Whether several balancers keep the limits of requests together.
    pub shared: bool,
}

impl LimitRules {
    /// Whether the lists keep `client` out.
    fn denies(&self, client: IpAddr) -> bool {
        self.deny.contains(client)
            || self.allow.as_ref().is_some_and(|allow| !allow.contains(client))
    }
}

/// A limit of requests by something they carry.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRules {
    /// Where it stands.
    pub key: Key,
    /// Requests of each.
    pub rate: Rate,
}
