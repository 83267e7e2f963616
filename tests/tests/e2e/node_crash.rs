//! A chat node dies under load: nobody loses a message, people are told, and the node is taken in again step by step.

use std::time::Duration;

use holdfast_supervisor::record::Kind;
use holdfast_tests::clients::{Load, Member, history, not_once};
use holdfast_tests::cluster::Cluster;
use holdfast_tests::process::http_client;
use holdfast_tests::wait;
use serde_json::Value;

const ROOM: &str = "crash";
const SOON: Duration = Duration::from_secs(30);

/// The balancer's own view of one server.
async fn server(cluster: &Cluster, name: &str) -> Value {
    let url = cluster.admins().into_iter().find(|(program, _)| program == "balancer").unwrap().1;
    let token = std::fs::read_to_string(cluster.folder().join("secrets/balancer.token")).unwrap();
    let client = http_client();
    let pool = client.get(format!("{url}/api/v1/pools/chat")).bearer_auth(token.trim());
    let pool: Value = pool.send().await.unwrap().json().await.unwrap();
    pool["servers"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_killed_node_loses_no_message_and_comes_back_gradually() {
    let cluster = Cluster::start(&[]).await;
    let mut members = Vec::new();
    for number in 1..=6 {
        members.push(Member::join(&cluster, &format!("user-{number}"), ROOM).await);
    }
    // Least connections spreads them: every node has some, so the room spans all nodes.
    let status = wait::until("clients on every node", SOON, async || {
        let status = cluster.status().await;
        let spread = status.servers.nodes.iter().all(|node| node.connections >= Some(1.0));
        if spread { Ok(status) } else { Err(status.servers) }
    })
    .await;
    let load = Load::start(&members, ROOM);
    let before = cluster.last_event().await;
    let victim = status.servers.nodes[1].name.clone();
    let old_pid = cluster.kill(&victim);

    wait::until("the balancer to stop using the node", SOON, async || {
        let server = server(&cluster, &victim).await;
        if server["usable"] == false { Ok(()) } else { Err(server) }
    })
    .await;
    let fired = cluster
        .event("the alert", before, SOON, |event| {
            event.kind == Kind::AlertFiring
                && event.subject == victim
                && event.message.contains("NodeDown")
        })
        .await;
    let incident = fired.incident.expect("a critical alert belongs to an incident");
    wait::until("the mail", SOON, async || {
        let mails = cluster.mails();
        let told = |mail: &String| {
            mail.contains("FIRING") && mail.contains("NodeDown") && mail.contains(&victim)
        };
        if mails.iter().any(told) { Ok(()) } else { Err((mails, cluster.output())) }
    })
    .await;
    wait::until("the webhook", SOON, async || {
        let hooks = cluster.webhooks();
        let told = |alert: &holdfast_tests::cluster::HookAlert| {
            alert.labels["alertname"] == "NodeDown" && alert.labels["server"] == victim
        };
        let found =
            hooks.iter().any(|hook| hook.status == "firing" && hook.alerts.iter().any(told));
        if found { Ok(()) } else { Err(hooks) }
    })
    .await;

    // It is started again as a service manager would, and gets its weight back over the slow start.
    let weight = wait::until("the node to be taken in again", SOON, async || {
        let server = server(&cluster, &victim).await;
        if server["usable"] == true {
            Ok(server["effective_weight"].as_f64().unwrap())
        } else {
            Err(server)
        }
    })
    .await;
    assert!(weight < 100.0, "back with its full weight at once");
    assert_ne!(cluster.pid(&victim), old_pid);
    wait::until("its full weight", SOON, async || {
        let server = server(&cluster, &victim).await;
        if server["effective_weight"].as_f64() == Some(100.0) { Ok(()) } else { Err(server) }
    })
    .await;
    cluster
        .event("the end of the alert", before, SOON, |event| {
            event.kind == Kind::AlertResolved && event.subject == victim
        })
        .await;
    wait::until("the end of the incident", SOON, async || {
        let incidents = cluster.incidents().await;
        let closed = incidents.iter().any(|i| i.id == incident && i.closed.is_some());
        if closed { Ok(()) } else { Err(incidents) }
    })
    .await;

    let sent = load.stop().await;
    let acked = sent.all_acked();
    assert!(acked.len() > 20, "only {} messages were acknowledged", acked.len());
    let stored = history(&members[0], ROOM).await;
    assert_eq!(not_once(&acked, &stored), [], "acknowledged, but not once in the history");
    // Everybody got every acknowledged message exactly once, those who lost their node by recovery.
    for member in &members {
        wait::until("all messages", SOON, async || {
            let seen = member.seen();
            let missing = not_once(&acked, seen.ids());
            if missing.is_empty() { Ok(()) } else { Err((member.name.clone(), missing)) }
        })
        .await;
        assert_eq!(
            member.seen().unrecovered,
            0,
            "{} was told that something is missing",
            member.name
        );
    }
    let recovered: u64 = members.iter().map(|member| member.seen().recovered).sum();
    assert!(recovered > 0, "nobody reconnected, so nothing was tested");
    cluster.stop().await;
}
