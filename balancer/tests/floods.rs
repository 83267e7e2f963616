//! Floods: one address that opens connections as fast as it can, and very many connections that say nothing, while others are served.
//!
//! `make attack-balancer` runs them at full size and prints what the others noticed; here they are as small as CI likes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};

use support::{Balancer, DEADLINE, Upstream, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

/// Connections of a flood where nothing else is said.
const CONNECTIONS: usize = 400;
/// Requests of the others meanwhile.
const REQUESTS: usize = 200;

#[expect(clippy::disallowed_methods, reason = "the size of an attack is chosen by who runs it")]
fn connections() -> usize {
    std::env::var("ATTACK_CONNECTIONS").map_or(CONNECTIONS, |count| count.parse().unwrap())
}

async fn connect(address: SocketAddr, client: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    timeout(DEADLINE, socket.connect(address)).await?
}

async fn started(upstream: &Upstream, listener: &str) -> Balancer {
    let listener = format!("pool = \"p\"\nmax_connections = 100000\n{listener}");
    let text = settings("", &[("a", upstream.address)]).replacen("pool = \"p\"", &listener, 1);
    Balancer::start(&text).await
}

/// Requests of another client, each on a connection of its own; all must succeed. Prints how long they took.
#[expect(clippy::print_stdout, reason = "what the others noticed is what an attack is run for")]
async fn others(what: &str, address: SocketAddr) {
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        let mut stream = connect(address, Ipv4Addr::new(127, 9, 9, 9)).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1_000.0;
    println!("{what}: others served={REQUESTS} p50_ms={:.1} p99_ms={:.1}", at(50), at(99));
}

#[tokio::test]
async fn a_flood_from_one_address_does_not_keep_others_out() {
    let upstream = Upstream::start("a");
    let limits = "[listener.limits]\nconnections = 20\nconnections_per_second = 0.001\n\
        connections_burst = 250";
    let balancer = started(&upstream, limits).await;
    let address = balancer.address("l");
    let flood = async {
        let mut held = Vec::new();
        for _ in 0..connections() {
            // What is refused is closed at once and may show as a reset already here.
            if let Ok(stream) = connect(address, Ipv4Addr::new(127, 0, 0, 2)).await {
                held.push(stream);
            }
            if held.len() > 200 {
                held.remove(0);
            }
        }
        held
    };
    let (held, ()) = tokio::join!(flood, others("flood from one address", address));
    let metrics = balancer.metrics().await;
    let turned_away = metrics.lines().filter(|line| {
        line.contains("_rejected_total") && (line.contains("client_c") || line.contains("n_rate"))
    });
    let turned_away: Vec<_> = turned_away.map(str::to_owned).collect();
    println!("{turned_away:?}");
    until("most of the flood to be turned away", async || {
        let of = |reason: &str| {
            format!("balancer_listener_rejected_total{{listener=\"l\",reason=\"{reason}\"}}")
        };
        let most = balancer.metric(&of("client_connections")).await;
        let early = balancer.metric(&of("connection_rate")).await;
        let least = connections() as f64 - 250.0;
        if most + early >= least { Ok(()) } else { Err((most, early)) }
    })
    .await;
    drop(held);
    balancer.end().await;
}

#[tokio::test]
async fn connections_that_say_nothing_are_held_cheaply_and_cut_off() {
    let upstream = Upstream::start("a");
    let balancer = started(&upstream, "header_timeout = \"5s\"").await;
    let address = balancer.address("l");
    let silent = async {
        let mut held = Vec::with_capacity(connections());
        for n in 0..connections() {
            // From many addresses: each has some 28,000 ports at most.
            let [high, low] = u16::try_from(n % 200 + 256).unwrap().to_be_bytes();
            held.push(connect(address, Ipv4Addr::new(127, 1, high, low)).await.unwrap());
        }
        held
    };
    let held = silent.await;
    others(&format!("{} silent connections", held.len()), address).await;
    // All of them are gone after the timeout, by our doing.
    let ends = held.into_iter().map(|mut stream| async move {
        let mut byte = [0];
        stream.read(&mut byte).await.unwrap_or(0)
    });
    let ends = futures_util::future::join_all(ends);
    let ends = timeout(DEADLINE * 2, ends).await.unwrap();
    assert!(ends.iter().all(|read| *read == 0), "closed without an answer");
    let timeouts = "balancer_listener_rejected_total{listener=\"l\",reason=\"header_timeout\"}";
    until("all to be counted", async || {
        let count = balancer.metric(timeouts).await;
        if count >= connections() as f64 { Ok(()) } else { Err(count) }
    })
    .await;
    // And others are served as before.
    others("after them", address).await;
    balancer.end().await;
}
