//! The suite over every broker.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use holdfast_chatnode::broker::bus::{Question, Target};
use holdfast_chatnode::config::{Broker, Config};

use super::{World, cases};
use crate::kit::{Redis, eventually, settings};

/// Checked settings with this body of the `[redis]` section.
pub(super) fn redis(body: &str) -> Broker {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chatnode.toml");
    std::fs::write(&file, settings(dir.path(), body, "")).unwrap();
    Config::load(&file).unwrap().broker
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    cases::all(&World::start(Broker::Memory)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_a_replica() {
    let primary = Redis::primary().await;
    let _replica = Redis::replica_of(&primary).await;
    let settings = format!("address = \"{}\"\ncommand_timeout = \"10s\"", primary.address());
    cases::all(&World::start(redis(&settings))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_independent_redis_servers() {
    let servers = [Redis::primary().await, Redis::primary().await, Redis::primary().await];
    let shards = servers
        .each_ref()
        .map(|server| format!("[[redis.shard]]\naddress = \"{}\"\n", server.address()));
    let settings = format!("confirm_replicas = 0\ncommand_timeout = \"10s\"\n{}", shards.concat());
    let world = World::start(redis(&settings));
    cases::all(&world).await;
    for server in &servers {
        let keys = server.command(&["DBSIZE"]).await;
        assert_ne!(keys, ":0\r\n", "every server has its share");
    }
    let probes = world.broker.probe_channels("probe");
    assert_eq!(probes.len(), servers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_know_who_is_alive_and_who_did_not_answer() {
    let primary = Redis::primary().await;
    let settings = format!("address = \"{}\"\nconfirm_replicas = 0", primary.address());
    let (one, two) = (World::start(redis(&settings)), World::start(redis(&settings)));
    for (world, answer) in [(&one, "one"), (&two, "two")] {
        world.bus.answer("who", move |_: Question| async move { Bytes::from(answer) }.boxed());
    }
    eventually("two nodes", async || {
        (one.bus.nodes().len() == 2 && two.bus.nodes().len() == 2).then_some(())
    })
    .await;
    let limit = Duration::from_secs(30);
    let survey = one.bus.survey(Target::All, "who", Bytes::new(), limit).await;
    let mut answers: Vec<_> = survey.answers.into_iter().map(|(_, answer)| answer).collect();
    answers.sort();
    assert_eq!((answers, survey.silent), (vec!["one".into(), "two".into()], vec![]));
    let survey = one.bus.survey(Target::Node(two.bus.node()), "who", Bytes::new(), limit).await;
    assert_eq!(survey.answers, [(two.bus.node().clone(), Bytes::from("two"))]);

    // One that does not know the question is silent, and so is one that cannot be reached.
    one.bus.answer("rare", |_: Question| async { Bytes::new() }.boxed());
    let survey =
        one.bus.survey(Target::All, "rare", Bytes::new(), Duration::from_millis(100)).await;
    assert_eq!((survey.answers.len(), survey.silent), (1, vec![two.bus.node().clone()]));
    let gone = two.bus.node().clone();
    drop(two);
    eventually("its goodbye", async || {
        (!one.bus.nodes().iter().any(|node| node.id == gone)).then_some(())
    })
    .await;
}
