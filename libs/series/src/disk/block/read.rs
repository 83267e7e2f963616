//! Reading a block.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::payload;
use super::footer::{Footer, Part};
use super::index::{Cache, Cached, Entry, Index};
use super::{FORMER_MAGIC, MAGIC, PAGE_SERIES};
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::series::Found;

/// Bytes at the end of a file among which the footer is.
const TAIL_BYTES: u64 = 64 * 1024;
/// Samples of series whose places are not further apart are read in one go.
const GAP_BYTES: u64 = 16 * 1024;
/// Most bytes read in one go.
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// A block that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    /// The file cannot be read.
    #[error("read block {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A checksum or the content is wrong.
    #[error("block {} cannot be used: {part}", path.display())]
    Damaged { path: PathBuf, part: &'static str },
}

/// A block on disk.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) footer: Footer,
    pub(crate) bytes: u64,
    file: File,
    cache: Arc<Cache>,
}

impl Block {
    /// Opens the block `number` at `path` and looks at its footer.
    pub(crate) fn open(number: u64, path: &Path, cache: &Arc<Cache>) -> Result<Self, BlockError> {
        let failed = |source| BlockError::Io { path: path.to_owned(), source };
        let damaged = |part| BlockError::Damaged { path: path.to_owned(), part };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut magic = [0; MAGIC.len()];
        if bytes < MAGIC.len() as u64 || file.read_exact_at(&mut magic, 0).is_err() {
            return Err(damaged("too short"));
        }
        if magic == *FORMER_MAGIC {
            return Err(damaged("written by an older version, whose format is not read any more"));
        }
        if magic != *MAGIC {
            return Err(damaged("beginning"));
        }
        let tail_bytes = bytes.min(TAIL_BYTES);
        // At most TAIL_BYTES, so it fits any usize.
        let mut tail = vec![0; usize::try_from(tail_bytes).unwrap_or_default()];
        file.read_exact_at(&mut tail, bytes - tail_bytes).map_err(failed)?;
        let footer = Footer::read(&tail).ok_or_else(|| damaged("footer"))?;
        let parts = [footer.symbols, footer.postings, footer.pages];
        if parts.iter().any(|part| part.offset + u64::from(part.len) > bytes) {
            return Err(damaged("footer"));
        }
        Ok(Self { number, path: path.to_owned(), footer, bytes, file, cache: Arc::clone(cache) })
    }

    fn damaged(&self, part: &'static str) -> BlockError {
        BlockError::Damaged { path: self.path.clone(), part }
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        // A length beyond the file is a flipped bit, and must not become an allocation.
        if offset.saturating_add(len as u64) > self.bytes {
            return Err(self.damaged("a place beyond the file's end"));
        }
        let mut bytes = vec![0; len];
        let failed = |source| BlockError::Io { path: self.path.clone(), source };
        self.file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes)
    }

    fn part(&self, part: Part, name: &'static str) -> Result<Vec<u8>, BlockError> {
        let bytes = self.read(part.offset, part.len as usize)?;
        if crc32fast::hash(&bytes) == part.checksum { Ok(bytes) } else { Err(self.damaged(name)) }
    }

    /// The index, from the cache or the disk.
    pub(crate) fn index(&self) -> Result<Arc<Index>, BlockError> {
        if let Some(Cached::Index(index)) = self.cache.get(&(self.number, None)) {
            return Ok(index);
        }
        let symbols = self.part(self.footer.symbols, "symbols")?;
        let postings = self.part(self.footer.postings, "posting lists")?;
        let pages = self.part(self.footer.pages, "table of pages")?;
        let index = Index::parse(&symbols, &postings, &pages).map(Arc::new);
        let index = index.ok_or_else(|| self.damaged("index"))?;
        self.cache.insert((self.number, None), Cached::Index(Arc::clone(&index)));
        Ok(index)
    }

    /// The series of a page, from the cache or the disk.
    pub(crate) fn page(&self, index: &Index, page: usize) -> Result<Arc<Vec<Entry>>, BlockError> {
        if let Some(Cached::Page(entries)) = self.cache.get(&(self.number, Some(page))) {
            return Ok(entries);
        }
        let part = index.pages.get(page).ok_or_else(|| self.damaged("posting lists"))?;
        let bytes = self.part(*part, "page of series")?;
        let entries = index.page(&bytes).map(Arc::new);
        let entries = entries.ok_or_else(|| self.damaged("page of series"))?;
        self.cache.insert((self.number, Some(page)), Cached::Page(Arc::clone(&entries)));
        Ok(entries)
    }

    /// The series that pass all of `matchers`, in the order of their labels.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> Result<Vec<Entry>, BlockError> {
        let index = self.index()?;
        let numbers = index.candidates(matchers);
        let numbers = numbers.unwrap_or_else(|| (0..self.footer.series).collect());
        let mut found = Vec::new();
        let mut current: Option<(usize, Arc<Vec<Entry>>)> = None;
        for number in numbers {
            let number = usize::try_from(number).map_err(|_| self.damaged("posting lists"))?;
            let (page, at) = (number / PAGE_SERIES, number % PAGE_SERIES);
            let entries = match &current {
                Some((known, entries)) if *known == page => Arc::clone(entries),
                _ => self.page(&index, page)?,
            };
            let entry = entries.get(at).ok_or_else(|| self.damaged("posting lists"))?;
            let value = |matcher: &Matcher| matcher.matches(entry.labels.value(matcher.name()));
            if matchers.iter().all(value) {
                found.push(entry.clone());
            }
            current = Some((page, entries));
        }
        Ok(found)
    }

    /// Calls `each` with the samples of every entry from `start_ms` to `end_ms`. Entries whose samples are damaged are left out; how
    /// many that were is returned.
    pub(crate) fn visit(
        &self,
        entries: &[Entry],
        (start_ms, end_ms): (i64, i64),
        each: &mut dyn FnMut(&Labels, Found),
    ) -> Result<usize, BlockError> {
        let mut damaged = 0;
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let near = |pair: &[Entry]| {
                let end = pair[0].offset + pair[0].len as u64;
                pair[1].offset >= end
                    && pair[1].offset - end <= GAP_BYTES
                    && pair[1].offset + pair[1].len as u64 - first.offset <= READ_BYTES_MAX
            };
            let run = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
            let (together, others) = rest.split_at(run);
            rest = others;
            let last = &together[run - 1];
            let len = last.offset + last.len as u64 - first.offset;
            let len = usize::try_from(len).map_err(|_| self.damaged("page of series"))?;
            let bytes = self.read(first.offset, len)?;
            for entry in together {
                let at = usize::try_from(entry.offset - first.offset).unwrap_or(usize::MAX);
                let payload = bytes.get(at..at.saturating_add(entry.len)).unwrap_or_default();
                let mut found = Found::default();
                let whole = crc32fast::hash(payload) == entry.checksum
                    && payload::decode(payload, start_ms, end_ms, &mut found).is_some();
                if whole {
                    each(&entry.labels, found);
                } else {
                    damaged += 1;
                }
            }
        }
        Ok(damaged)
    }

    /// How many pages of series there are.
    pub(crate) fn page_count(&self) -> usize {
        usize::try_from(self.footer.series.div_ceil(PAGE_SERIES as u64)).unwrap_or(usize::MAX)
    }

    /// Whether it may hold samples from `start_ms` to `end_ms`.
    pub(crate) fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.footer.first_ms <= end_ms && self.footer.last_ms >= start_ms
    }
}
