//! What comes before a client's first byte: who it is (PROXY protocol), then the TLS handshake. Plain listeners skip all of it.
//!
//! Both are bound by `header_timeout`, which runs from the accept on.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::listener::Settings;
use super::session::Session;
use super::stream::Stream;
use super::upstream::Idle;
use super::worker::SessionGuard;
use super::{http, tcp};
use crate::config::Mode;
use crate::message::Malformed;
use crate::metrics::{Close, Rejection};
use crate::proxy_protocol;

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
}

/// Serves one client of a listener that wants to know more before.
pub(crate) async fn serve(
    guard: SessionGuard,
    idle: Rc<Idle>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let session = Rc::clone(guard.session());
    let settings = session.listener.settings();
    let metrics = &session.listener.metrics;
    let welcomed = {
        let welcome = pin!(welcome(&session, stream, peer, &settings));
        session.until_stopped(welcome).await
    };
    match welcomed {
        Ok(Ok((stream, peer))) => match settings.config.mode {
            // A task of its own, which is smaller than this one.
            Mode::Http => drop(tokio::task::spawn_local(http::serve(guard, idle, stream, peer))),
            Mode::Tcp => drop(tokio::task::spawn_local(tcp::serve(guard, stream, peer))),
        },
        Ok(Err(unwelcome)) => {
            metrics.reject(match unwelcome {
                Unwelcome::Handshake(_) => Rejection::TlsHandshake,
                _ => Rejection::ProxyHeader,
            });
            tracing::debug!(%peer, error = %unwelcome, "client turned away");
            guard.end(Close::Error);
        }
        Err(close) => {
            if close == Close::Timeout {
                metrics.reject(Rejection::HeaderTimeout);
            }
            guard.end(close);
        }
    }
}

async fn welcome(
    session: &Session,
    mut stream: TcpStream,
    mut peer: SocketAddr,
    settings: &Settings,
) -> Result<(Stream, SocketAddr), Unwelcome> {
    let config = &settings.config;
    if config.proxy_protocol {
        let address = peer.ip().to_canonical();
        if !config.trusted_proxies.iter().any(|net| net.contains(&address)) {
            return Err(Unwelcome::Stranger);
        }
        if let Some(ends) = read_header(&mut stream).await? {
            peer = ends.source;
            session.set_peer(peer);
        }
    }
    let Some(tls) = &config.tls else { return Ok((stream.into(), peer)) };
    let stream = Box::pin(tls.acceptor().accept(stream)).await.map_err(Unwelcome::Handshake)?;
    Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), peer))
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
