//! What comes before a client's first message: who it is (PROXY protocol), the TLS handshake, and which version of HTTP it speaks: what
//! was agreed on in TLS, or as its first bytes tell. Plain listeners skip all of it.
//!
//! All are bound by `header_timeout`, which runs from the accept on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use super::listener::Settings;
use super::stream::Stream;
use super::transfer::End;
use super::upstream::Idle;
use super::worker::SessionGuard;
use super::{h2, http, tcp};
use crate::config::Mode;
use crate::limits::Offence;
use crate::message::Malformed;
use crate::metrics::{Close, Rejection};
use crate::proxy_protocol;
use crate::sight::Draft;

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
enum Unwelcome {
    #[error("the peer is no trusted proxy")]
    Stranger,
    #[error("PROXY header: {0}")]
    Header(#[from] Malformed),
    #[error("PROXY header: {0}")]
    Read(#[source] io::Error),
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    #[error("{}", .0.as_str())]
    Refused(Rejection),
}

impl Unwelcome {
    fn reason(&self) -> Rejection {
        match self {
            Self::Stranger | Self::Header(_) | Self::Read(_) => Rejection::ProxyHeader,
            Self::Handshake(_) => Rejection::TlsHandshake,
            Self::Refused(reason) => *reason,
        }
    }

    /// Whether it is the client's own doing. One that does not like our certificate says so by an alert, and probes only connect.
    fn is_offence(&self) -> bool {
        match self {
            Self::Stranger => true,
            Self::Header(_) | Self::Read(_) | Self::Refused(_) => false,
            Self::Handshake(error) => {
                let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
                error.is_some_and(|error| !matches!(error, rustls::Error::AlertReceived(_)))
            }
        }
    }
}

/// Serves one client of a listener that wants to know more before.
pub(crate) async fn serve(
    mut guard: SessionGuard,
    idle: Rc<Idle>,
    stream: TcpStream,
    mut peer: SocketAddr,
) {
    let session = Rc::clone(guard.session());
    let settings = session.listener.settings();
    let metrics = &session.listener.metrics;
    let welcomed = {
        let welcome = pin!(welcome(&mut guard, stream, &mut peer, &settings));
        session.until_stopped(welcome).await
    };
    match welcomed {
        // A task of its own, which is smaller than this one.
        Ok(Ok(Welcome { client, speaks_http2 })) => drop(match settings.config.mode {
            Mode::Http if speaks_http2 => {
                tokio::task::spawn_local(h2::serve(guard, idle, client, peer))
            }
            Mode::Http => tokio::task::spawn_local(http::serve(guard, idle, client, peer)),
            Mode::Tcp => tokio::task::spawn_local(tcp::serve(guard, client.stream, peer)),
        }),
        Ok(Err(unwelcome)) => {
            metrics.reject(unwelcome.reason());
            if unwelcome.is_offence() {
                settings.protection.offend(peer.ip(), Offence::BadHandshake);
            }
            tracing::debug!(%peer, error = %unwelcome, "client turned away");
            session.begin_draft(|_| Draft::connection(&session, unwelcome.protocol()));
            guard.end(Close::Error);
        }
        Err(close) => {
            if close == Close::Timeout {
                metrics.reject(Rejection::HeaderTimeout);
                settings.protection.offend(peer.ip(), Offence::HeaderTimeout);
            }
            guard.end(close);
        }
    }
}

impl Unwelcome {
    /// What was spoken, for the access log.
    fn protocol(&self) -> &'static str {
        match self {
            Self::Stranger | Self::Header(_) | Self::Read(_) | Self::Refused(_) => "proxy",
            Self::Handshake(_) => "tls",
        }
    }
}

/// A client that may be served.
struct Welcome {
    client: End,
    speaks_http2: bool,
}

/// Hears who the client is, which replaces `peer`, and agrees on TLS.
async fn welcome(
    guard: &mut SessionGuard,
    mut stream: TcpStream,
    peer: &mut SocketAddr,
    settings: &Settings,
) -> Result<Welcome, Unwelcome> {
    let config = &settings.config;
    if config.proxy_protocol {
        let address = peer.ip().to_canonical();
        if !config.trusted_proxies.iter().any(|net| net.contains(&address)) {
            return Err(Unwelcome::Stranger);
        }
        if let Some(ends) = read_header(&mut stream).await? {
            *peer = ends.source;
            guard.session().set_peer(*peer);
        }
        // Before TLS, which costs a hundred times as much.
        guard.occupy(settings.protection.admit(peer.ip()).map_err(Unwelcome::Refused)?);
    }
    let Some(tls) = &config.tls else {
        let mut client = End::from(Stream::from(stream));
        let speaks_http2 = config.http2 && begins_http2(&mut client).await;
        return Ok(Welcome { client, speaks_http2 });
    };
    let begun = Instant::now();
    let shaken = Box::pin(tls.acceptor().accept(stream)).await;
    let session = guard.session();
    if let Some(sight) = &session.listener.sight {
        sight.tell_handshake(session, begun, shaken.as_ref().err().map(ToString::to_string));
    }
    let stream = shaken.map_err(Unwelcome::Handshake)?;
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let client = Stream::Tls(Box::new(TlsStream::Server(stream))).into();
    Ok(Welcome { client, speaks_http2 })
}

/// Whether a client's first bytes are those of HTTP/2, which no request in HTTP/1.1 begins with. An end or an error comes again to the
/// next reader.
async fn begins_http2(client: &mut End) -> bool {
    loop {
        let known = client.buffer.filled();
        let length = known.len().min(h2::PREFACE.len());
        if known[..length] != h2::PREFACE[..length] {
            return false;
        }
        if length == h2::PREFACE.len() {
            return true;
        }
        let End { stream, buffer } = client;
        if !matches!(poll_fn(|cx| buffer.poll_fill(cx, stream, 0)).await, Ok(1..)) {
            return false;
        }
    }
}

async fn read_header(stream: &mut TcpStream) -> Result<Option<proxy_protocol::Ends>, Unwelcome> {
    let mut header = Vec::with_capacity(64);
    loop {
        let missing = proxy_protocol::needed(&header)?;
        if missing == 0 {
            return Ok(proxy_protocol::read(&header)?);
        }
        let known = header.len();
        header.resize(known + missing, 0);
        stream.read_exact(&mut header[known..]).await.map_err(Unwelcome::Read)?;
    }
}
