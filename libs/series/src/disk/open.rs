//! Opening the folder of a store.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::block::{Block, Cut};
use super::blocks::{Blocks, describe};
use super::log::Log;
use super::replay::replay;
use super::{Disk, DiskConfig, State, memory_span};
use crate::store::{Store, millis};

/// Folder of log and checkpoints.
pub(super) const LOG: &str = "log";
/// Folder of blocks.
pub(super) const BLOCKS: &str = "blocks";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// It cannot be read or written.
    #[error("open the metrics store in {}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// What was found in a folder.
#[derive(Debug, Default)]
pub struct OpenReport {
    /// Blocks.
    pub blocks: usize,
    /// Samples in them.
    pub block_samples: u64,
    /// Series brought back to memory.
    pub series: usize,
    /// Samples brought back to memory.
    pub samples: u64,
    /// Damage: which file, and what was left out.
    pub damage: Vec<String>,
    /// Bytes at the end of the log that a kill had cut; nothing that was flushed is in them.
    pub torn_bytes: u64,
}

impl Disk {
    /// Opens `folder`, which is made if it is not there, and reads it. `now_ms` decides what counts as old in an empty store.
    ///
    /// # Errors
    /// If the folder cannot be used at all. Damaged files are no error: the rest is served, and the report says what is missing.
    pub fn open(
        folder: &Path,
        config: DiskConfig,
        now_ms: i64,
    ) -> Result<(Self, OpenReport), OpenError> {
        let failed = |source| OpenError::Io { folder: folder.to_owned(), source };
        for part in [LOG, BLOCKS] {
            std::fs::create_dir_all(folder.join(part)).map_err(failed)?;
        }
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => OpenError::InUse { folder: folder.to_owned() },
            std::fs::TryLockError::Error(source) => failed(source),
        })?;
        let mut report = OpenReport::default();
        let blocks = Arc::new(Blocks::new());
        remove_temporary(&folder.join(LOG)).map_err(failed)?;
        let next_block =
            read_blocks(&folder.join(BLOCKS), &blocks, &mut report.damage).map_err(failed)?;
        let all = blocks.all();
        let cut = all.iter().filter_map(|block| block.footer.cut).max_by_key(order);
        report.blocks = all.len();
        report.block_samples = all.iter().map(|block| block.footer.samples).sum();

        let store = Arc::new(Store::on_disk(config.store, Arc::clone(&blocks)));
        let floor_ms = cut.map_or(i64::MIN, |cut| cut.until_ms);
        store.floor_ms.store(floor_ms, Ordering::Relaxed);
        let replay = replay(&store, &folder.join(LOG), cut).map_err(failed)?;
        report.series = store.series_count();
        report.samples = replay.samples;
        report.torn_bytes = replay.torn_bytes;
        // Where no block says so, memory begins with what it has, or a cut's distance ago: what is older, an import, comes late.
        let written_ms = cut.map_or_else(
            || {
                let begin_ms = now_ms.saturating_sub(millis(memory_span(&config.store)));
                store.oldest_ms().map_or(begin_ms, |oldest_ms| oldest_ms.min(begin_ms))
            },
            |cut| cut.until_ms,
        );
        store.floor_ms.store(written_ms, Ordering::Relaxed);
        let gap = !replay.problems.is_empty();
        report.damage.extend(replay.problems);
        // A segment of an earlier run may have been numbered like the last cut's, which would leave its samples out.
        let segment = replay.next_segment.max(cut.map_or(0, |cut| cut.segment + 1));
        let disk = Self {
            store,
            blocks,
            folder: folder.to_owned(),
            config,
            // Damage in the log is written over by a checkpoint of what could be read.
            log: Mutex::new(Log::new(&folder.join(LOG), segment, gap)),
            state: Mutex::new(State { next_block, cut_to_end_ms: None, compaction_pause: 0 }),
            written_ms: AtomicI64::new(written_ms),
            gap: AtomicBool::new(gap),
            flushes: AtomicU64::new(0),
            write_failures: AtomicU64::new(0),
            damage_at_open: report.damage.len() as u64,
            cuts: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            _lock: lock,
        };
        Ok((disk, report))
    }
}

/// Removes checkpoints that were not finished.
fn remove_temporary(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn order(cut: &Cut) -> (u64, i64) {
    (cut.segment, cut.until_ms)
}

/// Opens all blocks; returns the number for the next one. Damaged ones are set aside under another name.
fn read_blocks(folder: &Path, blocks: &Blocks, damage: &mut Vec<String>) -> std::io::Result<u64> {
    let mut next = 0;
    let mut opened = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        next = number.map_or(next, |number| next.max(number.saturating_add(1)));
        match (extension, number) {
            (Some("tmp"), _) => std::fs::remove_file(&path)?,
            (Some("block"), Some(number)) => {
                let checked = Block::open(number, &path, &blocks.cache)
                    .and_then(|block| block.index().map(|_| block));
                match checked {
                    Ok(block) => opened.push(Arc::new(block)),
                    Err(error) => {
                        damage.push(describe(&error));
                        std::fs::rename(&path, path.with_extension("damaged"))?;
                    }
                }
            }
            _ => {}
        }
    }
    let replaced: HashSet<u64> =
        opened.iter().flat_map(|block| block.footer.replaces.clone()).collect();
    for block in opened.extract_if(.., |block| replaced.contains(&block.number)) {
        std::fs::remove_file(&block.path)?;
    }
    blocks.change(opened, &[]);
    Ok(next)
}
