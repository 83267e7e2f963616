//! A replica that lags behind is promoted, on purpose. What was published meanwhile is on nothing but the dead primary and in the memory
//! of nodes: they put it back, or clients are told that they cannot recover. Nothing is ever silently wrong.

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::Client;
use crate::kit::{Node, Redis, announcer, eventually};

/// A primary, and a replica that will be promoted.
struct Pair {
    primary: Redis,
    replica: Redis,
}

impl Pair {
    async fn start() -> Self {
        let primary = Redis::primary().await;
        let replica = Redis::replica_of(&primary).await;
        Self { primary, replica }
    }

    /// From now on the replica gets nothing.
    async fn freeze_replica(&self) {
        self.replica.process.signal("-STOP");
        self.primary.command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    }

    /// The primary dies, and the replica takes its place with what it has.
    async fn promote(&mut self) -> Redis {
        self.primary.process.kill();
        self.replica.process.signal("-CONT");
        self.replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        Redis::replica_of(&self.replica).await
    }
}

/// A node that goes where it is told by the returned sender.
async fn node(pair: &Pair) -> (Node, watch::Sender<String>) {
    let (announce, address) = watch::channel(pair.primary.address());
    let endpoint = announcer(address).await;
    let redis = format!(
        "sentinels = [\"{endpoint}\"]\nprimary_name = \"main\"\nconfirm_timeout = \"200ms\"\ncommand_timeout = \"20s\""
    );
    (Node::with(&redis, "[drain]\nperiod = \"10ms\"").await, announce)
}

/// Publishes `1..=last` and waits until the replica has them. That it does not say so in time, on a busy machine, is not the matter here.
async fn publish_on_both(client: &mut Client, pair: &Pair, last: i64) {
    for number in 1..=last {
        client.publish("room", json!(number)).await;
    }
    eventually("the replica to have everything", async || {
        let reply = pair.replica.command(&["XLEN", "holdfast:{room}:log"]).await;
        (reply == format!(":{last}\r\n")).then_some(())
    })
    .await;
}

/// Publishes, one after the other, with the replica frozen: none is acknowledged.
async fn publish_in_vain(client: &mut Client, numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        let reply = client.publish("room", json!(number)).await;
        assert!(reply.get("publish").is_none(), "{reply}");
    }
}

/// Publishes numbers from this one on until one is acknowledged, which a fresh replica may take a second for; returns that one.
async fn publish_until_acknowledged(client: &mut Client, first: i64) -> i64 {
    let mut number = first;
    eventually("an acknowledgement", async || {
        let reply = client.publish("room", json!(number)).await;
        number += 1;
        reply.get("publish").map(|_| number - 1)
    })
    .await
}

async fn recover(client: &mut Client, offset: u64, epoch: &Value) -> Value {
    let request = json!({"channel": "room", "recover": true, "offset": offset, "epoch": epoch});
    client.call("subscribe", request).await["subscribe"].clone()
}

fn data(publications: &Value) -> Vec<i64> {
    let publications = publications.as_array().map(Vec::as_slice).unwrap_or_default();
    publications.iter().map(|publication| publication["data"].as_i64().unwrap()).collect()
}

/// What the client gets up to message `last`, each numbered as its offset. It subscribes again as an SDK does when it is told that something
/// may be missing: a node that finds a newer end of the stream before the message itself has reached it cannot tell that from a gap.
async fn delivered(client: &mut Client, last: i64, epoch: &Value) -> Vec<i64> {
    let mut got: Vec<i64> = Vec::new();
    while got.last() != Some(&last) {
        let push = client.push().await;
        if let Some(number) = push["pub"]["data"].as_i64() {
            got.push(number);
        } else if push["unsubscribe"]["code"] == 2500 {
            let reply = recover(client, u64::try_from(got.len()).unwrap(), epoch).await;
            assert_eq!(reply["recovered"], true, "{reply}");
            got.extend(data(&reply["publications"]));
        } else {
            panic!("{push}");
        }
    }
    got
}

async fn stored(client: &mut Client) -> Vec<(u64, i64)> {
    let history = client.history("room").await;
    history.into_iter().map(|(offset, data)| (offset, data.as_i64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_puts_back_what_it_has_seen_and_nobody_misses_any() {
    let mut pair = Pair::start().await;
    let (node, announce) = node(&pair).await;
    let mut ada = Client::connect(node.client, "ada").await;
    let epoch = ada.subscribe("room").await["epoch"].clone();
    ada.subscribe("calm").await;
    publish_on_both(&mut ada, &pair, 3).await;
    pair.freeze_replica().await;
    publish_in_vain(&mut ada, 4..=5).await;
    // A channel nobody on this node follows is held too, by the node that published in it.
    assert_eq!(ada.publish("alone", json!(1)).await["error"]["code"], 100);
    let _second = pair.promote().await;
    announce.send(pair.replica.address()).unwrap();

    let last = publish_until_acknowledged(&mut ada, 6).await;
    let expected: Vec<_> = (1..=last).map(|n| (u64::try_from(n).unwrap(), n)).collect();
    assert_eq!(stored(&mut ada).await, expected);
    assert_eq!(ada.history("alone").await, [(1, json!(1))]);
    assert_eq!(delivered(&mut ada, last, &epoch).await, (1..=last).collect::<Vec<_>>());
    for (offset, first) in [(3, 4), (5, 6)] {
        let mut bob = Client::connect(node.client, "bob").await;
        let reply = recover(&mut bob, offset, &epoch).await;
        assert_eq!(
            (&reply["recovered"], data(&reply["publications"])),
            (&json!(true), (first..=last).collect())
        );
    }
    let put_back = "chatnode_repaired_publications_total{place=\"put_back\"}";
    eventually("the count of what was put back", async || {
        ((node.metric(put_back).await - 3.0).abs() < 0.1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_node_holds_any_more_is_not_recovered() {
    let mut pair = Pair::start().await;
    let (first, _announce) = node(&pair).await;
    let mut ada = Client::connect(first.client, "ada").await;
    let epoch = ada.subscribe("room").await["epoch"].clone();
    publish_on_both(&mut ada, &pair, 3).await;
    pair.freeze_replica().await;
    publish_in_vain(&mut ada, 4..=5).await;
    first.stop().await;
    let _second = pair.promote().await;
    let redis = format!("address = \"{}\"", pair.replica.address());
    let node = Node::with(&redis, "").await;

    let mut ada = Client::connect(node.client, "ada").await;
    let reply = recover(&mut ada, 5, &epoch).await;
    assert_eq!((&reply["was_recovering"], reply.get("recovered")), (&json!(true), None), "{reply}");
    assert_eq!(reply["offset"], 3);
    let mut bob = Client::connect(node.client, "bob").await;
    let reply = recover(&mut bob, 3, &epoch).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    // The offsets of what is gone are given out again; under the new epoch, which the push tells.
    publish_until_acknowledged(&mut bob, 40).await;
    let publication = bob.push_of("pub").await;
    assert_eq!((&publication["offset"], &publication["epoch"]), (&json!(4), &reply["epoch"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_its_place_taken_is_appended_once_and_positions_past_the_fork_end() {
    let mut pair = Pair::start().await;
    let ((one, announce_one), (two, announce_two)) = tokio::join!(node(&pair), node(&pair));
    let mut ada = Client::connect(one.client, "ada").await;
    let epoch = ada.subscribe("room").await["epoch"].clone();
    publish_on_both(&mut ada, &pair, 3).await;
    pair.freeze_replica().await;
    publish_in_vain(&mut ada, 4..=5).await;
    let mut bob = Client::connect(two.client, "bob").await;
    let _second = pair.promote().await;
    // The second node holds nothing of the channel and gets there first.
    announce_two.send(pair.replica.address()).unwrap();
    let last = publish_until_acknowledged(&mut bob, 40).await;
    announce_one.send(pair.replica.address()).unwrap();

    let push = loop {
        let push = ada.push().await;
        if push.get("unsubscribe").is_some() {
            break push;
        }
    };
    assert_eq!(push["unsubscribe"]["code"], 2500);
    let history = eventually("the repair", async || {
        let stored = stored(&mut bob).await;
        stored.iter().any(|(_, data)| *data == 5).then_some(stored)
    })
    .await;
    let after_fork: Vec<_> = (40..=last).chain([4, 5]).collect();
    let all: Vec<_> = [1, 2, 3].into_iter().chain(after_fork.clone()).collect();
    assert_eq!(history.into_iter().map(|(_, data)| data).collect::<Vec<_>>(), all);
    let reply = recover(&mut ada, 5, &epoch).await;
    assert_eq!((&reply["was_recovering"], reply.get("recovered")), (&json!(true), None), "{reply}");
    let mut carl = Client::connect(two.client, "carl").await;
    let reply = recover(&mut carl, 3, &epoch).await;
    assert_eq!((&reply["recovered"], data(&reply["publications"])), (&json!(true), after_fork));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_of_a_loss_it_cannot_repair_ends_the_epoch() {
    let mut pair = Pair::start().await;
    let ((one, _announce_one), (two, announce_two)) = tokio::join!(node(&pair), node(&pair));
    let mut ada = Client::connect(one.client, "ada").await;
    let epoch = ada.subscribe("room").await["epoch"].clone();
    publish_on_both(&mut ada, &pair, 3).await;
    pair.freeze_replica().await;
    publish_in_vain(&mut ada, 4..=4).await;
    // The second node hears of the channel only now.
    let mut bob = Client::connect(two.client, "bob").await;
    bob.subscribe("room").await;
    publish_in_vain(&mut ada, 5..=5).await;
    assert_eq!(bob.push_of("pub").await["data"], 5);
    drop(ada);
    one.stop().await;
    let _second = pair.promote().await;
    announce_two.send(pair.replica.address()).unwrap();

    let anew = "chatnode_streams_begun_anew_total";
    eventually("the end of the epoch", async || (two.metric(anew).await >= 1.0).then_some(()))
        .await;
    let mut carl = Client::connect(two.client, "carl").await;
    assert_eq!(stored(&mut carl).await, [(1, 1), (2, 2), (3, 3), (4, 5)]);
    // Even who was before the fork would miss 4 without knowing.
    let reply = recover(&mut carl, 3, &epoch).await;
    assert_eq!((&reply["was_recovering"], reply.get("recovered")), (&json!(true), None), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_the_replica_never_had_is_brought_over() {
    let mut pair = Pair::start().await;
    let (node, announce) = node(&pair).await;
    let mut ada = Client::connect(node.client, "ada").await;
    pair.freeze_replica().await;
    let epoch = ada.subscribe("room").await["epoch"].clone();
    publish_in_vain(&mut ada, 1..=2).await;
    let _second = pair.promote().await;
    announce.send(pair.replica.address()).unwrap();
    let last = publish_until_acknowledged(&mut ada, 3).await;
    let expected: Vec<_> = (1..=last).map(|n| (u64::try_from(n).unwrap(), n)).collect();
    assert_eq!(stored(&mut ada).await, expected);
    assert_eq!(delivered(&mut ada, last, &epoch).await, (1..=last).collect::<Vec<_>>());
    let mut bob = Client::connect(node.client, "bob").await;
    let reply = recover(&mut bob, 1, &epoch).await;
    assert_eq!(
        (&reply["recovered"], data(&reply["publications"])),
        (&json!(true), (2..=last).collect())
    );
}
