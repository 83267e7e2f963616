//! The journal on disk: one redb file with the events, the incidents, and which event belongs to which incident.
//!
//! Rows are JSON, so that a field added later can be missing in old rows and a person can read them with any tool. A row that cannot be
//! read is skipped and counted rather than hiding all the others.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageError, TableDefinition,
};

use super::event::{Event, Incident};
use super::filter::{Filter, Retention};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const INCIDENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("incidents");
/// Keys are (incident, event).
const INCIDENT_EVENTS: TableDefinition<'_, (u64, u64), ()> =
    TableDefinition::new("incident_events");

/// The newest event copied from each other member, by its name.
const COPIED: TableDefinition<'_, &str, u64> = TableDefinition::new("copied");

/// Pages kept in memory. Redb's own default is a gigabyte; the status page reads some hundred rows.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It could not be opened.
    #[error("open the journal")]
    Open(#[source] DatabaseError),
    /// Reading or writing failed.
    #[error("{attempted}")]
    Use {
        /// What was attempted.
        attempted: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// A row is not what it should be.
    #[error("read {row}")]
    Row {
        /// Which one.
        row: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Redb gave up on what it found: it checks its own invariants by panics.
    #[error("{attempted}: the file breaks an invariant of its format")]
    Invariant {
        /// What was attempted.
        attempted: &'static str,
    },
    /// An earlier failure closed it and it has not been opened again yet.
    #[error("the journal's file is closed after a failure")]
    Closed,
}

impl StoreError {
    fn using<E: Into<redb::Error>>(attempted: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Use { attempted, source: Box::new(source.into()) }
    }

    /// Whether the content is damaged (start anew) rather than out of reach (say so and stop).
    pub(super) fn is_damage(&self) -> bool {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        let is_damaged =
            |error: &std::io::Error| matches!(error.kind(), InvalidData | UnexpectedEof);
        match self {
            Self::Open(DatabaseError::Storage(StorageError::Io(error))) => is_damaged(error),
            Self::Open(error) => matches!(
                error,
                DatabaseError::Storage(StorageError::Corrupted(_))
                    | DatabaseError::UpgradeRequired(_)
                    | DatabaseError::RepairAborted
            ),
            Self::Use { source, .. } => match &**source {
                redb::Error::Io(error) => is_damaged(error),
                redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => true,
                _ => false,
            },
            Self::Row { .. } | Self::Invariant { .. } => true,
            Self::Closed => false,
        }
    }
}

/// Opens the database; what is behind it is a file, or a stand-in in tests.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// What is needed to go on where the last run stopped.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) last_event: u64,
    pub(super) last_incident: u64,
    pub(super) open: Vec<Incident>,
    pub(super) copied: BTreeMap<String, u64>,
}

/// Opens the file or makes it.
pub(super) fn open_file(path: &Path) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(CACHE_BYTES).create(path)
}

/// Opens the database, checks every page's checksum, and reads where the last run stopped.
///
/// A journal at its full size is checked in well under a second, and a damaged page found now is not found in the middle of an
/// incident.
pub(super) fn open(opener: &Opener) -> Result<(Database, Left), StoreError> {
    guard("open the journal", || {
        let mut database = opener().map_err(StoreError::Open)?;
        database.check_integrity().map_err(StoreError::Open)?;
        let left = load(&database)?;
        Ok((database, left))
    })
}

/// Runs something that uses redb, which panics where a damaged file breaks its invariants. To us that is one more kind of error.
pub(super) fn guard<T>(
    attempted: &'static str,
    run: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // Nothing of what `run` sees is used after a panic: the database is closed.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(StoreError::Invariant { attempted }))
}

/// Makes sure the tables exist and reads where the last run stopped.
fn load(database: &Database) -> Result<Left, StoreError> {
    let using = "read the journal";
    let write = database.begin_write().map_err(StoreError::using(using))?;
    let mut left = Left::default();
    {
        let events = write.open_table(EVENTS).map_err(StoreError::using(using))?;
        let incidents = write.open_table(INCIDENTS).map_err(StoreError::using(using))?;
        write.open_table(INCIDENT_EVENTS).map_err(StoreError::using(using))?;
        let copied = write.open_table(COPIED).map_err(StoreError::using(using))?;
        for entry in copied.iter().map_err(StoreError::using(using))? {
            let (member, id) = entry.map_err(StoreError::using(using))?;
            left.copied.insert(member.value().to_owned(), id.value());
        }
        if let Some((id, row)) = events.last().map_err(StoreError::using(using))? {
            left.last_event = id.value();
            decode::<Event>("event", id.value(), row.value())?;
        }
        for entry in incidents.iter().map_err(StoreError::using(using))? {
            let (id, row) = entry.map_err(StoreError::using(using))?;
            let incident: Incident = decode("incident", id.value(), row.value())?;
            left.last_incident = id.value();
            if incident.closed.is_none() {
                left.open.push(incident);
            }
        }
    }
    write.commit().map_err(StoreError::using(using))?;
    Ok(left)
}

/// Writes events and incidents in one transaction that is on the disk when this returns, and drops what is beyond retention.
pub(super) fn write(
    database: &Database,
    events: &[Arc<Event>],
    incidents: &BTreeMap<u64, Incident>,
    attached: &BTreeMap<u64, u64>,
    retention: Retention,
) -> Result<(), StoreError> {
    let using = "write to the journal";
    let mut write = database.begin_write().map_err(StoreError::using(using))?;
    write.set_durability(Durability::Immediate).map_err(StoreError::using(using))?;
    {
        let mut rows = write.open_table(EVENTS).map_err(StoreError::using(using))?;
        let mut index = write.open_table(INCIDENT_EVENTS).map_err(StoreError::using(using))?;
        for event in events {
            rows.insert(event.id, encode(&**event).as_slice()).map_err(StoreError::using(using))?;
            if let Some(incident) = event.incident {
                index.insert((incident, event.id), ()).map_err(StoreError::using(using))?;
            }
        }
        for (event, incident) in attached {
            attach(&mut rows, *event, *incident)?;
            index.insert((*incident, *event), ()).map_err(StoreError::using(using))?;
        }
        let mut copied = write.open_table(COPIED).map_err(StoreError::using(using))?;
        for origin in events.iter().filter_map(|event| event.origin.as_ref()) {
            copied.insert(&*origin.member, origin.id).map_err(StoreError::using(using))?;
        }
        while rows.len().map_err(StoreError::using(using))? > retention.events_max {
            let Some((id, row)) = rows.pop_first().map_err(StoreError::using(using))? else {
                break;
            };
            // A row that cannot be read leaves at most an index entry behind, which reads skip.
            let incident = decode::<Event>("event", id.value(), row.value()).ok();
            if let Some(incident) = incident.and_then(|event| event.incident) {
                index.remove((incident, id.value())).map_err(StoreError::using(using))?;
            }
        }

        let mut rows = write.open_table(INCIDENTS).map_err(StoreError::using(using))?;
        for (id, incident) in incidents {
            rows.insert(id, encode(incident).as_slice()).map_err(StoreError::using(using))?;
        }
        let excess =
            rows.len().map_err(StoreError::using(using))?.saturating_sub(retention.incidents_max);
        if excess > 0 {
            let is_closed = |id: u64, row: &[u8]| {
                decode::<Incident>("incident", id, row)
                    .is_ok_and(|incident| incident.closed.is_some())
            };
            let oldest = rows.extract_if(is_closed).map_err(StoreError::using(using))?;
            for entry in oldest.take(usize::try_from(excess).unwrap_or(usize::MAX)) {
                entry.map_err(StoreError::using(using))?;
            }
        }
    }
    write.commit().map_err(StoreError::using(using))
}

/// An event turns out to belong to an incident.
fn attach(
    rows: &mut redb::Table<'_, u64, &'static [u8]>,
    id: u64,
    incident: u64,
) -> Result<(), StoreError> {
    let using = "write to the journal";
    let row = rows.get(id).map_err(StoreError::using(using))?;
    // One that cannot be read is counted when it is read.
    let event = row.as_ref().and_then(|row| decode::<Event>("event", id, row.value()).ok());
    drop(row);
    if let Some(mut event) = event {
        event.incident = Some(incident);
        rows.insert(id, encode(&event).as_slice()).map_err(StoreError::using(using))?;
    }
    Ok(())
}

/// What a read found, and how many rows it could not read.
#[derive(Debug)]
pub(super) struct Found<T> {
    pub(super) rows: Vec<T>,
    pub(super) unreadable: u64,
}

/// At most `filter.limit` events, from the end the filter asks for, in no particular order.
pub(super) fn events(database: &Database, filter: &Filter) -> Result<Found<Event>, StoreError> {
    let using = "read events";
    let read = database.begin_read().map_err(StoreError::using(using))?;
    let table = read.open_table(EVENTS).map_err(StoreError::using(using))?;
    let from = filter.since_id.map_or(Bound::Unbounded, Bound::Excluded);
    let to = filter.before_id.map_or(Bound::Unbounded, Bound::Excluded);
    let mut found = Found { rows: Vec::new(), unreadable: 0 };
    if matches!((filter.since_id, filter.before_id), (Some(since), Some(before)) if before <= since)
    {
        return Ok(found);
    }
    let mut take = |id: u64, row: &[u8]| {
        match decode::<Event>("event", id, row) {
            Ok(event) if filter.matches(&event) => found.rows.push(event),
            Ok(_) => {}
            Err(_) => found.unreadable += 1,
        }
        found.rows.len() < filter.limit
    };
    if let Some(incident) = filter.incident {
        let index = read.open_table(INCIDENT_EVENTS).map_err(StoreError::using(using))?;
        let range = index.range((incident, 0)..=(incident, u64::MAX));
        let range = range.map_err(StoreError::using(using))?;
        let keys = filter.ordered(range);
        for entry in keys {
            let id = entry.map_err(StoreError::using(using))?.0.value().1;
            let row = table.get(id).map_err(StoreError::using(using))?;
            if row.is_some_and(|row| !take(id, row.value())) {
                break;
            }
        }
    } else {
        let range = table.range::<u64>((from, to)).map_err(StoreError::using(using))?;
        for entry in filter.ordered(range) {
            let (id, row) = entry.map_err(StoreError::using(using))?;
            if !take(id.value(), row.value()) {
                break;
            }
        }
    }
    Ok(found)
}

/// The event with this id.
pub(super) fn event(database: &Database, id: u64) -> Result<Option<Event>, StoreError> {
    let using = "read an event";
    let read = database.begin_read().map_err(StoreError::using(using))?;
    let table = read.open_table(EVENTS).map_err(StoreError::using(using))?;
    let row = table.get(id).map_err(StoreError::using(using))?;
    row.map(|row| decode("event", id, row.value())).transpose()
}

/// The newest `limit` incidents, newest first.
pub(super) fn incidents(database: &Database, limit: usize) -> Result<Found<Incident>, StoreError> {
    let using = "read incidents";
    let read = database.begin_read().map_err(StoreError::using(using))?;
    let table = read.open_table(INCIDENTS).map_err(StoreError::using(using))?;
    let mut found = Found { rows: Vec::new(), unreadable: 0 };
    for entry in table.iter().map_err(StoreError::using(using))?.rev().take(limit) {
        let (id, row) = entry.map_err(StoreError::using(using))?;
        match decode("incident", id.value(), row.value()) {
            Ok(incident) => found.rows.push(incident),
            Err(_) => found.unreadable += 1,
        }
    }
    Ok(found)
}

/// The incident with this id.
pub(super) fn incident(database: &Database, id: u64) -> Result<Option<Incident>, StoreError> {
    let using = "read an incident";
    let read = database.begin_read().map_err(StoreError::using(using))?;
    let table = read.open_table(INCIDENTS).map_err(StoreError::using(using))?;
    let row = table.get(id).map_err(StoreError::using(using))?;
    row.map(|row| decode("incident", id, row.value())).transpose()
}

fn encode<T: serde::Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows have string keys and serialise without IO")
}

fn decode<T: serde::de::DeserializeOwned>(
    what: &str,
    id: u64,
    row: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(row)
        .map_err(|source| StoreError::Row { row: format!("{what} {id}"), source })
}
