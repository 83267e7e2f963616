//! How does an event get from whoever saw it to the disk and to everyone who listens, without making anyone wait?
//!
//! [`Journal::append`] gives the event its id and its incident under a short lock, hands it to the listeners and puts it in a bounded
//! ring in memory; one thread of its own writes the ring to disk, where a commit may take as long as a disk takes. Reads merge both, so
//! an event is visible at once. When the disk refuses (full, gone), events stay in the ring, are retried, and only the oldest are lost
//! once the ring is full; each such loss is counted. Rejected: writing in `append`, because it is called from the loops that must fail a
//! Redis over in milliseconds; an unbounded queue, because a full disk must not become a full memory.
//!
//! A file whose content is damaged is moved aside and a new one begun: a supervisor that does not start protects nobody.

mod common;
mod error;
mod metrics;
mod place;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_telemetry::errors::Chain;
use holdfast_telemetry::prometheus::Registry;
use redb::Database;
use tokio::sync::broadcast;

use self::metrics::Metrics;
use self::place::Place;
use super::event::{Draft, Event, Incident};
use super::filter::{Filter, LIMIT_MAX, Retention};
use super::incidents::{Incidents, Standing};
use super::store::{self, Found, Left, StoreError};

pub use self::common::Deeds;
pub use self::error::JournalError;

/// Events held in memory while the disk refuses them: at some ten a second in a bad incident, several minutes; about 2 MiB.
const PENDING_MAX: usize = 4096;

/// Events written in one transaction.
const BATCH_MAX: usize = 256;

/// A new event waits this long for others that belong to the same transaction: the steps of a failover come within milliseconds of each
/// other, and writing each by itself would keep the disk from what the supervisors have to agree on at that moment. Readers and listeners
/// have it at once.
const GATHER: Duration = Duration::from_millis(100);

/// Wait before writing again after a failure.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Events a listener may lag behind before it misses some.
const LISTEN_MAX: usize = 1024;

/// How long dropping the journal waits for the last events to be written.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// The journal. Dropping it writes what is left, for a few seconds at most.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Something to write, or the end.
    work: Condvar,
    /// Something was written.
    written: Condvar,
    listeners: broadcast::Sender<Arc<Event>>,
    /// `None` between a failure and the next attempt. Readers share it; only the writer replaces it.
    database: RwLock<Option<Database>>,
    place: Place,
    retention: Retention,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    next_event: u64,
    incidents: Incidents,
    /// Not on disk yet; at most [`PENDING_MAX`].
    pending: VecDeque<Arc<Event>>,
    /// Changed and not on disk yet; bounded by the pending events that changed them.
    changed: BTreeMap<u64, Incident>,
    /// Somebody waits until all of it is on disk.
    hurried: bool,
    /// Events on disk and the incidents they turned out to belong to; bounded by the events that wait for one.
    attached: BTreeMap<u64, u64>,
    /// The newest event copied from each other member; bounded by the members there ever were.
    copied: BTreeMap<String, u64>,
    ending: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal at `path` or begins one. A damaged file is moved aside, which is the new journal's first event.
    ///
    /// # Errors
    /// The file is out of reach: no permission, no such folder, held by another process.
    pub fn open(path: &Path, retention: Retention) -> Result<Self, JournalError> {
        let file = path.to_owned();
        let place =
            Place { path: path.to_owned(), opener: Box::new(move || store::open_file(&file)) };
        let opened = place.open_or_begin()?;
        let journal = Self::start(opened.database, opened.left, place, retention)?;
        if let Some(draft) = opened.moved_aside {
            journal.append(draft, Utc::now());
        }
        Ok(journal)
    }

    fn start(
        database: Database,
        left: Left,
        place: Place,
        retention: Retention,
    ) -> Result<Self, JournalError> {
        let incidents = Incidents::restore(left.open, left.last_incident, Utc::now());
        let metrics = Metrics::new();
        metrics.open.set(gauge(incidents.count()));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                next_event: left.last_event + 1,
                incidents,
                pending: VecDeque::new(),
                changed: BTreeMap::new(),
                hurried: false,
                attached: BTreeMap::new(),
                copied: left.copied,
                ending: false,
            }),
            work: Condvar::new(),
            written: Condvar::new(),
            listeners: broadcast::Sender::new(LISTEN_MAX),
            database: RwLock::new(Some(database)),
            place,
            retention,
            metrics,
        });
        let writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.write_all())
            .map_err(JournalError::Thread)?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Shows the journal's figures in `registry`.
    ///
    /// # Panics
    /// It was registered there before.
    pub fn register(&self, registry: &Registry) {
        self.shared.metrics.register(registry);
    }

    /// Records an event: it has its id and incident, and listeners have it, when this returns. Never waits for the disk.
    pub fn append(&self, draft: Draft, now: DateTime<Utc>) -> Event {
        self.shared.append(draft, now)
    }

    /// Events that pass the filter, oldest first. May read the disk: call it from a blocking task where that matters.
    pub fn events(&self, filter: &Filter) -> Vec<Event> {
        let limit = filter.limit.min(LIMIT_MAX);
        let filter = Filter { limit, ..filter.clone() };
        if limit == 0 {
            return Vec::new();
        }
        // What is pending is read first: an event written in between is then found twice rather than not at all.
        let pending: Vec<_> = {
            let state = self.shared.lock();
            state.pending.iter().filter(|event| filter.matches(event)).cloned().collect()
        };
        let stored = self.shared.read(|database| store::events(database, &filter));
        let mut events: BTreeMap<u64, Event> =
            stored.unwrap_or_default().into_iter().map(|event| (event.id, event)).collect();
        events.extend(pending.into_iter().map(|event| (event.id, Event::clone(&event))));
        while events.len() > limit {
            if filter.since_id.is_some() {
                events.pop_last()
            } else {
                events.pop_first()
            };
        }
        events.into_values().collect()
    }

    /// The event with this id.
    pub fn event(&self, id: u64) -> Option<Event> {
        let pending = self.shared.lock().pending.iter().find(|event| event.id == id).cloned();
        match pending {
            Some(event) => Some(Event::clone(&event)),
            None => {
                self.shared.read(|database| store::event(database, id).map(found)).and_then(first)
            }
        }
    }

    /// Incidents, newest first; at most `limit`, at most [`LIMIT_MAX`].
    pub fn incidents(&self, open_only: bool, limit: usize) -> Vec<Incident> {
        let limit = limit.min(LIMIT_MAX);
        let mut newest: BTreeMap<u64, Incident> = {
            let state = self.shared.lock();
            let open = state.incidents.open().map(|incident| (incident.id, incident.clone()));
            let changed = state.changed.iter().map(|(id, incident)| (*id, incident.clone()));
            open.chain(changed.filter(|_| !open_only)).collect()
        };
        if !open_only {
            let stored = self.shared.read(|database| store::incidents(database, limit));
            for incident in stored.unwrap_or_default() {
                newest.entry(incident.id).or_insert(incident);
            }
        }
        newest.into_values().rev().take(limit).collect()
    }

    /// The incident with this id.
    pub fn incident(&self, id: u64) -> Option<Incident> {
        let fresh = {
            let state = self.shared.lock();
            let open = state.incidents.open().find(|incident| incident.id == id);
            open.or_else(|| state.changed.get(&id)).cloned()
        };
        fresh.or_else(|| {
            self.shared.read(|database| store::incident(database, id).map(found)).and_then(first)
        })
    }

    /// Id of the newest event; 0 before the first.
    pub fn last_id(&self) -> u64 {
        self.shared.lock().next_event - 1
    }

    /// Events from now on. A listener that lags too far behind is told how many it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.listeners.subscribe()
    }

    /// Waits until everything recorded so far is on disk; false if that takes longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        state.hurried |= !state.is_written();
        self.shared.work.notify_one();
        let is_left = |state: &mut State| !state.is_written();
        let (_state, waited) = self
            .shared
            .written
            .wait_timeout_while(state, patience, is_left)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.work.notify_one();
        let is_written = self.flush(DROP_WAIT);
        if !is_written {
            tracing::error!("the journal's last events could not be written");
        }
        // After a timeout the thread may hang in the disk; the process must end all the same.
        if let Some(writer) = self.writer.take().filter(|_| is_written)
            && writer.join().is_err()
        {
            tracing::error!("the journal's thread panicked");
        }
    }
}

impl Shared {
    /// The state is consistent between statements that can panic, so poison carries no news.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, draft: Draft, now: DateTime<Utc>) -> Event {
        let mut state = self.lock();
        let incident = state.incidents.assign(&draft, now);
        let part = state.incidents.part();
        let is_leader = part.standing == Standing::Leads && part.member.is_some();
        let event = Event {
            id: state.next_event,
            at: now,
            kind: draft.kind,
            severity: draft.severity,
            subject: draft.subject,
            incident: incident.as_ref().map(|incident| incident.id),
            message: draft.message,
            reasons: draft.reasons,
            detail: draft.detail,
            is_common: is_leader && draft.kind.is_deed(),
            origin: None,
        };
        match incident {
            Some(incident) => {
                state.changed.insert(incident.id, incident);
            }
            None => state.incidents.note_loose(event.id, &event.subject, now),
        }
        self.record(state, event)
    }

    /// Puts an event with the next number where everybody finds it.
    fn record(&self, mut state: MutexGuard<'_, State>, event: Event) -> Event {
        state.next_event += 1;
        if state.pending.len() == PENDING_MAX {
            state.pending.pop_front();
            if state.changed.len() > PENDING_MAX {
                state.changed.pop_first();
            }
            self.metrics.dropped.inc();
        }
        let kept = Arc::new(event.clone());
        state.pending.push_back(Arc::clone(&kept));
        self.metrics.events.with_label_values(&[event.kind.name()]).inc();
        self.metrics.open.set(gauge(state.incidents.count()));
        // Sent under the lock, so that listeners see ids in order. Nobody listening is no loss: the event is in the journal.
        let _ = self.listeners.send(kept);
        drop(state);
        self.work.notify_one();
        tracing::info!(
            id = event.id,
            kind = event.kind.name(),
            severity = event.severity.name(),
            subject = event.subject,
            incident = event.incident,
            text = event.message,
            "recorded"
        );
        event
    }

    /// Reads from disk; a failure is logged and counted, and the caller goes on with what is in memory.
    fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<Found<T>, StoreError>,
    ) -> Option<Vec<T>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let read = || database.as_ref().ok_or(StoreError::Closed).and_then(read);
        match store::guard("read the journal", read) {
            Ok(found) => {
                if found.unreadable > 0 {
                    tracing::warn!(rows = found.unreadable, "journal rows cannot be read");
                    self.metrics.read_failures.inc_by(found.unreadable);
                }
                Some(found.rows)
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot read the journal");
                self.metrics.read_failures.inc();
                None
            }
        }
    }

    /// The writer thread: ends when it is told to and nothing is left, or when the last attempt failed.
    fn write_all(&self) {
        let mut failing = false;
        loop {
            let (events, changed, attached, ending) = {
                let state = self.lock();
                let is_idle = |state: &mut State| state.is_written() && !state.ending;
                let state = self.work.wait_while(state, is_idle);
                let state = state.unwrap_or_else(PoisonError::into_inner);
                let is_gathering = |state: &mut State| {
                    state.pending.len() < BATCH_MAX && !state.hurried && !state.ending
                };
                let gathered = self.work.wait_timeout_while(state, GATHER, is_gathering);
                let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
                state.hurried = false;
                let events: Vec<_> = state.pending.iter().take(BATCH_MAX).cloned().collect();
                if state.is_written() {
                    return;
                }
                (events, state.changed.clone(), state.attached.clone(), state.ending)
            };
            match self.write(&events, &changed, &attached) {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the journal is written again");
                    }
                    self.forget(&events, &changed, &attached);
                }
                Err(error) => {
                    self.metrics.write_failures.inc();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(error = %Chain(&error), "cannot write the journal, events are kept in memory");
                    }
                    if ending {
                        return;
                    }
                    let state = self.lock();
                    // Only the end cuts the pause short; new events wait for it with the others.
                    let waited = self.work.wait_timeout_while(state, RETRY_EVERY, |s| !s.ending);
                    drop(waited);
                }
            }
        }
    }

    /// Writes one batch. Redb closes a database after an IO error, so each attempt after a failure opens it anew.
    fn write(
        &self,
        events: &[Arc<Event>],
        changed: &BTreeMap<u64, Incident>,
        attached: &BTreeMap<u64, u64>,
    ) -> Result<(), JournalError> {
        let database = || self.database.read().unwrap_or_else(PoisonError::into_inner);
        if database().is_some() && !self.place.path.exists() {
            self.close();
            return Err(JournalError::Gone(self.place.path.clone()));
        }
        if database().is_none() {
            let opened = self.place.open_or_begin()?;
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(opened.database);
            if let Some(draft) = opened.moved_aside {
                self.append(draft, Utc::now());
            }
        }
        let result = store::guard("write to the journal", || match database().as_ref() {
            Some(database) => store::write(database, events, changed, attached, self.retention),
            None => Err(StoreError::Closed),
        });
        result.map_err(|source| {
            self.close();
            JournalError::Write(Box::new(source))
        })
    }

    /// Lets go of a file that is of no use.
    fn close(&self) {
        let closed = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        // What closing may have to say about a file that has just failed is nothing new.
        let _ = store::guard("close the journal", || {
            drop(closed);
            Ok(())
        });
    }

    /// Drops from memory what is on disk now.
    fn forget(
        &self,
        events: &[Arc<Event>],
        written: &BTreeMap<u64, Incident>,
        attached: &BTreeMap<u64, u64>,
    ) {
        let mut state = self.lock();
        let last = events.last().map_or(0, |event| event.id);
        while state.pending.front().is_some_and(|event| event.id <= last) {
            state.pending.pop_front();
        }
        state.attached.retain(|event, _| !attached.contains_key(event));
        state.changed.retain(|id, incident| written.get(id) != Some(incident));
        drop(state);
        self.written.notify_all();
    }
}

fn found<T>(row: Option<T>) -> Found<T> {
    Found { rows: row.into_iter().collect(), unreadable: 0 }
}

fn first<T>(rows: Vec<T>) -> Option<T> {
    rows.into_iter().next()
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
