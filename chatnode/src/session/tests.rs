//! Sessions without sockets: frames in, frames and calls out, time by adding to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_settings::Secret;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::{Call, Event, EventKind, Note, Now, Outcome, Output, Session, Shared};
use crate::broker::BrokerError;
use crate::config::Client;
use crate::namespaces::{Namespaces, Options, Table};
use crate::protocol::Disconnect;
use crate::stream::{Lineage, Page, Publication, StreamState};
use crate::tokens::Verifier;

const UNIX: u64 = 1_000_000;

struct World {
    session: Session,
    now: Now,
}

fn options() -> Options {
    Options {
        presence: true,
        join_leave: true,
        history_size: 10,
        history_ttl: Duration::from_mins(1),
        force_recovery: true,
        allow_subscribe_for_client: true,
        allow_publish_for_client: true,
        ..Options::default()
    }
}

fn token(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(b"secret")).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: UNIX * 1000 }
}

fn page(top: u64, offsets: &[u64]) -> Page {
    let publications = offsets
        .iter()
        .map(|&offset| Publication {
            offset,
            data: offset.to_string().into(),
            ..Publication::default()
        })
        .collect();
    Page { state: state("h1", "", top), publications }
}

fn state(history: &str, forks: &str, top: u64) -> StreamState {
    StreamState { lineage: Arc::new(Lineage::new("e", history, forks)), top }
}

impl World {
    fn new() -> Self {
        let limits = Client {
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            stale_timeout: Duration::from_secs(10),
            message_bytes_max: 65_536,
            queue_bytes_max: 65_536,
            channels_max: 100,
            connections_max: 1,
            allowed_origins: Vec::new(),
        };
        let namespaces = Namespaces::new(Table::new(options(), []));
        let tokens = Verifier::hmac(&Secret::new("secret"));
        let shared = Arc::new(Shared { limits, namespaces, tokens });
        let now = start();
        Self { session: Session::new(shared, "c1".into(), 0.0, now), now }
    }

    fn connected() -> Self {
        let mut world = Self::new();
        let out =
            world.say(&[json!({"id": 1, "connect": {"token": token(&json!({"sub": "ada"}))}})]);
        assert_eq!(texts(&out)[0]["connect"]["client"], "c1");
        world
    }

    /// Connected, and subscribed to `a` at this position.
    fn subscribed(top: u64) -> Self {
        let mut world = Self::connected();
        world.say(&[json!({"id": 2, "subscribe": {"channel": "a"}})]);
        world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(top, &[])))));
        world
    }

    fn say(&mut self, commands: &[Value]) -> Output {
        let frame: Vec<String> = commands.iter().map(Value::to_string).collect();
        let mut out = Output::default();
        self.session.handle_message(self.now, &frame.join("\n"), &mut out);
        out
    }

    fn outcome(&mut self, outcome: Outcome) -> Output {
        let mut out = Output::default();
        self.session.handle_outcome(self.now, outcome, &mut out);
        out
    }

    fn event(&mut self, kind: EventKind) -> Output {
        let mut out = Output::default();
        let event = Arc::new(Event { channel: "a".into(), kind });
        self.session.handle_event(self.now, &event, &mut out);
        out
    }

    fn publication(&mut self, offset: u64) -> Output {
        let frame = Bytes::from(format!("{{\"offset\":{offset}}}"));
        let lineage = Some(Arc::new(Lineage::new("e", "h1", "")));
        self.event(EventKind::Publication { offset, lineage, frame, time_ms: 0 })
    }

    /// Lets time pass up to the session's next deadline; how many seconds that took.
    fn wait(&mut self) -> (u64, Output) {
        let at = self.session.next_deadline().unwrap();
        let passed = at - self.now.instant;
        self.now.instant = at;
        self.now.unix_ms += u64::try_from(passed.as_millis()).unwrap();
        let mut out = Output::default();
        self.session.handle_time(self.now, &mut out);
        (passed.as_secs(), out)
    }
}

fn texts(out: &Output) -> Vec<Value> {
    out.frames.iter().map(|frame| serde_json::from_slice(frame).unwrap()).collect()
}

fn offsets(out: &Output) -> Vec<u64> {
    texts(out).iter().filter_map(|text| text["offset"].as_u64()).collect()
}

#[test]
fn publications_during_a_subscribe_come_after_its_reply_once() {
    let mut world = World::connected();
    let out = world.say(&[json!({"id": 2, "subscribe": {"channel": "a"}})]);
    assert!(matches!(out.calls[..], [Call::Subscribe { .. }]));
    for offset in [4, 5, 6] {
        assert!(world.publication(offset).frames.is_empty());
    }
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(5, &[])))));
    let sent = texts(&out);
    assert_eq!(sent[0]["subscribe"]["offset"], 5);
    assert_eq!(offsets(&out), [6], "4 and 5 are behind the position in the reply");
    assert!(matches!(out.calls[..], [Call::Join { .. }]));
    assert_eq!(offsets(&world.publication(7)), [7]);
}

#[test]
fn recovered_publications_are_not_delivered_again() {
    let mut world = World::connected();
    world.say(&[
        json!({"id": 2, "subscribe": {"channel": "a", "recover": true, "offset": 3, "epoch": "e.h1"}}),
    ]);
    world.publication(5);
    world.publication(6);
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(5, &[4, 5])))));
    let reply = &texts(&out)[0]["subscribe"];
    assert_eq!((&reply["recovered"], &reply["offset"]), (&json!(true), &json!(3)));
    assert_eq!(reply["publications"].as_array().unwrap().len(), 2);
    assert_eq!(offsets(&out), [6]);
    assert!(out.notes.contains(&Note::Recovery(true)));
}

#[test]
fn a_gap_ends_the_subscription_so_that_the_client_recovers() {
    let mut world = World::subscribed(3);
    assert_eq!(offsets(&world.publication(4)), [4]);
    assert!(world.publication(4).frames.is_empty());
    let out = world.publication(6);
    let push = &texts(&out)[0]["push"];
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("a"), &json!(2500)));
    assert!(matches!(out.calls[..], [Call::Unsubscribe { presence: true, leave: true, .. }]));
    assert!(world.publication(7).frames.is_empty(), "it is not subscribed any more");
}

#[test]
fn a_look_at_the_stream_finds_what_was_missed_but_not_what_is_on_its_way() {
    let mut world = World::subscribed(3);
    world.event(EventKind::Looked(state("h1", "", 4)));
    assert_eq!(offsets(&world.publication(4)), [4]);
    let (_, out) = world.wait();
    assert!(out.frames.is_empty() && out.close.is_none());

    world.event(EventKind::Looked(state("h1", "", 5)));
    let (_, out) = world.wait();
    assert_eq!(texts(&out)[0]["push"]["unsubscribe"]["code"], 2500);

    let mut past_the_fork = World::subscribed(5);
    let out = past_the_fork.event(EventKind::Looked(state("h2", "h1@4,", 4)));
    assert_eq!(texts(&out)[0]["push"]["unsubscribe"]["code"], 2500);
}

#[test]
fn a_gap_in_a_server_side_subscription_ends_the_connection() {
    let mut world = World::new();
    let claims = json!({"sub": "ada", "channels": ["a"]});
    let frame = [
        json!({"id": 1, "connect": {"token": token(&claims)}}),
        json!({"id": 2, "publish": {"channel": "b", "data": 1}}),
    ];
    let out = world.say(&frame);
    assert!(out.frames.is_empty() && out.calls.len() == 1, "the connect waits, the publish too");
    assert!(!world.session.wants_input());
    world.publication(4);
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(3, &[])))));
    let sent = texts(&out);
    assert_eq!(sent[0]["connect"]["subs"]["a"]["offset"], 3);
    assert_eq!(sent[1]["offset"], 4);
    assert!(matches!(out.calls[..], [Call::Join { .. }, Call::Publish { .. }]));
    assert_eq!(world.publication(6).close, Some(Disconnect::INSUFFICIENT_STATE));
}

#[test]
fn commands_about_a_channel_wait_for_its_subscribe() {
    let mut world = World::connected();
    let out = world.say(&[
        json!({"id": 2, "subscribe": {"channel": "a"}}),
        json!({"id": 3, "unsubscribe": {"channel": "a"}}),
        json!({"id": 4, "subscribe": {"channel": "a"}}),
    ]);
    assert_eq!(out.calls.len(), 1);
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(0, &[])))));
    let ids: Vec<_> = texts(&out).iter().map(|text| text["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [2, 3]);
    assert!(matches!(
        out.calls[..],
        [Call::Join { .. }, Call::Unsubscribe { .. }, Call::Subscribe { .. }]
    ));
}

#[test]
fn a_client_that_sends_faster_than_redis_answers_is_slowed_down() {
    let mut world = World::connected();
    let publishes: Vec<Value> =
        (1..=70).map(|id| json!({"id": id, "publish": {"channel": "a", "data": 1}})).collect();
    let out = world.say(&publishes);
    assert_eq!(out.calls.len(), 64);
    assert!(!world.session.wants_input());
    let out = world.outcome(Outcome::Published(1, Ok(())));
    assert_eq!(out.calls.len(), 1);
    for id in 2..=70 {
        world.outcome(Outcome::Published(id, Err(BrokerError::Unavailable)));
    }
    assert!(world.session.wants_input());
}

#[test]
fn a_failed_broker_is_a_temporary_error_and_leaves_nothing_behind() {
    let mut world = World::connected();
    world.say(&[json!({"id": 2, "subscribe": {"channel": "a"}})]);
    let out = world.outcome(Outcome::Subscribed("a".into(), Err(BrokerError::Unavailable)));
    assert_eq!(texts(&out)[0]["error"]["code"], 100);
    assert!(matches!(out.calls[..], [Call::Unsubscribe { leave: false, .. }]));
    assert_eq!(world.session.subscription_count(), 0);
}

#[test]
fn pings_go_out_and_must_be_answered() {
    let mut world = World::connected();
    let (seconds, out) = world.wait();
    assert_eq!(
        (seconds, &out.frames[..]),
        (12, &[Bytes::from("{}")][..]),
        "half the interval first"
    );
    assert!(world.say(&[json!({})]).close.is_none());
    assert_eq!(world.say(&[json!({})]).close, Some(Disconnect::BAD_REQUEST));

    let mut silent = World::connected();
    silent.wait();
    let (seconds, out) = silent.wait();
    assert_eq!((seconds, out.close), (8, Some(Disconnect::NO_PONG)));
}

#[test]
fn connections_that_say_nothing_or_outlive_their_token_are_closed() {
    let mut stale = World::new();
    let (seconds, out) = stale.wait();
    assert_eq!((seconds, out.close), (10, Some(Disconnect::STALE)));

    let mut world = World::new();
    let claims = json!({"sub": "ada", "exp": UNIX + 60});
    let out = world.say(&[json!({"id": 1, "connect": {"token": token(&claims)}})]);
    assert_eq!(texts(&out)[0]["connect"]["ttl"], 60);
    let mut total = 0;
    loop {
        let (seconds, out) = world.wait();
        total += seconds;
        if out.close.is_some() {
            assert_eq!(out.close, Some(Disconnect::EXPIRED));
            break;
        }
        if out.frames == [Bytes::from("{}")] {
            world.say(&[json!({})]);
        }
    }
    assert!((80..=85).contains(&total), "60 s and the grace of 25 s, not {total}");
}

#[test]
fn members_are_refreshed_while_the_connection_lives_and_leave_with_it() {
    let mut world = World::subscribed(0);
    let mut kept = 0;
    while kept == 0 {
        let (_, out) = world.wait();
        kept += out.calls.iter().filter(|call| matches!(call, Call::KeepMember { .. })).count();
        world.say(&[json!({})]);
    }
    let mut out = Output::default();
    world.session.end(&mut out);
    assert!(matches!(out.calls[..], [Call::Unsubscribe { presence: true, leave: true, .. }]));
}
