//! Writing a block: series in the order of their labels, one after the other; the index is gathered on the way.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::footer::{Cut, Footer, Part};
use super::{MAGIC, PAGE_SERIES};
use crate::codec::{compress, put_len, put_text, put_varint};
use crate::labels::Labels;

/// A block being written. Dropped before [`BlockWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct BlockWriter {
    file: BufWriter<File>,
    temporary: Option<PathBuf>,
    position: u64,
    symbols: HashMap<Arc<str>, u32>,
    in_order: Vec<Arc<str>>,
    /// Series by name and value; numbers of symbols.
    postings: BTreeMap<(u32, u32), Postings>,
    pages: Vec<Vec<u8>>,
    page: Vec<u8>,
    page_offset: u64,
    footer: Footer,
}

/// A list of series numbers as differences.
#[derive(Debug, Default)]
struct Postings {
    count: usize,
    last: u64,
    bytes: Vec<u8>,
}

impl BlockWriter {
    /// Begins a block at `temporary`.
    pub(crate) fn create(temporary: &Path) -> std::io::Result<Self> {
        let file = File::create(temporary)?;
        let mut writer = Self {
            file: BufWriter::with_capacity(256 * 1024, file),
            temporary: Some(temporary.to_owned()),
            position: 0,
            symbols: HashMap::new(),
            in_order: Vec::new(),
            postings: BTreeMap::new(),
            pages: Vec::new(),
            page: Vec::new(),
            page_offset: 0,
            footer: Footer { first_ms: i64::MAX, last_ms: i64::MIN, ..Footer::default() },
        };
        writer.put(MAGIC)?;
        writer.page_offset = writer.position;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Adds a series, which must come after all others by its labels. `span` is that of its samples.
    pub(crate) fn add(
        &mut self,
        labels: &Labels,
        payload: &[u8],
        samples: u64,
        span: (i64, i64),
    ) -> std::io::Result<()> {
        let number = self.footer.series;
        put_len(&mut self.page, labels.len());
        for label in labels.as_slice() {
            let pair = (self.symbol(&label.name), self.symbol(&label.value));
            put_varint(&mut self.page, pair.0.into());
            put_varint(&mut self.page, pair.1.into());
            let list = self.postings.entry(pair).or_default();
            put_varint(&mut list.bytes, number - list.last);
            list.last = number;
            list.count += 1;
        }
        put_len(&mut self.page, payload.len());
        self.page.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        self.put(payload)?;
        self.footer.series += 1;
        self.footer.samples += samples;
        self.footer.first_ms = self.footer.first_ms.min(span.0);
        self.footer.last_ms = self.footer.last_ms.max(span.1);
        if self.footer.series.is_multiple_of(PAGE_SERIES as u64) {
            self.end_page();
        }
        Ok(())
    }

    fn symbol(&mut self, text: &Arc<str>) -> u32 {
        if let Some(&number) = self.symbols.get(text) {
            return number;
        }
        // The series limit keeps the number of symbols far below 2^32.
        let number = u32::try_from(self.in_order.len()).unwrap_or(u32::MAX);
        self.symbols.insert(Arc::clone(text), number);
        self.in_order.push(Arc::clone(text));
        number
    }

    /// A page begins with the offset of the samples of its first series.
    fn end_page(&mut self) {
        if self.page.is_empty() {
            return;
        }
        let mut page = Vec::with_capacity(self.page.len() + 10);
        put_varint(&mut page, self.page_offset);
        page.append(&mut self.page);
        self.pages.push(page);
        self.page_offset = self.position;
    }

    /// How many series were added.
    pub(crate) fn series(&self) -> u64 {
        self.footer.series
    }

    fn put_part(&mut self, raw: &[u8]) -> std::io::Result<Part> {
        let bytes = compress(raw)?;
        let len = u32::try_from(bytes.len())
            .map_err(|_| std::io::Error::other("part of a block longer than 4 GiB"))?;
        let part = Part { offset: self.position, len, checksum: crc32fast::hash(&bytes) };
        self.put(&bytes)?;
        Ok(part)
    }

    /// Writes the index, flushes all to the disk and gives the file its name.
    pub(crate) fn finish(
        mut self,
        path: &Path,
        cut: Option<Cut>,
        replaces: Vec<u64>,
    ) -> std::io::Result<()> {
        self.end_page();
        let mut table = Vec::new();
        put_len(&mut table, self.pages.len());
        for page in std::mem::take(&mut self.pages) {
            let part = self.put_part(&page)?;
            put_varint(&mut table, part.offset);
            put_varint(&mut table, part.len.into());
            table.extend_from_slice(&part.checksum.to_le_bytes());
        }
        let mut symbols = Vec::new();
        put_len(&mut symbols, self.in_order.len());
        for text in &self.in_order {
            put_text(&mut symbols, text);
        }
        let mut postings = Vec::new();
        put_len(&mut postings, self.postings.len());
        for ((name, value), list) in &self.postings {
            put_varint(&mut postings, (*name).into());
            put_varint(&mut postings, (*value).into());
            put_len(&mut postings, list.count);
            put_len(&mut postings, list.bytes.len());
        }
        for list in self.postings.values() {
            postings.extend_from_slice(&list.bytes);
        }
        let footer = Footer {
            cut,
            replaces,
            symbols: self.put_part(&symbols)?,
            postings: self.put_part(&postings)?,
            pages: self.put_part(&table)?,
            ..self.footer.clone()
        };
        self.put(&footer.write())?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let temporary = self.temporary.take().expect("a block is finished once");
        std::fs::rename(&temporary, path)?;
        sync_folder(path)
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What cannot be removed now is removed when the folder is opened again.
            let _left = std::fs::remove_file(temporary);
        }
    }
}

/// Flushes the folder that `path` lies in, so that a rename survives a power cut.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
