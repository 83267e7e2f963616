//! The commands a server replicates, each with its place in the stream.
//!
//! Used after a snapshot, to follow a server from a known offset, and to read from a demoted primary what others never got. The stream
//! is what the server itself sends to its replicas: effects with absolute times, `SELECT` on a change of database, `PING`s between.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, Endpoint, Error};
use crate::resp::CommandParser;
use crate::snapshot::{SyncOptions, attach, is_replid, parse_full_resync, psync};

const STREAM: &str = "the command stream";

/// A source that streamed a snapshot sends no command before an acknowledgement that reaches it after its child process has ended. It
/// does not say when that is, so we acknowledge this often until the first byte.
const START_EVERY: Duration = Duration::from_millis(100);

/// One command of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The offset after it: a replica that has applied it reports this.
    pub offset: u64,
    /// Its bytes in the stream.
    pub length: usize,
    /// Name and arguments.
    pub arguments: Vec<Bytes>,
}

impl Command {
    /// Whether this is the command `name`.
    pub fn is(&self, name: &str) -> bool {
        self.arguments.first().is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// What a server makes of our wish to go on from an offset.
#[derive(Debug)]
pub enum Resumed {
    /// It sends what comes after the offset.
    Continued(Box<CommandStream>),
    /// It no longer has that, or never had; a new snapshot would be at this place.
    SnapshotNeeded {
        /// The server's replication id.
        replid: String,
        /// The server's offset.
        offset: u64,
    },
}

/// Commands on their way to us.
///
/// The source drops a replica that says nothing for its `repl-timeout` (60 s by default): call [`CommandStream::acknowledge`] about
/// once a second, with 0 to stay out of `WAIT` and `min-replicas-to-write`.
#[derive(Debug)]
pub struct CommandStream {
    connection: Connection,
    parser: CommandParser,
    options: SyncOptions,
    replid: String,
    /// False while the source waits for us to say that we have loaded its snapshot.
    started: bool,
}

impl CommandStream {
    pub(crate) fn new(
        connection: Connection,
        replid: String,
        offset: u64,
        options: &SyncOptions,
        started: bool,
    ) -> Self {
        let parser = CommandParser::new(offset, options.command_bytes_max);
        Self { connection, parser, options: options.clone(), replid, started }
    }

    /// Asks the server at `endpoint` for the commands after `offset` of the history `replid`. A server that cannot continue begins a
    /// snapshot of its own accord, which is cut off here.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or is silent for too long.
    pub async fn resume(
        endpoint: &Endpoint,
        options: &SyncOptions,
        replid: &str,
        offset: u64,
    ) -> Result<Resumed, Error> {
        let options = SyncOptions { rdb_only: false, ..options.clone() };
        let (mut connection, _) = attach(endpoint, &options).await?;
        let from = offset.saturating_add(1).to_string();
        let line = psync(&mut connection, &options, replid, &from).await?;
        if let Some((replid, offset)) = parse_full_resync(&line) {
            return Ok(Resumed::SnapshotNeeded { replid, offset });
        }
        let replid = match line.strip_prefix("+CONTINUE").map(str::trim) {
            Some("") => replid.to_owned(),
            Some(new) if is_replid(new) => new.to_owned(),
            _ => {
                let detail = format!("{line:?} instead of CONTINUE or FULLRESYNC");
                return Err(connection.protocol(STREAM, detail));
            }
        };
        let stream = Self::new(connection, replid, offset, &options, true);
        Ok(Resumed::Continued(Box::new(stream)))
    }

    /// The history this stream belongs to; after a failover it differs from the one asked for.
    pub fn replid(&self) -> &str {
        &self.replid
    }

    /// The offset up to which commands were handed out.
    pub fn offset(&self) -> u64 {
        self.parser.offset()
    }

    /// The next command.
    ///
    /// # Errors
    /// The source hangs up, is silent for [`SyncOptions::stall_timeout`] (it sends a `PING` every 10 s by default), or sends something
    /// that is no command.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Command, Error> {
        loop {
            match self.parser.next(&mut self.connection.buffer) {
                Ok(Some((arguments, length))) => {
                    return Ok(Command { offset: self.parser.offset(), length, arguments });
                }
                Ok(None) if self.started => {
                    self.connection.fill(self.options.stall_timeout, STREAM).await?;
                }
                Ok(None) => self.start().await?,
                Err(malformed) => return Err(self.connection.protocol(STREAM, malformed.0)),
            }
        }
    }

    /// Acknowledges offset 0, which counts for nothing else, until the source begins.
    async fn start(&mut self) -> Result<(), Error> {
        let patience = self.options.stall_timeout;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            self.acknowledge(0).await?;
            let pause = Instant::now() + START_EVERY;
            if let Ok(filled) = timeout_at(pause, self.connection.fill(patience, STREAM)).await {
                filled?;
                self.started = true;
                return Ok(());
            }
        }
        Err(self.connection.timed_out(patience, STREAM))
    }

    /// Tells the source how far we are.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn acknowledge(&mut self, offset: u64) -> Result<(), Error> {
        self.connection.send(&["REPLCONF", "ACK", &offset.to_string()], STREAM).await
    }
}
