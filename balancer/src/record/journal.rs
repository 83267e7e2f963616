//! The journal's files: one JSON object per line, synced, and put aside when long.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Entry;

/// Lines that wait for a disk that takes none. Beyond it the oldest are lost, and counted.
const WAITING_MAX: usize = 1_024;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A longer file is put aside.
    pub(crate) bytes_max: u64,
    /// Files put aside that are kept.
    pub(crate) files: usize,
}

/// The file that is written.
#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    limits: Limits,
    /// The open file and its length.
    file: Option<(File, u64)>,
    waiting: VecDeque<Vec<u8>>,
    lost: u64,
}

impl JournalFile {
    pub(crate) fn new(path: PathBuf, limits: Limits) -> Self {
        Self { path, limits, file: None, waiting: VecDeque::new(), lost: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Queues an entry.
    pub(crate) fn push(&mut self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("an entry is plain data");
        line.push(b'\n');
        self.waiting.push_back(line);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            self.lost += 1;
        }
    }

    /// Whether something waits to be written.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Entries given up since this was last asked.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Lets go of the file until something is written again.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// Writes and syncs what waits. On an error nothing of it counts as written, and the file is as long as before.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (mut file, length) = match self.file.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        let bytes: Vec<u8> = self.waiting.iter().flatten().copied().collect();
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // Half a line would spoil the next. The file is opened anew, so that a disk that was replaced is found.
            if let Err(error) = file.set_len(length) {
                tracing::debug!(%error, "cannot take half a line back");
            }
            return Err(error);
        }
        self.waiting.clear();
        let length = length + bytes.len() as u64;
        if length < self.limits.bytes_max {
            self.file = Some((file, length));
            return Ok(());
        }
        put_aside(&self.path, self.limits.files)
    }
}

/// Opens the file for more; a line that was cut by a crash is ended.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut length = file.metadata()?.len();
    if length > 0 && !ends_with_newline(path, length)? {
        file.write_all(b"\n")?;
        length += 1;
    }
    Ok((file, length))
}

fn ends_with_newline(path: &Path, length: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, length - 1)?;
    Ok(last == *b"\n")
}

/// Renames the file to `.1`, that to `.2` and so on; the last is dropped.
pub(crate) fn put_aside(path: &Path, files: usize) -> io::Result<()> {
    if files == 0 {
        return fs::remove_file(path);
    }
    for number in (1..files).rev() {
        let (from, to) = (numbered(path, number), numbered(path, number + 1));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The last entries of the file and of the one put aside last; what is no entry is passed over.
pub(super) fn recent(path: &Path, count: usize) -> VecDeque<Arc<Entry>> {
    let mut recent = VecDeque::new();
    let mut bad = 0_u32;
    for path in [numbered(path, 1), path.to_owned()] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot read the journal of changes");
                continue;
            }
        };
        // What is no plain file may never end, and one that grows meanwhile is not ours.
        let length =
            file.metadata().map_or(0, |about| if about.is_file() { about.len() } else { 0 });
        for line in BufReader::new(file.take(length)).split(b'\n') {
            let entry = line.ok().and_then(|line| serde_json::from_slice(&line).ok());
            let Some(entry) = entry else {
                bad += 1;
                continue;
            };
            recent.push_back(Arc::new(entry));
            if recent.len() > count {
                recent.pop_front();
            }
        }
    }
    if bad > 0 {
        tracing::warn!(lines = bad, path = %path.display(), "the journal has lines that are no entries");
    }
    recent
}
