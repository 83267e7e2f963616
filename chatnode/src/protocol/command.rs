//! What clients send, JSON form.
//!
//! Payloads (`data`) stay raw JSON text: they are never interpreted, only handed on. Unknown fields are ignored because SDKs add some
//! over time. A document cannot contain a line break, since line breaks separate documents; so raw payloads are safe to embed in
//! frames of our own.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// One command: an id and the first request field that is set.
#[derive(Debug)]
pub struct Command {
    /// Chosen by the client, echoed in the reply; 0 for pongs and sends.
    pub id: u32,
    /// `None` for an empty command, which is a pong.
    pub request: Option<Request>,
}

/// What is asked for.
#[derive(Debug)]
pub enum Request {
    /// Authenticate; first command of every connection.
    Connect(Connect),
    /// Follow a channel.
    Subscribe(Subscribe),
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
    SubRefresh,
    /// Call a procedure.
    Rpc,
    /// A message without reply.
    Send,
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
            Self::SubRefresh => "sub_refresh",
            Self::Rpc => "rpc",
            Self::Send => "send",
            Self::Ping => "ping",
        }
    }
}

/// Arguments of `connect`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connect {
    /// Connection token (JWT); empty if there is none.
    pub token: String,
    /// Positions of server-side subscriptions to continue.
    pub subs: HashMap<String, Subscribe>,
}

/// Arguments of `subscribe`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own fields")]
pub struct Subscribe {
    /// Channel; empty inside `connect`, where it is the map's key.
    pub channel: String,
    /// Continue from `epoch` and `offset`.
    pub recover: bool,
    /// Epoch of the position.
    pub epoch: String,
    /// Offset of the position.
    pub offset: u64,
    /// Ask for gap detection.
    pub positioned: bool,
    /// Ask for recovery.
    pub recoverable: bool,
    /// Ask for join and leave pushes.
    pub join_leave: bool,
    /// Bit set, see [`Subscribe::REJECT_UNRECOVERED`].
    pub flag: i64,
    /// 0 for a stream, the only kind here.
    #[serde(rename = "type")]
    pub kind: i32,
}

impl Subscribe {
    /// `flag`: answer with an error rather than `recovered: false`.
    pub const REJECT_UNRECOVERED: i64 = 2;
}

/// Arguments that name a channel and nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChannelOnly {
    /// The channel.
    pub channel: String,
}

/// Arguments of `publish`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Publish {
    /// The channel.
    pub channel: String,
    /// The payload.
    pub data: Option<Box<RawValue>>,
}

/// Arguments of `history`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// The channel.
    pub channel: String,
    /// 0: only the position; -1: as much as allowed.
    pub limit: i32,
    /// Exclusive start.
    pub since: Option<Since>,
    /// Newest first.
    pub reverse: bool,
}

/// A position in a stream.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Since {
    /// Offset of the last publication already known.
    pub offset: u64,
    /// Epoch it belongs to; empty: any.
    pub epoch: String,
}

/// Arguments of `refresh`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// New connection token.
    pub token: String,
}

/// A request whose arguments are not read.
#[derive(Debug, Deserialize)]
struct Ignored {}

/// The command as it stands on the wire.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    id: u32,
    connect: Option<Connect>,
    subscribe: Option<Subscribe>,
    unsubscribe: Option<ChannelOnly>,
    publish: Option<Publish>,
    presence: Option<ChannelOnly>,
    presence_stats: Option<ChannelOnly>,
    history: Option<History>,
    ping: Option<Ignored>,
    send: Option<Ignored>,
    rpc: Option<Ignored>,
    refresh: Option<Refresh>,
    sub_refresh: Option<Ignored>,
}

/// Decodes one document of a frame.
///
/// # Errors
/// It is not JSON or a field has the wrong type; either way the connection is to be closed.
pub fn decode(document: &str) -> Result<Command, serde_json::Error> {
    // serde would read a list as a struct without names, and so take `[]` for a pong.
    if !document.trim_start().starts_with('{') {
        return Err(serde::de::Error::custom("a command is a JSON object"));
    }
    let wire: Wire = serde_json::from_str(document)?;
    let request = None
        .or_else(|| wire.connect.map(Request::Connect))
        .or_else(|| wire.subscribe.map(Request::Subscribe))
        .or_else(|| wire.unsubscribe.map(Request::Unsubscribe))
        .or_else(|| wire.publish.map(Request::Publish))
        .or_else(|| wire.presence.map(Request::Presence))
        .or_else(|| wire.presence_stats.map(Request::PresenceStats))
        .or_else(|| wire.history.map(Request::History))
        .or_else(|| wire.ping.map(|_| Request::Ping))
        .or_else(|| wire.send.map(|_| Request::Send))
        .or_else(|| wire.rpc.map(|_| Request::Rpc))
        .or_else(|| wire.refresh.map(Request::Refresh))
        .or_else(|| wire.sub_refresh.map(|_| Request::SubRefresh));
    Ok(Command { id: wire.id, request })
}

/// The documents of a frame.
pub fn documents(frame: &str) -> impl Iterator<Item = &str> {
    frame.trim_end_matches(['\n', '\r']).split('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_stay_as_they_were_sent() {
        let command =
            decode(r#"{"id":7,"publish":{"channel":"a","data":{"b": [1, "\n"]},"new":1}}"#)
                .unwrap();
        let Some(Request::Publish(publish)) = command.request else { panic!("{command:?}") };
        assert_eq!((command.id, publish.channel.as_str()), (7, "a"));
        assert_eq!(publish.data.unwrap().get(), r#"{"b": [1, "\n"]}"#);
    }

    #[test]
    fn every_request_is_known_by_its_name() {
        for name in Request::NAMES {
            let command = decode(&format!(r#"{{"id":1,"{name}":{{}}}}"#)).unwrap();
            assert_eq!(command.request.unwrap().name(), name);
        }
    }

    #[test]
    fn an_empty_command_is_a_pong_and_wrong_types_are_refused() {
        assert!(decode("{}").unwrap().request.is_none());
        for bad in ["", "[]", "1", "{", r#"{"id":-1}"#, r#"{"id":5000000000}"#, r#"{"publish":1}"#]
        {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_trailing_line_break_is_tolerated() {
        assert_eq!(documents("a\nb\n").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(documents("a").collect::<Vec<_>>(), ["a"]);
    }
}
