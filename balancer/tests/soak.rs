//! WebSockets under traffic through everything an operator does: reloads, servers that come and go, weights, a new program in place of
//! the old. None may end, and none may get a wrong byte. `make soak-balancer` runs the same with 5,000 of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use serde_json::json;
use support::program::{Program, api};
use support::{DEADLINE, Upstream, request, until};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

/// Small enough for every run of the tests, large enough that each worker and server has many.
const SOCKETS: usize = 300;
const RELOADS: usize = 20;
/// Messages per second over all sockets: traffic on each between any two events, and no more than a debug build can do.
const MESSAGES_PER_SECOND: f64 = 1_000.0;

fn text(servers: &[(&str, SocketAddr, u16)]) -> String {
    let mut text = format!(
        "[[listener]]\nname = \"l\"\nlisten = \"127.0.0.1:0\"\npool = \"p\"\n\
         [[pool]]\nname = \"p\"\n{}",
        support::CHECKED,
    );
    for (name, address, weight) in servers {
        let server = format!("name = \"{name}\"\naddress = \"{address}\"\nweight = {weight}");
        write!(text, "[[pool.server]]\n{server}\n").unwrap();
    }
    text
}

#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    dropped: AtomicU64,
    wrong: AtomicU64,
    stop: AtomicBool,
}

/// One client: what it sends has to come back, to the last byte, until it is told to stop.
async fn chat(url: String, n: usize, pause: Duration, counts: Arc<Counts>) {
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let mut round = 0_u64;
    while !counts.stop.load(Ordering::Relaxed) {
        round += 1;
        // Now and then one that takes several reads.
        let length = if (round + n as u64).is_multiple_of(20) { 100_000 } else { 20 + n % 200 };
        let mut text = format!("{n} {round} ");
        text.extend(std::iter::repeat_n('x', length));
        let sent = Message::text(text);
        if socket.send(sent.clone()).await.is_err() {
            counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match timeout(DEADLINE * 4, socket.next()).await {
            Ok(Some(Ok(got))) if got == sent => counts.messages.fetch_add(1, Ordering::Relaxed),
            Ok(Some(Ok(Message::Text(_)))) => counts.wrong.fetch_add(1, Ordering::Relaxed),
            _ => {
                counts.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        sleep(pause).await;
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

async fn wait_usable(admin: SocketAddr, count: usize) {
    until(&format!("{count} usable servers"), async || {
        let pool = api(admin, "GET", "/pools/p", "").await;
        let pool: serde_json::Value = serde_json::from_slice(&pool.body).unwrap_or_default();
        let servers = pool["servers"].as_array().cloned().unwrap_or_default();
        let usable = servers.iter().filter(|server| server["usable"] == true).count();
        if usable == count { Ok(()) } else { Err(pool) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_websocket_notices_what_operators_do() {
    let sockets = wanted();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Upstream::start);
    let mut program = Program::start(&text(&[("a", a.address, 100), ("b", b.address, 100)]));
    let (admin, listener) = (program.admin, program.listener());
    wait_usable(admin, 2).await;

    let counts = Arc::new(Counts::default());
    let pause = Duration::from_secs_f64(sockets as f64 / MESSAGES_PER_SECOND);
    let mut clients = JoinSet::new();
    for n in 0..sockets {
        let url = format!("ws://{listener}/ws");
        clients.spawn(chat(url, n, pause, Arc::clone(&counts)));
        if n % 50 == 0 {
            // Not all handshakes at once: those are another test's business.
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(10)).await;
        }
    }
    let all_talk = async || {
        let before = counts.messages.load(Ordering::Relaxed);
        until("an answer for everybody", async || {
            let more = counts.messages.load(Ordering::Relaxed) - before;
            let dropped = counts.dropped.load(Ordering::Relaxed);
            if more >= sockets as u64 || dropped > 0 { Ok(()) } else { Err(more) }
        })
        .await;
    };
    all_talk().await;

    for round in 0..RELOADS {
        // Server b goes and comes, c too, a's weight changes.
        let weight = u16::try_from(20 + round).unwrap();
        let mut servers = vec![("a", a.address, weight)];
        if round % 2 == 1 {
            servers.push(("b", b.address, 100));
        }
        if round % 3 != 0 {
            servers.push(("c", c.address, 50));
        }
        program.write(&text(&servers));
        let answer = api(admin, "POST", "/reload", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let added = json!({ "name": "d", "address": d.address.to_string() }).to_string();
        let status = api(admin, "POST", "/pools/p/servers", &added).await.status;
        assert!(status == 201 || status == 409, "{status}");
        let status = api(admin, "PATCH", "/pools/p/servers/d", r#"{"state":"ready"}"#).await.status;
        assert_eq!(status, 200);
        let change = json!({ "weight": 10 + round, "state": "ready" }).to_string();
        assert_eq!(api(admin, "PATCH", "/pools/p/servers/a", &change).await.status, 200);
        wait_usable(admin, servers.len() + 1).await;
        assert_eq!(request(listener, "GET", "/", &[], b"").await.status, 200);
        if round == RELOADS / 2 {
            api(admin, "PATCH", "/pools/p/servers/d", r#"{"state":"drain"}"#).await;
            upgrade(&mut program, admin, listener).await;
            // What was set is still so.
            let pool = api(admin, "GET", "/pools/p", "").await;
            let pool: serde_json::Value = serde_json::from_slice(&pool.body).unwrap();
            let servers = pool["servers"].as_array().unwrap();
            let of = |name: &str| servers.iter().find(|server| server["name"] == name).unwrap();
            assert_eq!(
                (&of("d")["state"], &of("a")["weight"]),
                (&json!("drain"), &json!(10 + round))
            );
            all_talk().await;
        }
        // Taken out, or refused while clients are on it.
        let status = api(admin, "DELETE", "/pools/p/servers/d", "").await.status;
        assert!(status == 204 || status == 409, "{status}");
        // Those who are on it stay on it.
        api(admin, "PATCH", "/pools/p/servers/d", r#"{"state":"drain"}"#).await;
    }
    all_talk().await;
    counts.stop.store(true, Ordering::Relaxed);
    let end = async { while clients.join_next().await.is_some() {} };
    timeout(DEADLINE * 4, end).await.unwrap();
    let [messages, dropped, wrong] = [&counts.messages, &counts.dropped, &counts.wrong]
        .map(|count| count.load(Ordering::Relaxed));
    println!(
        "soak-balancer sockets={sockets} messages={messages} dropped={dropped} wrong_bytes={wrong} reloads={RELOADS} upgrades=1"
    );
    assert_eq!((dropped, wrong), (0, 0));
}

/// How many sockets there are to be.
#[expect(clippy::disallowed_methods, reason = "`make soak-balancer` asks for more by it")]
fn wanted() -> usize {
    let wanted = std::env::var("HOLDFAST_SOAK_SOCKETS");
    wanted.map_or(SOCKETS, |text| text.parse().unwrap())
}

/// Puts the program in its own place; connects and asks all the while.
async fn upgrade(program: &mut Program, admin: SocketAddr, listener: SocketAddr) {
    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(request(listener, "GET", "/", &[], b"").await.status, 200);
                asked += 1;
            }
            asked
        }
    });
    program.signal(Signal::SIGUSR2);
    assert_eq!(program.said("listening admin "), admin.to_string());
    assert_eq!(program.said("listening listener:l "), listener.to_string());
    let old = program.process;
    program.process = *program.children().last().unwrap();
    // From then on there is but one who answers.
    let doors = [admin, listener].map(|address| format!("socket:[{}]", inode(address)));
    until("the old process to let go of its sockets", async || {
        let fds = std::fs::read_dir(format!("/proc/{old}/fd")).unwrap();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        let held: Vec<_> =
            links.filter(|link| doors.iter().any(|door| link.as_os_str() == &**door)).collect();
        if held.is_empty() { Ok(()) } else { Err(held) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0);
}

/// The socket that listens at a port of 127.0.0.1.
fn inode(address: SocketAddr) -> String {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{:04X}", address.port());
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut listening = fields.filter(|f| f.len() > 9 && f[1] == local && f[3] == "0A");
    listening.next().unwrap()[9].to_owned()
}
