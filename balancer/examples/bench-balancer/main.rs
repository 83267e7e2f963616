//! What the balancer costs beside HAProxy and nginx, on the same work in the same run.
//!
//! `make bench-balancer` runs it on release builds. Client and servers are this program, one thread each; the three proxies get two
//! threads each and the same job, headers for the server included. Measurements go in rounds, one proxy after the other within a
//! round and each round in another order, and the median over the rounds counts, so that what else happens on the machine hits all three
//! alike. CPU is what `/proc/PID/stat` says of the proxy's own processes: it holds on a busy machine, latencies do not.

#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

mod backend;
mod callgrind;
mod load;
mod proxies;
mod report;
mod tls;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use proxies::{Kind, Proxy};
use report::{Measure, Report, Sample};

/// Connections of a closed loop: enough to keep two threads busy, few enough to share two cores with them.
const CLIENTS: usize = 64;
/// Connections of the paced measurements that would be a crowd in a chat.
const WEBSOCKETS: usize = 1_000;
/// Idle WebSockets opened before memory is first looked at, so that what every process needs once is not counted.
const FIRST: usize = 500;
/// Connections of the relay of bulk data.
const STREAMS: usize = 4;

#[derive(Parser)]
#[command(about = "What the balancer costs beside HAProxy and nginx")]
struct Arguments {
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Operations per second of the measurements at a fixed rate
    #[arg(long, default_value_t = 4_000)]
    rate: u64,
    /// Idle WebSockets beyond the first 500
    #[arg(long, default_value_t = 4_000)]
    idle: usize,
    /// Only these measurements (http, http-rate, new, ws, ws-rate, handshake, idle, tcp, tls, tls-bulk)
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these proxies beside HAProxy, the yardstick (ours, nginx)
    #[arg(long, value_delimiter = ',')]
    against: Vec<Kind>,
    /// Count instructions of the balancer alone, in user space, instead of CPU time (valgrind)
    #[arg(long)]
    instructions: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run(&arguments))?;
    if arguments.instructions {
        report.print_instructions();
    } else {
        report.print();
    }
    Ok(())
}

async fn run(arguments: &Arguments) -> Result<Report, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    tls::certify(dir.path())?;
    let backends = backend::start()?;
    let mut kinds = vec![Kind::Haproxy, Kind::Ours, Kind::Nginx];
    if !arguments.against.is_empty() {
        kinds.retain(|kind| *kind == Kind::Haproxy || arguments.against.contains(kind));
    }
    let mut measures = Measure::ALL.to_vec();
    if !arguments.only.is_empty() {
        measures.retain(|measure| arguments.only.contains(measure));
    }
    if arguments.instructions {
        kinds.retain(|kind| *kind == Kind::Ours);
        measures.retain(|measure| *measure != Measure::Idle);
    }
    let mut report = Report::default();
    let mut proxies = Vec::new();
    for kind in kinds {
        let counted = arguments.instructions;
        proxies.push(Proxy::start(kind, dir.path(), &backends, counted).await?);
    }
    for round in 0..arguments.rounds {
        for &measure in &measures {
            // Memory is looked at once: a process keeps what it has had.
            if measure == Measure::Idle {
                continue;
            }
            proxies.rotate_left(1);
            for proxy in &proxies {
                let sample = work(measure, proxy, dir.path(), arguments).await?;
                report.add(measure, proxy.kind, sample);
            }
        }
        println!("round {} of {} done", round + 1, arguments.rounds);
    }
    if measures.contains(&Measure::Idle) {
        drop(proxies);
        for kind in [Kind::Haproxy, Kind::Ours, Kind::Nginx] {
            let proxy = Proxy::start(kind, dir.path(), &backends, false).await?;
            report.add(Measure::Idle, kind, idle(&proxy, arguments.idle).await?);
        }
    }
    Ok(report)
}

/// One measurement on one proxy.
async fn work(
    measure: Measure,
    proxy: &Proxy,
    dir: &Path,
    arguments: &Arguments,
) -> Result<Sample, Box<dyn Error>> {
    let lasting = Duration::from_secs_f64(arguments.seconds);
    let Proxy { http, tcp, https, tls_bulk, .. } = *proxy;
    let (used, done) = match measure {
        Measure::Http => metered(proxy, load::http(http, CLIENTS, lasting, None)).await?,
        Measure::HttpRate => {
            metered(proxy, load::http(http, CLIENTS, lasting, Some(arguments.rate))).await?
        }
        Measure::New => metered(proxy, load::new_connections(http, CLIENTS, lasting)).await?,
        Measure::Ws | Measure::WsRate => {
            let sockets = load::open_websockets(http, WEBSOCKETS).await?;
            let rate = (measure == Measure::WsRate).then_some(arguments.rate);
            metered(proxy, load::round_trips(sockets, lasting, rate)).await?
        }
        Measure::Handshake => metered(proxy, load::handshakes(http, CLIENTS, lasting)).await?,
        Measure::Tcp => metered(proxy, load::bulk(tcp, STREAMS, lasting, None)).await?,
        Measure::Tls => {
            let client = tls::client(dir)?;
            metered(proxy, load::tls_handshakes(https, CLIENTS, lasting, client)).await?
        }
        Measure::TlsBulk => {
            let client = Some(tls::client(dir)?);
            metered(proxy, load::bulk(tls_bulk, STREAMS, lasting, client)).await?
        }
        Measure::Idle => unreachable!("memory is measured apart"),
    };
    Ok(Sample {
        value: used / done.operations.max(1) as f64,
        p99_ms: done.p99_ms(),
        errors: done.errors,
    })
}

/// Does `work` and says what the proxy used for it.
async fn metered(
    proxy: &Proxy,
    work: impl Future<Output = load::Done>,
) -> Result<(f64, load::Done), Box<dyn Error>> {
    let before = proxy.used()?;
    let done = work.await;
    // Connections that were closed at the end are part of the work.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok((proxy.used()? - before, done))
}

/// Bytes of memory per idle WebSocket.
async fn idle(proxy: &Proxy, count: usize) -> Result<Sample, Box<dyn Error>> {
    let first = load::open_websockets(proxy.http, FIRST).await?;
    let before = proxy.settled_memory().await?;
    let rest = load::open_websockets(proxy.http, count).await?;
    let after = proxy.settled_memory().await?;
    drop((first, rest));
    Ok(Sample {
        value: after.saturating_sub(before) as f64 / count as f64,
        p99_ms: None,
        errors: 0,
    })
}
