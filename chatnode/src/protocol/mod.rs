//! The Centrifuge client protocol, JSON form: codes, commands in, documents out. Pure; no socket, no clock.
//!
//! The protobuf form of the same protocol gets its own decoder and encoder beside [`command`] and [`reply`]; the session knows
//! neither form, it works on [`command::Request`] and on the result types.

mod codes;
pub mod command;
pub mod reply;

pub use codes::{Disconnect, ErrorCode, UnsubscribeCode};
