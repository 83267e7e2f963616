//! The listener for the other members.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::HANDSHAKE_TIMEOUT;
use super::client::{hex, unhex};
use super::tls::{Credentials, End};
use super::wire::{
    FRAME_BYTES_MAX, HELLO_BYTES_MAX, Hello, MemberFacts, Reply, Request, VERSION, Welcome,
    receive, send,
};

/// Connections at once: nine members with four each, and some that are just being made.
const CONNECTIONS_MAX: usize = 64;
/// A connection without a request for this long is closed; members report many times a second.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Who answers.
pub(in crate::group) trait Handler: Send + Sync + 'static {
    /// Who we are.
    fn facts(&self) -> MemberFacts;
    /// Answers one request of a member, or of somebody who wants to become one.
    fn handle(&self, request: Request) -> impl Future<Output = Reply> + Send;
}

/// Answers until `shutdown`.
pub(in crate::group) async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    handler: Arc<impl Handler>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: take a breath rather than spin.
                    tracing::warn!(%error, "cannot accept a member's connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("too many connections to the group's listener, one is refused");
            continue;
        };
        let (credentials, handler) = (credentials.clone(), Arc::clone(&handler));
        connections.spawn(async move {
            if let Err(error) = connection(stream, &credentials, &*handler).await {
                tracing::debug!(error = %Chain(&error), "a member's connection ended");
            }
            drop(place);
        });
    }
    connections.shutdown().await;
}

async fn connection(
    stream: TcpStream,
    credentials: &Credentials,
    handler: &impl Handler,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let greeted = timeout(HANDSHAKE_TIMEOUT, greet(stream, credentials, handler)).await;
    let Some(mut stream) = greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? else {
        return Ok(());
    };
    loop {
        let request = timeout(IDLE_TIMEOUT, receive::<Request>(&mut stream, FRAME_BYTES_MAX)).await;
        let Ok(request) = request else { return Ok(()) };
        let Some(request) = request? else { return Ok(()) };
        let reply = handler.handle(request).await;
        timeout(HANDSHAKE_TIMEOUT, send(&mut stream, &reply)).await??;
    }
}

/// The handshakes; `None` if the other end was refused and told so.
async fn greet(
    stream: TcpStream,
    credentials: &Credentials,
    handler: &impl Handler,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    let acceptor = TlsAcceptor::from(Arc::clone(&credentials.server));
    let mut stream = acceptor.accept(stream).await?;
    let Some(hello) = receive::<Hello>(&mut stream, HELLO_BYTES_MAX).await? else {
        return Ok(None);
    };
    let session = stream.get_ref().1;
    let is_proven = credentials.is_proven(End::Client, session, &unhex(&hello.proof));
    let proof = hex(&credentials.proof(End::Server, session).map_err(io::Error::other)?);
    let own = handler.facts().identity;
    let welcome = if !is_proven.map_err(io::Error::other)? {
        tracing::warn!("somebody without the group's secret was refused");
        Welcome::Refused("the group's secret is another here".to_owned())
    } else if hello.version != VERSION {
        let text =
            format!("it speaks version {VERSION} of the group's protocol, not {}", hello.version);
        Welcome::Refused(text)
    } else if let Some((from, own)) = hello.from.zip(own)
        && from.group != own.group
    {
        Welcome::Refused("it belongs to another group".to_owned())
    } else if hello.to.is_some() && hello.to != own.map(|own| own.member) {
        Welcome::Refused("another member was expected there".to_owned())
    } else {
        Welcome::Proven { proof }
    };
    send(&mut stream, &welcome).await?;
    Ok(matches!(welcome, Welcome::Proven { .. }).then_some(stream))
}
