//! Saved commands put back into the present primary, on an operator's order.
//!
//! What was written since must not be undone. Redis keeps no time of change for a key, but the present primary's own command stream says
//! what was written to it since it left the former primary's history: as long as its backlog reaches back to that point (the `fork`), the
//! keys in it are exactly those that are newer. Once it does not, every key that exists counts as newer. A unit (a command, or a whole
//! transaction) that touches a newer key is left out, unless forced. What is written while the replay runs is not looked at.
//!
//! A replay happens once: each batch is one transaction together with a mark of how far it goes, so that one that was interrupted goes on
//! where it ended, and one that went to the end is refused. Rejected: comparing values (equal does not mean unchanged) and idle times
//! (reading resets them).

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast_psync::{CommandStream, Connection, Endpoint, Reply, Resumed, SyncOptions};
use tokio::time::{Instant, timeout_at};

use super::store::Manifest;
use super::units::{Cutter, Keys, Unit, keys};

/// Units in one transaction: a millisecond or so of the primary's time.
const BATCH: usize = 100;

/// The mark outlives any replay that is taken up again.
const MARK_SECONDS: &str = "2592000";

/// Longest time the present primary's stream is read; a backlog of 64 MiB takes about a second.
const SCAN_LIMIT: Duration = Duration::from_secs(20);

/// One command or transaction may take this long; a large primary that forks stands still for as long.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// What a replay does, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ReplayReport {
    /// Nothing was changed: it tells what would be.
    pub dry_run: bool,
    /// How newer keys were told: `stream` or `existence`.
    pub newer_by: String,
    /// Commands carried out, or to be.
    pub applied: u64,
    /// Commands left out because a key was written since.
    pub newer: u64,
    /// Commands left out because no key stands for what they change: messages, `FLUSHALL` and the like.
    pub keyless: u64,
    /// Commands the primary refused.
    pub failed: u64,
    /// Commands an interrupted replay has carried out before.
    pub before: u64,
}

/// Why a replay did not happen, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    /// The primary.
    #[error("the present primary does not do it")]
    Primary(#[source] holdfast_psync::Error),
    /// What it answered makes no sense.
    #[error("the present primary gives an answer that makes no sense to {0}")]
    Odd(&'static str),
}

/// Which keys of the present primary are newer than what was saved.
enum Newer {
    Written(HashSet<(u32, Bytes)>),
    /// The stream does not reach back: whatever exists.
    Existing,
}

/// Replays what was `saved` into the server at `primary`, or says what that would do.
///
/// # Errors
/// The primary cannot be reached or refuses the whole; what was done until then is marked as done.
pub(super) async fn replay(
    primary: &Endpoint,
    manifest: &Manifest,
    saved: Cutter,
    dry_run: bool,
    force: bool,
) -> Result<ReplayReport, ReplayError> {
    let mut endpoint = primary.clone();
    endpoint.command_timeout = COMMAND_LIMIT;
    let mut connection = Connection::open(&endpoint).await.map_err(ReplayError::Primary)?;
    let mark = format!("holdfast:salvage:{}", manifest.id);
    let done = marked(&mut connection, &mark).await?;
    let newer = newer(&endpoint, &mut connection, manifest).await?;
    let by = if matches!(newer, Newer::Written(_)) { "stream" } else { "existence" };
    let mut report = ReplayReport {
        dry_run,
        newer_by: by.to_owned(),
        keyless: saved.messages,
        ..ReplayReport::default()
    };
    let mut batch = Vec::new();
    let mut database = 0;
    for (index, unit) in saved.units.into_iter().enumerate() {
        let count = unit.commands.len() as u64;
        if index < done {
            report.before += count;
            continue;
        }
        if unit.database != database {
            database = unit.database;
            select(&mut connection, database).await?;
        }
        let Some(touched) = touched(&mut connection, &unit).await? else {
            report.keyless += count;
            continue;
        };
        if !force && is_newer(&mut connection, &newer, database, touched).await? {
            report.newer += count;
            continue;
        }
        if dry_run {
            report.applied += count;
            continue;
        }
        batch.push(unit);
        if batch.len() == BATCH {
            apply(&mut connection, &mut batch, &mark, index + 1, &mut report).await?;
            select(&mut connection, database).await?;
        }
    }
    if !dry_run && !batch.is_empty() {
        apply(&mut connection, &mut batch, &mark, usize::MAX, &mut report).await?;
    }
    Ok(report)
}

async fn command<A: AsRef<[u8]>>(
    connection: &mut Connection,
    words: &[A],
) -> Result<Reply, ReplayError> {
    connection.command(words).await.map_err(ReplayError::Primary)
}

async fn select(connection: &mut Connection, database: u32) -> Result<(), ReplayError> {
    command(connection, &["SELECT", &database.to_string()]).await.map(drop)
}

/// Units that an interrupted replay has dealt with.
async fn marked(connection: &mut Connection, mark: &str) -> Result<usize, ReplayError> {
    let reply = command(connection, &["GET", mark]).await?;
    let Some(text) = reply.text() else { return Ok(0) };
    text.parse().map_err(|_| ReplayError::Odd("GET of the mark"))
}

/// The keys written to the present primary since the fork.
async fn newer(
    endpoint: &Endpoint,
    connection: &mut Connection,
    manifest: &Manifest,
) -> Result<Newer, ReplayError> {
    let info = connection.info("replication").await.map_err(ReplayError::Primary)?;
    let field = |name: &str| info.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let head: u64 = field("master_repl_offset")
        .and_then(|offset| offset.parse().ok())
        .ok_or(ReplayError::Odd("INFO"))?;
    // It is asked only for what it has: otherwise it would begin a snapshot for us.
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    let (replid, offset) = (&manifest.fork.replid, manifest.fork.offset);
    let is_own = field("master_replid") == Some(replid)
        || (field("master_replid2") == Some(replid)
            && number("second_repl_offset").is_some_and(|second| second > offset));
    let reaches = number("repl_backlog_first_byte_offset").is_some_and(|first| first <= offset + 1);
    if !is_own || !reaches {
        return Ok(Newer::Existing);
    }
    let options = SyncOptions { stall_timeout: SCAN_LIMIT, ..SyncOptions::default() };
    let deadline = Instant::now() + SCAN_LIMIT;
    let resumed = CommandStream::resume(endpoint, &options, replid, offset);
    let Ok(Ok(Resumed::Continued(mut stream))) = timeout_at(deadline, resumed).await else {
        return Ok(Newer::Existing);
    };
    let mut cutter = Cutter::default();
    while stream.offset() < head {
        match timeout_at(deadline, stream.next()).await {
            Ok(Ok(command)) if command.is("PING") || command.is("REPLCONF") => {}
            Ok(Ok(command)) => cutter.push(command.arguments),
            // What is not known in time may be anything.
            _ => return Ok(Newer::Existing),
        }
    }
    let mut written = HashSet::new();
    for unit in cutter.units {
        match touched(connection, &unit).await? {
            Some(keys) => written.extend(keys.into_iter().map(|key| (unit.database, key))),
            // It may have changed everything.
            None => return Ok(Newer::Existing),
        }
    }
    Ok(Newer::Written(written))
}

/// The keys a unit touches; `None` if it changes something that no key stands for.
async fn touched(
    connection: &mut Connection,
    unit: &Unit,
) -> Result<Option<Vec<Bytes>>, ReplayError> {
    let mut all = Vec::new();
    for words in &unit.commands {
        match keys(words) {
            Keys::Known(keys) => all.extend(keys),
            Keys::None => return Ok(None),
            Keys::Ask => {
                let mut question =
                    vec![Bytes::from_static(b"COMMAND"), Bytes::from_static(b"GETKEYS")];
                question.extend(words.iter().cloned());
                match connection.command(&question).await {
                    Ok(Reply::Array(Some(keys))) if !keys.is_empty() => {
                        all.extend(keys.into_iter().filter_map(|key| match key {
                            Reply::Bulk(key) => key,
                            _ => None,
                        }));
                    }
                    // It says that there are none, or knows no such command.
                    Ok(_) | Err(holdfast_psync::Error::Refused { .. }) => return Ok(None),
                    Err(error) => return Err(ReplayError::Primary(error)),
                }
            }
        }
    }
    Ok(Some(all))
}

async fn is_newer(
    connection: &mut Connection,
    newer: &Newer,
    database: u32,
    keys: Vec<Bytes>,
) -> Result<bool, ReplayError> {
    match newer {
        Newer::Written(written) => {
            Ok(keys.into_iter().any(|key| written.contains(&(database, key))))
        }
        Newer::Existing => {
            let mut question = vec![Bytes::from_static(b"EXISTS")];
            question.extend(keys);
            let count = command(connection, &question).await?.integer();
            count.map(|count| count > 0).ok_or(ReplayError::Odd("EXISTS"))
        }
    }
}

/// Carries a batch out as one transaction, with the mark that it is done.
async fn apply(
    connection: &mut Connection,
    batch: &mut Vec<Unit>,
    mark: &str,
    until: usize,
    report: &mut ReplayReport,
) -> Result<(), ReplayError> {
    select(connection, 0).await?;
    command(connection, &["MULTI"]).await?;
    let until = until.to_string();
    command(connection, &["SET", mark, until.as_str(), "EX", MARK_SECONDS]).await?;
    let mut database = 0;
    // For each reply of the transaction whether it is that of a saved command.
    let mut is_saved = vec![false];
    for unit in batch.drain(..) {
        if unit.database != database {
            database = unit.database;
            select(connection, database).await?;
            is_saved.push(false);
        }
        for words in unit.commands {
            command(connection, &words).await?;
            is_saved.push(true);
        }
    }
    let Reply::Array(Some(replies)) = command(connection, &["EXEC"]).await? else {
        return Err(ReplayError::Odd("EXEC"));
    };
    for (reply, _) in replies.iter().zip(is_saved).filter(|(_, is_saved)| *is_saved) {
        let counter =
            if matches!(reply, Reply::Error(_)) { &mut report.failed } else { &mut report.applied };
        *counter += 1;
    }
    Ok(())
}
