//! From several blocks to one, and which blocks to drop.
//!
//! Small blocks of an hour become one, those of six hours, and those of a day, as long as that is a small part of retention. A longer
//! block repeats names and posting lists less often, and a query over days opens fewer files. The new block says which ones it
//! replaces, so a crash between writing it and removing those leaves no sample twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use super::block::{Block, BlockError, BlockWriter, Entry};
use super::blocks::{Blocks, describe};
use super::cut::{CutError, block_path, temporary_path};
use super::payload;
use crate::labels::Labels;
use crate::series::Found;

/// Spans of blocks, from the shortest.
const SPANS_MS: [i64; 3] = [3_600_000, 6 * 3_600_000, 24 * 3_600_000];
/// A block spans at most this part of retention, so that dropping one drops little.
const RETENTION_SHARE: i64 = 8;
/// Most blocks compacted at once: open files and buffers.
const BLOCKS_MAX: usize = 64;

/// The longest span of a block under this retention.
pub(crate) fn longest_span_ms(retention_ms: i64) -> i64 {
    let fits = |span: &i64| *span <= retention_ms / RETENTION_SHARE;
    SPANS_MS.into_iter().rev().find(fits).unwrap_or(SPANS_MS[0])
}

/// Blocks that should become one, if there are some: all within one window that ended before `until_ms`.
pub(crate) fn candidates(all: &[Arc<Block>], until_ms: i64, retention_ms: i64) -> Vec<Arc<Block>> {
    let longest_ms = longest_span_ms(retention_ms);
    for span_ms in SPANS_MS.into_iter().filter(|&span_ms| span_ms <= longest_ms) {
        let mut windows: BTreeMap<i64, Vec<Arc<Block>>> = BTreeMap::new();
        for block in all {
            let window = block.footer.first_ms.div_euclid(span_ms);
            let ended = window.saturating_add(1).saturating_mul(span_ms) <= until_ms;
            if ended && block.footer.last_ms.div_euclid(span_ms) == window {
                windows.entry(window).or_default().push(Arc::clone(block));
            }
        }
        let several = windows.into_values().find(|blocks| blocks.len() > 1);
        if let Some(mut blocks) = several {
            blocks.truncate(BLOCKS_MAX);
            return blocks;
        }
    }
    Vec::new()
}

/// Blocks to drop: those whose samples are all older than `oldest_ms`, and the oldest ones beyond `bytes_max` together.
pub(crate) fn expired(all: &[Arc<Block>], oldest_ms: i64, bytes_max: Option<u64>) -> Vec<u64> {
    let mut by_age: Vec<&Arc<Block>> = all.iter().collect();
    by_age.sort_by_key(|block| Reverse(block.footer.last_ms));
    let mut bytes = 0;
    let mut expired = Vec::new();
    for block in by_age {
        bytes += block.bytes;
        let too_old = block.footer.last_ms < oldest_ms;
        let too_much = bytes_max.is_some_and(|bytes_max| bytes > bytes_max);
        if too_old || too_much {
            expired.push(block.number);
        }
    }
    expired
}

/// Writes one block with all that `old` hold, and opens it. Series that are damaged are left out and noted.
pub(crate) fn compact(
    folder: &Path,
    blocks: &Blocks,
    old: &[Arc<Block>],
    number: u64,
) -> Result<Arc<Block>, CutError> {
    let path = block_path(folder, number);
    let failed = |source| CutError::Write { path: path.clone(), source };
    let temporary = temporary_path(folder, number);
    let mut writer = BlockWriter::create(&temporary).map_err(failed)?;
    let mut cursors: Vec<Cursor<'_>> = old.iter().map(|block| Cursor::new(block)).collect();
    let mut heads = BinaryHeap::new();
    for (at, cursor) in cursors.iter_mut().enumerate() {
        if let Some(entry) = cursor.next(blocks)? {
            heads.push(Reverse((entry.labels.clone(), at)));
        }
    }
    let mut bytes = Vec::new();
    while let Some(Reverse((labels, first))) = heads.pop() {
        let mut all = Found::default();
        let mut next = Some(first);
        while let Some(at) = next {
            all.merge(&cursors[at].samples(blocks)?);
            if let Some(entry) = cursors[at].next(blocks)? {
                heads.push(Reverse((entry.labels.clone(), at)));
            }
            next = pop_same(&mut heads, &labels);
        }
        let Some(span) = payload::span(&all) else { continue };
        bytes.clear();
        payload::encode(&all, &mut bytes).map_err(failed)?;
        writer.add(&labels, &bytes, all.len() as u64, span).map_err(failed)?;
    }
    let cut = old.iter().filter_map(|block| block.footer.cut).max_by_key(|cut| cut.segment);
    let replaces = old.iter().map(|block| block.number).collect();
    writer.finish(&path, cut, replaces).map_err(failed)?;
    Block::open(number, &path, &blocks.cache).map(Arc::new).map_err(CutError::Read)
}

/// The next block that has the series too.
fn pop_same(heads: &mut BinaryHeap<Reverse<(Labels, usize)>>, labels: &Labels) -> Option<usize> {
    let same = heads.peek().is_some_and(|Reverse((other, _))| other == labels);
    if same { heads.pop().map(|Reverse((_, at))| at) } else { None }
}

/// Goes through the series of a block in order. A page that is damaged is noted and left out.
struct Cursor<'a> {
    block: &'a Block,
    page: usize,
    entries: VecDeque<Entry>,
    current: Option<Entry>,
}

impl<'a> Cursor<'a> {
    fn new(block: &'a Block) -> Self {
        Self { block, page: 0, entries: VecDeque::new(), current: None }
    }

    fn next(&mut self, blocks: &Blocks) -> Result<Option<&Entry>, CutError> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Some(self.current.insert(entry)));
            }
            self.current = None;
            if self.page >= self.block.page_count() {
                return Ok(None);
            }
            let index = self.block.index();
            match index.and_then(|index| self.block.page(&index, self.page)) {
                Ok(entries) => self.entries.extend(entries.iter().cloned()),
                Err(error) => noted(blocks, error)?,
            }
            self.page += 1;
        }
    }

    fn samples(&self, blocks: &Blocks) -> Result<Found, CutError> {
        let mut all = Found::default();
        let Some(entry) = &self.current else { return Ok(all) };
        let add = &mut |_: &Labels, found| all = found;
        let span = (i64::MIN, i64::MAX);
        match self.block.visit(std::slice::from_ref(entry), span, add) {
            Ok(0) => {}
            Ok(series) => {
                blocks.note(format!("{}: {series} series are damaged", self.block.path.display()));
            }
            Err(error) => noted(blocks, error)?,
        }
        Ok(all)
    }
}

/// What is damaged stays out of the new block; what could not be read just now must not be lost, so it ends the compaction.
fn noted(blocks: &Blocks, error: BlockError) -> Result<(), CutError> {
    match error {
        BlockError::Damaged { .. } => {
            blocks.note(describe(&error));
            Ok(())
        }
        BlockError::Io { .. } => Err(CutError::Read(error)),
    }
}
