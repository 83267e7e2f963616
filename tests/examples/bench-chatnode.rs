//! What a chat node costs: memory of idle connections, CPU of deliveries and publishes, and how long a confirmed publish takes.
//!
//! `make bench-chatnode` runs it on release builds. The node serves real sockets and a real Redis primary with a replica; a publish is
//! answered once the replica has it. Figures are the node's own: its resident memory and its CPU time from `/proc`. What this program and
//! Redis use is not counted, but on a small machine it takes part in what bounds the latencies.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use holdfast_tests::single::SingleNode;
use holdfast_tests::wire::{TEXT, Wire};
use holdfast_tests::{usage, wait};
use tokio::task::JoinSet;

/// Connections that are there before memory is first looked at, so that what every process needs once is not counted.
const FIRST: usize = 500;
/// Connections opened at a time.
const OPENED_TOGETHER: usize = 64;
/// Idle connections per channel: rooms of ten.
const ROOM: usize = 10;
/// Subscribers of one channel and messages under way at a time, per step. One at a time is the worst case: every delivery is a write of
/// its own. The last step, a busy room, is in the result row.
const DELIVERIES: [(usize, usize); 5] = [(1, 1), (10, 1), (100, 1), (1000, 1), (1000, 16)];
/// Payload of a message in bytes.
const MESSAGE_BYTES: usize = 128;
/// Publishers that measure latency, each at [`PUBLISH_EVERY`].
const PACED: usize = 8;
const PUBLISH_EVERY: Duration = Duration::from_millis(20);
/// Publishers that measure throughput, and the publishes each has under way.
const EAGER: usize = 32;
const WINDOW: usize = 16;
/// Memory has settled when it changes by less than this, in this time.
const SETTLED_BYTES: u64 = 64 * 1024;
const SETTLE_EVERY: Duration = Duration::from_millis(500);
/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Parser)]
#[command(about = "What a chat node costs")]
struct Arguments {
    /// Idle connections
    #[arg(long, default_value_t = 8000)]
    idle: usize,
    /// Messages per fan-out step of 1000; smaller steps send more
    #[arg(long, default_value_t = 500)]
    messages: usize,
    /// Seconds for each of the publishing measurements
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// No limit of the node may be what is measured. Pings are rare enough not to be among the deliveries.
const CLIENT: &str = "connections_max = 100000\nuser_connections_max = 0\nconnects_per_second = 0\ncommands_per_second = 0\nuser_commands_per_second = 0\nping_interval = \"10m\"\nqueue_bytes_max = 16777216";

/// A chat's usual options: history, positions, recovery; presence in rooms.
const CHANNELS: &str = "[channels]\nhistory_size = 100\nhistory_ttl = \"1h\"\nforce_positioning = true\nforce_recovery = true\n\
    presence = true\nallow_subscribe_for_client = true\nallow_publish_for_client = true";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let node = Arc::new(SingleNode::start(CLIENT, CHANNELS).await);
    let idle_kib = idle(&node, arguments.idle).await?;
    let mut us_per_delivery = 0.0;
    for (fan_out, under_way) in DELIVERIES {
        // Few deliveries per message: more messages, or the CPU time is too little to be told apart from none.
        let messages = arguments.messages * (1000 / fan_out).min(8);
        us_per_delivery = deliver(&node, fan_out, under_way, messages).await?;
    }
    let (p50, p99) = paced(&node, arguments.seconds).await?;
    let per_core = eager(&node, arguments.seconds).await?;
    println!(
        "bench-chatnode idle_kib={idle_kib:.1} us_per_delivery={us_per_delivery:.2} publish_p50_ms={p50:.2} \
         publish_p99_ms={p99:.2} publishes_per_core_s={per_core:.0}"
    );
    Ok(())
}

/// KiB of resident memory per connection that is subscribed to a room and silent.
async fn idle(node: &Arc<SingleNode>, count: usize) -> Result<f64> {
    let room = |number: usize| format!("room-{}", number / ROOM);
    let first = open(node, 0..FIRST, room).await?;
    let before = settled(node).await;
    let rest = open(node, FIRST..FIRST + count, room).await?;
    let after = settled(node).await;
    let kib = after.saturating_sub(before) as f64 / 1024.0 / count as f64;
    println!(
        "idle        {count} connections with one subscription each, rooms of {ROOM}: {kib:.1} KiB each; {:.0} MiB in all",
        after as f64 / 1_048_576.0
    );
    drop((first, rest));
    gone(node).await;
    Ok(kib)
}

/// Resident memory once it has stopped changing.
async fn settled(node: &SingleNode) -> u64 {
    let mut last = 0;
    wait::until("the memory to settle", PATIENCE, async || {
        tokio::time::sleep(SETTLE_EVERY).await;
        let now = usage::resident_bytes(node.pid());
        let change = now.abs_diff(std::mem::replace(&mut last, now));
        if change < SETTLED_BYTES { Ok(now) } else { Err(now) }
    })
    .await
}

/// Waits until the node has tidied up behind those who left.
async fn gone(node: &SingleNode) {
    wait::until("all connections to end", PATIENCE, async || {
        let left = node.metric("chatnode_connections").await;
        if left < 1.0 { Ok(()) } else { Err(left) }
    })
    .await;
}

/// CPU of the node in microseconds per message delivered, `under_way` messages at a time to `fan_out` subscribers.
async fn deliver(
    node: &Arc<SingleNode>,
    fan_out: usize,
    under_way: usize,
    messages: usize,
) -> Result<f64> {
    let channel = format!("fan-out-{fan_out}");
    let members = open(node, 0..fan_out, |_| channel.clone()).await?;
    let mut publisher = join(node, "publisher", "elsewhere").await?;
    let received = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for mut member in members {
        let received = Arc::clone(&received);
        readers.spawn(async move {
            while let Ok(frame) = member.next().await {
                if frame.opcode == TEXT {
                    received.fetch_add(documents(&frame.payload), Ordering::Relaxed);
                }
            }
        });
    }
    let before = usage::cpu(node.pid());
    for number in (0..messages).step_by(under_way) {
        let commands: Vec<_> =
            (number..number + under_way).map(|id| publish_command(id, &channel)).collect();
        publish(&mut publisher, &commands).await?;
    }
    let expected = (messages.next_multiple_of(under_way) * fan_out) as u64;
    wait::until("every delivery", PATIENCE, async || {
        let received = received.load(Ordering::Relaxed);
        if received >= expected { Ok(()) } else { Err((received, expected)) }
    })
    .await;
    let cpu = usage::cpu(node.pid()).saturating_sub(before);
    let us = cpu.as_secs_f64() * 1e6 / expected as f64;
    println!(
        "delivery    1 → {fan_out}, {messages} messages of {MESSAGE_BYTES} bytes: {us:.2} µs of CPU each"
    );
    readers.shutdown().await;
    drop(publisher);
    gone(node).await;
    Ok(us)
}

/// How many documents a text frame holds.
fn documents(payload: &[u8]) -> u64 {
    payload.split(|byte| *byte == b'\n').count() as u64
}

fn publish_command(id: usize, channel: &str) -> String {
    let text = "x".repeat(MESSAGE_BYTES - 2);
    format!("{{\"id\":{},\"publish\":{{\"channel\":\"{channel}\",\"data\":\"{text}\"}}}}", id + 10)
}

/// Sends publishes in one frame and waits until all are confirmed.
async fn publish(wire: &mut Wire, commands: &[String]) -> Result<()> {
    wire.send(&commands.join("\n")).await?;
    let mut confirmed = 0;
    while confirmed < commands.len() {
        confirmed += confirmations(wire).await?;
    }
    Ok(())
}

/// Waits for confirmations of publishes and counts them.
async fn confirmations(wire: &mut Wire) -> Result<usize> {
    let answer = wire.next_text().await?;
    if answer.contains("\"error\"") {
        bail!("a publish was answered by {answer}");
    }
    Ok(answer.lines().count())
}

/// Median and 99th percentile, in milliseconds, from sending a publish until its confirmation, under a moderate load.
async fn paced(node: &Arc<SingleNode>, seconds: u64) -> Result<(f64, f64)> {
    let mut publishers = JoinSet::new();
    for number in 0..PACED {
        let node = Arc::clone(node);
        publishers.spawn(async move {
            let channel = format!("paced-{number}");
            let mut wire = join(&node, &channel, "elsewhere").await?;
            let mut every = tokio::time::interval(PUBLISH_EVERY);
            let end = Instant::now() + Duration::from_secs(seconds);
            let mut taken = Vec::new();
            while Instant::now() < end {
                every.tick().await;
                let sent = Instant::now();
                publish(&mut wire, &[publish_command(taken.len(), &channel)]).await?;
                taken.push(sent.elapsed());
            }
            anyhow::Ok(taken)
        });
    }
    let mut taken = Vec::new();
    while let Some(some) = publishers.join_next().await {
        taken.extend(some??);
    }
    taken.sort_unstable();
    let at = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let (p50, p99) = (at(50), at(99));
    println!(
        "confirmed   {PACED} publishers, {} publishes/s: median {p50:.2} ms, 99th percentile {p99:.2} ms, longest {:.2} ms",
        taken.len() as u64 / seconds,
        at(100)
    );
    gone(node).await;
    Ok((p50, p99))
}

/// Confirmed publishes per second of the node's CPU time, from publishers that always have some under way.
async fn eager(node: &Arc<SingleNode>, seconds: u64) -> Result<f64> {
    let mut publishers = JoinSet::new();
    let before = usage::cpu(node.pid());
    for number in 0..EAGER {
        let node = Arc::clone(node);
        publishers.spawn(async move {
            let channel = format!("eager-{number}");
            let mut wire = join(&node, &channel, "elsewhere").await?;
            let end = Instant::now() + Duration::from_secs(seconds);
            let (mut sent, mut confirmed) = (0, 0);
            while Instant::now() < end {
                while sent < confirmed + WINDOW {
                    wire.send(&publish_command(sent, &channel)).await?;
                    sent += 1;
                }
                confirmed += confirmations(&mut wire).await?;
            }
            anyhow::Ok(confirmed)
        });
    }
    let mut confirmed = 0;
    while let Some(some) = publishers.join_next().await {
        confirmed += some??;
    }
    let cpu = usage::cpu(node.pid()).saturating_sub(before).as_secs_f64();
    let per_core = confirmed as f64 / cpu;
    println!(
        "throughput  {EAGER} publishers with {WINDOW} under way: {:.0} confirmed/s with {:.2} cores of the node, {per_core:.0}/s per core",
        confirmed as f64 / seconds as f64,
        cpu / seconds as f64
    );
    Ok(per_core)
}

/// Connects as `user` and subscribes to `channel`, the way the SDKs do: both commands in one frame.
async fn join(node: &SingleNode, user: &str, channel: &str) -> Result<Wire> {
    let mut wire = Wire::open(node.clients, None).await.context("cannot connect")?;
    let token = node.token(user);
    wire.send(&format!(
        "{{\"id\":1,\"connect\":{{\"token\":\"{token}\"}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}"
    ))
    .await?;
    loop {
        let text = wire.next_text().await.context("while subscribing")?;
        if text.contains("\"error\"") {
            bail!("the node answered {text}");
        }
        if text.contains("\"id\":2") {
            return Ok(wire);
        }
    }
}

/// Opens a connection for each number; `channel` says which it subscribes to.
async fn open(
    node: &Arc<SingleNode>,
    numbers: Range<usize>,
    channel: impl Fn(usize) -> String,
) -> Result<Vec<Wire>> {
    let mut opened = Vec::with_capacity(numbers.len());
    let mut opening = JoinSet::new();
    for number in numbers {
        if opening.len() == OPENED_TOGETHER {
            opened.extend(opening.join_next().await.transpose()?.transpose()?);
        }
        let (node, channel) = (Arc::clone(node), channel(number));
        opening.spawn(async move { join(&node, &format!("u{number}"), &channel).await });
    }
    while let Some(wire) = opening.join_next().await {
        opened.push(wire??);
    }
    Ok(opened)
}
