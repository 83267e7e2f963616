//! The one thread that writes the group's file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use openraft::storage::LogFlushed;
use redb::Database;
use tokio::sync::oneshot;

use super::{LOG, META, SNAPSHOT, StoreError};
use crate::group::types::Types;

/// Writes waiting for the disk. The consensus library has a handful under way; a disk so slow that this many wait is broken.
const QUEUE_MAX: usize = 1_024;
/// Jobs that share one transaction.
const BATCH_MAX: usize = 64;

/// A change of the file.
#[derive(Debug)]
pub(super) enum Op {
    /// An entry of the log.
    Entry(u64, Vec<u8>),
    /// No entries from this one on.
    CutFrom(u64),
    /// No entries up to this one.
    CutTo(u64),
    /// A value beside the log.
    Meta(&'static str, Vec<u8>),
    /// A snapshot up to this entry, unless a later one was written already.
    Snapshot(u64, Vec<u8>),
}

/// Who is told when a job is on the disk.
enum Done {
    Waiter(oneshot::Sender<Result<(), StoreError>>),
    Library(LogFlushed<Types>),
}

struct Job {
    ops: Vec<Op>,
    done: Done,
}

/// Hands work to the thread, which ends with the last of these.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: SyncSender<Job>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(database: Database) -> Self {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("group-file".to_owned())
            .spawn(move || run(&database, &queue))
            .expect("a thread can be started while the program starts");
        Self { jobs }
    }

    /// Writes `ops`, together and on the disk when it returns.
    ///
    /// # Errors
    /// The disk refused this or an earlier write.
    pub(super) async fn write(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.send(Job { ops, done: Done::Waiter(done) });
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Has `ops` written; the library is told when they are on the disk.
    pub(super) fn flush(&self, ops: Vec<Op>, done: LogFlushed<Types>) {
        self.send(Job { ops, done: Done::Library(done) });
    }

    fn send(&self, job: Job) {
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.jobs.try_send(job)
        {
            job.done.tell(Err(closed()));
        }
    }
}

impl Done {
    fn tell(self, result: Result<(), StoreError>) {
        match self {
            // Whoever gave up waiting has been told something else.
            Self::Waiter(waiter) => drop(waiter.send(result)),
            Self::Library(callback) => callback.log_io_completed(result.map_err(|error| {
                std::io::Error::other(holdfast_telemetry::errors::Chain(&error).to_string())
            })),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Write(Arc::new(redb::Error::PreviousIo))
}

fn run(database: &Database, queue: &Receiver<Job>) {
    let mut failed: Option<Arc<redb::Error>> = None;
    let mut newest = 0;
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        while jobs.len() < BATCH_MAX {
            let Ok(job) = queue.try_recv() else { break };
            jobs.push(job);
        }
        if failed.is_none() {
            // Redb checks its own invariants by panics.
            let written = catch_unwind(AssertUnwindSafe(|| {
                apply(database, &mut newest, jobs.iter().flat_map(|job| &job.ops))
            }));
            let written =
                written.unwrap_or_else(|_| Err(redb::Error::Corrupted("it panicked".to_owned())));
            failed = written.err().map(Arc::new);
        }
        for job in jobs {
            job.done.tell(match &failed {
                None => Ok(()),
                Some(error) => Err(StoreError::Write(Arc::clone(error))),
            });
        }
    }
}

/// One transaction; on the disk when it returns. `newest`: the entry up to which the latest snapshot goes.
fn apply<'a>(
    database: &Database,
    newest: &mut u64,
    ops: impl Iterator<Item = &'a Op>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        for op in ops {
            match op {
                Op::Entry(index, bytes) => drop(log.insert(index, bytes.as_slice())?),
                Op::CutFrom(index) => log.retain_in(*index.., |_, _| false)?,
                Op::CutTo(index) => log.retain_in(..=*index, |_, _| false)?,
                Op::Meta(key, bytes) => drop(meta.insert(key, bytes.as_slice())?),
                // One that was long in the making must not replace one that came from the leader meanwhile.
                Op::Snapshot(index, _) if *index < *newest => {}
                Op::Snapshot(index, bytes) => {
                    *newest = *index;
                    meta.insert(SNAPSHOT, bytes.as_slice())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Sets a mark in a file that no thread writes yet.
pub(super) fn mark(database: &Database, key: &'static str) -> Result<(), redb::Error> {
    apply(database, &mut 0, std::iter::once(&Op::Meta(key, Vec::new())))
}
