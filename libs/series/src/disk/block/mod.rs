//! Blocks: files that hold all samples of some span of time and never change.
//!
//! One file per block, written under another name, flushed, and renamed when it is whole. The samples of each series lie together,
//! series in the order of their labels, so that the series of one metric are read in one go. Behind them: pages of series with
//! their labels, symbols, posting lists, the table of pages, and a footer that says where each is. Every part has a checksum; those of
//! the index are checked when it is first needed, those of a series' samples whenever they are read. The format is described in
//! `docs/formats/metrics.md`.

mod footer;
pub(crate) mod fuzz;
mod index;
mod read;
mod write;

pub(crate) use footer::Cut;
pub(crate) use index::{Cache, Entry, cache};
pub(crate) use read::{Block, BlockError};
pub(crate) use write::{BlockWriter, sync_folder};

/// The first bytes of a block; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"HFBLOCK2";
/// Those of blocks with an older way to write samples, which is not read any more.
const FORMER_MAGIC: &[u8; 8] = b"HFBLOCK1";
/// The last bytes of a block.
const END_MAGIC: &[u8; 8] = b"HFBLKEND";
/// Series in a page: some kilobytes, so that finding one series reads little and a page compresses well.
const PAGE_SERIES: usize = 128;
