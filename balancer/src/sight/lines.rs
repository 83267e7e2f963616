//! The access log's way out: from the workers in batches to one thread that writes.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::draft::Line;
use crate::config::sight::AccessLogConfig;
use crate::metrics::SightMetrics;

/// Lines that leave a worker together; at a busy time that is a few milliseconds of them, else its next tick takes them along.
const BATCH_MAX: usize = 64;
/// Batches that may wait for the writer: a quarter of a second at 60,000 lines a second.
const BATCHES_MAX: usize = 256;

thread_local! {
    /// Of the worker on this thread. All its listeners write to one log.
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch { to: None, lines: Vec::new() }) };
}

struct Batch {
    to: Option<Arc<Lines>>,
    lines: Vec<Line>,
}

enum Work {
    Lines(Vec<Line>),
    Reopen,
}

/// The log.
#[derive(Debug)]
pub(super) struct Lines {
    queue: Option<SyncSender<Work>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<SightMetrics>,
}

impl Lines {
    pub(super) fn start(config: &AccessLogConfig, metrics: Arc<SightMetrics>) -> io::Result<Self> {
        let mut writer = Writer {
            target: match &config.file {
                None => Target::Stdout,
                Some(path) => Target::File { path: path.clone(), open: None },
            },
            bytes_max: config.bytes_max,
            files: config.files,
            failing: false,
            metrics: Arc::clone(&metrics),
        };
        // A path that cannot be written is a fault of the settings, and told at the start.
        writer.open()?;
        let (queue, work) = sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&work))?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)), metrics })
    }

    /// Adds a line; it leaves this thread with others.
    pub(super) fn push(self: &Arc<Self>, line: Line) {
        BATCH.with_borrow_mut(|batch| {
            if batch.to.as_ref().is_some_and(|to| !Arc::ptr_eq(to, self)) {
                batch.flush();
            }
            batch.to.get_or_insert_with(|| Arc::clone(self));
            batch.lines.push(line);
            if batch.lines.len() >= BATCH_MAX {
                batch.flush();
            }
        });
    }

    pub(super) fn reopen(&self) {
        // A queue that is full now is written soon; the next signal will do.
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(Work::Reopen).is_err()) {
            tracing::warn!("the access log is too busy to be opened anew");
        }
    }

    fn send(&self, lines: Vec<Line>) {
        let count = lines.len() as u64;
        let sent =
            self.queue.as_ref().is_some_and(|queue| queue.try_send(Work::Lines(lines)).is_ok());
        if !sent {
            self.metrics.dropped.inc_by(count);
        }
    }
}

impl Drop for Lines {
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

/// Sends what waits on this thread.
pub(crate) fn flush() {
    BATCH.with_borrow_mut(Batch::flush);
}

impl Batch {
    fn flush(&mut self) {
        if let Some(to) = self.to.take() {
            to.send(std::mem::take(&mut self.lines));
        }
    }
}

enum Target {
    Stdout,
    /// With its length.
    File {
        path: PathBuf,
        open: Option<(File, u64)>,
    },
}

struct Writer {
    target: Target,
    bytes_max: u64,
    files: usize,
    failing: bool,
    metrics: Arc<SightMetrics>,
}

impl Writer {
    fn run(mut self, work: &Receiver<Work>) {
        let mut bytes = Vec::new();
        while let Ok(work) = work.recv() {
            match work {
                Work::Reopen => {
                    if let Target::File { open, .. } = &mut self.target {
                        *open = None;
                    }
                }
                Work::Lines(lines) => {
                    bytes.clear();
                    for line in &lines {
                        serde_json::to_writer(&mut bytes, line).expect("a line is plain data");
                        bytes.push(b'\n');
                    }
                    self.write(&bytes, lines.len() as u64);
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8], count: u64) {
        let outcome = self.try_write(bytes);
        match outcome {
            Ok(()) => self.metrics.lines.inc_by(count),
            Err(ref error) => {
                self.metrics.failures.inc();
                self.metrics.dropped.inc_by(count);
                if !self.failing {
                    tracing::error!(%error, "cannot write the access log");
                }
            }
        }
        self.failing = outcome.is_err();
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open()?;
        let Target::File { path, open } = &mut self.target else {
            return io::stdout().lock().write_all(bytes);
        };
        let Some((mut file, length)) = open.take() else { return Ok(()) };
        if let Err(error) = file.write_all(bytes) {
            // Half a line would spoil the next.
            if let Err(error) = file.set_len(length) {
                tracing::debug!(%error, "cannot take half a line back");
            }
            return Err(error);
        }
        let length = length + bytes.len() as u64;
        if length < self.bytes_max {
            *open = Some((file, length));
            return Ok(());
        }
        crate::record::put_aside(path, self.files)
    }

    fn open(&mut self) -> io::Result<()> {
        let Target::File { path, open } = &mut self.target else { return Ok(()) };
        if open.is_none() {
            *open = Some(append(path)?);
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let length = fs::metadata(path)?.len();
    Ok((file, length))
}
