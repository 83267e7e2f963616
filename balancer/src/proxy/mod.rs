//! The data path: what happens between a client's connection and a server's.
//!
//! - [`listener`]: a bound address and its settings.
//! - [`accept`]: new connections; [`worker`]: the threads that serve, and how connections are spread over them.
//! - [`session`]: one client connection: phase, timeouts, stop; [`registry`]: all of a worker's, listed and told to leave.
//! - [`welcome`]: PROXY header and TLS handshake, where a listener wants them; [`stream`] hides the difference from there on.
//! - [`http`] → [`forward`] → [`reach`] → [`upstream`], with [`faulty`] and [`transfer`]: a request on its way and its response back; [`crate::message`] says what
//!   the bytes mean.
//! - [`h2`]: HTTP/2, of which each stream is served by [`http`] like a connection.
//! - [`tcp`]: a connection on its way.
//! - [`relay`], [`buffers`]: bytes both ways after that.

mod accept;
mod buffers;
mod faulty;
pub(crate) mod forward;
mod h2;
mod http;
pub(crate) mod listener;
mod reach;
pub(crate) mod registry;
mod relay;
pub(crate) mod session;
mod stream;
mod tcp;
mod transfer;
pub(crate) mod upstream;
mod welcome;
pub(crate) mod worker;
