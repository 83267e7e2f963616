//! A primary with one snapshot and one replica: how a backup gets into a server.
//!
//! The server is told `REPLICAOF <us>`, asks for the data set as of any primary, and loads it with its own code. Rejected: `RESTORE` key
//! by key (slow, and not for every type), and handing over a `dump.rdb` (a server with `appendonly yes` ignores it and starts empty).
//!
//! The payload goes out in the form with a known length, and not one byte follows it: whatever we sent would count into the offset.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::resp::CommandParser;

/// The commands of the handshake are tiny.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

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
#[derive(Debug)]
pub struct Served {
    stream: TcpStream,
    /// The replica.
    pub peer: SocketAddr,
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
        let (mut stream, peer) = accepted.map_err(ServeError::Accept)?;
        if offer.allowed.is_some_and(|allowed| allowed != peer.ip().to_canonical()) {
            tracing::warn!(%peer, "connection to the snapshot from elsewhere refused");
            continue;
        }
        match timeout_at(deadline, handshake(&mut stream)).await.map_err(nobody)? {
            Ok(()) => break (stream, peer),
            // Redis hangs up and comes again when a step of its own took too long.
            Err(error) => tracing::debug!(%peer, %error, "replica left during the handshake"),
        }
    };
    let length = offer.length;
    let head = format!("+FULLRESYNC {} {}\r\n${length}\r\n", offer.replid, offer.offset);
    let mut total = 0;
    let lost = |total| move |source| ServeError::Lost { peer, sent: total, length, source };
    send(&mut stream, head.as_bytes(), offer.stall_timeout).await.map_err(lost(total))?;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|source| ServeError::Payload { sent: total, source })?;
        let after = total + chunk.len() as u64;
        if after > length {
            return Err(ServeError::WrongLength { found: after, length });
        }
        send(&mut stream, &chunk, offer.stall_timeout).await.map_err(lost(total))?;
        total = after;
        sent(total);
    }
    if total != length {
        return Err(ServeError::WrongLength { found: total, length });
    }
    Ok(Served { stream, peer })
}

/// Answers as a primary does until the replica asks for the data.
async fn handshake(stream: &mut TcpStream) -> io::Result<()> {
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
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8], patience: Duration) -> io::Result<()> {
    timeout(patience, stream.write_all(bytes)).await.map_err(|_| {
        let text = format!("it took nothing for {} s", patience.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?
}
