//! A snapshot over the replication protocol: the server forks and streams its data set to us as it would to a new replica.
//!
//! The payload is handed on as it comes, in chunks; nothing is collected here. A source that stops sending is an error after
//! [`SyncOptions::stall_timeout`]: the newlines a source sends while its child process is at work count as a sign of life.

use std::time::Duration;

use bytes::Bytes;

use crate::commands::CommandStream;
use crate::connection::{Address, Connection, Endpoint, Error};

/// `$EOF:` is followed by this many bytes, which come again after the payload.
const MARK_BYTES: usize = 40;

/// Names in errors what was going on.
const HANDSHAKE: &str = "the replication handshake";
const PREPARATION: &str = "the preparation of the snapshot";
const TRANSFER: &str = "the transfer of the snapshot";

/// How to attach as a replica.
#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// Only the snapshot: the source keeps no writes for us and hangs up afterwards. Sources that do not know it are asked without.
    pub rdb_only: bool,
    /// The port under which the source lists us. Sentinel takes whatever a primary lists for a replica, so leave it out.
    pub listening_port: Option<u16>,
    /// Longest silence. Default 60 s, the time after which Redis itself gives a replica up (`repl-timeout`).
    pub stall_timeout: Duration,
    /// Longest preparation: delays for other replicas, fork, and writing the file where the source does not stream. Default 10 min.
    pub preparation_timeout: Duration,
    /// Largest command accepted in the stream. Default 512 MiB, the largest string Redis stores, and some for the rest of the command.
    pub command_bytes_max: usize,
}

impl Default for SyncOptions {
    fn default() -> Self {
        Self {
            rdb_only: false,
            listening_port: None,
            stall_timeout: Duration::from_mins(1),
            preparation_timeout: Duration::from_mins(10),
            command_bytes_max: 513 * 1024 * 1024,
        }
    }
}

/// Where the payload ends.
#[derive(Debug)]
enum End {
    /// After this many more bytes.
    Length(u64),
    /// Before these bytes.
    Mark([u8; MARK_BYTES]),
    /// It has ended.
    Reached,
}

/// A snapshot on its way to us.
#[derive(Debug)]
pub struct Snapshot {
    connection: Connection,
    options: SyncOptions,
    /// Replication id of the data set.
    pub replid: String,
    /// Offset at which it is taken: commands up to it are in, later ones are not.
    pub offset: u64,
    /// Length of the payload, where the source knows it beforehand.
    pub length: Option<u64>,
    /// Whether the source took `rdb_only`.
    pub rdb_only: bool,
    end: End,
    received: u64,
    streamed: bool,
}

/// Connects, and says that we are a replica. True if the source took `rdb_only`.
pub(crate) async fn attach(
    endpoint: &Endpoint,
    options: &SyncOptions,
) -> Result<(Connection, bool), Error> {
    let mut connection = Connection::open(endpoint).await?;
    connection.command(&["PING"]).await?;
    if let Some(port) = options.listening_port {
        connection.command(&["REPLCONF", "listening-port", &port.to_string()]).await?;
    }
    connection.command(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
    let rdb_only = options.rdb_only
        && match connection.command(&["REPLCONF", "rdb-only", "1"]).await {
            Ok(_) => true,
            Err(Error::Refused { reply, .. }) => {
                tracing::debug!(address = %endpoint.address, reply, "source does not know rdb-only");
                false
            }
            Err(error) => return Err(error),
        };
    Ok((connection, rdb_only))
}

/// Sends `PSYNC` and waits for the line that answers it.
pub(crate) async fn psync(
    connection: &mut Connection,
    options: &SyncOptions,
    replid: &str,
    from: &str,
) -> Result<String, Error> {
    connection.send(&["PSYNC", replid, from], HANDSHAKE).await?;
    let line = connection.line(options.stall_timeout, PREPARATION);
    let line = match tokio::time::timeout(options.preparation_timeout, line).await {
        Ok(line) => line?,
        Err(_) => return Err(connection.timed_out(options.preparation_timeout, PREPARATION)),
    };
    match line.strip_prefix('-') {
        Some(reply) => Err(Error::Refused {
            address: connection.address().clone(),
            command: "PSYNC".to_owned(),
            reply: reply.to_owned(),
        }),
        None => Ok(line),
    }
}

/// Reads `FULLRESYNC <replid> <offset>`.
pub(crate) fn parse_full_resync(line: &str) -> Option<(String, u64)> {
    let mut words = line.strip_prefix("+FULLRESYNC ")?.split(' ');
    let replid = words.next().filter(|replid| is_replid(replid))?;
    let offset = words.next()?.parse().ok()?;
    Some((replid.to_owned(), offset))
}

/// A replication id is 40 hexadecimal digits; it becomes a folder's name, so nothing else is let through.
pub(crate) fn is_replid(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse_payload_header(line: &str) -> Option<(End, Option<u64>)> {
    let rest = line.strip_prefix('$')?;
    match rest.strip_prefix("EOF:") {
        Some(mark) => Some((End::Mark(mark.as_bytes().try_into().ok()?), None)),
        None => rest.parse().ok().map(|length| (End::Length(length), Some(length))),
    }
}

impl Snapshot {
    /// Attaches to the server at `endpoint` and asks for a full snapshot; returns when its payload begins.
    ///
    /// # Errors
    /// The server cannot be reached, refuses (a replica without its primary does), fails to take the snapshot, or is silent for too long.
    pub async fn start(endpoint: &Endpoint, options: &SyncOptions) -> Result<Self, Error> {
        let (mut connection, rdb_only) = attach(endpoint, options).await?;
        let line = psync(&mut connection, options, "?", "-1").await?;
        let Some((replid, offset)) = parse_full_resync(&line) else {
            return Err(connection.protocol(HANDSHAKE, format!("{line:?} instead of a snapshot")));
        };
        let header = connection.line(options.stall_timeout, PREPARATION);
        let header = match tokio::time::timeout(options.preparation_timeout, header).await {
            Ok(header) => header?,
            Err(_) => return Err(connection.timed_out(options.preparation_timeout, PREPARATION)),
        };
        let Some((end, length)) = parse_payload_header(&header) else {
            return Err(connection.protocol(PREPARATION, format!("{header:?} instead of a length")));
        };
        let streamed = length.is_none();
        let options = options.clone();
        let received = 0;
        Ok(Self { connection, options, replid, offset, length, rdb_only, end, received, streamed })
    }

    /// The next piece of the payload; `None` after the last one.
    ///
    /// # Errors
    /// The source hangs up before the end or is silent for too long.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let have = self.connection.buffer.len();
            let ready = match &self.end {
                End::Reached | End::Length(0) => {
                    self.end = End::Reached;
                    return Ok(None);
                }
                End::Length(missing) => have.min(usize::try_from(*missing).unwrap_or(usize::MAX)),
                End::Mark(mark) if self.connection.buffer.ends_with(mark) => {
                    let chunk = self.connection.buffer.split_to(have - MARK_BYTES).freeze();
                    self.connection.buffer.clear();
                    self.end = End::Reached;
                    self.received += chunk.len() as u64;
                    return Ok((!chunk.is_empty()).then_some(chunk));
                }
                // The last bytes may be the start of the mark.
                End::Mark(_) => have.saturating_sub(MARK_BYTES),
            };
            if ready > 0 {
                let chunk = self.connection.buffer.split_to(ready).freeze();
                self.received += ready as u64;
                if let End::Length(missing) = &mut self.end {
                    *missing -= ready as u64;
                }
                return Ok(Some(chunk));
            }
            self.connection.fill(self.options.stall_timeout, TRANSFER).await?;
        }
    }

    /// The server it comes from.
    pub fn address(&self) -> &Address {
        self.connection.address()
    }

    /// Payload bytes handed out so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Goes on with the commands after the snapshot.
    ///
    /// # Errors
    /// The snapshot was asked for with `rdb_only`, or was not read to its end.
    pub fn into_commands(self) -> Result<CommandStream, Error> {
        if self.rdb_only || !matches!(self.end, End::Reached | End::Length(0)) {
            let detail = "commands follow only a whole snapshot taken without rdb-only";
            return Err(self.connection.protocol(TRANSFER, detail));
        }
        let (replid, offset, started) = (self.replid, self.offset, !self.streamed);
        Ok(CommandStream::new(self.connection, replid, offset, &self.options, started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_payload_are_recognised() {
        assert!(matches!(parse_payload_header("$12"), Some((End::Length(12), Some(12)))));
        let mark = "0123456789012345678901234567890123456789";
        assert!(matches!(
            parse_payload_header(&format!("$EOF:{mark}")),
            Some((End::Mark(_), None))
        ));
        for line in ["", "$", "$-1", "$EOF:short", "+OK"] {
            assert!(parse_payload_header(line).is_none(), "{line}");
        }
    }

    #[test]
    fn only_a_replication_id_is_taken_for_one() {
        let replid = "8de1787ba490483314a4d30f1c628bc5025eb761";
        let line = format!("+FULLRESYNC {replid} 2443808505");
        assert_eq!(parse_full_resync(&line), Some((replid.to_owned(), 2_443_808_505)));
        for line in ["+FULLRESYNC ../../etc 5", "+CONTINUE", "+FULLRESYNC", ""] {
            assert_eq!(parse_full_resync(line), None, "{line}");
        }
    }
}
