//! A connection to a Redis server: commands and replies, each step with a time-out.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::Reply;
use crate::Tls;
use crate::resp::{LINE_BYTES_MAX, encode_command, parse_reply};

/// One read from the socket; large enough that a fast link needs few system calls.
const READ_BYTES: usize = 256 * 1024;

/// Default for [`Endpoint::connect_timeout`]: a server on the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Default for [`Endpoint::command_timeout`]: longer than the fork of a large server, which stops it for about 0.1 s per GB.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// `host:port`, or a path that starts with `/`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(format!("expected host:port or the path of a socket, found {text:?}")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Who we are to the server. `Debug` never prints the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A server and how to get to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// How to log in, if it asks for that.
    pub credentials: Option<Credentials>,
    /// How to encrypt on TCP; `None`: not at all.
    pub tls: Option<Tls>,
    /// Longest wait for the connection itself.
    pub connect_timeout: Duration,
    /// Longest wait for a reply to a command.
    pub command_timeout: Duration,
}

impl Endpoint {
    /// The server at `address`, without a password, with the default time-outs.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            credentials: None,
            tls: None,
            connect_timeout: CONNECT_TIMEOUT,
            command_timeout: COMMAND_TIMEOUT,
        }
    }

    /// The same server, with `credentials`.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Option<Credentials>) -> Self {
        self.credentials = credentials;
        self
    }
}

/// Why talking to a server failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server.
        address: Address,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Nothing came, or nothing could be sent, for too long.
    #[error("{address} was silent for {} ms during {during}", after.as_millis())]
    TimedOut {
        /// The server.
        address: Address,
        /// What was going on.
        during: String,
        /// The bound that was reached.
        after: Duration,
    },
    /// The connection broke.
    #[error("lost the connection to {address} during {during}")]
    Io {
        /// The server.
        address: Address,
        /// What was going on.
        during: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The server closed the connection.
    #[error("{address} closed the connection during {during}")]
    Closed {
        /// The server.
        address: Address,
        /// What was going on.
        during: String,
    },
    /// The server answered a command with an error.
    #[error("{address} refused {command}: {reply}")]
    Refused {
        /// The server.
        address: Address,
        /// The command's name.
        command: String,
        /// Its words.
        reply: String,
    },
    /// The server sent something that makes no sense there.
    #[error("{address} sent something unexpected during {during}: {detail}")]
    Protocol {
        /// The server.
        address: Address,
        /// What was going on.
        during: String,
        /// What was found.
        detail: String,
    },
}

/// The host of `host:port`, without brackets.
fn host(target: &str) -> &str {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A connection, secure or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An authenticated RESP2 connection.
pub struct Connection {
    address: Address,
    stream: Box<dyn Io>,
    pub(crate) buffer: BytesMut,
    command_timeout: Duration,
    local_ip: Option<IpAddr>,
    peer_ip: Option<IpAddr>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// No connection in time, or the server refuses the credentials.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        let address = endpoint.address.clone();
        let connect = async {
            Ok(match &endpoint.address {
                Address::Tcp(target) => {
                    let stream = TcpStream::connect(target).await?;
                    stream.set_nodelay(true)?;
                    let ips = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
                    let stream: Box<dyn Io> = match &endpoint.tls {
                        Some(tls) => Box::new(tls.connect(host(target), stream).await?),
                        None => Box::new(stream),
                    };
                    (stream, Some(ips.0), Some(ips.1))
                }
                Address::Unix(path) => {
                    (Box::new(UnixStream::connect(path).await?) as Box<dyn Io>, None, None)
                }
            })
        };
        let (stream, local_ip, peer_ip) = match timeout(endpoint.connect_timeout, connect).await {
            Ok(Ok(parts)) => parts,
            Ok(Err(source)) => return Err(Error::Connect { address, source }),
            Err(_) => {
                let after = endpoint.connect_timeout;
                return Err(Error::TimedOut { address, during: "connect".to_owned(), after });
            }
        };
        let mut connection = Self {
            address,
            stream,
            buffer: BytesMut::new(),
            command_timeout: endpoint.command_timeout,
            local_ip,
            peer_ip,
        };
        if let Some(credentials) = &endpoint.credentials {
            let mut command = vec!["AUTH"];
            command.extend(credentials.username.as_deref());
            command.push(&credentials.password);
            connection.command(&command).await?;
        }
        Ok(connection)
    }

    /// The server this leads to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Our own IP address on the way to the server; `None` on a Unix socket.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local_ip
    }

    /// The server's IP address; `None` on a Unix socket.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.peer_ip
    }

    /// Sends a command and waits for its reply. An error reply is an [`Error::Refused`].
    ///
    /// # Errors
    /// The connection breaks, the reply takes too long or is an error.
    pub async fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Result<Reply, Error> {
        let name =
            arguments.first().map(|name| String::from_utf8_lossy(name.as_ref()).into_owned());
        let name = name.unwrap_or_default();
        self.send(arguments, &name).await?;
        loop {
            match parse_reply(&self.buffer) {
                Ok(Some((Reply::Error(reply), length))) => {
                    self.buffer.advance(length);
                    let address = self.address.clone();
                    return Err(Error::Refused { address, command: name, reply });
                }
                Ok(Some((reply, length))) => {
                    self.buffer.advance(length);
                    return Ok(reply);
                }
                Ok(None) => self.fill(self.command_timeout, &name).await?,
                Err(malformed) => return Err(self.protocol(&name, malformed.0)),
            }
        }
    }

    /// The next message on a connection that has subscribed.
    ///
    /// # Errors
    /// The connection breaks, or nothing comes within `patience`.
    ///
    /// # Cancel safety
    /// Safe: what has come is kept for the next call.
    pub async fn message(&mut self, patience: Duration) -> Result<Reply, Error> {
        let during = "a subscription";
        loop {
            match parse_reply(&self.buffer) {
                Ok(Some((reply, length))) => {
                    self.buffer.advance(length);
                    return Ok(reply);
                }
                Ok(None) => self.fill(patience, during).await?,
                Err(malformed) => return Err(self.protocol(during, malformed.0)),
            }
        }
    }

    /// `INFO <section>` as pairs.
    ///
    /// # Errors
    /// As [`Connection::command`].
    pub async fn info(&mut self, section: &str) -> Result<Vec<(String, String)>, Error> {
        let reply = self.command(&["INFO", section]).await?;
        let text = reply.text().ok_or_else(|| self.protocol("INFO", format!("{reply:?}")))?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect())
    }

    /// Sends a command without waiting for anything.
    pub(crate) async fn send<A: AsRef<[u8]>>(
        &mut self,
        arguments: &[A],
        during: &str,
    ) -> Result<(), Error> {
        let bytes = encode_command(arguments);
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.command_timeout, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => {
                Err(Error::Io { address: self.address.clone(), during: during.to_owned(), source })
            }
            Err(_) => Err(self.timed_out(self.command_timeout, during)),
        }
    }

    /// Reads what has come into the buffer; at least one byte.
    ///
    /// # Cancel safety
    /// Safe: bytes are either in the buffer or still in the socket.
    pub(crate) async fn fill(&mut self, patience: Duration, during: &str) -> Result<(), Error> {
        self.buffer.reserve(READ_BYTES);
        match timeout(patience, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => {
                Err(Error::Closed { address: self.address.clone(), during: during.to_owned() })
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => {
                Err(Error::Io { address: self.address.clone(), during: during.to_owned(), source })
            }
            Err(_) => Err(self.timed_out(patience, during)),
        }
    }

    /// The next line that is not empty. Empty ones are how a server says that it is still at work.
    pub(crate) async fn line(&mut self, patience: Duration, during: &str) -> Result<String, Error> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches(['\r', '\n']);
                if !text.is_empty() {
                    return Ok(text.to_owned());
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                let detail = format!("a line of more than {LINE_BYTES_MAX} bytes");
                return Err(self.protocol(during, detail));
            }
            self.fill(patience, during).await?;
        }
    }

    pub(crate) fn protocol(&self, during: &str, detail: impl Into<String>) -> Error {
        let (address, during) = (self.address.clone(), during.to_owned());
        Error::Protocol { address, during, detail: detail.into() }
    }

    pub(crate) fn timed_out(&self, after: Duration, during: &str) -> Error {
        Error::TimedOut { address: self.address.clone(), during: during.to_owned(), after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed() {
        for text in ["127.0.0.1:6379", "[::1]:6379", "redis.example.org:1", "/run/redis.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "6379", "host", "host:", ":6379", "host:99999"] {
            assert!(text.parse::<Address>().unwrap_err().contains("expected host:port"), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials { username: Some("u".into()), password: "hunter2".into() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
