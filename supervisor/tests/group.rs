//! The supervisors' group with real processes: formed by the command line, killed, stopped, grown and shrunk.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "group/kit.rs"]
mod kit;
#[path = "group/redis.rs"]
mod redis;

use kit::{Group, Signal, name, until};
use serde_json::json;
use tokio::time::Instant;

/// Slow enough that a busy machine does not look like a dead leader.
pub(crate) const CALM: &str = "heartbeat = \"100ms\"\nelection_timeout = \"3s\"";

#[tokio::test]
async fn a_killed_leader_is_replaced_and_nothing_agreed_is_lost() {
    let mut group = Group::of_three("a kill", "").await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    // A change asked of a follower is passed on to the leader, and all hear of it.
    let words = ["silence", "add", "NodeDown", "--for", "1h", "--comment", "x"];
    let id = group.insist(follower, &words).await["id"].as_u64().unwrap();
    for at in 0..3 {
        until("every member has the silence", async || group.silences(at).await == [id]).await;
    }
    let term = group.status(leader).await.unwrap()["term"].as_u64().unwrap();
    group.kill(leader);
    let killed = Instant::now();
    let next = group.leader().await;
    println!("a killed leader was replaced within {} ms", killed.elapsed().as_millis());
    assert_ne!(next, leader);
    let status = group.status(next).await.unwrap();
    assert!(status["term"].as_u64().unwrap() > term, "{status}");
    assert_eq!(group.silences(next).await, [id]);
    // It comes back, and follows whoever leads; on a busy machine it may be elected again.
    group.start(leader).await;
    until("the killed one is back", async || {
        let status = group.status(leader).await;
        status.is_some_and(|status| {
            ["following", "leading"].iter().any(|state| status["state"] == *state)
                && status["leader"] != json!(null)
        })
    })
    .await;
    until("it has what was agreed on", async || group.silences(leader).await == [id]).await;
}

#[tokio::test]
async fn a_stopped_leader_does_not_act_when_it_goes_on_and_a_minority_says_so() {
    let mut group = Group::of_three("a stop", CALM).await;
    let stopped = group.leader().await;
    let before = group.status(stopped).await.unwrap()["term"].as_u64().unwrap();
    group.signal(stopped, Signal::SIGSTOP);
    let begun = Instant::now();
    let next = group.leader_besides(stopped).await;
    println!("a stopped leader was replaced within {} ms", begun.elapsed().as_millis());
    let term = group.status(next).await.unwrap()["term"].as_u64().unwrap();
    assert!(term > before);
    group.signal(stopped, Signal::SIGCONT);
    until("the stopped one follows", async || {
        let status = group.status(stopped).await;
        status.is_some_and(|status| {
            status["state"] == "following" && status["term"].as_u64() >= Some(term)
        })
    })
    .await;
    // One of three is a minority: it watches, answers reads and refuses changes.
    let last = (0..3).find(|at| *at != stopped && *at != next).unwrap();
    group.kill(stopped);
    group.kill(next);
    until("the last one says that it is alone", async || {
        group.status(last).await.is_some_and(|status| status["state"] == "minority")
    })
    .await;
    let refused =
        group.run(last, &["silence", "add", "NodeDown", "--for", "1h", "--comment", "x"]).await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("majority"), "{refused}");
    for (page, said) in [
        ("/metrics", "supervisor_group_state{state=\"minority\"} 1"),
        ("/operator/v1/events?kind=group", "no majority of the supervisors' group is heard"),
    ] {
        until(said, async || group.page(last, page).await.contains(said)).await;
    }
    group.start(next).await;
    group.leader().await;
}

#[tokio::test]
async fn members_come_and_go() {
    let mut group = Group::of_three("members", CALM).await;
    group.grow().await;
    group.grow().await;
    until("all five vote", async || {
        let status = group.status(4).await.unwrap_or_default();
        let members = status["members"].as_array().map_or(0, Vec::len);
        members == 5 && status["tolerates"] == 2
    })
    .await;
    // The leader leaves: it hands over first.
    let leader = group.leader().await;
    let left = group.insist(leader, &["group", "leave"]).await;
    assert_eq!(left["state"], "outside", "{left}");
    let rest: Vec<_> = (0..5).filter(|at| *at != leader).collect();
    for at in &rest {
        until("all know that it is gone", async || {
            group.status(*at).await.is_some_and(|it| it["members"].as_array().unwrap().len() == 4)
        })
        .await;
    }
    // One that is dead is taken out by another.
    let next = group.leader().await;
    let dead = *rest.iter().find(|at| **at != next).unwrap();
    group.kill(dead);
    let dead_name = name(dead);
    let asked = *rest.iter().find(|at| **at != next && **at != dead).unwrap();
    group.insist(asked, &["group", "leave", &dead_name]).await;
    until("three are left", async || {
        group.status(asked).await.is_some_and(|it| it["members"].as_array().unwrap().len() == 3)
    })
    .await;
    let unknown = group.run(asked, &["group", "leave", "nobody"]).await.unwrap_err();
    assert!(unknown.contains("no member nobody"), "{unknown}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_what_to_do() {
    let mut group = Group::of_three("damage", CALM).await;
    let leader = group.leader().await;
    let victim = (leader + 1) % 3;
    for _ in 0..3 {
        let args = ["silence", "add", "NodeDown", "--for", "1h", "--comment", "x"];
        group.insist(leader, &args).await;
    }
    until("it has them all", async || group.silences(victim).await.len() == 3).await;
    group.kill(victim);
    let file = group.folder(victim).join("state/group.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    // In every copy: the newest one counts, and nobody outside knows which that is.
    let needle = b"\"comment\":\"x\"";
    let found: Vec<_> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at + 11] ^= 1;
    }
    std::fs::write(&file, &bytes).unwrap();
    let said = group.refuses_to_start(victim).await;
    assert!(said.contains("is damaged") && said.contains("holdfast group join"), "{said}");
    // What it says to do works.
    std::fs::rename(&file, file.with_extension("old")).unwrap();
    group.start(victim).await;
    let own_name = name(victim);
    group.insist(leader, &["group", "leave", &own_name]).await;
    let address = group.address(leader);
    group.insist(victim, &["group", "join", &address]).await;
    until("it has what the others have", async || group.silences(victim).await.len() == 3).await;
}
