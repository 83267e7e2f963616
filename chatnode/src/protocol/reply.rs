//! What the node sends, JSON form: replies to commands and pushes.
//!
//! Zero values are left out, except those that SDKs index without looking (`ClientInfo.user`, history's and presence's fields).
//! Every function returns a finished document without line breaks, so documents can be joined into one frame.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{ErrorCode, UnsubscribeCode};
use crate::stream::Publication;

/// Answers `connect`.
#[derive(Debug, Serialize)]
pub struct ConnectResult<'a> {
    /// Unique id of the connection.
    pub client: &'a str,
    /// Version of the node.
    pub version: &'a str,
    /// Whether the connection ends unless refreshed.
    #[serde(skip_serializing_if = "is_false")]
    pub expires: bool,
    /// Seconds until then.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl: u64,
    /// Seconds between the node's pings.
    pub ping: u64,
    /// Whether pings are to be answered.
    pub pong: bool,
    /// Server-side subscriptions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: &'a BTreeMap<String, SubscribeResult>,
}

/// Answers `refresh`.
#[derive(Debug, Serialize)]
pub struct RefreshResult<'a> {
    /// Unique id of the connection.
    pub client: &'a str,
    /// Version of the node.
    pub version: &'a str,
    /// Whether the connection ends unless refreshed.
    #[serde(skip_serializing_if = "is_false")]
    pub expires: bool,
    /// Seconds until then.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl: u64,
}

/// Answers `subscribe`.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own fields")]
pub struct SubscribeResult {
    /// The client may recover from its position.
    #[serde(skip_serializing_if = "is_false")]
    pub recoverable: bool,
    /// Gaps are detected.
    #[serde(skip_serializing_if = "is_false")]
    pub positioned: bool,
    /// Epoch of the stream.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
    /// Position the client is at before `publications`.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// The client asked for recovery.
    #[serde(skip_serializing_if = "is_false")]
    pub was_recovering: bool,
    /// Everything since the client's position is in `publications`.
    #[serde(skip_serializing_if = "is_false")]
    pub recovered: bool,
    /// What the client missed, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Box<RawValue>>,
}

/// Who is behind a connection, as other clients see it.
#[derive(Debug, Serialize)]
pub struct ClientInfo<'a> {
    /// User id; may be empty, never absent.
    pub user: &'a str,
    /// Id of the connection.
    pub client: &'a str,
    /// From the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conn_info: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct HistoryResult<'a> {
    publications: &'a [Box<RawValue>],
    epoch: &'a str,
    offset: u64,
}

#[derive(Serialize)]
struct PresenceStatsResult {
    num_clients: usize,
    num_users: usize,
}

#[derive(Serialize)]
struct ErrorResult {
    code: u32,
    message: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    temporary: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our own types have string keys and finite numbers")
}

fn reply(id: u32, field: &str, body: &str) -> String {
    format!(r#"{{"id":{id},"{field}":{body}}}"#)
}

/// The reply to a ping is its mirror image: an empty document.
pub const PING: &str = "{}";

/// An error reply.
pub fn error(id: u32, error: ErrorCode) -> String {
    let ErrorCode { code, message, temporary } = error;
    reply(id, "error", &json(&ErrorResult { code, message, temporary }))
}

/// Reply to `connect`.
pub fn connect(id: u32, result: &ConnectResult<'_>) -> String {
    reply(id, "connect", &json(result))
}

/// Reply to `refresh`.
pub fn refresh(id: u32, result: &RefreshResult<'_>) -> String {
    reply(id, "refresh", &json(result))
}

/// Reply to `subscribe`.
pub fn subscribe(id: u32, result: &SubscribeResult) -> String {
    reply(id, "subscribe", &json(result))
}

/// Reply without fields, such as that to `publish`.
pub fn empty(id: u32, field: &str) -> String {
    reply(id, field, "{}")
}

/// Reply to `history`.
pub fn history(id: u32, publications: &[Box<RawValue>], epoch: &str, offset: u64) -> String {
    reply(id, "history", &json(&HistoryResult { publications, epoch, offset }))
}

/// Reply to `presence`; the values are finished [`ClientInfo`] documents.
pub fn presence(id: u32, clients: &BTreeMap<String, Box<RawValue>>) -> String {
    reply(id, "presence", &format!(r#"{{"presence":{}}}"#, json(clients)))
}

/// Reply to `presence_stats`.
pub fn presence_stats(id: u32, num_clients: usize, num_users: usize) -> String {
    reply(id, "presence_stats", &json(&PresenceStatsResult { num_clients, num_users }))
}

/// A publication as an element of history or of recovered publications.
///
/// `None` if the stored payload is not JSON: such a publication was not written by a chat node, and cannot be sent to a JSON client.
pub fn publication(publication: &Publication) -> Option<Box<RawValue>> {
    RawValue::from_string(publication_json(publication, None)).ok()
}

/// Bytes that are JSON, if they were written by a chat node.
fn utf8(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn publication_json(publication: &Publication, epoch: Option<&str>) -> String {
    let mut text = String::with_capacity(
        publication.data.len() + publication.info.as_ref().map_or(0, Bytes::len) + 64,
    );
    text.push_str(r#"{"data":"#);
    text.push_str(utf8(&publication.data));
    if let Some(info) = &publication.info {
        text.push_str(r#","info":"#);
        text.push_str(utf8(info));
    }
    if publication.offset > 0 {
        text.push_str(r#","offset":"#);
        text.push_str(&publication.offset.to_string());
    }
    if let Some(epoch) = epoch {
        text.push_str(r#","epoch":"#);
        text.push_str(&json(&epoch));
    }
    text.push('}');
    text
}

/// Push of a publication. `epoch` is given where the client has to learn it.
pub fn push_publication(channel: &str, publication: &Publication, epoch: Option<&str>) -> String {
    push(channel, "pub", &publication_json(publication, epoch))
}

/// Push of a join; `info` is a finished [`ClientInfo`] document.
pub fn push_join(channel: &str, info: &str) -> String {
    push(channel, "join", &format!(r#"{{"info":{info}}}"#))
}

/// Push of a leave; `info` is a finished [`ClientInfo`] document.
pub fn push_leave(channel: &str, info: &str) -> String {
    push(channel, "leave", &format!(r#"{{"info":{info}}}"#))
}

/// Push that ends a subscription.
pub fn push_unsubscribe(channel: &str, code: UnsubscribeCode) -> String {
    let body = format!(r#"{{"code":{},"reason":"{}"}}"#, code.code, code.reason);
    push(channel, "unsubscribe", &body)
}

fn push(channel: &str, field: &str, body: &str) -> String {
    format!(r#"{{"push":{{"channel":{},"{field}":{body}}}}}"#, json(&channel))
}

/// A [`ClientInfo`] as a document.
pub fn client_info(info: &ClientInfo<'_>) -> String {
    json(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Publication {
        Publication {
            offset: 7,
            data: r#"{"text":"hi"}"#.into(),
            info: Some(r#"{"user":"42","client":"c"}"#.into()),
            ..Publication::default()
        }
    }

    #[test]
    fn documents_are_those_of_the_protocol() {
        assert_eq!(
            push_publication("room:1", &sample(), None),
            r#"{"push":{"channel":"room:1","pub":{"data":{"text":"hi"},"info":{"user":"42","client":"c"},"offset":7}}}"#
        );
        assert_eq!(
            error(6, ErrorCode::PERMISSION_DENIED),
            r#"{"id":6,"error":{"code":103,"message":"permission denied"}}"#
        );
        assert_eq!(
            error(6, ErrorCode::INTERNAL),
            r#"{"id":6,"error":{"code":100,"message":"internal server error","temporary":true}}"#
        );
        assert_eq!(subscribe(2, &SubscribeResult::default()), r#"{"id":2,"subscribe":{}}"#);
        assert_eq!(empty(3, "publish"), r#"{"id":3,"publish":{}}"#);
        assert_eq!(
            history(4, &[], "e", 0),
            r#"{"id":4,"history":{"publications":[],"epoch":"e","offset":0}}"#
        );
        assert_eq!(presence(5, &BTreeMap::new()), r#"{"id":5,"presence":{"presence":{}}}"#);
        assert_eq!(
            presence_stats(5, 0, 0),
            r#"{"id":5,"presence_stats":{"num_clients":0,"num_users":0}}"#
        );
        assert_eq!(
            push_unsubscribe("a", UnsubscribeCode::INSUFFICIENT_STATE),
            r#"{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#
        );
    }

    #[test]
    fn channel_names_are_escaped() {
        assert_eq!(push_join("a\"b", "{}"), r#"{"push":{"channel":"a\"b","join":{"info":{}}}}"#);
    }

    #[test]
    fn the_epoch_is_told_where_it_is_new() {
        let text = push_publication("a", &sample(), Some("e.h"));
        assert!(text.ends_with(r#""offset":7,"epoch":"e.h"}}}"#), "{text}");
    }

    #[test]
    fn a_foreign_payload_is_not_passed_on() {
        let mut foreign = sample();
        foreign.data = "not json".into();
        assert!(publication(&foreign).is_none());
        assert!(publication(&sample()).is_some());
    }
}
