//! The chat node: serves chat clients over the Centrifuge protocol, with streams, presence and fan-out in Redis.
//!
//! In the order a message goes through:
//! - [`server`]: HTTP and `WebSocket`s; one task for each client.
//! - [`protocol`]: what is on the wire. Pure.
//! - [`session`]: one client connection as a state machine. Pure.
//! - [`access`]: who may do what, from [`tokens`] and [`namespaces`].
//! - [`broker`]: where publications are kept and how they reach the other nodes.
//! - [`stream`]: positions, and when one may be continued. Pure.
//! - [`hub`], [`mailbox`], [`connections`]: which connections on this node get an event, how it reaches them, and how many there are.
//! - [`watch`], [`probe`]: that nothing was missed, and that Redis does what it seems to do.
//! - [`drain`]: leaving without a storm.
//! - [`config`], [`metrics`]: settings and figures.

pub mod access;
pub mod api;
pub mod broker;
pub mod config;
pub mod connections;
pub mod drain;
pub mod hub;
pub mod mailbox;
pub mod metrics;
pub mod model;
pub mod namespaces;
pub mod probe;
pub mod protocol;
pub mod proxy;
pub mod reload;
mod run;
pub mod server;
pub mod session;
pub mod stream;
pub mod tokens;
pub mod watch;

pub use run::{Listeners, RunError, run};
