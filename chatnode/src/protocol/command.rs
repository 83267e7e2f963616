//! What clients send. One set of types for both forms: field numbers for protobuf, field names for JSON.
//!
//! Payloads (`data`) stay as they were sent: they are never interpreted, only handed on. Unknown fields are ignored because SDKs add
//! some over time. Wrong types, bytes that are no UTF-8 where text belongs, and anything after the end of a document are faults.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes};
use prost::Message;
use serde::Deserialize;

use super::filter::FilterNode;
use super::raw;

/// One command: an id and the first request field that is set.
#[derive(Debug, PartialEq)]
pub struct Command {
    /// Chosen by the client, echoed in the reply; 0 for pongs and sends.
    pub id: u32,
    /// `None` for an empty command, which is a pong.
    pub request: Option<Request>,
}

/// What is asked for.
#[derive(Debug, PartialEq)]
pub enum Request {
    /// Authenticate; first command of every connection.
    Connect(Box<Connect>),
    /// Follow a channel.
    Subscribe(Box<Subscribe>),
    /// Stop following a channel.
    Unsubscribe(ChannelOnly),
    /// Send to a channel.
    Publish(Publish),
    /// Who follows a channel.
    Presence(ChannelOnly),
    /// How many follow a channel.
    PresenceStats(ChannelOnly),
    /// What was sent to a channel.
    History(History),
    /// Prolong the connection by a new token.
    Refresh(Refresh),
    /// Prolong a subscription by a new token.
    SubRefresh(SubRefresh),
    /// Call a procedure.
    Rpc(Rpc),
    /// A message without reply.
    Send(SendMessage),
    /// Not part of what servers answer.
    Ping,
}

impl Request {
    /// Every name of [`Self::name`].
    pub const NAMES: [&'static str; 12] = [
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "refresh",
        "sub_refresh",
        "rpc",
        "send",
        "ping",
    ];

    /// The request's name on the wire, also its metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Publish(_) => "publish",
            Self::Presence(_) => "presence",
            Self::PresenceStats(_) => "presence_stats",
            Self::History(_) => "history",
            Self::Refresh(_) => "refresh",
            Self::SubRefresh(_) => "sub_refresh",
            Self::Rpc(_) => "rpc",
            Self::Send(_) => "send",
            Self::Ping => "ping",
        }
    }

    /// The channel it is about, if it is about one.
    pub fn channel(&self) -> Option<&str> {
        match self {
            Self::Subscribe(request) => Some(&request.channel),
            Self::Unsubscribe(request) | Self::Presence(request) | Self::PresenceStats(request) => {
                Some(&request.channel)
            }
            Self::Publish(request) => Some(&request.channel),
            Self::History(request) => Some(&request.channel),
            Self::SubRefresh(request) => Some(&request.channel),
            Self::Connect(_) | Self::Refresh(_) | Self::Rpc(_) | Self::Send(_) | Self::Ping => None,
        }
    }
}

/// Arguments of `connect`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Connect {
    /// Connection token (JWT); empty if there is none.
    #[prost(string, tag = "1")]
    pub token: String,
    /// For a back end.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// Positions of server-side subscriptions to continue.
    #[prost(map = "string, message", tag = "3")]
    pub subs: HashMap<String, Subscribe>,
    /// What kind of client it says it is.
    #[prost(string, tag = "4")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Headers that a browser could not send with the request itself.
    #[prost(map = "string, string", tag = "6")]
    pub headers: HashMap<String, String>,
}

/// Arguments of `subscribe`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own fields")]
pub struct Subscribe {
    /// Channel; empty inside `connect`, where it is the map's key.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Subscription token (JWT); empty if there is none.
    #[prost(string, tag = "2")]
    pub token: String,
    /// Continue from `epoch` and `offset`.
    #[prost(bool, tag = "3")]
    pub recover: bool,
    /// Epoch of the position.
    #[prost(string, tag = "6")]
    pub epoch: String,
    /// Offset of the position.
    #[prost(uint64, tag = "7")]
    pub offset: u64,
    /// For a back end.
    #[prost(bytes = "bytes", tag = "8")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// Ask for gap detection.
    #[prost(bool, tag = "9")]
    pub positioned: bool,
    /// Ask for recovery.
    #[prost(bool, tag = "10")]
    pub recoverable: bool,
    /// Ask for join and leave pushes.
    #[prost(bool, tag = "11")]
    pub join_leave: bool,
    /// Ask for publications as differences: `fossil`.
    #[prost(string, tag = "12")]
    pub delta: String,
    /// Ask for publications with certain tags only.
    #[prost(message, optional, tag = "13")]
    pub tf: Option<FilterNode>,
    /// Bit set, see [`Subscribe::REJECT_UNRECOVERED`].
    #[prost(int64, tag = "14")]
    pub flag: i64,
    /// 0 for a stream, the only kind here.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type")]
    pub kind: i32,
}

impl Subscribe {
    /// `flag`: answer with an error rather than `recovered: false`.
    pub const REJECT_UNRECOVERED: i64 = 2;
}

/// Arguments that name a channel and nothing else.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct ChannelOnly {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
}

/// Arguments of `publish`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Publish {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// The payload; empty is none.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// 0 for a stream, the only kind here.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type")]
    pub kind: i32,
}

/// Arguments of `history`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct History {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// 0: only the position; -1: as much as allowed.
    #[prost(int32, tag = "7")]
    pub limit: i32,
    /// Exclusive start.
    #[prost(message, optional, tag = "8")]
    pub since: Option<Since>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    pub reverse: bool,
}

/// A position in a stream.
#[derive(Clone, PartialEq, Eq, Message, Deserialize)]
#[serde(default)]
pub struct Since {
    /// Offset of the last publication already known.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Epoch it belongs to; empty: any.
    #[prost(string, tag = "2")]
    pub epoch: String,
}

/// Arguments of `refresh`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// New connection token.
    #[prost(string, tag = "1")]
    pub token: String,
}

/// Arguments of `sub_refresh`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct SubRefresh {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// New subscription token.
    #[prost(string, tag = "2")]
    pub token: String,
}

/// Arguments of `rpc`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct Rpc {
    /// Arguments of the procedure.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// Its name.
    #[prost(string, tag = "2")]
    pub method: String,
}

/// Arguments of `send`.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub struct SendMessage {
    /// The message.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "raw")]
    pub data: Bytes,
}

/// A request whose arguments are not read.
#[derive(Clone, PartialEq, Message, Deserialize)]
struct Ignored {}

/// The command as it stands on the wire.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
struct Wire {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, boxed, tag = "4")]
    connect: Option<Box<Connect>>,
    #[prost(message, optional, boxed, tag = "5")]
    subscribe: Option<Box<Subscribe>>,
    #[prost(message, optional, tag = "6")]
    unsubscribe: Option<ChannelOnly>,
    #[prost(message, optional, tag = "7")]
    publish: Option<Publish>,
    #[prost(message, optional, tag = "8")]
    presence: Option<ChannelOnly>,
    #[prost(message, optional, tag = "9")]
    presence_stats: Option<ChannelOnly>,
    #[prost(message, optional, tag = "10")]
    history: Option<History>,
    #[prost(message, optional, tag = "11")]
    ping: Option<Ignored>,
    #[prost(message, optional, tag = "12")]
    send: Option<SendMessage>,
    #[prost(message, optional, tag = "13")]
    rpc: Option<Rpc>,
    #[prost(message, optional, tag = "14")]
    refresh: Option<Refresh>,
    #[prost(message, optional, tag = "15")]
    sub_refresh: Option<SubRefresh>,
}

impl From<Wire> for Command {
    fn from(wire: Wire) -> Self {
        let request = None
            .or_else(|| wire.connect.map(Request::Connect))
            .or_else(|| wire.subscribe.map(Request::Subscribe))
            .or_else(|| wire.unsubscribe.map(Request::Unsubscribe))
            .or_else(|| wire.publish.map(Request::Publish))
            .or_else(|| wire.presence.map(Request::Presence))
            .or_else(|| wire.presence_stats.map(Request::PresenceStats))
            .or_else(|| wire.history.map(Request::History))
            .or_else(|| wire.ping.map(|_| Request::Ping))
            .or_else(|| wire.send.map(Request::Send))
            .or_else(|| wire.rpc.map(Request::Rpc))
            .or_else(|| wire.refresh.map(Request::Refresh))
            .or_else(|| wire.sub_refresh.map(Request::SubRefresh));
        Self { id: wire.id, request }
    }
}

/// A frame that cannot be read: the connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// There is nothing in it.
    #[error("the frame is empty")]
    Empty,
    /// A document is not a command in JSON.
    #[error("a document is not a command in JSON")]
    Json(#[source] serde_json::Error),
    /// A message is not a command in protobuf.
    #[error("a message is not a command in protobuf")]
    Protobuf(#[source] prost::DecodeError),
    /// There is less than the length in front of a message says, or that length is none.
    #[error("a message is cut off")]
    CutOff,
}

/// The commands of a frame in JSON: documents parted by line breaks. After a fault there is nothing more.
pub fn json(frame: &[u8]) -> impl Iterator<Item = Result<Command, Malformed>> {
    let end = frame.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    let mut documents = frame[..end].split(|byte| *byte == b'\n').fuse();
    let mut broken = false;
    std::iter::from_fn(move || {
        let document = documents.next().filter(|_| !broken)?;
        let command = one_json(document);
        broken = command.is_err();
        Some(command)
    })
}

fn one_json(document: &[u8]) -> Result<Command, Malformed> {
    let document = document.trim_ascii();
    if document.is_empty() {
        return Err(Malformed::Empty);
    }
    // serde would read a list as a struct without names, and so take `[]` for a pong.
    if document[0] != b'{' {
        let error = serde::de::Error::custom("a command is a JSON object");
        return Err(Malformed::Json(error));
    }
    serde_json::from_slice::<Wire>(document).map(Command::from).map_err(Malformed::Json)
}

/// The commands of a frame in protobuf: messages, each after its length. After a fault there is nothing more.
pub fn protobuf(frame: Bytes) -> impl Iterator<Item = Result<Command, Malformed>> {
    let mut rest = Some(frame);
    let mut first = true;
    std::iter::from_fn(move || {
        let mut frame = rest.take()?;
        if frame.is_empty() {
            return std::mem::take(&mut first).then_some(Err(Malformed::Empty));
        }
        first = false;
        let command = one_protobuf(&mut frame);
        if command.is_ok() {
            rest = Some(frame);
        }
        Some(command)
    })
}

fn one_protobuf(frame: &mut Bytes) -> Result<Command, Malformed> {
    let length = prost::decode_length_delimiter(&mut *frame).map_err(|_| Malformed::CutOff)?;
    if length > frame.remaining() {
        return Err(Malformed::CutOff);
    }
    let message = frame.split_to(length);
    Wire::decode(message).map(Command::from).map_err(Malformed::Protobuf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(document: &str) -> Result<Command, Malformed> {
        json(document.as_bytes()).next().unwrap()
    }

    #[test]
    fn payloads_stay_as_they_were_sent() {
        let command =
            one(r#"{"id":7,"publish":{"channel":"a","data":{"b": [1, "\n"]},"new":1}}"#).unwrap();
        let Some(Request::Publish(publish)) = command.request else { panic!("{command:?}") };
        assert_eq!((command.id, publish.channel.as_str()), (7, "a"));
        assert_eq!(publish.data, r#"{"b": [1, "\n"]}"#);
    }

    #[test]
    fn every_request_is_known_by_its_name() {
        for name in Request::NAMES {
            let command = one(&format!(r#"{{"id":1,"{name}":{{}}}}"#)).unwrap();
            assert_eq!(command.request.unwrap().name(), name);
        }
    }

    #[test]
    fn an_empty_command_is_a_pong_and_wrong_types_are_refused() {
        assert!(one("{}").unwrap().request.is_none());
        for bad in ["", "[]", "1", "{", r#"{"id":-1}"#, r#"{"id":5000000000}"#, r#"{"publish":1}"#]
        {
            assert!(one(bad).is_err(), "{bad}");
        }
        assert!(json(b"{\"connect\":{\"token\":\"\xff\"}}").next().unwrap().is_err());
    }

    #[test]
    fn frames_are_read_up_to_the_first_fault() {
        let good = |frame: &str| json(frame.as_bytes()).flatten().count();
        assert_eq!(good("{}\n{}\n"), 2);
        assert_eq!(good("{}\r\n{}\r\n"), 2);
        assert_eq!(json(b"{}\n{\n{}").map(|c| c.is_ok()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(json(b"{}\n\n{}").map(|c| c.is_ok()).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn protobuf_says_the_same_as_json() {
        let subscribe = Wire {
            id: 3,
            subscribe: Some(Box::new(Subscribe {
                channel: "a".into(),
                recover: true,
                epoch: "e".into(),
                offset: 300,
                flag: 1,
                ..Subscribe::default()
            })),
            ..Wire::default()
        };
        let mut frame = subscribe.encode_length_delimited_to_vec();
        frame.push(0);
        let commands: Vec<_> = protobuf(frame.into()).map(Result::unwrap).collect();
        let text = br#"{"id":3,"subscribe":{"channel":"a","recover":true,"epoch":"e","offset":300,"flag":1}}
{}"#;
        assert_eq!(commands, json(text).map(Result::unwrap).collect::<Vec<_>>());
    }

    #[test]
    fn protobuf_field_numbers_are_those_of_the_protocol() {
        // id = 1, publish(7) { channel(1) = "a", data(2) = "x" }
        let frame = Bytes::from_static(b"\x0a\x08\x01\x3a\x06\x0a\x01a\x12\x01x");
        let command = protobuf(frame).next().unwrap().unwrap();
        let publish = Publish { channel: "a".into(), data: "x".into(), kind: 0 };
        assert_eq!(command, Command { id: 1, request: Some(Request::Publish(publish)) });
    }

    #[test]
    fn broken_protobuf_is_refused_and_ends_the_frame() {
        for bad in [
            &b""[..],
            b"\x05\x08",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x02\x3a\x05",
        ] {
            let commands: Vec<_> = protobuf(Bytes::copy_from_slice(bad)).collect();
            assert!(commands.len() == 1 && commands[0].is_err(), "{bad:?} {commands:?}");
        }
        assert_eq!(protobuf(Bytes::from_static(b"\x00\x05\x08\x00")).count(), 2);
    }
}
