//! The suite.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use holdfast_chatnode::broker::bus::{Question, Target};
use holdfast_chatnode::broker::{
    Change, Condition, Idempotency, Key, MemberCounts, PublishOptions, Range, Rate, Retention,
    Version, Window, Write,
};
use holdfast_chatnode::stream::Publication;

use super::{Heard, World, kept, publication};
use crate::kit::eventually;

/// Runs every case.
pub(super) async fn all(world: &World) {
    publications_are_heard_and_kept_in_order(world).await;
    what_is_not_kept_is_heard_only(world).await;
    pages_are_what_was_asked_for(world).await;
    streams_begin_by_being_read_and_outlive_their_history(world).await;
    an_idempotency_key_publishes_once(world).await;
    an_older_version_is_left_out(world).await;
    members_come_and_go(world).await;
    a_rate_holds_for_everybody(world).await;
    records_are_written_as_a_whole_or_not(world).await;
    ranked_members_are_in_order(world).await;
    nodes_ask_and_answer(world).await;
}

async fn publications_are_heard_and_kept_in_order(world: &World) {
    let channel = "order:}a{b}";
    world.broker.follow(channel).await.unwrap();
    let full = Publication {
        offset: 99,
        data: Bytes::from_static(b"\xff\n{}"),
        info: Some("{\"user\":\"ada\"}".into()),
        tags: Some("{\"a\":\"b\"}".into()),
        delta: true,
        time_ms: 1234,
        id: "an id\n".into(),
    };
    let first = world.broker.publish(channel, full.clone(), kept(3)).await.unwrap();
    let pending: Vec<_> = ["2", "3", "4"].map(|data| world.publish(channel, data)).into();
    let rest = futures_util::future::join_all(pending).await;
    assert_eq!((first.offset, first.suppressed), (1, false));
    assert_eq!(rest.iter().map(|published| published.offset).collect::<Vec<_>>(), [2, 3, 4]);
    world.broker.join(channel, "{\"user\":\"ada\"}").await.unwrap();
    world.broker.leave(channel, "{}").await.unwrap();

    let heard = world.heard(channel, 6).await;
    let epoch = Some(first.epoch.to_string());
    let publication = Publication { offset: 1, ..full };
    assert_eq!(
        heard[0],
        Heard::Publication { channel: channel.into(), publication, epoch: epoch.clone() }
    );
    for (heard, data) in heard[1..4].iter().zip(["2", "3", "4"]) {
        let Heard::Publication { publication, epoch: of, .. } = heard else { panic!("{heard:?}") };
        assert_eq!((&publication.data[..], of), (data.as_bytes(), &epoch));
        assert!(!publication.id.is_empty(), "an id is made up");
    }
    assert!(heard[4..].contains(&Heard::Join(channel.into(), "{\"user\":\"ada\"}".into())));
    assert!(heard[4..].contains(&Heard::Leave(channel.into(), "{}".into())));

    // Only the latest three are kept.
    let page = world.broker.read(channel, Range { since: None, limit: 9, reverse: false });
    let page = page.await.unwrap();
    assert_eq!(page.publications.iter().map(|p| p.offset).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((page.state.top, page.state.lineage.visible()), (4, &first.epoch));

    world.broker.unfollow(channel);
    let other = "order:other";
    world.broker.follow(other).await.unwrap();
    world.publish(channel, "5").await;
    world.publish(other, "1").await;
    world.heard(other, 1).await;
    assert_eq!(world.recorder.of(channel).len(), 6, "nobody follows it any more");
}

async fn what_is_not_kept_is_heard_only(world: &World) {
    let channel = "fleeting";
    world.broker.follow(channel).await.unwrap();
    let options = PublishOptions::default();
    let published = world.broker.publish(channel, publication("1"), options.clone()).await.unwrap();
    assert_eq!((published.offset, &*published.epoch), (0, ""));
    let once = Some(Idempotency { key: "k".into(), ttl: Duration::from_mins(1) });
    let once = PublishOptions { idempotency: once, ..options };
    for suppressed in [false, true] {
        let published = world.broker.publish(channel, publication("2"), once.clone()).await;
        assert_eq!(published.unwrap().suppressed, suppressed);
    }
    world.publish(channel, "3").await;
    let heard = world.heard(channel, 3).await;
    let data = heard.iter().map(|heard| match heard {
        Heard::Publication { publication, epoch, .. } => {
            (String::from_utf8(publication.data.to_vec()).unwrap(), epoch.is_some())
        }
        other => panic!("{other:?}"),
    });
    let mut data: Vec<_> = data.collect();
    data.sort();
    let expected = [("1", false), ("2", false), ("3", true)];
    assert_eq!(data, expected.map(|(data, kept)| (data.to_owned(), kept)));
}

async fn pages_are_what_was_asked_for(world: &World) {
    let channel = "pages";
    for number in 1..=5 {
        let options = kept(10);
        world.broker.publish(channel, publication(&number.to_string()), options).await.unwrap();
    }
    for (since, limit, reverse, expected) in [
        (None, 0, false, vec![]),
        (None, 2, false, vec![1, 2]),
        (Some(2), 9, false, vec![3, 4, 5]),
        (Some(5), 9, false, vec![]),
        (Some(9), 9, false, vec![]),
        (None, 2, true, vec![5, 4]),
        (Some(3), 9, true, vec![2, 1]),
        (Some(1), 9, true, vec![]),
    ] {
        let range = Range { since, limit, reverse };
        let page = world.broker.read(channel, range).await.unwrap();
        let offsets: Vec<_> = page.publications.iter().map(|p| p.offset).collect();
        assert_eq!((offsets, page.state.top), (expected, 5), "{range:?}");
    }
    let latest = world.broker.read(channel, Range::LATEST).await.unwrap();
    assert_eq!(latest.publications.iter().map(|p| &p.data[..]).collect::<Vec<_>>(), [b"5"]);
}

async fn streams_begin_by_being_read_and_outlive_their_history(world: &World) {
    let channel = "life";
    let state = world.broker.read(channel, Range::STATE).await.unwrap().state;
    assert_eq!(state.top, 0);
    let published = world.publish(channel, "1").await;
    assert_eq!((published.offset, &published.epoch), (1, state.lineage.visible()));
    world.broker.remove_history(channel).await.unwrap();
    let all = Range { since: None, limit: 9, reverse: false };
    let page = world.broker.read(channel, all).await.unwrap();
    assert_eq!((page.publications.len(), page.state.top), (0, 1));
    assert_eq!(page.state.lineage.visible(), &published.epoch);

    let ttl = Duration::from_millis(200);
    let retention = Retention { size: 3, ttl, ..Retention::default() };
    let options = PublishOptions { retention, ..PublishOptions::default() };
    let published = world.broker.publish(channel, publication("2"), options).await.unwrap();
    assert_eq!(published.offset, 2);
    let page = eventually("the end of the history", async || {
        let page = world.broker.read(channel, all).await.unwrap();
        page.publications.is_empty().then_some(page)
    })
    .await;
    assert_eq!((page.state.top, page.state.lineage.visible()), (2, &published.epoch));

    let brief = "life:brief";
    let retention = Retention { size: 3, ttl, meta_ttl: ttl };
    let options = PublishOptions { retention, ..PublishOptions::default() };
    let first = world.broker.publish(brief, publication("1"), options.clone()).await.unwrap();
    let again = eventually("another epoch", async || {
        tokio::time::sleep(ttl).await;
        let next = world.broker.publish(brief, publication("1"), options.clone()).await.unwrap();
        (next.epoch != first.epoch).then_some(next)
    })
    .await;
    assert_eq!(again.offset, 1);
}

async fn an_idempotency_key_publishes_once(world: &World) {
    let channel = "once";
    let with = |key: &str, ms| PublishOptions {
        idempotency: Some(Idempotency { key: key.into(), ttl: Duration::from_millis(ms) }),
        ..kept(10)
    };
    let mut publishes = Vec::new();
    for key in ["a", "a", "b c", "a"] {
        let options = with(key, 60_000);
        let done = world.broker.publish(channel, publication(key), options).await.unwrap();
        publishes.push((done.offset, done.suppressed));
    }
    assert_eq!(publishes, [(1, false), (1, true), (2, false), (1, true)]);
    let elsewhere = world.broker.publish("once:else", publication("a"), with("a", 60_000)).await;
    assert!(!elsewhere.unwrap().suppressed, "keys are the channel's own");
    let page = world.broker.read(channel, Range { since: None, limit: 9, reverse: false });
    let ids: Vec<_> = page.await.unwrap().publications.into_iter().map(|p| p.id).collect();
    assert_eq!(ids, ["a", "b c"]);

    let brief = world.broker.publish(channel, publication("x"), with("x", 100)).await.unwrap();
    let again = eventually("the end of the memory", async || {
        let again = world.broker.publish(channel, publication("x"), with("x", 100)).await.unwrap();
        (!again.suppressed).then_some(again)
    })
    .await;
    assert!(again.offset > brief.offset);
}

async fn an_older_version_is_left_out(world: &World) {
    let channel = "versions";
    let mut results = Vec::new();
    for (number, epoch) in [(5, "a"), (5, "a"), (4, "a"), (6, "a"), (1, "b"), (1, "b")] {
        let version = Some(Version { number, epoch: epoch.into() });
        let options = PublishOptions { version, ..kept(10) };
        let published = world.broker.publish(channel, publication("1"), options).await.unwrap();
        results.push((published.offset, published.suppressed));
    }
    let expected = [(1, false), (0, true), (0, true), (2, false), (3, false), (0, true)];
    assert_eq!(results, expected);
}

async fn members_come_and_go(world: &World) {
    let (broker, channel) = (&world.broker, "members");
    assert_eq!(broker.member_counts(channel).await.unwrap(), MemberCounts::default());
    for (client, user) in [("c1", "ada"), ("c2", "ada"), ("c3", ""), ("c1", "ada")] {
        let info = format!("{{\"user\":\"{user}\",\"client\":\"{client}\"}}");
        broker.add_member(channel, client, user, &info).await.unwrap();
    }
    assert_eq!(broker.member_counts(channel).await.unwrap(), MemberCounts { clients: 3, users: 2 });
    let members = broker.members(channel).await.unwrap();
    assert_eq!(members.keys().collect::<Vec<_>>(), ["c1", "c2", "c3"]);
    assert_eq!(members["c3"].get(), "{\"user\":\"\",\"client\":\"c3\"}");
    for (client, users) in [("c1", 2), ("c1", 2), ("c2", 1), ("c3", 0), ("c9", 0)] {
        broker.remove_member(channel, client).await.unwrap();
        assert_eq!(broker.member_counts(channel).await.unwrap().users, users, "{client}");
    }
    assert!(broker.members(channel).await.unwrap().is_empty());
}

async fn a_rate_holds_for_everybody(world: &World) {
    let rate = Rate { burst: 3, every: Duration::from_mins(1) };
    let mut allowed = Vec::new();
    for cost in [1, 2, 1, 3] {
        allowed.push(world.broker.take("ada}", rate, cost).await.unwrap());
    }
    let yes: Vec<_> = allowed.iter().map(|allowance| allowance.allowed).collect();
    assert_eq!(yes, [true, true, false, false]);
    let secs: Vec<_> = allowed.iter().map(|allowance| allowance.retry_after.as_secs()).collect();
    assert_eq!(secs[..2], [0, 0]);
    assert!((50..=60).contains(&secs[2]) && (170..=180).contains(&secs[3]), "{secs:?}");
    assert!(world.broker.take("bob", rate, 3).await.unwrap().allowed, "each key has its own");
    let fast = Rate { burst: 1, every: Duration::from_millis(50) };
    world.broker.take("carl", fast, 1).await.unwrap();
    eventually("the next one", async || {
        world.broker.take("carl", fast, 1).await.unwrap().allowed.then_some(())
    })
    .await;
}

fn field(name: &str, value: &str) -> Change {
    Change::Set(name.into(), Bytes::from(value.to_owned()))
}

async fn records_are_written_as_a_whole_or_not(world: &World) {
    let broker = &world.broker;
    let key = Key { collection: "account", id: "}ada" };
    let write = async |conditions: &[Condition], changes: &[Change]| {
        let (conditions, changes) = (conditions.to_vec(), changes.to_vec());
        broker.write(key, Write { conditions, changes, ttl: None }).await.unwrap()
    };
    let [name, other] = ["name", "other"].map(str::to_owned);
    assert!(!write(&[Condition::Present], &[field("name", "x")]).await);
    assert!(write(&[Condition::Absent], &[field("name", "Ada"), Change::Add("n".into(), 2)]).await);
    assert!(!write(&[Condition::Absent], &[field("name", "x")]).await);
    assert_eq!(
        broker.record(key).await.unwrap(),
        [("n".to_owned(), Bytes::from("2")), ("name".to_owned(), Bytes::from("Ada")),].into()
    );
    for (condition, holds) in [
        (Condition::Present, true),
        (Condition::FieldAbsent(name.clone()), false),
        (Condition::FieldAbsent(other.clone()), true),
        (Condition::FieldPresent(name.clone()), true),
        (Condition::FieldPresent(other.clone()), false),
        (Condition::FieldIs(name.clone(), "Ada".into()), true),
        (Condition::FieldIs(name.clone(), "ada".into()), false),
        (Condition::FieldIs(other.clone(), "".into()), false),
        (Condition::FieldsBelow(2), false),
        (Condition::FieldsBelow(3), true),
        (Condition::MembersBelow(0), false),
        (Condition::MembersBelow(1), true),
    ] {
        assert_eq!(write(std::slice::from_ref(&condition), &[]).await, holds, "{condition:?}");
    }
    let both = [Condition::Present, Condition::FieldPresent(other)];
    assert!(!write(&both, &[Change::Clear]).await, "all conditions must hold");
    let changes = [
        Change::Raise("n".into(), 1),
        Change::Raise("m".into(), -5),
        Change::Add("m".into(), -1),
        Change::Remove(name),
        Change::Rank("bob".into(), 7),
        field("b", "\u{0}\r\n"),
    ];
    assert!(write(&[], &changes).await);
    let values = broker.fields(key, &["n", "m", "name", "b"]).await.unwrap();
    assert_eq!(values, [Some("2".into()), Some("-6".into()), None, Some("\u{0}\r\n".into())]);
    assert!(broker.fields(key, &[]).await.unwrap().is_empty());
    assert!(write(&[], &[Change::Clear]).await);
    assert!(broker.record(key).await.unwrap().is_empty());
    assert!(write(&[Condition::Absent], &[]).await, "the order is gone too");

    let ttl = Some(Duration::from_millis(100));
    let changes = vec![field("a", "1"), Change::Rank("b".into(), 1)];
    broker.write(key, Write { changes, ttl, conditions: Vec::new() }).await.unwrap();
    eventually("the end of the record", async || {
        write(&[Condition::Absent], &[]).await.then_some(())
    })
    .await;
}

async fn ranked_members_are_in_order(world: &World) {
    let broker = &world.broker;
    let key = Key { collection: "inbox", id: "ada" };
    let ranks = [("a", 3), ("b", -1), ("c", 1_700_000_000_000), ("d", 3)];
    let changes = ranks.map(|(member, score)| Change::Rank(member.into(), score)).into();
    broker.write(key, Write { changes, ..Write::default() }).await.unwrap();
    let changes = vec![Change::Rank("a".into(), 4), Change::Unrank("x".into())];
    broker.write(key, Write { changes, ..Write::default() }).await.unwrap();
    let ranked = async |offset, limit, highest_first| {
        let window = Window { offset, limit, highest_first };
        let ranked = broker.ranked(key, window).await.unwrap();
        ranked.into_iter().map(|(member, _)| member).collect::<String>()
    };
    assert_eq!(ranked(0, 9, false).await, "bdac");
    assert_eq!(ranked(0, 9, true).await, "cadb");
    assert_eq!(ranked(1, 2, true).await, "ad");
    assert_eq!(ranked(9, 2, true).await, "");
    assert_eq!(ranked(0, 0, true).await, "");
    let window = Window { offset: 0, limit: 1, highest_first: true };
    assert_eq!(broker.ranked(key, window).await.unwrap(), [("c".to_owned(), 1_700_000_000_000)]);
}

async fn nodes_ask_and_answer(world: &World) {
    let bus = &world.bus;
    let own = bus.node().clone();
    bus.answer("echo", |question: Question| {
        async move { Bytes::from([b"you said ", &question.payload[..]].concat()) }.boxed()
    });
    let limit = Duration::from_secs(30);
    for target in [Target::All, Target::Node(&own)] {
        let survey = bus.survey(target, "echo", Bytes::from("hi"), limit).await;
        assert_eq!(survey.answers, [(own.clone(), Bytes::from("you said hi"))]);
        assert!(survey.silent.is_empty());
    }
    let short = Duration::from_millis(50);
    let survey = bus.survey(Target::Node("nobody"), "echo", Bytes::new(), short).await;
    assert_eq!((survey.answers.len(), &survey.silent[..]), (0, &["nobody".into()][..]));
}
