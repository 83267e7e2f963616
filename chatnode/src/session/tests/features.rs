//! Differences, filters, cache mode, terms, limits, orders.

use super::*;

fn connected(change: impl FnOnce(&mut Options)) -> World {
    let mut options = options();
    change(&mut options);
    World::with(options, limits(), link(Protocol::Json)).connect()
}

fn subscribe(world: &mut World, request: &Value, page: Page) -> Output {
    world.say(&[json!({"id": 2, "subscribe": request})]);
    world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page))))
}

const LONG: &str = "a text that is long enough for its parts to be worth copying, number";

fn stored(offset: u64) -> Publication {
    Publication {
        offset,
        data: format!("\"{LONG} {offset}\"").into(),
        id: format!("id-{offset}").into(),
        delta: true,
        ..Publication::default()
    }
}

fn basis(offset: u64) -> Basis {
    let Publication { id, data, .. } = stored(offset);
    Basis { id, data }
}

#[test]
fn differences_go_to_those_who_have_what_they_are_against() {
    let mut world = connected(|options| options.allowed_delta_types = vec![DeltaType::Fossil]);
    let request = json!({"channel": "a", "delta": "fossil"});
    let out = subscribe(&mut world, &request, page(3, &[]));
    assert_eq!(texts(&out)[0]["subscribe"]["delta"], true);
    let publication = |out: &Output| texts(out)[0]["push"]["pub"].clone();
    let first = publication(&world.news(stored(4), Some(basis(3))));
    assert_eq!((&first["data"], first.get("delta")), (&json!(format!("\"{LONG} 4\"")), None));
    let second = publication(&world.news(stored(5), Some(basis(4))));
    assert_eq!(second["delta"], true);
    assert!(second["data"].as_str().unwrap().len() < LONG.len());
    let refused = connected(|_| {});
    let mut refused = refused;
    let out = subscribe(&mut refused, &request, page(3, &[]));
    assert_eq!(texts(&out)[0]["subscribe"].get("delta"), None, "the channel does not offer it");
}

#[test]
fn recovered_publications_are_a_chain_that_live_ones_continue() {
    let mut world = connected(|options| options.allowed_delta_types = vec![DeltaType::Fossil]);
    let request =
        json!({"channel": "a", "delta": "fossil", "recover": true, "offset": 3, "epoch": "e.h1"});
    let page = Page { publications: vec![stored(4), stored(5)], ..page(5, &[]) };
    let out = subscribe(&mut world, &request, page);
    let recovered = texts(&out)[0]["subscribe"]["publications"].clone();
    assert_eq!((recovered[0].get("delta"), &recovered[1]["delta"]), (None, &json!(true)));
    let live = world.news(stored(6), Some(basis(5)));
    assert_eq!(texts(&live)[0]["push"]["pub"]["delta"], true);
}

#[test]
fn filtered_publications_are_not_sent_and_no_gap() {
    let mut world = connected(|options| options.allow_tags_filter = true);
    let filter = json!({"key": "team", "cmp": "eq", "val": "red"});
    subscribe(&mut world, &json!({"channel": "a", "tf": filter}), page(3, &[]));
    let tagged = |offset, team: &str| Publication {
        tags: Some(json!({"team": team}).to_string().into()),
        ..stored(offset)
    };
    assert!(world.news(tagged(4, "blue"), None).frames.is_empty());
    let out = world.news(tagged(5, "red"), None);
    assert_eq!(texts(&out)[0]["push"]["pub"]["tags"]["team"], "red");
}

#[test]
fn filters_that_are_not_offered_or_mean_nothing_are_refused() {
    let bad = json!({"id": 2, "subscribe": {"channel": "a", "tf": {"op": "and"}}});
    let good = json!({"id": 2, "subscribe": {"channel": "a", "tf": {"key": "a", "cmp": "ex"}}});
    let mut offered = connected(|options| options.allow_tags_filter = true);
    assert_eq!(texts(&offered.say(&[bad]))[0]["error"]["code"], 107);
    assert_eq!(texts(&connected(|_| {}).say(&[good]))[0]["error"]["code"], 107);
}

#[test]
fn cache_mode_replays_the_latest_publication() {
    let mut world = connected(|options| options.force_recovery_mode = RecoveryMode::Cache);
    let command = json!({"id": 2, "subscribe": {"channel": "a", "recover": true}});
    let out = world.say(&[command]);
    assert!(matches!(&out.calls[..], [Call::Subscribe { range: Some(Range::LATEST), .. }]));
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(9, &[9])))));
    let answer = texts(&out)[0]["subscribe"].clone();
    assert_eq!((&answer["recovered"], &answer["offset"]), (&json!(true), &json!(9)));
    assert_eq!(answer["publications"][0]["offset"], 9);

    let mut gone = connected(|options| options.force_recovery_mode = RecoveryMode::Cache);
    let out = subscribe(&mut gone, &json!({"channel": "a", "recover": true}), page(9, &[]));
    assert_eq!(texts(&out)[0]["subscribe"].get("recovered"), None);
}

#[test]
fn an_unrecovered_position_is_an_error_to_those_who_ask() {
    let mut world = connected(|_| {});
    let request = json!({"channel": "a", "recover": true, "offset": 3, "epoch": "x", "flag": 2});
    let out = subscribe(&mut world, &request, page(5, &[4, 5]));
    assert_eq!(texts(&out)[0]["error"]["code"], 112);
}

#[test]
fn a_subscription_that_is_not_refreshed_ends() {
    let mut world = connected(|_| {});
    let request = json!({"channel": "a", "token": (UNIX + 60).to_string()});
    let out = subscribe(&mut world, &request, page(0, &[]));
    assert_eq!(texts(&out)[0]["subscribe"]["ttl"], 60);
    let mut total = 0;
    let push = loop {
        let (seconds, out) = world.wait();
        total += seconds;
        match texts(&out).first() {
            Some(text) if text.get("push").is_some() => break text["push"].clone(),
            Some(_) => drop(world.say(&[json!({})])),
            None => {}
        }
    };
    assert_eq!(push["unsubscribe"]["code"], 2501);
    assert!((80..=85).contains(&total), "60 s and the grace of 25 s, not {total}");
}

#[test]
fn the_node_prolongs_by_itself_what_the_gate_says_so() {
    let claims = json!({"sub": "ada", "exp": UNIX + 10, "by_server": true}).to_string();
    let mut world = World::new();
    let out = world.say(&[json!({"id": 1, "connect": {"token": claims}})]);
    assert_eq!(texts(&out)[0]["connect"].get("expires"), None);
    let (seconds, out) = world.wait();
    assert_eq!(seconds, 10);
    assert!(matches!(&out.calls[..], [Call::Refresh(None, token)] if token.is_empty()));
    let term = Term { ends_at: Some(UNIX + 100), by_server: true };
    assert!(world.outcome(Outcome::Refreshed(None, Ok(term))).close.is_none());
    let denied = Err(Denial::from(ErrorCode::EXPIRED));
    let out = world.outcome(Outcome::Refreshed(None, denied));
    assert_eq!(out.close, Some(closed(Disconnect::EXPIRED)));
}

#[test]
fn a_refused_connect_leaves_the_rest_of_its_frame_undone() {
    let mut world = World::new();
    let frame = format!(
        "{}\n{}",
        json!({"id": 1, "connect": {"token": "x"}}),
        json!({"id": 2, "subscribe": {"channel": "a"}})
    );
    let mut out = world.session.output();
    world.session.handle_message(world.now, frame.into(), &mut out);
    let denied = Err(Denial::from(ErrorCode::TOKEN_EXPIRED));
    let out = world.outcome(Outcome::Admitted(denied));
    assert_eq!((out.frames.len(), &texts(&out)[0]["error"]["code"]), (1, &json!(109)));
    let out = world.say(&[json!({"id": 3, "publish": {"channel": "a", "data": 1}})]);
    assert_eq!(out.close, Some(closed(Disconnect::BAD_REQUEST)));
}

#[test]
fn too_many_commands_are_refused_and_those_who_do_not_listen_are_closed() {
    let limits = Client { command_rate: CommandRate { per_second: 10, burst: 3 }, ..limits() };
    let mut world = World::with(options(), limits, link(Protocol::Json)).connect();
    let publish = json!({"id": 2, "publish": {"channel": "a", "data": 1}});
    let out = world.say(&vec![publish.clone(); 5]);
    assert_eq!((out.calls.len(), out.frames.len()), (3, 2));
    assert_eq!(
        texts(&out)[0]["error"],
        json!({"code": 111, "message": "too many requests", "temporary": true})
    );
    assert!(out.notes.contains(&Note::Limited("connection")));
    let out = world.say(&[json!({"id": 3, "unsubscribe": {"channel": "a"}})]);
    assert_eq!(texts(&out)[0], json!({"id": 3, "unsubscribe": {}}), "never refused");
    let out = world.say(&vec![publish; 1001]);
    assert_eq!(out.close, Some(closed(Disconnect::TOO_MANY_REQUESTS)));
}

#[test]
fn a_publish_that_has_to_ask_keeps_its_place() {
    let mut world = connected(|options| options.publish_rate = 10);
    let publish = |id: u32| json!({"id": id, "publish": {"channel": "a", "data": 1}});
    let out = world.say(&[publish(2), publish(3)]);
    assert_eq!(out.calls.len(), 1);
    let out = world.outcome(Outcome::Published(2, false, Ok(())));
    assert!(matches!(&out.calls[..], [Call::Publish(publish)] if publish.id == 3 && !publish.free));
}

fn order(world: &mut World, order: Order) -> Output {
    let mut out = world.session.output();
    world.session.handle_order(world.now, order, &mut out);
    out
}

#[test]
fn the_back_end_subscribes_and_unsubscribes() {
    let mut world = connected(|_| {});
    let grant = world.grant(Term::default());
    let subscribe = Order::Subscribe { channel: "a".into(), grant, since: None };
    let out = order(&mut world, subscribe.clone());
    assert!(matches!(&out.calls[..], [Call::Subscribe { .. }]));
    assert!(order(&mut world, subscribe).calls.is_empty(), "it is subscribed already");
    let unsubscribe =
        Order::Unsubscribe { channel: "a".into(), code: 2000, reason: "server unsubscribe".into() };
    assert!(order(&mut world, unsubscribe).frames.is_empty(), "not before it is subscribed");
    let out = world.outcome(Outcome::Subscribed("a".into(), Ok(Some(page(4, &[])))));
    let sent = texts(&out);
    assert_eq!(sent[0]["push"]["subscribe"]["offset"], 4);
    assert_eq!(sent[1]["push"]["unsubscribe"]["code"], 2000);
}

#[test]
fn the_back_end_speaks_to_a_client_and_ends_it() {
    let mut world = connected(|_| {});
    let out = order(&mut world, Order::Message(r#"{"a":1}"#.into()));
    assert_eq!(texts(&out)[0], json!({"push": {"message": {"data": {"a": 1}}}}));
    let out = order(&mut world, Order::Disconnect { code: 4001, reason: "bye".into() });
    assert_eq!(out.close, Some(Close { code: 4001, reason: "bye".into() }));
}

#[test]
fn bytes_that_cannot_be_said_in_json_close_a_json_client() {
    let mut world = World::subscribed(3);
    let bytes = Publication { data: Bytes::from_static(b"\xff"), ..stored(4) };
    let out = world.news(bytes, None);
    assert_eq!(out.close, Some(closed(Disconnect::INAPPROPRIATE_PROTOCOL)));
}

#[test]
fn what_is_not_part_of_the_protocol_closes_the_connection() {
    for (command, expected) in [
        (json!({"id": 2, "ping": {}}), Disconnect::BAD_REQUEST),
        (json!({"subscribe": {"channel": "a"}}), Disconnect::BAD_REQUEST),
        (json!({"id": 2}), Disconnect::BAD_REQUEST),
        (json!({"id": 2, "subscribe": {}}), Disconnect::BAD_REQUEST),
        (json!({"id": 2, "sub_refresh": {"token": "x"}}), Disconnect::BAD_REQUEST),
        (json!({"id": 2, "refresh": {}}), Disconnect::BAD_REQUEST),
        (json!({"id": 2, "connect": {}}), Disconnect::BAD_REQUEST),
        (json!({"send": {"data": 1}}), Disconnect::NOT_AVAILABLE),
    ] {
        let out = connected(|_| {}).say(std::slice::from_ref(&command));
        assert_eq!(out.close, Some(closed(expected)), "{command}");
    }
}

#[test]
fn errors_are_those_of_the_protocol() {
    for (command, expected) in [
        (json!({"id": 2, "subscribe": {"channel": "a".repeat(256)}}), 107),
        (json!({"id": 2, "subscribe": {"channel": "no:such"}}), 102),
        (json!({"id": 2, "subscribe": {"channel": "a", "type": 1}}), 103),
        (json!({"id": 2, "publish": {"channel": "a"}}), 107),
        (json!({"id": 2, "history": {"channel": "a"}}), 103),
        (json!({"id": 2, "presence": {"channel": "a"}}), 103),
        (json!({"id": 2, "sub_refresh": {"channel": "a"}}), 103),
    ] {
        let out = connected(|_| {}).say(std::slice::from_ref(&command));
        assert_eq!(texts(&out)[0]["error"]["code"], expected, "{command}");
    }
}

#[test]
fn protobuf_clients_get_protobuf() {
    let mut world = World::with(options(), limits(), link(Protocol::Protobuf));
    let mut out = world.session.output();
    // id(1) = 1, connect(4) { token(1) = {"sub":"a"} }
    let frame = b"\x11\x08\x01\x22\x0d\x0a\x0b{\"sub\":\"a\"}";
    world.session.handle_message(world.now, Bytes::from_static(frame), &mut out);
    world.settle(&mut out);
    let document = out.frames[0].document();
    // Length, id(1) = 1, connect(5) …, client(1) = "c1"
    assert_eq!(&document[1..4], b"\x08\x01\x2a");
    assert_eq!(&document[5..9], b"\x0a\x02c1");
}
