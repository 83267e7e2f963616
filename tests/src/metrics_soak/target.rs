//! A scrape target whose samples say when they were made.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::evidence::{SERIES, Way, value};
use super::now_ms;

/// Most bytes of a request; a scraper's has some hundred.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// A target that outlives the supervisors which scrape it.
#[derive(Debug)]
pub(super) struct Target {
    address: SocketAddr,
    round: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Target {
    /// Listens on a free port.
    ///
    /// # Panics
    /// If the machine has no free port left.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (round, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        tasks.spawn(accept(listener, Arc::clone(&round)));
        Self { address, round, _tasks: tasks }
    }

    /// Where it is scraped.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on its series bear this round.
    pub(super) fn set_round(&self, round: u64) {
        self.round.store(round, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, round: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        // A connection that fails is the supervisor's end; the next one comes with its next life.
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&round)));
    }
}

/// Answers on one connection until it ends.
async fn serve(mut stream: TcpStream, round: Arc<AtomicU64>) {
    let mut request = Vec::new();
    loop {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 && request.len() <= REQUEST_BYTES_MAX => {}
            _ => return,
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        request.clear();
        let text = text(Way::Scrape, round.load(Ordering::Relaxed), now_ms());
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        if stream.write_all((head + &text).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A batch as a text with timestamps.
pub(super) fn text(way: Way, round: u64, at_ms: i64) -> String {
    let metric = way.metric();
    let line = |number| {
        let value = value(number, at_ms);
        format!("{metric}{{round=\"{round}\",number=\"{number}\"}} {value} {at_ms}\n")
    };
    (0..SERIES).map(line).collect()
}
