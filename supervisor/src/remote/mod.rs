//! Other servers that speak Prometheus' protocols: as a long-term store that samples are sent to, and as the one that rules and queries
//! are answered by.
//!
//! - [`client`]: how a server is reached.
//! - [`prometheus`]: a remote Prometheus in place of the embedded store. `facts`: what it says about the chat nodes.
//! - `collect` → `spool` → [`send`]: remote write out. The store's samples become request bodies on disk, and each destination takes
//!   them from there at its own pace.
//! - `wire`: the messages of remote write, both ways.
//! - `read`: remote read, as the side that is asked.

pub mod client;
pub(crate) mod collect;
pub(crate) mod facts;
pub(crate) mod metrics;
pub mod prometheus;
pub(crate) mod read;
pub mod send;
pub(crate) mod spool;
pub(crate) mod wire;
