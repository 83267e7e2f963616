//! What is still to be sent, on disk: request bodies in the order in which they were made.
//!
//! Each record is a body as it goes over the network, made once and sent to every destination. A destination remembers how far it is by a
//! [`Cursor`], which it saves after a body was accepted; after a restart it goes on there, so a body may be sent twice (receivers know
//! samples they have) but none is left out. Segments that all destinations are through with are deleted; when there are more bytes than
//! allowed the oldest segment goes, whoever still wants it. Rejected: reading the store's own log, which is about blocks and retention,
//! changes with them, and does not hold what came late.
//!
//! Record: length of the body, CRC-32 of the body, number of samples (`u32` each, little-endian), body. A torn record at the end of a
//! segment is what a crash leaves; a new run begins a new segment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// A segment is closed when it is longer: small enough to be deleted soon, large enough to be few.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Longest body of a record; longer ones are not ours.
const RECORD_BYTES_MAX: u32 = 64 * 1024 * 1024;
const HEADER_BYTES: usize = 12;
const EXTENSION: &str = "segment";

/// Where a destination is: the next record to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Cursor {
    segment: u64,
    offset: u64,
}

/// A body to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) body: Vec<u8>,
    pub(crate) samples: u32,
    /// Where the one after it is.
    pub(crate) next: Cursor,
}

/// What [`Spool::read`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A body.
    Record(Record),
    /// All has been read; the cursor may have gone on to a newer segment.
    Empty(Cursor),
    /// Something is missing or damaged; reading goes on here.
    Gap(Cursor),
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", path.display())]
pub(crate) struct SpoolError {
    attempt: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn at(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError { attempt, path, source }
}

/// The segments of a folder.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes of each segment.
    segments: BTreeMap<u64, u64>,
    open: Option<File>,
    /// The segment that is written to.
    newest: u64,
}

impl Spool {
    /// Opens a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be read or made.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(folder).map_err(at("make the folder", folder))?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(at("read the folder", folder))? {
            let entry = entry.map_err(at("read the folder", folder))?;
            let path = entry.path();
            let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
            let number = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
            if let (true, Some(number)) = (is_segment, number) {
                let length = entry.metadata().map_err(at("look at", &path))?.len();
                segments.insert(number, length);
            }
        }
        let newest = segments.keys().next_back().map_or(1, |last| last + 1);
        let state = State { segments, open: None, newest };
        Ok(Self { folder: folder.to_owned(), bytes_max, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock leaves the state half changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:08}.{EXTENSION}"))
    }

    /// Adds a body; it is on the disk when [`Spool::sync`] has returned. Drops the oldest segments when there is too much; returns how
    /// many.
    ///
    /// # Errors
    /// If it cannot be written; then it is not there.
    pub(crate) fn append(&self, body: &[u8], samples: u32) -> Result<usize, SpoolError> {
        let mut state = self.lock();
        let mut length = state.segments.get(&state.newest).copied().unwrap_or(0);
        if length >= SEGMENT_BYTES {
            state.newest += 1;
            state.open = None;
            length = 0;
        }
        let (newest, path) = (state.newest, self.path(state.newest));
        let mut record = Vec::with_capacity(HEADER_BYTES + body.len());
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        for number in [size, crc32fast::hash(body), samples] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(body);
        let result = match &mut state.open {
            Some(file) => file.write_all(&record),
            None => File::options().create(true).append(true).open(&path).and_then(|mut file| {
                let result = file.write_all(&record);
                state.open = Some(file);
                result
            }),
        };
        if let Err(error) = result {
            // Half a record may be there: nothing may come after it in this segment.
            state.newest += 1;
            state.open = None;
            return Err(at("write to", &path)(error));
        }
        state.segments.insert(newest, length + record.len() as u64);
        let mut dropped = 0;
        while state.segments.values().sum::<u64>() > self.bytes_max && state.segments.len() > 1 {
            self.remove_first(&mut state)?;
            dropped += 1;
        }
        Ok(dropped)
    }

    fn remove_first(&self, state: &mut State) -> Result<(), SpoolError> {
        if let Some((segment, _)) = state.segments.pop_first() {
            let path = self.path(segment);
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// If that cannot be said.
    pub(crate) fn sync(&self) -> Result<(), SpoolError> {
        let state = self.lock();
        let path = self.path(state.newest);
        let file = state.open.as_ref().map(File::try_clone).transpose();
        drop(state);
        let file = file.map_err(at("write to", &path))?;
        file.map_or(Ok(()), |file| file.sync_data()).map_err(at("write to", &path))
    }

    /// The record at a cursor.
    ///
    /// # Errors
    /// If a segment that should be there cannot be read.
    pub(crate) fn read(&self, cursor: Cursor) -> Result<Read, SpoolError> {
        let state = self.lock();
        let end = state.segments.get(&cursor.segment).copied();
        let following = state.segments.range(cursor.segment + 1..).next().map(|(next, _)| *next);
        drop(state);
        let following = following.map(|segment| Cursor { segment, offset: 0 });
        let Some(end) = end else {
            return Ok(match following {
                // Its segment was dropped before it was through with it; the beginning of time has missed nothing.
                Some(next) if cursor.offset > 0 => Read::Gap(next),
                Some(next) => self.read(next)?,
                None => Read::Empty(cursor),
            });
        };
        if cursor.offset >= end {
            return Ok(match following {
                Some(next) => self.read(next)?,
                None => Read::Empty(cursor),
            });
        }
        let path = self.path(cursor.segment);
        let fail = at("read", &path);
        match read_record(&path, cursor) {
            Ok(Some(record)) => Ok(Read::Record(record)),
            // The rest of the segment cannot be trusted, and nothing may be added to it.
            Ok(None) => {
                let mut state = self.lock();
                if state.newest == cursor.segment {
                    state.newest += 1;
                    state.open = None;
                }
                Ok(Read::Gap(Cursor { segment: cursor.segment + 1, offset: 0 }))
            }
            // Dropped in this very moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Read::Gap(following.unwrap_or(cursor)))
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// Deletes the segments that lie before all of `cursors`.
    ///
    /// # Errors
    /// If one cannot be deleted.
    pub(crate) fn release(&self, cursors: &[Cursor]) -> Result<(), SpoolError> {
        let Some(oldest) = cursors.iter().min() else { return Ok(()) };
        let mut state = self.lock();
        let newest = state.newest;
        while state
            .segments
            .first_key_value()
            .is_some_and(|(segment, _)| *segment < oldest.segment && *segment < newest)
        {
            self.remove_first(&mut state)?;
        }
        Ok(())
    }

    /// Bytes that lie before nobody's cursor: all that is on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().segments.values().sum()
    }

    /// The cursor that was saved under a name; the oldest record if there is none.
    pub(crate) fn saved(&self, name: &str) -> Cursor {
        let text = fs::read(self.cursor_path(name)).unwrap_or_default();
        let oldest = self.lock().segments.keys().next().copied().unwrap_or(1);
        serde_json::from_slice(&text).unwrap_or(Cursor { segment: oldest, offset: 0 })
    }

    /// Saves a cursor.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn save(&self, name: &str, cursor: Cursor) -> Result<(), SpoolError> {
        let path = self.cursor_path(name);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(&cursor).expect("two numbers");
        fs::write(&fresh, text).map_err(at("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(at("write", &path))
    }

    fn cursor_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.cursor"))
    }
}

/// `None` if what is there is no whole record.
fn read_record(path: &Path, cursor: Cursor) -> io::Result<Option<Record>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(cursor.offset))?;
    let mut header = [0; HEADER_BYTES];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (length, sum, samples) = (number(0), number(4), number(8));
    let left = file.metadata()?.len().saturating_sub(cursor.offset + HEADER_BYTES as u64);
    if length > RECORD_BYTES_MAX || u64::from(length) > left {
        return Ok(None);
    }
    let mut body = vec![0; length as usize];
    match file.read_exact(&mut body) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if crc32fast::hash(&body) != sum {
        return Ok(None);
    }
    let offset = cursor.offset + HEADER_BYTES as u64 + u64::from(length);
    let next = Cursor { segment: cursor.segment, offset };
    Ok(Some(Record { body, samples, next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bodies from a cursor on, with the number of gaps, and where they end.
    fn rest(spool: &Spool, mut cursor: Cursor) -> (Vec<Vec<u8>>, usize, Cursor) {
        let (mut bodies, mut gaps) = (Vec::new(), 0);
        loop {
            match spool.read(cursor).unwrap() {
                Read::Record(record) => {
                    cursor = record.next;
                    bodies.push(record.body);
                }
                Read::Gap(next) => {
                    gaps += 1;
                    if next == cursor {
                        return (bodies, gaps, cursor);
                    }
                    cursor = next;
                }
                Read::Empty(end) => return (bodies, gaps, end),
            }
        }
    }

    #[test]
    fn what_is_added_is_read_in_order_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), u64::MAX).unwrap();
        let start = spool.saved("a");
        assert_eq!(rest(&spool, start).0, Vec::<Vec<u8>>::new());
        for text in ["one", "two"] {
            spool.append(text.as_bytes(), 1).unwrap();
        }
        spool.sync().unwrap();
        let Read::Record(first) = spool.read(start).unwrap() else { panic!("expected a record") };
        assert_eq!((first.body.as_slice(), first.samples), (b"one".as_slice(), 1));
        spool.save("a", first.next).unwrap();
        drop(spool);
        let spool = Spool::open(folder.path(), u64::MAX).unwrap();
        spool.append(b"three", 1).unwrap();
        let (bodies, gaps, end) = rest(&spool, spool.saved("a"));
        assert_eq!((bodies, gaps), (vec![b"two".to_vec(), b"three".to_vec()], 0));
        assert_eq!(rest(&spool, spool.saved("new")).0.len(), 3, "a new destination gets it all");
        spool.release(&[end, Cursor { segment: 2, offset: 5 }]).unwrap();
        assert_eq!(rest(&spool, Cursor::default()).0, [b"three".to_vec()]);
    }

    #[test]
    fn a_record_cut_or_damaged_anywhere_costs_only_what_follows_in_its_segment() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), u64::MAX).unwrap();
        for text in ["first", "second"] {
            spool.append(text.as_bytes(), 1).unwrap();
        }
        drop(spool);
        let path = folder.path().join("00000001.segment");
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let spool = Spool::open(folder.path(), u64::MAX).unwrap();
            spool.append(b"after", 1).unwrap();
            let (bodies, _, _) = rest(&spool, Cursor { segment: 1, offset: 0 });
            let expected = if cut < HEADER_BYTES + 5 { 1 } else { 2 };
            assert_eq!(bodies.len(), expected, "cut at {cut}");
            assert_eq!(bodies.last().unwrap(), b"after");
            fs::remove_file(folder.path().join("00000002.segment")).unwrap();
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let spool = Spool::open(folder.path(), u64::MAX).unwrap();
            spool.append(b"after", 1).unwrap();
            let (bodies, _, _) = rest(&spool, Cursor { segment: 1, offset: 0 });
            assert_eq!(bodies.last().unwrap(), b"after", "damaged at {at}");
            fs::remove_file(folder.path().join("00000002.segment")).unwrap();
        }
    }

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 3 * SEGMENT_BYTES).unwrap();
        let body = vec![7; usize::try_from(SEGMENT_BYTES).unwrap()];
        let mut cursor = Cursor { segment: 1, offset: 0 };
        let dropped: usize = (0..5).map(|_| spool.append(&body, 1).unwrap()).sum();
        assert_eq!(dropped, 3);
        assert!(spool.bytes() <= 3 * SEGMENT_BYTES);
        cursor.offset = 1;
        let (bodies, gaps, _) = rest(&spool, cursor);
        assert_eq!((bodies.len(), gaps), (2, 1));
    }
}
