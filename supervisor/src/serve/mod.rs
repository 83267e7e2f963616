//! Serve: what the supervisor answers over HTTP and to Redis clients.

pub mod http;
pub mod sentinel;
pub mod tls;
