//! Connections to servers: made within a timeout, and kept for the next request.
//!
//! Each worker keeps its own idle connections, so that a request, its client and its server stay on one core. The last one given back is
//! the first taken: it is the warmest, and the others grow old and are closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsStream;

use super::session::TICK;
use super::stream::Stream;
use crate::config::{Address, PoolRules, TcpRules};
use crate::pool::server::Server;
use crate::proxy_protocol::{self, Ends, Version};
use crate::tls::ClientTls;

/// Idle connections kept per server and worker.
const IDLE_MAX: usize = 64;
/// Longer than the pause between requests of a busy site, shorter than the idle timeouts usual in servers (nginx: 75 s).
const IDLE_AGE_MAX: Duration = Duration::from_secs(30);

/// Idle connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    /// With the tick at which each was given back.
    by_server: RefCell<BTreeMap<u64, Vec<(Stream, u32)>>>,
    /// Ticks so far, by which a connection's age is known well enough and without a look at the clock.
    ticks: Cell<u32>,
}

impl Idle {
    /// A connection that is open as far as we know.
    pub(crate) fn take(&self, server: u64) -> Option<Stream> {
        let mut by_server = self.by_server.borrow_mut();
        let kept = by_server.get_mut(&server)?;
        while let Some((mut stream, _)) = kept.pop() {
            if is_quiet(&mut stream) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection whose last response was read to its end.
    pub(crate) fn give_back(&self, server: u64, stream: Stream) {
        let mut by_server = self.by_server.borrow_mut();
        let kept = by_server.entry(server).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((stream, self.ticks.get()));
        }
    }

    /// At each [`TICK`]: closes those that are old or were closed by their server.
    pub(crate) fn tidy(&self) {
        let now = self.ticks.get().wrapping_add(1);
        self.ticks.set(now);
        let is_young = |since: u32| TICK.saturating_mul(now.wrapping_sub(since)) < IDLE_AGE_MAX;
        self.by_server.borrow_mut().retain(|_, kept| {
            kept.retain_mut(|(stream, since)| is_young(*since) && is_quiet(stream));
            !kept.is_empty()
        });
    }

    /// Closes all of one server.
    pub(crate) fn forget(&self, server: u64) {
        self.by_server.borrow_mut().remove(&server);
    }
}

/// Connects to `server` on behalf of a client between `ends` and counts the outcome; marking the server is the caller's business.
pub(crate) async fn connect(
    server: &Server,
    rules: &PoolRules,
    ends: Option<Ends>,
) -> io::Result<Stream> {
    let begun = Instant::now();
    let attempt =
        establish(server.address(), &rules.tcp, rules.tls.as_ref(), rules.send_proxy, ends);
    let outcome = match timeout(rules.connect_timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match outcome {
        Ok(stream) => {
            server.metrics.connections.inc();
            server.metrics.connect.observe(begun.elapsed().as_secs_f64());
            Ok(stream)
        }
        Err(error) => {
            server.metrics.connect_failures.inc();
            Err(error)
        }
    }
}

/// A connection on which the server's first byte may be awaited. The caller bounds the time.
///
/// # Cancel safety
/// Dropping it closes the connection; nothing else is affected.
pub(crate) async fn establish(
    address: &Address,
    tcp: &TcpRules,
    tls: Option<&ClientTls>,
    send_proxy: Option<Version>,
    ends: Option<Ends>,
) -> io::Result<Stream> {
    let mut stream = match address.socket() {
        Some(socket) => TcpStream::connect(socket).await,
        None => TcpStream::connect(address.as_str()).await,
    }?;
    if let Err(error) = tune(&SockRef::from(&stream), tcp) {
        // Without any of it the connection works as well.
        tracing::debug!(%error, "cannot tune a socket");
    }
    if let Some(version) = send_proxy {
        stream.write_all(&proxy_protocol::write(version, ends)).await?;
    }
    let Some(tls) = tls else { return Ok(stream.into()) };
    let name = tls.name(address.as_str()).map_err(io::Error::other)?;
    // Apart: a handshake's state is large, and most pools need none.
    let stream = Box::pin(tls.connector().connect(name, stream)).await?;
    Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
}

/// Whether neither an end nor unasked bytes have come. Asks the kernel only if it has reported something.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    if let Stream::Plain(stream) = stream {
        // Changes nothing about who is woken, unlike what follows.
        let read = stream.try_read(&mut byte);
        return read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    }
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
}

/// No delay for small messages, and the kernel watches for peers that are gone.
pub(crate) fn tune(socket: &SockRef<'_>, rules: &TcpRules) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(rules.keepalive_idle)
        .with_interval(rules.keepalive_interval)
        .with_retries(rules.keepalive_probes);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(rules.user_timeout))
}
