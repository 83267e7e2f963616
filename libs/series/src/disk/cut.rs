//! From memory to a block.
//!
//! All that is older than a boundary goes into one block, series by series. Late samples may be much older (an import): those more than
//! an hour before the boundary get blocks of their own, one per window, so that no block spans more time than it should and retention
//! can drop whole blocks. The block of the boundary is given its name last: it says up to where the log is not needed any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{Block, BlockError, BlockWriter, Cut};
use super::blocks::Blocks;
use super::payload;
use crate::labels::Labels;
use crate::series::{Found, Series};

/// What is this close to the boundary goes into one block with it.
const TOGETHER_MS: i64 = 3_600_000;

/// Why a block could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutError {
    #[error("write block {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read a block")]
    Read(#[source] BlockError),
}

/// What to cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// What is in order and older is in blocks already.
    pub(crate) from_ms: i64,
    pub(crate) cut: Cut,
    /// Span of the windows for samples that are much older.
    pub(crate) window_ms: i64,
    /// The number of the first block.
    pub(crate) number: u64,
}

/// Where a block of this number lies.
pub(crate) fn block_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.block"))
}

/// Where a block lies while it is written.
pub(crate) fn temporary_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.tmp"))
}

/// Writes the blocks and opens them. `all` must be sorted by labels.
pub(crate) fn cut(
    folder: &Path,
    blocks: &Blocks,
    all: &[Arc<Series>],
    plan: Plan,
) -> Result<Vec<Arc<Block>>, CutError> {
    let recent_ms = plan.cut.until_ms.saturating_sub(TOGETHER_MS);
    // Each series is asked once: what comes late after that stays in memory for the next cut. Bounded by the late samples' own bound.
    let mut older: Vec<(&Labels, Found)> = Vec::new();
    let mut main = Unfinished::create(folder, plan.number)?;
    for series in all {
        let mut found = series.lock().begin_cut(plan.from_ms, plan.cut.until_ms);
        let before = found.split_before(recent_ms);
        main.add(&series.labels, &found)?;
        if !before.is_empty() {
            older.push((&series.labels, before));
        }
    }
    let mut written = Vec::new();
    while let Some(oldest_ms) =
        older.iter().filter_map(|(_, found)| payload::span(found)).map(|s| s.0).min()
    {
        let window = oldest_ms.div_euclid(plan.window_ms);
        let end_ms = window.saturating_add(1).saturating_mul(plan.window_ms);
        let number = plan.number + written.len() as u64 + 1;
        let mut block = Unfinished::create(folder, number)?;
        for (labels, found) in &mut older {
            block.add(labels, &found.split_before(end_ms))?;
        }
        older.retain(|(_, found)| !found.is_empty());
        written.push(block);
    }
    written.push(main);
    written.retain(|block| block.writer.series() > 0);
    let last = written.len().saturating_sub(1);
    let mut opened = Vec::new();
    for (at, block) in written.into_iter().enumerate() {
        let cut = (at == last).then_some(plan.cut);
        opened.push(Arc::new(block.finish(folder, blocks, cut)?));
    }
    Ok(opened)
}

/// A block that is being written.
struct Unfinished {
    number: u64,
    path: PathBuf,
    writer: BlockWriter,
    bytes: Vec<u8>,
}

impl Unfinished {
    fn create(folder: &Path, number: u64) -> Result<Self, CutError> {
        let path = temporary_path(folder, number);
        let writer = BlockWriter::create(&path)
            .map_err(|source| CutError::Write { path: path.clone(), source })?;
        Ok(Self { number, path, writer, bytes: Vec::new() })
    }

    fn add(&mut self, labels: &Labels, found: &Found) -> Result<(), CutError> {
        let Some(span) = payload::span(found) else { return Ok(()) };
        self.bytes.clear();
        let (writer, bytes) = (&mut self.writer, &mut self.bytes);
        payload::encode(found, bytes)
            .and_then(|()| writer.add(labels, bytes, found.len() as u64, span))
            .map_err(|source| CutError::Write { path: self.path.clone(), source })
    }

    fn finish(self, folder: &Path, blocks: &Blocks, cut: Option<Cut>) -> Result<Block, CutError> {
        let path = block_path(folder, self.number);
        let finished = self.writer.finish(&path, cut, Vec::new());
        finished.map_err(|source| CutError::Write { path: path.clone(), source })?;
        Block::open(self.number, &path, &blocks.cache).map_err(CutError::Read)
    }
}
