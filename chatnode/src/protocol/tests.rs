//! Replies as they stand on the wire.

use super::reply::{
    ClientInfo, ConnectResult, Empty, HistoryResult, PresenceResult, PresenceStatsResult,
    Publication, Push, SubscribeResult,
};
use super::*;
use crate::stream;

fn json(reply: &Reply) -> String {
    String::from_utf8(Protocol::Json.encode(reply).unwrap().document().to_vec()).unwrap()
}

fn protobuf(reply: &Reply) -> Vec<u8> {
    Protocol::Protobuf.encode(reply).unwrap().document().to_vec()
}

fn publication() -> Publication {
    Publication::new(&stream::Publication {
        offset: 7,
        data: r#"{"text":"hi"}"#.into(),
        info: Some(r#"{"user":"42","client":"c"}"#.into()),
        ..stream::Publication::default()
    })
}

fn push(publication: Publication) -> Reply {
    Reply::push("room:1", Push { publication: Some(publication), ..Push::default() })
}

#[test]
fn documents_are_those_of_the_protocol() {
    let reply = |reply: Reply| json(&Reply { id: 4, ..reply });
    for (text, expected) in [
        (json(&Reply::ping()), "{}"),
        (
            json(&push(publication())),
            r#"{"push":{"channel":"room:1","pub":{"data":{"text":"hi"},"info":{"user":"42","client":"c"},"offset":7}}}"#,
        ),
        (
            reply(Reply { subscribe: Some(SubscribeResult::default()), ..Reply::default() }),
            r#"{"id":4,"subscribe":{}}"#,
        ),
        (reply(Reply { publish: Some(Empty {}), ..Reply::default() }), r#"{"id":4,"publish":{}}"#),
        (
            reply(Reply {
                history: Some(HistoryResult { epoch: "e".into(), ..HistoryResult::default() }),
                ..Reply::default()
            }),
            r#"{"id":4,"history":{"publications":[],"epoch":"e","offset":0}}"#,
        ),
        (
            reply(Reply { presence: Some(PresenceResult::default()), ..Reply::default() }),
            r#"{"id":4,"presence":{"presence":{}}}"#,
        ),
        (
            reply(Reply {
                presence_stats: Some(PresenceStatsResult::default()),
                ..Reply::default()
            }),
            r#"{"id":4,"presence_stats":{"num_clients":0,"num_users":0}}"#,
        ),
        (
            json(&Reply::unsubscribe("a\"b", 2500, "insufficient state")),
            r#"{"push":{"channel":"a\"b","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
        ),
    ] {
        assert_eq!(text, expected);
    }
}

#[test]
fn protobuf_replies_have_the_protocols_field_numbers() {
    assert_eq!(protobuf(&Reply::ping()), [0], "a ping is one byte");
    let connect =
        ConnectResult { client: "c".into(), ping: 25, pong: true, ..ConnectResult::default() };
    let reply = Reply { id: 1, connect: Some(connect), ..Reply::default() };
    // id(1) = 1, connect(5) { client(1) = "c", ping(7) = 25, pong(8) = true }
    assert_eq!(protobuf(&reply), b"\x0b\x08\x01\x2a\x07\x0a\x01c\x38\x19\x40\x01");
    let publication = Publication { data: "x".into(), offset: 3, ..Publication::default() };
    let push = Reply::push("a", Push { publication: Some(publication), ..Push::default() });
    // push(4) { channel(2) = "a", pub(4) { data(4) = "x", offset(6) = 3 } }
    assert_eq!(protobuf(&push), b"\x0c\x22\x0a\x12\x01a\x22\x05\x22\x01x\x30\x03");
    let unsubscribe = Reply::unsubscribe("a", 2500, "r");
    // push(4) { channel(2) = "a", unsubscribe(7) { code(2) = 2500, reason(3) = "r" } }
    assert_eq!(protobuf(&unsubscribe), b"\x0d\x22\x0b\x12\x01a\x3a\x06\x10\xc4\x13\x1a\x01r");
}

#[test]
fn payloads_that_are_no_json_are_for_protobuf_only() {
    let foreign = Publication { data: b"\xffbytes".as_slice().into(), ..publication() };
    assert!(Protocol::Json.encode(&push(foreign.clone())).is_err());
    assert!(Protocol::Protobuf.encode(&push(foreign)).is_ok());
}

#[test]
fn a_payload_with_line_breaks_stays_one_document() {
    let wide = Publication { data: "{\n\"a\": 1\n}".into(), ..publication() };
    let text = json(&push(wide));
    assert!(!text.contains('\n') && text.contains(r#"{ "a": 1 }"#), "{text}");
}

#[test]
fn client_infos_survive_their_document() {
    let info =
        ClientInfo { user: "u".into(), chan_info: r#"{"a":1}"#.into(), ..ClientInfo::default() };
    let document = info.document().unwrap();
    assert_eq!(document, r#"{"user":"u","client":"","chan_info":{"a":1}}"#);
    assert_eq!(ClientInfo::read(document.as_bytes()), Some(info));
    let broken = ClientInfo { conn_info: "not json".into(), ..ClientInfo::default() };
    assert_eq!(broken.document(), None);
}
