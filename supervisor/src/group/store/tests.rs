use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};
use openraft::{CommittedLeaderId, EntryPayload};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;
use crate::group::ledger::{Command, Entry};

fn entry(index: u64) -> LogEntry {
    let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
    let at = chrono::DateTime::UNIX_EPOCH;
    LogEntry {
        log_id,
        payload: EntryPayload::Normal(Command { term: 1, at, entry: Entry::Number }),
    }
}

fn ops(indices: std::ops::RangeInclusive<u64>) -> Vec<writer::Op> {
    indices.map(|index| writer::Op::Entry(index, sealed(&entry(index)))).collect()
}

async fn filled(path: &Path) {
    let mut store = Store::open(path, &opener(path)).unwrap();
    store.name(Identity { group: 7, member: 3 }).await.unwrap();
    store.writer.write(ops(0..=40)).await.unwrap();
    let (mut log, _machine) = store.split(Published::default());
    log.save_vote(&Vote::new(5, 3)).await.unwrap();
    log.purge(entry(9).log_id).await.unwrap();
    log.truncate(entry(38).log_id).await.unwrap();
}

/// The thread that writes ends with its last handle, but not at once.
async fn reopened(path: &Path) -> Result<Store, StoreError> {
    for _ in 0..3_000 {
        match Store::open(path, &opener(path)) {
            Err(StoreError::Open { source, .. })
                if matches!(*source, DatabaseError::DatabaseAlreadyOpen) =>
            {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
    panic!("the file is still open after half a minute");
}

#[tokio::test]
async fn what_was_written_is_there_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("group.redb");
    filled(&path).await;
    let store = reopened(&path).await.unwrap();
    assert_eq!(store.identity, Some(Identity { group: 7, member: 3 }));
    let (mut log, _machine) = store.split(Published::default());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(5, 3)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(9).log_id));
    assert_eq!(state.last_log_id, Some(entry(37).log_id));
    let some = log.try_get_log_entries(35..100).await.unwrap();
    assert_eq!(some, [entry(35), entry(36), entry(37)]);
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_harmless_but_never_taken_for_a_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("group.redb");
    filled(&path).await;
    drop(reopened(&path).await.unwrap());
    let whole = loop {
        // Copied only once it is closed.
        if Store::open(&path, &opener(&path)).is_ok() {
            break std::fs::read(&path).unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let mut random = fastrand::Rng::with_seed(11);
    let mut refused = 0;
    let used: Vec<_> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for round in 0..150 {
        let damaged = folder.path().join(format!("damaged-{round}.redb"));
        let mut bytes = whole.clone();
        bytes[used[random.usize(..used.len())]] ^= 1 << random.u8(..8);
        std::fs::write(&damaged, bytes).unwrap();
        match Store::open(&damaged, &opener(&damaged)) {
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("{other}: {other:?}"),
            Ok(store) => {
                let kept = lock(&store.kept);
                assert_eq!(store.identity, Some(Identity { group: 7, member: 3 }), "{round}");
                assert_eq!(kept.vote, Some(Vote::new(5, 3)), "{round}");
                assert_eq!(
                    kept.log.keys().copied().collect::<Vec<_>>(),
                    (10..38).collect::<Vec<_>>()
                );
            }
        }
    }
    // Most bytes that are not zero are in pages that were written anew elsewhere and mean nothing any more.
    assert!(refused > 5, "only {refused} of 150 flips were noticed");
}

#[tokio::test]
async fn a_damaged_file_stays_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("group.redb");
    filled(&path).await;
    drop(reopened(&path).await.unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"\"kind\":\"number\"";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at + 9] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let error = reopened(&path).await.err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("holdfast group join"), "{error}");
    }
}

/// A file whose disk can be made to refuse.
#[derive(Debug)]
struct Moody {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl Moody {
    fn check(&self) -> io::Result<()> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Moody {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
}

/// Opens the file on a disk that refuses while `is_full` says so.
pub(in crate::group) fn moody(path: &Path, is_full: &Arc<AtomicBool>) -> Opener {
    let (path, is_full) = (path.to_owned(), Arc::clone(is_full));
    Arc::new(move || {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(redb::StorageError::Io)?;
        let file = FileBackend::new(file)?;
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Moody { file, is_full: Arc::clone(&is_full) })
    })
}

#[tokio::test]
async fn a_full_disk_fails_writes_and_loses_nothing_that_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("group.redb");
    let is_full = Arc::new(AtomicBool::new(false));
    let mut store = Store::open(&path, &moody(&path, &is_full)).unwrap();
    store.name(Identity { group: 7, member: 3 }).await.unwrap();
    store.writer.write(ops(0..=4)).await.unwrap();
    is_full.store(true, Ordering::Relaxed);
    assert!(matches!(store.writer.write(ops(5..=5)).await, Err(StoreError::Write(_))));
    is_full.store(false, Ordering::Relaxed);
    let again = store.writer.write(ops(5..=5)).await;
    assert!(matches!(again, Err(StoreError::Write(_))), "not before it was opened again");
    drop(store);
    let store = reopened(&path).await.unwrap();
    assert_eq!(lock(&store.kept).log.len(), 5);
}
