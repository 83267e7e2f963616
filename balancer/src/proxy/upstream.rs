//! Connections to servers: made within a timeout, and kept for the next request.
//!
//! Each worker keeps its own idle connections, so that a request, its client and its server stay on one core. The last one given back is
//! the first taken: it is the warmest, and the others grow old and are closed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use crate::pool::server::Server;

/// Idle connections kept per server and worker.
const IDLE_MAX: usize = 64;
/// Longer than the pause between requests of a busy site, shorter than the idle timeouts usual in servers (nginx: 75 s).
const IDLE_AGE_MAX: Duration = Duration::from_secs(30);
/// A peer whose host is gone says nothing; the kernel finds out within half a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// Unacknowledged data for this long means the same.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends requests on one connection.
pub(crate) type Sender = SendRequest<RequestBody>;
/// The socket of a connection that was upgraded, and what was read from it beyond the head.
pub(crate) type Upgraded = oneshot::Receiver<(TcpStream, Bytes)>;

/// Idle connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    by_server: RefCell<HashMap<u64, Vec<(Sender, Instant)>>>,
}

impl Idle {
    /// A connection that is open as far as we know.
    pub(crate) fn take(&self, server: u64) -> Option<Sender> {
        let mut by_server = self.by_server.borrow_mut();
        let kept = by_server.get_mut(&server)?;
        while let Some((sender, _)) = kept.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection whose last response was read to its end.
    pub(crate) fn give_back(&self, server: u64, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut by_server = self.by_server.borrow_mut();
        let kept = by_server.entry(server).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((sender, Instant::now()));
        }
    }

    /// Closes those that are old or were closed by their server.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.by_server.borrow_mut().retain(|_, kept| {
            kept.retain(|(sender, since)| !sender.is_closed() && now - *since < IDLE_AGE_MAX);
            !kept.is_empty()
        });
    }

    /// Closes all of one server.
    pub(crate) fn forget(&self, server: u64) {
        self.by_server.borrow_mut().remove(&server);
    }
}

/// Connects to `server` and counts the outcome; marking the server is the caller's business.
pub(crate) async fn connect(server: &Server, limit: Duration) -> io::Result<TcpStream> {
    let begun = Instant::now();
    let attempt = async {
        match server.address().socket() {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect(server.address().as_str()).await,
        }
    };
    let outcome = match timeout(limit, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match outcome {
        Ok(stream) => {
            server.metrics.connections.inc();
            server.metrics.connect.observe(begun.elapsed().as_secs_f64());
            tune(&stream);
            Ok(stream)
        }
        Err(error) => {
            server.metrics.connect_failures.inc();
            Err(error)
        }
    }
}

/// Speaks HTTP on a connection; a task of its own drives it.
pub(crate) async fn speak_http(stream: TcpStream) -> hyper::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a server ended");
        }
    });
    Ok(sender)
}

/// As [`speak_http`], for a request that may switch protocols.
pub(crate) async fn speak_upgradable(stream: TcpStream) -> hyper::Result<(Sender, Upgraded)> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let (tell, upgraded) = oneshot::channel();
    tokio::task::spawn_local(async move {
        match connection.without_shutdown().await {
            // Nobody listens when the server did not switch; the connection is closed by dropping it.
            Ok(parts) => drop(tell.send((parts.io.into_inner(), parts.read_buf))),
            Err(error) => tracing::debug!(%error, "connection to a server ended"),
        }
    });
    Ok((sender, upgraded))
}

/// Gives the connection of a finished response back to the worker.
#[derive(Debug)]
pub(crate) struct GiveBack {
    pub(crate) idle: Rc<Idle>,
    pub(crate) server: u64,
    pub(crate) sender: Sender,
}

impl GiveBack {
    pub(crate) fn now(self) {
        self.idle.give_back(self.server, self.sender);
    }
}

/// No delay for small messages, and the kernel watches for peers that are gone. Without any of it the connection works as well.
pub(crate) fn tune(stream: &TcpStream) {
    let (time, interval, retries) = KEEPALIVE;
    let keepalive =
        TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    let socket = SockRef::from(stream);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "cannot tune a socket");
    }
}
