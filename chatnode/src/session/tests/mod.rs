//! Sessions without sockets: frames in, frames and calls out, time by adding to it.

mod features;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Admitted, Call, Close, Event, EventKind, Link, News, Note, Now, Order, Outcome, Output,
    Session, Shared,
};
use crate::access::{Admission, Denial, Grant, Origin, Term, Who};
use crate::broker::{BrokerError, Range};
use crate::config::{Client, CommandRate};
use crate::namespaces::{DeltaType, Namespaces, Options, RecoveryMode, Table};
use crate::protocol::{Disconnect, ErrorCode, Protocol};
use crate::session::Basis;
use crate::stream::{Lineage, Page, Publication, StreamState};

const UNIX: u64 = 1_000_000;

/// A session with a gate that believes everything: tokens are the claims themselves.
struct World {
    session: Session,
    now: Now,
    options: Arc<Options>,
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

fn limits() -> Client {
    let unlimited = CommandRate { per_second: 0, burst: 0 };
    Client {
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(8),
        stale_timeout: Duration::from_secs(10),
        message_bytes_max: 65_536,
        queue_bytes_max: 65_536,
        channels_max: 100,
        connections_max: 1,
        user_connections_max: 0,
        address_connections_max: 0,
        trusted_proxies: Vec::new(),
        connect_rate: unlimited,
        command_rate: unlimited,
        user_command_rate: unlimited,
        allowed_origins: Vec::new(),
    }
}

fn link(protocol: Protocol) -> Link {
    let origin = Origin { client: "c1".into(), ..Origin::default() };
    Link { protocol, origin, session: Box::default(), transport_pings: false }
}

impl World {
    fn with(options: Options, limits: Client, link: Link) -> Self {
        let namespaces = Namespaces::new(Table::new(options.clone(), []));
        let shared = Arc::new(Shared { limits, namespaces, node: "n1".into() });
        let (now, options) = (start(), Arc::new(options));
        Self { session: Session::new(shared, link, 0.0, now), now, options }
    }

    fn new() -> Self {
        Self::with(options(), limits(), link(Protocol::Json))
    }

    fn connected() -> Self {
        Self::new().connect()
    }

    fn connect(mut self) -> Self {
        let out = self.say(&[json!({"id": 1, "connect": {"token": r#"{"sub":"ada"}"#}})]);
        assert_eq!(texts(&out)[0]["connect"]["client"], "c1");
        self
    }

    fn admission(&self, claims: &str) -> Admission {
        let claims: Value = serde_json::from_str(claims).unwrap();
        let user = claims["sub"].as_str().unwrap().into();
        let channels = claims["channels"].as_array().cloned().unwrap_or_default();
        let channels = channels.iter().map(|channel| channel.as_str().unwrap().to_owned());
        Admission {
            who: Arc::new(Who { user, ..Who::default() }),
            info: None,
            data: None,
            term: Term { ends_at: claims["exp"].as_u64(), by_server: claims["by_server"] == true },
            subscriptions: channels.map(|channel| (channel, self.grant(Term::default()))).collect(),
        }
    }

    fn grant(&self, term: Term) -> Grant {
        Grant { options: Arc::clone(&self.options), term, ..Grant::default() }
    }

    /// Answers what is asked of the gate; the other calls stay.
    fn settle(&mut self, out: &mut Output) {
        for call in std::mem::take(&mut out.calls) {
            let outcome = match call {
                Call::Connect(ask) => {
                    let admission = self.admission(&ask.token);
                    Outcome::Admitted(Ok(Box::new(Admitted { admission, user_bucket: None })))
                }
                Call::Grant(channel, ask) => {
                    let ends_at = ask.token.parse().ok();
                    let grant = self.grant(Term { ends_at, by_server: false });
                    Outcome::Granted(channel, Ok(Box::new(grant)))
                }
                other => {
                    out.calls.push(other);
                    continue;
                }
            };
            self.session.handle_outcome(self.now, outcome, out);
        }
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
        let mut out = self.session.output();
        self.session.handle_message(self.now, frame.join("\n").into(), &mut out);
        self.settle(&mut out);
        out
    }

    fn outcome(&mut self, outcome: Outcome) -> Output {
        let mut out = self.session.output();
        self.session.handle_outcome(self.now, outcome, &mut out);
        self.settle(&mut out);
        out
    }

    fn event(&mut self, kind: EventKind) -> Output {
        let mut out = self.session.output();
        let event = Arc::new(Event { channel: "a".into(), kind });
        self.session.handle_event(self.now, &event, &mut out);
        out
    }

    fn publication(&mut self, offset: u64) -> Output {
        let data = offset.to_string().into();
        self.news(Publication { offset, data, ..Publication::default() }, None)
    }

    fn news(&mut self, publication: Publication, previous: Option<Basis>) -> Output {
        let lineage = Some(Arc::new(Lineage::new("e", "h1", "")));
        self.event(EventKind::Publication(Box::new(News::new(publication, lineage, previous))))
    }

    /// Lets time pass up to the session's next deadline; how many seconds that took.
    fn wait(&mut self) -> (u64, Output) {
        let at = self.session.next_deadline().unwrap();
        let passed = at - self.now.instant;
        self.now.instant = at;
        self.now.unix_ms += u64::try_from(passed.as_millis()).unwrap();
        let mut out = self.session.output();
        self.session.handle_time(self.now, &mut out);
        (passed.as_secs(), out)
    }
}

fn closed(disconnect: Disconnect) -> Close {
    disconnect.into()
}

fn texts(out: &Output) -> Vec<Value> {
    out.frames.iter().map(|frame| serde_json::from_slice(&frame.document()).unwrap()).collect()
}

fn offsets(out: &Output) -> Vec<u64> {
    texts(out).iter().filter_map(|text| text["push"]["pub"]["offset"].as_u64()).collect()
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
    assert!(matches!(out.calls[..], [Call::Join(..)]));
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
    assert!(matches!(out.calls[..], [Call::Unsubscribe { member: true, leave: Some(_), .. }]));
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
    let claims = json!({"sub": "ada", "channels": ["a"]}).to_string();
    let frame = [
        json!({"id": 1, "connect": {"token": claims}}),
        json!({"id": 2, "publish": {"channel": "b", "data": 1}}),
    ];
    let out = world.say(&frame);
    assert!(out.frames.is_empty() && out.calls.len() == 1, "the connect waits, the publish too");
    assert!(!world.session.wants_input());
    world.publication(4);
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(3, &[])))));
    let sent = texts(&out);
    assert_eq!(sent[0]["connect"]["subs"]["a"]["offset"], 3);
    assert_eq!(sent[1]["push"]["pub"]["offset"], 4);
    assert!(matches!(out.calls[..], [Call::Join(..), Call::Publish(_)]));
    assert_eq!(world.publication(6).close, Some(closed(Disconnect::INSUFFICIENT_STATE)));
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
        [Call::Join(..), Call::Unsubscribe { .. }, Call::Subscribe { .. }]
    ));
}

#[test]
fn a_client_that_sends_faster_than_redis_answers_is_slowed_down() {
    let mut world = World::connected();
    let publishes: Vec<Value> =
        (1..=70_u32).map(|id| json!({"id": id, "publish": {"channel": "a", "data": 1}})).collect();
    let out = world.say(&publishes);
    assert_eq!(out.calls.len(), 64);
    assert!(!world.session.wants_input());
    let out = world.outcome(Outcome::Published(1, true, Ok(())));
    assert_eq!(out.calls.len(), 1);
    for id in 2..=70 {
        world.outcome(Outcome::Published(id, true, Err(ErrorCode::INTERNAL.into())));
    }
    assert!(world.session.wants_input());
}

#[test]
fn a_failed_broker_is_a_temporary_error_and_leaves_nothing_behind() {
    let mut world = World::connected();
    world.say(&[json!({"id": 2, "subscribe": {"channel": "a"}})]);
    let out = world.outcome(Outcome::Subscribed("a".into(), Err(BrokerError::Unavailable)));
    assert_eq!(texts(&out)[0]["error"]["code"], 100);
    assert!(matches!(out.calls[..], [Call::Unsubscribe { leave: None, .. }]));
    assert!(world.publication(1).frames.is_empty());
}

#[test]
fn pings_go_out_and_must_be_answered() {
    let mut world = World::connected();
    let (seconds, out) = world.wait();
    assert_eq!((seconds, texts(&out)), (12, vec![json!({})]), "half the interval first");
    assert!(world.say(&[json!({})]).close.is_none());
    assert_eq!(world.say(&[json!({})]).close, Some(closed(Disconnect::BAD_REQUEST)));

    let mut silent = World::connected();
    silent.wait();
    let (seconds, out) = silent.wait();
    assert_eq!((seconds, out.close), (8, Some(closed(Disconnect::NO_PONG))));
}

#[test]
fn connections_that_say_nothing_or_outlive_their_token_are_closed() {
    let mut stale = World::new();
    let (seconds, out) = stale.wait();
    assert_eq!((seconds, out.close), (10, Some(closed(Disconnect::STALE))));

    let mut world = World::new();
    let claims = json!({"sub": "ada", "exp": UNIX + 60}).to_string();
    let out = world.say(&[json!({"id": 1, "connect": {"token": claims}})]);
    assert_eq!(texts(&out)[0]["connect"]["ttl"], 60);
    let mut total = 0;
    loop {
        let (seconds, out) = world.wait();
        total += seconds;
        if out.close.is_some() {
            assert_eq!(out.close, Some(closed(Disconnect::EXPIRED)));
            break;
        }
        if texts(&out) == [json!({})] {
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
        kept += out.calls.iter().filter(|call| matches!(call, Call::KeepMember(..))).count();
        world.say(&[json!({})]);
    }
    let mut out = world.session.output();
    world.session.end(&mut out);
    assert!(matches!(out.calls[..], [Call::Unsubscribe { member: true, leave: Some(_), .. }]));
}
