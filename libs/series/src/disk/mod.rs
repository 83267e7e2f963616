//! The disk side of a store: log, checkpoints, blocks.
//!
//! [`Disk::open`] reads a folder into a [`Store`] and keeps it up to date afterwards. It has no thread and no clock of its own: the owner
//! calls [`Disk::flush`] about once a second (what was taken since is what a crash can lose) and [`Disk::maintain`] every few seconds
//! from another thread, so that a long compaction does not hold up the log.
//!
//! What is in memory reaches back to the last cut; every ten minutes a cut writes what is older than the out-of-order window to a
//! block. A failure of the disk never reaches those who append or ask: the store goes on in memory, the failure is counted and
//! reported, and the next call tries again. While the disk is full the log has a gap; the checkpoint that closes it is written as
//! soon as there is space. Rejected: mapping files into memory (a failing disk would be a signal instead of an error) and one file per
//! series (200,000 files).

mod block;
mod blocks;
mod checkpoint;
mod compact;
mod cut;
#[doc(hidden)]
pub mod fuzz;
mod log;
mod open;
mod payload;
mod record;
mod replay;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use block::Block;
use block::Cut;
pub(crate) use blocks::{Blocks, Gathered};
use cut::{CutError, Plan};
use log::Log;

use crate::series::Series;
use crate::store::{Store, StoreConfig, millis};

pub use open::{OpenError, OpenReport};

/// Time between two cuts, and the grid they lie on. Samples of ten minutes at 5 s fill a chunk.
const CUT_EVERY_MS: i64 = 10 * 60_000;
/// What could not be written for so long is dropped from memory.
const UNWRITTEN_MAX_MS: i64 = 3_600_000;
/// Late samples in memory at which a cut is made at once: half of what an import may have waiting.
const LATE_SAMPLES_CUT: usize = crate::append::LATE_SAMPLES_MAX / 2;
/// Calls of [`Disk::maintain`] without a compaction after one that failed: it writes as much as it reads, which a disk that is nearly
/// full should not see every few seconds.
const COMPACTION_PAUSE: u32 = 60;
/// While the log has a gap, one flush in so many tries to close it: a checkpoint of 200,000 series is work.
const GAP_RETRY_FLUSHES: u64 = 5;

/// How a store on disk is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskConfig {
    /// As of a store in memory; retention counts for blocks.
    pub store: StoreConfig,
    /// Most bytes of all blocks together; the oldest ones go first. `None` leaves it to retention by time.
    pub bytes_max: Option<u64>,
}

/// What the disk side does and has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// Blocks on disk.
    pub blocks: usize,
    /// Their bytes.
    pub block_bytes: u64,
    /// Bytes of log and checkpoint.
    pub log_bytes: u64,
    /// Samples in blocks.
    pub block_samples: u64,
    /// The oldest sample in blocks.
    pub oldest_ms: Option<i64>,
    /// Whether everything taken up to the last flush is on disk.
    pub log_complete: bool,
    /// Writes of log, checkpoint and blocks that failed.
    pub write_failures_total: u64,
    /// Damage found when opening and when reading.
    pub damaged_total: u64,
    /// Blocks cut from memory.
    pub cuts_total: u64,
    /// Compactions.
    pub compactions_total: u64,
    /// Blocks dropped by retention.
    pub expired_total: u64,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The log could not be written. What was taken is in memory only until [`Disk::flush`] succeeds again.
    #[error("write the log in {}", folder.display())]
    Log {
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A checkpoint could not be written.
    #[error("write a checkpoint in {}", folder.display())]
    Checkpoint {
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A block could not be written or read back.
    #[error("write blocks in {}", folder.display())]
    Block {
        /// Their folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: BlockFailure,
    },
}

/// Why a block could not be made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BlockFailure(CutError);

/// What [`Disk::maintain`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Maintained {
    /// Blocks cut from memory.
    pub cut: usize,
    /// Blocks made from several.
    pub compacted: usize,
    /// Blocks dropped by retention.
    pub expired: usize,
}

/// The disk side of a store.
#[derive(Debug)]
pub struct Disk {
    store: Arc<Store>,
    blocks: Arc<Blocks>,
    folder: PathBuf,
    config: DiskConfig,
    log: Mutex<Log>,
    state: Mutex<State>,
    /// What is in order and older is in blocks.
    written_ms: std::sync::atomic::AtomicI64,
    gap: AtomicBool,
    flushes: AtomicU64,
    write_failures: AtomicU64,
    damage_at_open: u64,
    cuts: AtomicU64,
    compactions: AtomicU64,
    expired: AtomicU64,
    /// Held as long as the folder is in use, so that no other process opens it.
    _lock: File,
}

/// What maintenance remembers.
#[derive(Debug)]
struct State {
    next_block: u64,
    /// A block up to here was made by the last call; memory lets go of its samples in this one. In between every query that began
    /// before the block was there has ended, so none misses them.
    cut_to_end_ms: Option<i64>,
    /// Calls to leave out before the next compaction is tried.
    compaction_pause: u32,
}

impl Disk {
    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where the disk side keeps its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // A log that was left in the middle of a write has a gap or a bad record, and both are handled.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_folder(&self) -> PathBuf {
        self.folder.join(open::LOG)
    }

    fn block_folder(&self) -> PathBuf {
        self.folder.join(open::BLOCKS)
    }

    /// Writes what was taken since the last call to the log, and waits until the disk has it.
    ///
    /// # Errors
    /// If it cannot be written; it stays in memory, and later calls repair the log.
    pub fn flush(&self) -> Result<(), DiskError> {
        let flushes = self.flushes.fetch_add(1, Ordering::Relaxed);
        let mut log = self.log();
        let gap_before = log.has_gap();
        let written = log.write(&self.store.take_queued());
        let has_gap = log.has_gap();
        drop(log);
        self.gap.store(has_gap, Ordering::Relaxed);
        let folder = self.log_folder();
        self.counted(written.map_err(|source| DiskError::Log { folder, source }))?;
        if has_gap && (!gap_before || flushes.is_multiple_of(GAP_RETRY_FLUSHES)) {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn counted<T>(&self, result: Result<T, DiskError>) -> Result<T, DiskError> {
        if result.is_err() {
            self.write_failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Writes what memory has and no block, and removes the log before it.
    fn checkpoint(&self) -> Result<(), DiskError> {
        let mut log = self.log();
        // If this fails the checkpoint has it all the same.
        let _in_memory = log.write(&self.store.take_queued());
        let segment = log.rotate();
        drop(log);
        let folder = self.log_folder();
        let written_ms = self.written_ms.load(Ordering::Relaxed);
        let result = checkpoint::write(&folder, segment, &self.store.all_series(), written_ms)
            .and_then(|()| {
                let mut log = self.log();
                let result = log.checkpointed(segment);
                self.gap.store(log.has_gap(), Ordering::Relaxed);
                result
            });
        self.counted(result.map_err(|source| DiskError::Checkpoint { folder, source }))
    }

    /// Cuts blocks from memory, compacts, enforces retention. To be called every few seconds, from a thread that may take its time.
    ///
    /// # Errors
    /// If blocks or a checkpoint cannot be written. Nothing is lost by that as long as there is memory: what cannot be written for an
    /// hour is dropped.
    pub fn maintain(&self, now_ms: i64) -> Result<Maintained, DiskError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.set_clock(now_ms);
        let mut done = Maintained::default();
        let result = self.work(&mut state, now_ms, &mut done);
        if result.is_err() {
            self.store.forget(now_ms.saturating_sub(UNWRITTEN_MAX_MS));
        }
        result.map(|()| done)
    }

    fn work(&self, state: &mut State, now_ms: i64, done: &mut Maintained) -> Result<(), DiskError> {
        done.expired = self.expire();
        if let Some(end_ms) = state.cut_to_end_ms.take() {
            self.store.end_cut(end_ms);
            self.checkpoint()?;
        }
        if let Some(until_ms) = self.cut_due(now_ms) {
            done.cut = self.cut(state, until_ms)?;
        }
        done.compacted = self.compact(state)?;
        Ok(())
    }

    /// Up to when a cut should be made now.
    fn cut_due(&self, now_ms: i64) -> Option<i64> {
        let late = self.store.late.load(Ordering::Relaxed);
        let written_ms = self.written_ms.load(Ordering::Relaxed);
        if late >= LATE_SAMPLES_CUT && written_ms > i64::MIN {
            return Some(written_ms);
        }
        let window_ms = self.store.out_of_order_window_ms();
        let until_ms = now_ms.saturating_sub(window_ms).div_euclid(CUT_EVERY_MS) * CUT_EVERY_MS;
        (until_ms > written_ms && self.store.oldest_ms().is_some_and(|oldest| oldest < until_ms))
            .then_some(until_ms)
    }

    fn cut(&self, state: &mut State, until_ms: i64) -> Result<usize, DiskError> {
        let mut log = self.log();
        let written = log.write(&self.store.take_queued());
        let segment = log.rotate() - 1;
        drop(log);
        let folder = self.log_folder();
        self.counted(written.map_err(|source| DiskError::Log { folder, source }))?;
        // From now on what is older comes late, so no series gets more of it in order after it was asked.
        self.store.floor_ms.fetch_max(until_ms, Ordering::Relaxed);
        let mut all: Vec<Arc<Series>> = self.store.all_series();
        all.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        let plan = Plan {
            from_ms: self.written_ms.load(Ordering::Relaxed),
            cut: Cut { until_ms, segment },
            window_ms: compact::longest_span_ms(millis(self.config.store.retention)),
            number: state.next_block,
        };
        let made = cut::cut(&self.block_folder(), &self.blocks, &all, plan);
        let made = self.counted(made.map_err(|cause| self.block_error(cause)))?;
        let count = made.len();
        state.next_block =
            made.iter().map(|block| block.number + 1).fold(state.next_block, u64::max);
        self.blocks.change(made, &[]);
        self.written_ms.store(until_ms, Ordering::Relaxed);
        state.cut_to_end_ms = Some(until_ms);
        self.cuts.fetch_add(1, Ordering::Relaxed);
        Ok(count)
    }

    fn block_error(&self, cause: CutError) -> DiskError {
        DiskError::Block { folder: self.block_folder(), source: BlockFailure(cause) }
    }

    fn compact(&self, state: &mut State) -> Result<usize, DiskError> {
        let until_ms = self.written_ms.load(Ordering::Relaxed);
        let retention_ms = millis(self.config.store.retention);
        if state.compaction_pause > 0 {
            state.compaction_pause -= 1;
            return Ok(0);
        }
        let old = compact::candidates(&self.blocks.all(), until_ms, retention_ms);
        if old.is_empty() {
            return Ok(0);
        }
        let number = state.next_block;
        state.next_block += 1;
        let made = compact::compact(&self.block_folder(), &self.blocks, &old, number);
        state.compaction_pause = if made.is_err() { COMPACTION_PAUSE } else { 0 };
        let made = self.counted(made.map_err(|cause| self.block_error(cause)))?;
        let numbers: Vec<u64> = old.iter().map(|block| block.number).collect();
        self.blocks.change(vec![made], &numbers);
        self.remove(&numbers);
        self.compactions.fetch_add(1, Ordering::Relaxed);
        Ok(1)
    }

    fn expire(&self) -> usize {
        let oldest_ms = self.store.retention_begins_ms();
        let expired = compact::expired(&self.blocks.all(), oldest_ms, self.config.bytes_max);
        if !expired.is_empty() {
            self.blocks.change(Vec::new(), &expired);
            self.remove(&expired);
            self.expired.fetch_add(expired.len() as u64, Ordering::Relaxed);
        }
        expired.len()
    }

    fn remove(&self, numbers: &[u64]) {
        for &number in numbers {
            let path = cut::block_path(&self.block_folder(), number);
            if let Err(error) = std::fs::remove_file(&path) {
                self.blocks.note(format!("{}: cannot be removed: {error}", path.display()));
            }
        }
    }

    /// Whether everything taken up to the last flush is on disk.
    pub fn log_complete(&self) -> bool {
        !self.gap.load(Ordering::Relaxed)
    }

    /// Writes of log, checkpoint and blocks that failed.
    pub fn write_failures(&self) -> u64 {
        self.write_failures.load(Ordering::Relaxed)
    }

    /// Damage met by readers since the last call: which file, and what was left out. Bounded.
    pub fn take_damage(&self) -> Vec<String> {
        self.blocks.take_notes()
    }

    /// What it does and has met. Looks at the sizes of the log's files.
    pub fn stats(&self) -> DiskStats {
        let blocks = self.blocks.all();
        let log_bytes = log::files(&self.log_folder()).map_or(0, |files| {
            let sizes = files.iter().filter_map(|(_, path, _)| std::fs::metadata(path).ok());
            sizes.map(|metadata| metadata.len()).sum()
        });
        DiskStats {
            blocks: blocks.len(),
            block_bytes: blocks.iter().map(|block| block.bytes).sum(),
            log_bytes,
            block_samples: blocks.iter().map(|block| block.footer.samples).sum(),
            oldest_ms: blocks.iter().map(|block| block.footer.first_ms).min(),
            log_complete: self.log_complete(),
            write_failures_total: self.write_failures(),
            damaged_total: self.damage_at_open + self.blocks.damaged(),
            cuts_total: self.cuts.load(Ordering::Relaxed),
            compactions_total: self.compactions.load(Ordering::Relaxed),
            expired_total: self.expired.load(Ordering::Relaxed),
        }
    }
}

/// The longest that memory reaches back in normal operation: a cut's distance twice and the out-of-order window.
fn memory_span(config: &StoreConfig) -> Duration {
    config.out_of_order_window + Duration::from_millis(2 * CUT_EVERY_MS.unsigned_abs())
}
