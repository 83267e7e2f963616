//! What the node sends: replies to commands and pushes. One set of types for both forms.
//!
//! Zero values are left out of JSON, except those that SDKs index without looking (`ClientInfo.user`, history's and presence's fields).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::raw;
use crate::stream;

/// One document. Without any field it is a ping.
#[derive(Clone, PartialEq, Message, Serialize)]
#[expect(missing_docs, reason = "each field is the result of the command it is named after")]
pub struct Reply {
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "zero")]
    pub id: u32,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectResult>,
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribeResult>,
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Empty>,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Empty>,
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceResult>,
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_stats: Option<PresenceStatsResult>,
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryResult>,
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<RpcResult>,
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshResult>,
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_refresh: Option<SubRefreshResult>,
}

/// Result without fields.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct Empty {}

/// A command failed.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Error {
    /// Number of the error.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Short text.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Trying again may help.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "zero")]
    pub temporary: bool,
}

/// Answers `connect`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ConnectResult {
    /// Unique id of the connection.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Version of the node.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the connection ends unless refreshed.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "zero")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "zero")]
    pub ttl: u32,
    /// From the back end.
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// Server-side subscriptions.
    #[prost(btree_map = "string, message", tag = "6")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: BTreeMap<String, SubscribeResult>,
    /// Seconds between the node's pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "zero")]
    pub ping: u32,
    /// Whether pings are to be answered.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "zero")]
    pub pong: bool,
    /// Secret by which further commands are accepted, for transports that send them by request.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// Where such commands belong.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// Answers `refresh`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RefreshResult {
    /// Unique id of the connection.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Version of the node.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the connection ends unless refreshed.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "zero")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "zero")]
    pub ttl: u32,
}

/// Answers `sub_refresh`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubRefreshResult {
    /// Whether the subscription ends unless refreshed.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "zero")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "zero")]
    pub ttl: u32,
}

/// Answers `subscribe`, and says how server-side subscriptions stand.
#[derive(Clone, PartialEq, Message, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own fields")]
pub struct SubscribeResult {
    /// Whether the subscription ends unless refreshed.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "zero")]
    pub expires: bool,
    /// Seconds until then.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "zero")]
    pub ttl: u32,
    /// The client may recover from its position.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "zero")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
    /// What the client missed, in order.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
    /// Everything since the client's position is in `publications`.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "zero")]
    pub recovered: bool,
    /// Position the client is at before `publications`.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "zero")]
    pub offset: u64,
    /// Gaps are detected.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "zero")]
    pub positioned: bool,
    /// From the back end.
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
    /// The client asked for recovery.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "zero")]
    pub was_recovering: bool,
    /// Publications may come as differences.
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "zero")]
    pub delta: bool,
}

/// Who is behind a connection, as other clients see it.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// User id; may be empty, never absent.
    #[prost(string, tag = "1")]
    pub user: String,
    /// Id of the connection.
    #[prost(string, tag = "2")]
    pub client: String,
    /// From the connection token.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub conn_info: Bytes,
    /// From the subscription token.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub chan_info: Bytes,
}

/// A publication.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Publication {
    /// The payload, or its difference to the one before.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "raw")]
    pub data: Bytes,
    /// Who published, if it was a client.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Position in the stream; 0 without history.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "zero")]
    pub offset: u64,
    /// What subscribers may filter by.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// `data` is a difference.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "zero")]
    pub delta: bool,
    /// Epoch of the stream, where the client has to learn it.
    #[prost(string, tag = "14")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
}

/// Answers `history`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct HistoryResult {
    /// In the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// Epoch of the stream.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// Its top.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// Answers `presence`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PresenceResult {
    /// By id of the connection.
    #[prost(btree_map = "string, message", tag = "1")]
    pub presence: BTreeMap<String, ClientInfo>,
}

/// Answers `presence_stats`.
#[derive(Clone, Copy, PartialEq, Message, Serialize)]
pub struct PresenceStatsResult {
    /// Connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Different users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// Answers `rpc`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RpcResult {
    /// Result of the procedure.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

/// What nobody asked for.
#[derive(Clone, PartialEq, Message, Serialize)]
#[expect(missing_docs, reason = "each field is what happened in the channel")]
pub struct Push {
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub channel: String,
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Membership>,
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave: Option<Membership>,
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<UnsubscribePush>,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessagePush>,
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribePush>,
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<DisconnectPush>,
}

/// A client came or left.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Membership {
    /// Which one.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// A subscription ends.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct UnsubscribePush {
    /// Number of the reason.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// Short text.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The connection ends, where there is no close frame to say so.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct DisconnectPush {
    /// Number of the reason.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Short text.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// A message from the server.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct MessagePush {
    /// The message.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "raw")]
    pub data: Bytes,
}

/// The server subscribed the client.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SubscribePush {
    /// The client may recover from its position.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "zero")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
    /// Position the client is at.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "zero")]
    pub offset: u64,
    /// Gaps are detected.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "zero")]
    pub positioned: bool,
    /// From the back end.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(with = "raw", skip_serializing_if = "Bytes::is_empty")]
    pub data: Bytes,
}

impl Reply {
    /// An empty document.
    pub fn ping() -> Self {
        Self::default()
    }

    /// A push about `channel`.
    pub fn push(channel: &str, push: Push) -> Self {
        Self { push: Some(Push { channel: channel.to_owned(), ..push }), ..Self::default() }
    }

    /// The push that ends a subscription.
    pub fn unsubscribe(channel: &str, code: u32, reason: &str) -> Self {
        let unsubscribe = Some(UnsubscribePush { code, reason: reason.to_owned() });
        Self::push(channel, Push { unsubscribe, ..Push::default() })
    }
}

impl Publication {
    /// As it is stored, without what depends on the receiver.
    pub fn new(stored: &stream::Publication) -> Self {
        Self {
            data: stored.data.clone(),
            // Written by a node, or else of no use.
            info: stored.info.as_ref().and_then(|info| ClientInfo::read(info)),
            offset: stored.offset,
            tags: stored.tags.as_ref().map(|tags| tags_of(tags)).unwrap_or_default(),
            delta: false,
            epoch: String::new(),
        }
    }
}

/// Tags as they are stored; none if they are not what a node writes.
pub fn tags_of(stored: &[u8]) -> BTreeMap<String, String> {
    serde_json::from_slice(stored).unwrap_or_default()
}

impl ClientInfo {
    /// From its document, which is how brokers keep it.
    pub fn read(document: &[u8]) -> Option<Self> {
        serde_json::from_slice(document).ok()
    }

    /// Its document; `None` if an info in it is not JSON.
    pub fn document(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
