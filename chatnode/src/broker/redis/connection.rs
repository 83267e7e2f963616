//! One connection to Redis: bytes in, bytes out, each with a bound in time.
//!
//! Ours rather than the `redis` crate's, for three things it keeps to itself. A publish that was not yet written when the connection
//! broke may be sent again, one that was written may not: only who owns the socket can tell. A dead primary shows as end of file, and
//! acting on it at once, also with nothing under way, is what makes a failover short. And `WAIT` covers what this very connection
//! wrote, so what goes over it, and in which order, must be ours to say.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::resp::{self, Malformed, Value};
use super::scripts;
use crate::config::{self, Access, Tls};
use holdfast_settings::Secret;

/// Room made for each read; a batch of publications.
const READ_BYTES: usize = 16 * 1024;

/// Hex digits of the replication id that name a history: 2^48 histories of one primary will not meet.
const HISTORY_LEN: usize = 12;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection failed")]
    Io(#[source] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer in time")]
    Timeout,
    #[error("the answer makes no sense")]
    Malformed(#[source] Malformed),
    #[error("{address} is not a primary but a {role}")]
    NotPrimary { address: String, role: String },
    #[error("the server refused {command}: {message}")]
    Refused { command: &'static str, message: String },
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    input: BytesMut,
}

/// A connection to a server that said it is the primary.
#[derive(Debug)]
pub(super) struct PrimaryConnection {
    pub(super) connection: Connection,
    /// The replication history this primary writes.
    pub(super) history: String,
    /// Digest of each script, in the order of [`scripts::ALL`].
    pub(super) digests: Vec<String>,
}

impl Connection {
    /// Connects within `limit`, encrypted if `tls` is given.
    pub(super) async fn open(
        address: &str,
        tls: Option<&Tls>,
        limit: Duration,
    ) -> Result<Self, ConnectionError> {
        let failed = |source| ConnectionError::Connect { address: address.to_owned(), source };
        let connect = async {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let Some(Tls { client, server_name }) = tls else { return Ok(Either::Left(stream)) };
            let name = match server_name {
                Some(name) => name.clone(),
                None => host(address).map_err(|error| failed(std::io::Error::other(error)))?,
            };
            let connector = TlsConnector::from(Arc::clone(client));
            let stream = connector.connect(name, stream).await.map_err(failed)?;
            Ok(Either::Right(Box::new(stream)))
        };
        let stream = timeout(limit, connect).await.map_err(|_| ConnectionError::Timeout)??;
        Ok(Self { stream, input: BytesMut::new() })
    }

    /// Writes all of `bytes`.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.stream.write_all(bytes).await.map_err(ConnectionError::Io)?;
        // Over TLS the last record may wait in a buffer.
        self.stream.flush().await.map_err(ConnectionError::Io)
    }

    /// The next reply.
    ///
    /// # Cancel safety
    /// What was received stays for the next call.
    pub(super) async fn read(&mut self) -> Result<Value, ConnectionError> {
        loop {
            if let Some(value) =
                resp::decode(&mut self.input).map_err(ConnectionError::Malformed)?
            {
                return Ok(value);
            }
            self.input.reserve(READ_BYTES);
            let received = self.stream.read_buf(&mut self.input).await;
            if received.map_err(ConnectionError::Io)? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }

    /// Writes `commands` together and reads their replies, all within `limit`; an error reply is an error.
    pub(super) async fn ask(
        &mut self,
        commands: &[&[&str]],
        limit: Duration,
    ) -> Result<Vec<Value>, ConnectionError> {
        let mut out = BytesMut::new();
        for command in commands {
            resp::encode(&mut out, command);
        }
        let exchange = async {
            self.write(&out).await?;
            let mut replies = Vec::with_capacity(commands.len());
            for command in commands {
                match self.read().await? {
                    Value::Error(message) => {
                        return Err(ConnectionError::Refused {
                            command: known(command[0]),
                            message,
                        });
                    }
                    value => replies.push(value),
                }
            }
            Ok(replies)
        };
        timeout(limit, exchange).await.map_err(|_| ConnectionError::Timeout)?
    }
}

/// The host of `host:port`, as it stands on a certificate.
fn host(address: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
}

/// The command that says who we are; `None` if there is nothing to say.
pub(super) fn auth(access: &Access) -> Option<Vec<&str>> {
    let password = access.password.as_ref().map(Secret::expose)?;
    Some(match &access.username {
        Some(user) => vec!["AUTH", user, password],
        None => vec!["AUTH", password],
    })
}

/// Command names that may stand in an error; arguments never do, one of them is the password.
fn known(command: &str) -> &'static str {
    ["AUTH", "CLIENT", "INFO", "SCRIPT", "SENTINEL", "SUBSCRIBE"]
        .into_iter()
        .find(|known| *known == command)
        .unwrap_or("a command")
}

/// Connects to `address` and makes sure that it is a primary: one round trip.
pub(super) async fn open_primary(
    address: &str,
    settings: &config::Redis,
    client_name: &str,
) -> Result<PrimaryConnection, ConnectionError> {
    let limit = settings.command_timeout;
    let access = &settings.access;
    let mut connection = Connection::open(address, access.tls.as_ref(), limit).await?;
    let mut commands: Vec<&[&str]> = Vec::new();
    let auth = auth(access);
    commands.extend(auth.as_deref());
    let name = ["CLIENT", "SETNAME", client_name];
    commands.push(&name);
    commands.push(&["INFO", "replication"]);
    let loads = scripts::ALL.map(|script| ["SCRIPT", "LOAD", script]);
    commands.extend(loads.iter().map(<[&str; 3]>::as_slice));
    let replies = connection.ask(&commands, limit).await?;

    let (replies, digests) = replies.split_at(replies.len() - loads.len());
    let info = replies.last().and_then(Value::text).unwrap_or_default();
    let role = info_field(info, "role").unwrap_or("server without a role");
    if role != "master" {
        let (address, role) = (address.to_owned(), role.to_owned());
        return Err(ConnectionError::NotPrimary { address, role });
    }
    let id = info_field(info, "master_replid").unwrap_or("0");
    let history = id.get(..HISTORY_LEN).unwrap_or(id).to_owned();
    let digests = digests.iter().filter_map(Value::text).map(str::to_owned).collect();
    Ok(PrimaryConnection { connection, history, digests })
}

/// A field of an `INFO` reply.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "# Replication\r\nrole:master\r\nmaster_replid2:b\r\nmaster_replid:a\r\n";
        assert_eq!(info_field(info, "role"), Some("master"));
        assert_eq!(info_field(info, "master_replid"), Some("a"));
        assert_eq!(info_field(info, "master"), None);
    }
}
