//! The data path: what happens between a client's connection and a server's.
//!
//! - [`listener`]: a bound address and its settings.
//! - [`worker`]: the threads that serve, and how connections are spread over them.
//! - [`session`]: one client connection: phase, timeouts, stop.
//! - [`http`] → [`headers`] → [`forward`] → [`upstream`], with [`body`]: a request on its way and its response back.
//! - [`tcp`]: a connection on its way.
//! - [`relay`], [`buffers`]: bytes both ways after that.

mod body;
mod buffers;
mod forward;
mod headers;
mod http;
pub(crate) mod listener;
mod relay;
mod session;
mod tcp;
mod upstream;
pub(crate) mod worker;
