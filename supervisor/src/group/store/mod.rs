//! The group's file: log, vote, snapshot and who we are, in one redb database.
//!
//! What the log holds is also in memory, because it is small (it is cut after every snapshot) and every reader wants its newest end. So
//! the disk is only written to, by one thread, in the order in which it was told; whatever has gathered while the last write reached the
//! disk goes with the next one. A vote or an entry counts once its transaction is on the disk (`fsync`).
//!
//! Every value carries a checksum, and the whole file is checked when it is opened. A damaged file is refused and left as it is: starting
//! with less than this member has promised the others could lose what the group has agreed on, or have it vote twice. A member whose file
//! is lost joins anew. A disk that refuses to write stops the member, not its data: the thread fails everything until the file is opened
//! again.

mod log;
mod machine;
mod writer;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, MemberId};
use super::types::{LogEntry, LogId, SnapshotMeta, Vote};
use writer::Writer;

pub(super) use log::LogStore;
pub(super) use machine::{Machine, Published};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const IDENTITY: &str = "identity";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT: &str = "snapshot";
const DAMAGED: &str = "damaged";
const ROOM: &str = "room";

/// A member whose disk was full comes back once this much can be written: some hundred entries, so that it does not come and go.
const ROOM_BYTES: usize = 1024 * 1024;

/// Pages kept in memory. Nothing is read after the start.
const CACHE_BYTES: usize = 512 * 1024;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be opened.
    #[error("open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<DatabaseError>,
    },
    /// It is not what was written.
    #[error(
        "{} is damaged ({what}). It is left as it is. If the other members of the group are alive: move the file away, start this \
         supervisor again, `holdfast group leave NAME` at another member for its old self, and `holdfast group join` here. If this was \
         the only member: move the file away and start again; orders, silences and the epoch it held are lost",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Writing failed, or failed before.
    #[error("write the group's file")]
    Write(#[source] Arc<redb::Error>),
}

/// Who this member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// The group, by a number drawn when it was formed.
    pub(super) group: u64,
    /// The member's number in it.
    pub(super) member: MemberId,
}

/// A value with its checksum before it, so that a flipped bit is never taken for a state.
fn sealed(value: &impl Serialize) -> Vec<u8> {
    let body = json(value);
    let mut sealed = crc32fast::hash(&body).to_le_bytes().to_vec();
    sealed.extend(body);
    sealed
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have string keys")
}

fn unsealed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (sum, body) = bytes.split_first_chunk::<4>().ok_or("it is too short")?;
    if crc32fast::hash(body).to_le_bytes() != *sum {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// The log and what belongs to it, as it was last told; the disk follows.
#[derive(Debug, Default)]
struct Kept {
    log: BTreeMap<u64, LogEntry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

/// A snapshot of the ledger.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    meta: SnapshotMeta,
    ledger: Ledger,
}

/// The opened file.
pub(super) struct Store {
    pub(super) identity: Option<Identity>,
    kept: Arc<Mutex<Kept>>,
    snapshot: Option<Stored>,
    writer: Writer,
}

/// Opens the database; what is behind it is a file, or a stand-in in tests.
pub(super) type Opener = Arc<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The usual opener.
pub(super) fn opener(path: &Path) -> Opener {
    let path = path.to_owned();
    Arc::new(move || Builder::new().set_cache_size(CACHE_BYTES).create(&path))
}

impl Store {
    /// Opens the file behind `opener`, called `path` in errors, or makes it; checks all of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) fn open(path: &Path, opener: &Opener) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
        // Redb checks its own invariants by panics, and a damaged file breaks them.
        let read = catch_unwind(AssertUnwindSafe(|| Self::read(path, opener)));
        let (database, loaded) =
            read.map_err(|_| damaged("it breaks an invariant of its format".to_owned()))??;
        let Loaded { identity, kept, snapshot } = loaded.map_err(damaged)?;
        let kept = Arc::new(Mutex::new(kept));
        Ok(Self { identity, kept, snapshot, writer: Writer::start(database) })
    }

    fn read(
        path: &Path,
        opener: &Opener,
    ) -> Result<(Database, Result<Loaded, String>), StoreError> {
        let opening = |source: DatabaseError| {
            let is_damage = match &source {
                DatabaseError::Storage(redb::StorageError::Io(error)) => matches!(
                    error.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ),
                DatabaseError::Storage(redb::StorageError::Corrupted(_))
                | DatabaseError::UpgradeRequired(_)
                | DatabaseError::RepairAborted => true,
                _ => false,
            };
            if is_damage {
                StoreError::Damaged { path: path.to_owned(), what: source.to_string() }
            } else {
                StoreError::Open { path: path.to_owned(), source: Box::new(source) }
            }
        };
        let mut database = opener().map_err(opening)?;
        if !database.check_integrity().map_err(opening)? {
            // The library has mended what it could, which may be less than we promised; the next start must know it too.
            writer::mark(&database, DAMAGED)
                .map_err(|source| StoreError::Write(Arc::new(source)))?;
            return Ok((database, Err("pages do not match their checksums".to_owned())));
        }
        let loaded = load(&database);
        Ok((database, loaded))
    }

    /// Writes down who we are, on the disk when it returns.
    ///
    /// # Errors
    /// The disk refused.
    pub(super) async fn name(&mut self, identity: Identity) -> Result<(), StoreError> {
        self.writer.write(vec![writer::Op::Meta(IDENTITY, sealed(&identity))]).await?;
        self.identity = Some(identity);
        Ok(())
    }

    /// Makes sure that there is room: what is written and taken back stays the file's own.
    ///
    /// # Errors
    /// The disk refused.
    pub(super) async fn try_writing(&mut self) -> Result<(), StoreError> {
        self.writer.write(vec![writer::Op::Meta(ROOM, vec![0; ROOM_BYTES])]).await?;
        self.writer.write(vec![writer::Op::Meta(ROOM, Vec::new())]).await
    }

    /// Members of the group by the newest membership in the file.
    pub(super) fn members(&self) -> usize {
        let kept = lock(&self.kept);
        let in_log = kept.log.values().rev().find_map(|entry| match &entry.payload {
            openraft::EntryPayload::Membership(membership) => Some(membership.nodes().count()),
            _ => None,
        });
        let in_snapshot =
            self.snapshot.as_ref().map(|stored| stored.meta.last_membership.nodes().count());
        in_log.or(in_snapshot).unwrap_or_default()
    }

    /// The parts the consensus library wants, and where the ledger is published.
    pub(super) fn split(self, published: Published) -> (LogStore, Machine) {
        let machine = Machine::new(self.snapshot, self.writer.clone(), published);
        (LogStore::new(self.kept, self.writer), machine)
    }
}

struct Loaded {
    identity: Option<Identity>,
    kept: Kept,
    snapshot: Option<Stored>,
}

fn load(database: &Database) -> Result<Loaded, String> {
    let text = |error: redb::Error| error.to_string();
    let transaction = database.begin_read().map_err(|error| text(error.into()))?;
    let none = Loaded { identity: None, kept: Kept::default(), snapshot: None };
    let meta = match transaction.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(none),
        Err(error) => return Err(text(error.into())),
    };
    let bytes = |key: &str| meta.get(key).map_err(|error| text(error.into()));
    if bytes(DAMAGED)?.is_some() {
        return Err("pages did not match their checksums when it was opened before".to_owned());
    }
    let mut kept = Kept {
        log: BTreeMap::new(),
        vote: value(VOTE, bytes(VOTE)?)?,
        committed: value(COMMITTED, bytes(COMMITTED)?)?,
        purged: value(PURGED, bytes(PURGED)?)?,
    };
    if let Ok(log) = transaction.open_table(LOG) {
        for row in log.iter().map_err(|error| text(error.into()))? {
            let (index, entry) = row.map_err(|error| text(error.into()))?;
            let index = index.value();
            let entry: LogEntry =
                unsealed(entry.value()).map_err(|why| format!("log entry {index}: {why}"))?;
            if entry.log_id.index != index {
                return Err(format!("log entry {index} says it is {}", entry.log_id.index));
            }
            kept.log.insert(index, entry);
        }
    }
    check_whole(&kept)?;
    Ok(Loaded {
        identity: value(IDENTITY, bytes(IDENTITY)?)?,
        snapshot: value(SNAPSHOT, bytes(SNAPSHOT)?)?,
        kept,
    })
}

fn value<T: DeserializeOwned>(
    name: &str,
    found: Option<redb::AccessGuard<'_, &'static [u8]>>,
) -> Result<Option<T>, String> {
    let read = |bytes: &[u8]| unsealed(bytes).map_err(|why| format!("{name}: {why}"));
    found.map(|found| read(found.value())).transpose()
}

/// A log with a hole is not the log that was written.
fn check_whole(kept: &Kept) -> Result<(), String> {
    let first = kept.purged.map_or(0, |purged| purged.index + 1);
    match (first..).zip(kept.log.keys()).find(|(next, index)| next != *index) {
        Some((next, _)) => Err(format!("log entry {next} is missing")),
        None => Ok(()),
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::moody;
