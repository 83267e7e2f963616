//! The write-ahead log: what the store took since the last block, so that a restart finds it again.
//!
//! Segments are numbered files of records. A write that fails is cut off again, so that a full disk leaves no half record in the middle
//! of a segment; until a checkpoint has closed the gap nothing more is written. A checkpoint is a file of records too, with every
//! series in memory and its samples; it bears the number of the first segment that has to be read after it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::block::sync_folder;
use super::record::{ENTRIES_MAX, Record};
use crate::queue::Batch;

/// First bytes of a segment and of a checkpoint; the last one is the version of the format.
pub(crate) const MAGIC: &[u8; 8] = b"HFRECOR2";
/// Those of files with an older way to write samples, which is not read any more.
pub(crate) const FORMER_MAGIC: &[u8; 8] = b"HFRECOR1";
/// A new segment begins at this size, so that reading one back needs bounded memory.
const SEGMENT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The log, open for writing.
#[derive(Debug)]
pub(crate) struct Log {
    folder: PathBuf,
    segment: u64,
    /// The current segment; there is none after a failure.
    file: Option<File>,
    len: u64,
    /// The last segment that misses something that is in memory.
    gap: Option<u64>,
}

impl Log {
    /// A log in `folder` whose first segment is `segment`. `gap` says that a checkpoint is needed at once.
    pub(crate) fn new(folder: &Path, segment: u64, gap: bool) -> Self {
        let gap = gap.then_some(segment);
        Self { folder: folder.to_owned(), segment, file: None, len: 0, gap }
    }

    /// Whether a checkpoint is needed for the files to tell all.
    pub(crate) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// Writes what waited and flushes it to the disk. Into a segment that has a gap nothing more is written: the checkpoint that closes
    /// the gap will have it.
    pub(crate) fn write(&mut self, batch: &Batch) -> std::io::Result<()> {
        if batch.gap {
            self.gap = Some(self.segment);
        }
        if batch.is_empty() || self.gap == Some(self.segment) {
            return Ok(());
        }
        let result = self.try_write(batch);
        if result.is_err() {
            self.gap = Some(self.segment);
            if let Some(file) = self.file.take() {
                // If this fails too, the reader finds the half record by its checksum.
                let _cut = file.set_len(self.len);
            }
        }
        result
    }

    fn try_write(&mut self, batch: &Batch) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for series in batch.series.chunks(ENTRIES_MAX) {
            Record::Series(series.to_vec()).write(&mut bytes)?;
        }
        for samples in batch.samples.chunks(ENTRIES_MAX) {
            Record::Samples(samples.to_vec()).write(&mut bytes)?;
        }
        for histograms in batch.histograms.chunks(ENTRIES_MAX) {
            Record::Histograms(histograms.to_vec()).write(&mut bytes)?;
        }
        if self.len > SEGMENT_BYTES_MAX {
            self.file = None;
            self.segment += 1;
        }
        if self.file.is_some() && !segment_path(&self.folder, self.segment).exists() {
            // Taken away while it was in use: what is written to it would end with the process.
            self.file = None;
            return Err(std::io::ErrorKind::NotFound.into());
        }
        if self.file.is_none() {
            let file = create(&segment_path(&self.folder, self.segment))?;
            self.file = Some(file);
            self.len = MAGIC.len() as u64;
        }
        if let Some(file) = &mut self.file {
            file.write_all(&bytes)?;
            file.sync_data()?;
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Ends the current segment and returns the number of the next one: everything taken so far is in segments before it.
    pub(crate) fn rotate(&mut self) -> u64 {
        self.file = None;
        self.len = 0;
        self.segment += 1;
        self.segment
    }

    /// A checkpoint numbered `segment` is there: closes a gap before it, and removes the files before it.
    pub(crate) fn checkpointed(&mut self, segment: u64) -> std::io::Result<()> {
        self.gap = self.gap.filter(|&gap| gap >= segment);
        for (number, path, _) in files(&self.folder)? {
            if number < segment {
                std::fs::remove_file(path)?;
            }
        }
        sync_folder(&self.folder.join("segment"))
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut file = File::create(path)?;
    file.write_all(MAGIC)?;
    sync_folder(path)?;
    Ok(file)
}

/// What a file of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Checkpoint,
    Segment,
}

pub(crate) fn segment_path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:010}.log"))
}

pub(crate) fn checkpoint_path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:010}.checkpoint"))
}

/// Files of the log by number; a checkpoint comes before the segment of its number.
pub(crate) fn files(folder: &Path) -> std::io::Result<Vec<(u64, PathBuf, Kind)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => Kind::Segment,
            Some("checkpoint") => Kind::Checkpoint,
            _ => continue,
        };
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number {
            files.push((number, path, kind));
        }
    }
    files.sort_unstable_by_key(|(number, _, kind)| (*number, *kind));
    Ok(files)
}
