//! A chat node under clients that do what no proper client does: it refuses them with the right code, and goes on serving the others
//! within bounded memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use holdfast_tests::single::SingleNode;
use holdfast_tests::wire::{BINARY, TEXT, Wire};
use holdfast_tests::{usage, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CLIENT: &str = "queue_bytes_max = 1048576";
/// Patience is short, so that the test of it need not wait, and long enough for a busy machine to connect.
const IMPATIENT: &str = "ping_interval = \"4s\"\npong_timeout = \"2s\"\nstale_timeout = \"3s\"";
const CHANNELS: &str = "[channels]\nhistory_size = 10\nhistory_ttl = \"1m\"\nforce_positioning = true\nforce_recovery = true\n\
    allow_subscribe_for_client = true\nallow_publish_for_client = true";

/// Close codes of the protocol.
const BAD_REQUEST: u16 = 3501;
const STALE: u16 = 3502;
const INVALID_TOKEN: u16 = 3500;
const NO_PONG: u16 = 3012;
/// Close code of WebSocket for a message over the limit.
const TOO_BIG: u16 = 1009;

const SOON: Duration = Duration::from_secs(30);
const MIB: u64 = 1024 * 1024;

async fn code(wire: &mut Wire) -> Option<u16> {
    timeout(SOON, wire.closed()).await.expect("the node closes the connection").unwrap_or(None)
}

async fn connected(node: &SingleNode, user: &str) -> Wire {
    let mut wire = Wire::open(node.clients, None).await.unwrap();
    let token = node.token(user);
    wire.send(&format!("{{\"id\":1,\"connect\":{{\"token\":\"{token}\"}}}}")).await.unwrap();
    let answer = timeout(SOON, wire.next_text()).await.unwrap().unwrap();
    assert!(answer.contains("\"client\""), "{answer}");
    wire
}

/// The node still does what it is for, and nothing in it has panicked.
async fn still_serves(node: &SingleNode) {
    let mut wire = connected(node, "proper").await;
    wire.send("{\"id\":2,\"publish\":{\"channel\":\"room\",\"data\":1}}").await.unwrap();
    // A ping may come first.
    let mut answer = "{}".to_owned();
    while answer == "{}" {
        answer = timeout(SOON, wire.next_text()).await.unwrap().unwrap();
    }
    assert_eq!(answer, "{\"id\":2,\"publish\":{}}");
    assert!(!node.output().contains("panicked"), "{}", node.output());
}

#[tokio::test]
async fn what_is_no_command_ends_the_connection_that_sent_it() {
    let node = SingleNode::start(CLIENT, CHANNELS).await;
    let deep =
        format!("{{\"id\":2,\"publish\":{{\"channel\":\"room\",\"data\":{}", "[".repeat(20_000));
    let long = format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{}\"", "x".repeat(50_000));
    let broken = [
        "",
        "{",
        "[]",
        "null",
        "\u{0}",
        "{}{}",
        "{\"id\":2}",
        "{\"id\":-1,\"publish\":{}}",
        "{\"id\":2,\"publish\":[]}",
        "{\"id\":99999999999999999999,\"publish\":{}}",
        "{\"publish\":{\"channel\":\"room\",\"data\":1}}",
        "\n\n\n",
        &deep,
        &long,
    ];
    for text in broken {
        // Before the connect command, and after it.
        let mut wire = Wire::open(node.clients, None).await.unwrap();
        wire.send(text).await.unwrap();
        assert_eq!(code(&mut wire).await, Some(BAD_REQUEST), "before connect: {text:.40}");
        let mut wire = connected(&node, "odd").await;
        wire.send(text).await.unwrap();
        assert_eq!(code(&mut wire).await, Some(BAD_REQUEST), "after connect: {text:.40}");
    }
    for opcode in [TEXT, BINARY] {
        let mut wire = connected(&node, "odd").await;
        wire.send_frame(opcode, b"{\"id\":2,\"rpc\":{\"method\":\"\xff\xfe\"}}").await.unwrap();
        // A text frame that is not UTF-8 is a fault of the WebSocket already; the library ends the connection without a code of ours.
        assert!(matches!(code(&mut wire).await, None | Some(1007 | BAD_REQUEST)));
    }
    still_serves(&node).await;
}

#[tokio::test]
async fn huge_and_nonsensical_frames_cost_no_memory() {
    let node = SingleNode::start(CLIENT, CHANNELS).await;
    still_serves(&node).await;
    let before = usage::resident_bytes(node.pid());
    let mut open = Vec::new();
    for _ in 0..50 {
        // A frame that claims to be 2^62 bytes long, and one just over the limit.
        let mut claims = connected(&node, "huge").await;
        claims.send_raw(&[0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'x']).await.unwrap();
        open.push(claims);
        let mut sends = connected(&node, "huge").await;
        // It may close before it has read everything.
        let _cut = sends.send(&"x".repeat(70_000)).await;
        open.push(sends);
    }
    for wire in &mut open {
        assert!(matches!(code(wire).await, None | Some(TOO_BIG)));
    }
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..100 {
        let mut wire = connected(&node, "noise").await;
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(200).collect();
        let _cut = wire.send_raw(&noise).await;
        let _cut = wire.stream().shutdown().await;
        let mut rest = Vec::new();
        let _cut = timeout(SOON, wire.stream().read_to_end(&mut rest)).await.expect("it ends");
    }
    let grown = usage::resident_bytes_max(node.pid()).saturating_sub(before);
    assert!(grown < 32 * MIB, "the node grew by {} MiB", grown / MIB);
    still_serves(&node).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_and_nobody_else_waits_for_it() {
    let node = SingleNode::start(CLIENT, CHANNELS).await;
    let mut stuck = Vec::new();
    for number in 0..10 {
        let mut wire = connected(&node, &format!("stuck-{number}")).await;
        wire.send("{\"id\":2,\"subscribe\":{\"channel\":\"flood\"}}").await.unwrap();
        timeout(SOON, wire.next_text()).await.unwrap().unwrap();
        stuck.push(wire);
    }
    let before = usage::resident_bytes(node.pid());
    let mut writer = connected(&node, "writer").await;
    let text = "x".repeat(60_000);
    for id in 2..500 {
        let command =
            format!("{{\"id\":{id},\"publish\":{{\"channel\":\"flood\",\"data\":\"{text}\"}}}}");
        writer.send(&command).await.unwrap();
        loop {
            let answer = timeout(SOON, writer.next_text()).await.unwrap().unwrap();
            match answer.as_str() {
                // A ping, answered as it must be.
                "{}" => writer.send("{}").await.unwrap(),
                answer => {
                    assert!(answer.contains("\"publish\":{}"), "{answer}");
                    break;
                }
            }
        }
    }
    wait::until("those who do not read to be cut off", SOON, async || {
        let left = node.metric("chatnode_connections").await;
        if left <= 1.0 { Ok(()) } else { Err(left) }
    })
    .await;
    // Ten queues of a mebibyte, what is on its way to Redis and back, and what the allocator keeps.
    let grown = usage::resident_bytes_max(node.pid()).saturating_sub(before);
    assert!(grown < 96 * MIB, "the node grew by {} MiB", grown / MIB);
    drop(stuck);
    still_serves(&node).await;
}

#[tokio::test]
async fn silence_is_borne_for_a_while_only() {
    let node = SingleNode::start(IMPATIENT, CHANNELS).await;
    // Connected by TCP and nothing else; in the middle of the upgrade; upgraded without a connect command; connected without pongs.
    let mut silent = TcpStream::connect(node.clients).await.unwrap();
    let mut half = TcpStream::connect(node.clients).await.unwrap();
    half.write_all(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut mute = Wire::open(node.clients, None).await.unwrap();
    let mut deaf = connected(&node, "deaf").await;
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut rest)).await;
        let _broken = ended.expect("the node ends the connection");
    }
    assert_eq!(code(&mut mute).await, Some(STALE));
    assert_eq!(code(&mut deaf).await, Some(NO_PONG));
    still_serves(&node).await;
}

#[tokio::test]
async fn connections_without_a_request_are_bounded() {
    let node = SingleNode::start("connections_max = 4\nstale_timeout = \"1m\"", CHANNELS).await;
    let mut silent = Vec::new();
    wait::until("some to be turned away", SOON, async || {
        silent.push(TcpStream::connect(node.clients).await.unwrap());
        let refused = node.metric("chatnode_rejected_connections_total{reason=\"limit\"}").await;
        if refused >= 1.0 { Ok(()) } else { Err((silent.len(), refused)) }
    })
    .await;
    assert!(silent.len() > 4, "more may be about to ask than connected: {}", silent.len());
    drop(silent);
    wait::until("room", SOON, async || {
        Wire::open(node.clients, None).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    still_serves(&node).await;
}

#[tokio::test]
async fn no_mutation_of_a_token_is_accepted() {
    let node = SingleNode::start(CLIENT, CHANNELS).await;
    let good = node.token("victim");
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..200 {
        let mut token = good.clone().into_bytes();
        // The last character carries bits that are not part of the signature.
        let place = random.usize(..token.len() - 1);
        match random.u8(..3) {
            0 => token[place] = if token[place] == b'A' { b'B' } else { b'A' },
            1 => drop(token.remove(place)),
            _ => token.truncate(place),
        }
        let token = String::from_utf8(token).unwrap();
        if token.is_empty() {
            continue;
        }
        let mut wire = Wire::open(node.clients, None).await.unwrap();
        wire.send(&format!("{{\"id\":1,\"connect\":{{\"token\":\"{token}\"}}}}")).await.unwrap();
        assert_eq!(code(&mut wire).await, Some(INVALID_TOKEN), "{token}");
    }
    still_serves(&node).await;
}

#[tokio::test]
async fn a_thousand_idle_connections_are_little() {
    const COUNT: u64 = 1000;
    let node = SingleNode::start("", CHANNELS).await;
    let mut idle = Vec::new();
    for number in 0..100 {
        idle.push(connected(&node, &format!("first-{number}")).await);
    }
    let before = usage::resident_bytes(node.pid());
    for number in 0..COUNT {
        idle.push(connected(&node, &format!("idle-{number}")).await);
    }
    let each = usage::resident_bytes(node.pid()).saturating_sub(before) / COUNT;
    // An unoptimised build; `make bench-chatnode` measures the real one.
    assert!(each < 32 * 1024, "{each} bytes each");
    still_serves(&node).await;
}
