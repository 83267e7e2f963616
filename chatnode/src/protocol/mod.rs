//! The Centrifuge client protocol: codes, commands in, replies out, in both its forms. Pure; no socket, no clock.
//!
//! [`command`] and [`reply`] hold one set of types that read and write JSON and protobuf alike; [`Protocol`] is the only place that
//! knows which of the two a connection speaks. The session works on the types, so it is the same for both.

mod codes;
pub mod command;
pub mod delta;
pub mod filter;
mod frame;
pub mod raw;
pub mod reply;

use bytes::Bytes;
use prost::Message as _;

pub use codes::{Disconnect, ErrorCode, UnsubscribeCode};
use command::{Command, Malformed};
pub use frame::Frame;
use frame::HEADER_MAX;
use reply::Reply;

/// The form a connection speaks, for all its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Documents parted by line breaks, in text frames.
    Json,
    /// Messages after their length, in binary frames.
    Protobuf,
}

/// A payload that is no JSON cannot be said to a JSON client.
#[derive(Debug, thiserror::Error)]
#[error("a payload cannot be said in JSON")]
pub struct Inexpressible(#[source] serde_json::Error);

impl Protocol {
    /// `json` or `protobuf`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Protobuf => "protobuf",
        }
    }

    /// The commands of a frame, up to the first fault.
    pub fn decode(self, frame: Bytes) -> Vec<Result<Command, Malformed>> {
        match self {
            Self::Json => command::json(&frame).collect(),
            Self::Protobuf => command::protobuf(frame).collect(),
        }
    }

    /// A finished frame of one document.
    ///
    /// # Errors
    /// A payload is not JSON and the form is.
    pub fn encode(self, reply: &Reply) -> Result<Frame, Inexpressible> {
        match self {
            Self::Json => {
                let mut buffer = Vec::with_capacity(HEADER_MAX + 192);
                buffer.resize(HEADER_MAX, 0);
                serde_json::to_writer(&mut buffer, reply).map_err(Inexpressible)?;
                Ok(Frame::finish(buffer, false))
            }
            Self::Protobuf => {
                let mut buffer = vec![0; HEADER_MAX];
                buffer.extend_from_slice(&reply.encode_length_delimited_to_vec());
                Ok(Frame::finish(buffer, true))
            }
        }
    }
}

#[cfg(test)]
mod tests;
