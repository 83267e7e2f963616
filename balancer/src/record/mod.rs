//! What operators have changed: the journal that tells it, and the file from which it comes back after a restart.
//!
//! A thread of its own writes both, so that a slow disk holds up neither the checks nor the next change. A full or broken disk does not
//! hold up the change itself either: it happens, what could not be written waits for the disk, and `balancer_journal_writable` says so.
//! Rejected: to refuse changes that cannot be written down, because a full disk is when servers have to be taken out.
//!
//! There is one writer at a time: while another process takes over, and after it has, this one has neither file open and writes nothing.

mod journal;
mod kept;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics::RecordMetrics;
use journal::JournalFile;
pub(crate) use journal::{Limits, put_aside};
pub(crate) use kept::{Kept, KeptPool, KeptServer, NewServer, load as load_kept};

/// Entries shown by the operator API; older ones are in the files.
const RECENT_MAX: usize = 1_000;
/// Changes that may wait for the disk. A supervisor makes a few in a second at most.
const QUEUE_MAX: usize = 1_024;
/// How long an answer waits for the disk; after it the caller is answered anyway.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a disk that did not take an entry is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Below the state folder.
const FILE: &str = "journal.jsonl";
const KEPT_FILE: &str = "changes.json";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Entry {
    /// When, in UTC (RFC 3339).
    pub time: String,
    /// The version it led to, in this run of the program.
    pub version: u64,
    /// Name of the token, certificate or user.
    pub who: String,
    /// Address they came from.
    pub from: String,
    /// Epoch they acted under.
    pub epoch: Option<u64>,
    /// What was done.
    pub action: String,
    /// To what, as a path below the API.
    pub target: String,
    /// What was before.
    pub old: Value,
    /// What is now.
    pub new: Value,
}

enum Work {
    Entry(Box<Entry>),
    Keep(Box<Kept>),
    Flush(oneshot::Sender<()>),
    Pause(oneshot::Sender<()>),
    Resume,
}

/// Takes changes down.
#[derive(Debug)]
pub(crate) struct Recorder {
    recent: Mutex<VecDeque<Arc<Entry>>>,
    queue: Option<SyncSender<Work>>,
    metrics: Arc<RecordMetrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Writes below `dir`, where earlier entries may stand; without it everything is in memory.
    pub(crate) fn start(
        dir: Option<&Path>,
        limits: Limits,
        metrics: Arc<RecordMetrics>,
    ) -> std::io::Result<Self> {
        metrics.writable.set(1);
        let Some(dir) = dir else {
            let recent = Mutex::default();
            return Ok(Self { recent, queue: None, metrics, thread: Mutex::default() });
        };
        let path = dir.join(FILE);
        let recent = journal::recent(&path, RECENT_MAX);
        let (queue, work) = sync_channel(QUEUE_MAX);
        let writer = Writer {
            journal: JournalFile::new(path, limits),
            kept_path: dir.join(KEPT_FILE),
            kept: None,
            paused: false,
            metrics: Arc::clone(&metrics),
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&work))?;
        Ok(Self {
            recent: Mutex::new(recent),
            queue: Some(queue),
            metrics,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Writes a change down.
    pub(crate) fn note(&self, entry: Entry) {
        self.metrics.changes.inc();
        self.send(|| Work::Entry(Box::new(entry.clone())));
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(Arc::new(entry));
        if recent.len() > RECENT_MAX {
            recent.pop_front();
        }
    }

    /// Replaces what comes back after a restart.
    pub(crate) fn keep(&self, kept: Kept) {
        self.send(|| Work::Keep(Box::new(kept)));
    }

    /// Returns once everything so far is on the disk, or the disk has had its time.
    pub(crate) async fn flushed(&self) {
        let (done, waiting) = oneshot::channel();
        self.send(|| Work::Flush(done));
        // An end without an answer means that there is no disk to wait for; what is late is counted by the writer.
        let _ = timeout(FLUSH_TIMEOUT, waiting).await;
    }

    /// Returns once everything so far is on the disk and the files are closed, or the disk has had its time. Nothing is written from then on,
    /// so that another process may.
    pub(crate) async fn pause(&self) {
        let (done, waiting) = oneshot::channel();
        self.send(|| Work::Pause(done));
        // As above.
        let _ = timeout(FLUSH_TIMEOUT, waiting).await;
    }

    /// Writes again, also what has come meanwhile.
    pub(crate) fn resume(&self) {
        self.send(|| Work::Resume);
    }

    /// The latest entries, the last one first.
    pub(crate) fn recent(&self, limit: usize) -> Vec<Arc<Entry>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().take(limit).cloned().collect()
    }

    fn send(&self, work: impl FnOnce() -> Work) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(work()) {
            self.metrics.lost.inc();
            tracing::error!("the journal's disk is too slow, a change was not written down");
        }
    }
}

/// Where what is kept stands below `dir`.
pub(crate) fn kept_path(dir: &Path) -> PathBuf {
    dir.join(KEPT_FILE)
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The writer ends once it has written what is queued.
        self.queue = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

/// The thread's end of it.
struct Writer {
    journal: JournalFile,
    kept_path: PathBuf,
    /// What is still to be written.
    kept: Option<Box<Kept>>,
    /// Whether the files are another process's.
    paused: bool,
    metrics: Arc<RecordMetrics>,
}

impl Writer {
    fn run(mut self, work: &Receiver<Work>) {
        loop {
            let first = if self.is_behind() && !self.paused {
                match work.recv_timeout(RETRY) {
                    Ok(first) => Some(first),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match work.recv() {
                    Ok(first) => Some(first),
                    Err(_) => break,
                }
            };
            // All that has come meanwhile shares one write and one sync.
            let mut waiting = Vec::new();
            let mut pause = self.paused;
            for work in first.into_iter().chain(std::iter::from_fn(|| work.try_recv().ok())) {
                match work {
                    Work::Entry(entry) => self.journal.push(&entry),
                    Work::Keep(kept) => self.kept = Some(kept),
                    Work::Flush(done) => waiting.push(done),
                    Work::Pause(done) => {
                        pause = true;
                        waiting.push(done);
                    }
                    Work::Resume => (pause, self.paused) = (false, false),
                }
            }
            if !self.paused {
                self.write();
            }
            if pause {
                self.paused = true;
                self.journal.close();
            }
            for done in waiting {
                // Whoever waited may have lost patience.
                let _ = done.send(());
            }
        }
        if !self.paused {
            self.write();
        } else if self.is_behind() {
            let entries = self.journal.waiting();
            tracing::error!(
                entries,
                "changes were not written down before another process took over"
            );
        }
    }

    fn is_behind(&self) -> bool {
        self.journal.is_behind() || self.kept.is_some()
    }

    fn write(&mut self) {
        let mut healthy = true;
        if let Err(error) = self.journal.write() {
            healthy = false;
            tracing::error!(error = %error, path = %self.journal.path().display(), waiting = self.journal.waiting(),
                "cannot write the journal of changes");
        }
        if let Some(kept) = &self.kept {
            match kept::save(&self.kept_path, kept) {
                Ok(()) => self.kept = None,
                Err(error) => {
                    healthy = false;
                    tracing::error!(error = %error, path = %self.kept_path.display(), "cannot keep changes");
                }
            }
        }
        self.metrics.lost.inc_by(self.journal.take_lost());
        self.metrics.writable.set(healthy.into());
        if !healthy {
            self.metrics.failures.inc();
        }
    }
}
