//! A primary with one snapshot and one replica: how a backup gets into a server.
//!
//! The server is told `REPLICAOF <us>`, asks for the data set as of any primary, and loads it with its own code. Rejected: `RESTORE` key
//! by key (slow, and not for every type), and handing over a `dump.rdb` (a server with `appendonly yes` ignores it and starts empty).
//!
//! The payload goes out in the form with a known length, and not one byte follows it: whatever we sent would count into the offset.
//!
//! Whether a server speaks TLS to its primary is a setting of its own (`tls-replication`), which not everybody may ask for. It shows in
//! the first byte that comes, because the replica speaks first.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::connection::Io;
use crate::resp::CommandParser;

/// The commands of the handshake are tiny.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// First byte of TLS: a record of the handshake. A command in the clear begins with `*`.
const TLS_HANDSHAKE: u8 = 0x16;

/// What is offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Replication id the replica will know its data by: 40 hexadecimal digits.
    pub replid: String,
    /// Offset it starts from.
    pub offset: u64,
    /// Length of the payload.
    pub length: u64,
    /// Only connections from here get it: the payload is everything the users ever wrote.
    pub allowed: Option<IpAddr>,
    /// What we show a replica that speaks TLS; `None`: such a one is turned away.
    pub secure: Option<Arc<ServerConfig>>,
    /// Longest wait for the replica to come and ask.
    pub accept_timeout: Duration,
    /// Longest time without progress, once it has come.
    pub stall_timeout: Duration,
}

/// Why the snapshot did not get to the replica.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody asked for it.
    #[error("no replica asked for the snapshot within {} s", .0.as_secs())]
    NobodyCame(Duration),
    /// The listener failed.
    #[error("cannot accept a connection from the replica")]
    Accept(#[source] io::Error),
    /// The replica speaks TLS, and we have nothing to show it.
    #[error(
        "the replica at {0} wants TLS from its primary, and there is no certificate of ours to show it"
    )]
    NoCertificate(SocketAddr),
    /// We and the replica do not believe each other.
    #[error("no TLS with the replica at {peer}")]
    Distrust {
        /// The replica.
        peer: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke during the transfer.
    #[error("lost the replica at {peer} after {sent} of {length} bytes")]
    Lost {
        /// The replica.
        peer: SocketAddr,
        /// Bytes it got.
        sent: u64,
        /// Bytes there are.
        length: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The payload itself could not be read.
    #[error("cannot read the snapshot after {sent} bytes")]
    Payload {
        /// Bytes that could be read.
        sent: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The payload is not as long as announced.
    #[error("the snapshot has {found} bytes or more, {length} were announced")]
    WrongLength {
        /// Bytes there are.
        found: u64,
        /// Bytes announced.
        length: u64,
    },
}

/// A replica that has the whole payload and is loading it. The link stays up until this is dropped.
pub struct Served {
    stream: Box<dyn Io>,
    /// The replica.
    pub peer: SocketAddr,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Served {
    /// Waits until the replica ends the link: when it is told to follow nobody, or when it cannot load what it got.
    pub async fn ended(&mut self) {
        // Acknowledgements come in here; how far the replica is, is asked elsewhere.
        let mut acknowledgements = [0; 4096];
        while matches!(self.stream.read(&mut acknowledgements).await, Ok(count) if count > 0) {}
    }
}

/// Waits on `listener` for a replica, and sends it the payload that comes through `chunks`. `sent` hears the bytes that are out.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve_snapshot(
    listener: &TcpListener,
    offer: &Offer,
    chunks: &mut mpsc::Receiver<io::Result<Bytes>>,
    mut sent: impl FnMut(u64) + Send,
) -> Result<Served, ServeError> {
    let deadline = Instant::now() + offer.accept_timeout;
    let nobody = |_| ServeError::NobodyCame(offer.accept_timeout);
    let (mut stream, peer) = loop {
        let accepted = timeout_at(deadline, listener.accept()).await.map_err(nobody)?;
        let (stream, peer) = accepted.map_err(ServeError::Accept)?;
        if offer.allowed.is_some_and(|allowed| allowed != peer.ip().to_canonical()) {
            tracing::warn!(%peer, "connection to the snapshot from elsewhere refused");
            continue;
        }
        let welcomed = timeout_at(deadline, welcome(stream, offer.secure.as_ref())).await;
        match welcomed.map_err(nobody)? {
            Ok(stream) => break (stream, peer),
            Err(Left::NoCertificate) => return Err(ServeError::NoCertificate(peer)),
            Err(Left::Distrust(source)) => return Err(ServeError::Distrust { peer, source }),
            // Redis hangs up and comes again when a step of its own took too long.
            Err(Left::Gone(error)) => {
                tracing::debug!(%peer, %error, "replica left during the handshake");
            }
        }
    };
    let length = offer.length;
    let head = format!("+FULLRESYNC {} {}\r\n${length}\r\n", offer.replid, offer.offset);
    let mut total = 0;
    let lost = |total| move |source| ServeError::Lost { peer, sent: total, length, source };
    send(stream.as_mut(), head.as_bytes(), offer.stall_timeout).await.map_err(lost(total))?;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|source| ServeError::Payload { sent: total, source })?;
        let after = total + chunk.len() as u64;
        if after > length {
            return Err(ServeError::WrongLength { found: after, length });
        }
        send(stream.as_mut(), &chunk, offer.stall_timeout).await.map_err(lost(total))?;
        total = after;
        sent(total);
    }
    if total != length {
        return Err(ServeError::WrongLength { found: total, length });
    }
    Ok(Served { stream, peer })
}

/// Why a replica that came does not get anything.
enum Left {
    /// It speaks TLS.
    NoCertificate,
    /// We or it do not believe what the other shows.
    Distrust(io::Error),
    /// The connection broke.
    Gone(io::Error),
}

impl From<io::Error> for Left {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// The connection as the replica wants it, secure if it begins so, up to where the replica has asked for the data.
async fn welcome(
    stream: TcpStream,
    secure: Option<&Arc<ServerConfig>>,
) -> Result<Box<dyn Io>, Left> {
    let mut first = [0];
    let is_secure = stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE;
    let mut stream: Box<dyn Io> = if is_secure {
        let secure = secure.ok_or(Left::NoCertificate)?;
        let accepted = TlsAcceptor::from(Arc::clone(secure)).accept(stream).await;
        Box::new(accepted.map_err(|error| match error.kind() {
            // What TLS itself complains of, on our side or on the other, comes as this kind.
            io::ErrorKind::InvalidData => Left::Distrust(error),
            _ => Left::Gone(error),
        })?)
    } else {
        Box::new(stream)
    };
    handshake(stream.as_mut()).await?;
    Ok(stream)
}

/// Answers as a primary does until the replica asks for the data.
async fn handshake(stream: &mut dyn Io) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut parser = CommandParser::new(0, COMMAND_BYTES_MAX);
    loop {
        while let Some((arguments, _)) = parser.next(&mut buffer).map_err(io::Error::other)? {
            let name = arguments.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
            let reply: &[u8] = match name.as_slice() {
                b"PSYNC" => return Ok(()),
                b"PING" => b"+PONG\r\n",
                b"AUTH" | b"REPLCONF" => b"+OK\r\n",
                _ => b"-ERR only replication is served here\r\n",
            };
            stream.write_all(reply).await?;
            stream.flush().await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn send(stream: &mut dyn Io, bytes: &[u8], patience: Duration) -> io::Result<()> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(patience, write).await.map_err(|_| {
        let text = format!("it took nothing for {} s", patience.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?
}
