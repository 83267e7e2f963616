//! Redis replication, spoken from both ends.
//!
//! A Redis server hands its data to anyone who asks the way a replica does. This crate asks that way, to take a backup or to read the
//! commands a server has and others have not, and it answers that way, to restore a backup into a server that believes it follows a
//! primary. Rejected: `redis-cli --rdb` (no offsets, no progress, a second program) and copying `dump.rdb` from the disk (its age is
//! unknown, and a server with `appendonly yes` ignores one that is put back).
//!
//! - [`Connection`], [`Endpoint`]: a RESP2 connection with time-outs on every step, for the few plain commands around replication.
//! - [`Tls`]: how such a connection is encrypted.
//! - [`Snapshot`]: `PSYNC ? -1`, then the RDB payload in chunks.
//! - [`CommandStream`]: the commands after a snapshot or after an offset, each with the offset at which it ends.
//! - [`serve_snapshot`]: one RDB payload, offered as a primary to one server.
//! - [`rdb::inspect`]: is this byte stream a whole RDB file, and what is in it?
//! - [`resp`]: the bytes of commands and replies, for whoever keeps a connection of another shape.
//! - [`Crc64`]: the checksum at its end.
//!
//! Memory is bounded by one read buffer per connection and by [`SyncOptions::command_bytes_max`] for a single command.

mod commands;
mod connection;
mod crc64;
pub mod rdb;
pub mod resp;
mod server;
mod snapshot;
mod tls;

pub use commands::{Command, CommandStream, Resumed};
pub use connection::{Address, Connection, Credentials, Endpoint, Error};
pub use crc64::Crc64;
pub use resp::Reply;
pub use server::{Offer, ServeError, Served, serve_snapshot};
pub use snapshot::{Snapshot, SyncOptions};
pub use tls::Tls;
