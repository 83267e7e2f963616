//! The folder of backups, with made-up backups.

use chrono::TimeDelta;

use super::super::manifest::{DatabaseKeys, FORMAT, Part, Role, Source};
use super::*;

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
}

fn manifest(offset: u64, minutes: i64) -> Manifest {
    let source = Source { address: "r:1".into(), role: Role::Replica, reason: "test".into() };
    Manifest {
        format: FORMAT,
        cluster: "main".into(),
        source,
        replid: "a".repeat(40),
        offset,
        redis_version: None,
        taken_at: at(minutes),
        raw_bytes: 10,
        stored_bytes: 5,
        used_memory_bytes: None,
        rdb_checksum: None,
        databases: vec![DatabaseKeys { index: 0, keys: 1, expiring: 0 }],
        keys_counted: true,
        functions: 0,
        parts: vec![Part { name: "part-000.zst".into(), bytes: 5, sha256: String::new() }],
        suspicious: None,
    }
}

fn add(store: &BackupStore, manifest: Manifest) -> Backup {
    let partial = store.begin(&manifest.replid, manifest.offset).unwrap();
    store.commit(&partial, manifest).unwrap()
}

fn verify(backup: &Backup, minutes: i64, passed: bool) {
    let at = at(minutes);
    let result = Verification { at, passed, failure: None, redis_version: None, keys: 1 };
    BackupStore::record(backup, &result).unwrap();
}

fn offsets(store: &BackupStore) -> Vec<u64> {
    store.list().unwrap().backups.iter().map(|backup| backup.manifest.offset).collect()
}

#[test]
fn backups_are_found_newest_first_with_their_latest_verification() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    assert!(store.newest().unwrap().is_none());
    let first = add(&store, manifest(5, 1));
    let second = add(&store, manifest(7, 2));
    assert_eq!(second.id, format!("{}/7", "a".repeat(40)));
    for minutes in 3..30 {
        verify(&first, minutes, minutes == 29);
    }
    assert_eq!(offsets(&store), [7, 5]);
    assert_eq!(store.newest().unwrap().unwrap(), second);
    let verified = store.newest_verified().unwrap().unwrap();
    assert_eq!((verified.id.as_str(), verified.verification.unwrap().at), (&*first.id, at(29)));
    assert_eq!(verifications(&first.dir).unwrap().len(), VERIFICATIONS_MAX);
    assert!(matches!(store.find("nonsense"), Err(BackupError::NotFound { .. })));
}

#[test]
fn the_same_offset_twice_makes_two_backups() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    let (first, second) = (add(&store, manifest(5, 1)), add(&store, manifest(5, 2)));
    assert_ne!(first.id, second.id);
    assert_eq!(store.find(&second.id).unwrap(), second);
}

#[test]
fn half_made_backups_are_not_listed_and_are_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    let partial = store.begin(&"a".repeat(40), 9).unwrap();
    write_json(&partial, MANIFEST, &manifest(9, 9)).unwrap();
    assert_eq!(offsets(&store), [0; 0]);
    let lock = store.lock().unwrap();
    store.sweep(&lock).unwrap();
    assert!(!partial.exists());
}

#[test]
fn damaged_manifests_are_told_apart_from_backups() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    let [cut, other, absent] = [1, 2, 3].map(|offset| add(&store, manifest(offset, 1)));
    let path = cut.dir.join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    fs::write(other.dir.join(MANIFEST), text.replace("part-000", "../part-000")).unwrap();
    fs::remove_file(absent.dir.join(MANIFEST)).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.backups.len(), listing.damaged.len()), (0, 3));
    for backup in [cut, other, absent] {
        let error = store.find(&backup.id).unwrap_err().to_string();
        assert!(error.contains("the manifest") && error.contains("is damaged"), "{error}");
    }
}

#[test]
fn pruning_keeps_the_newest_good_ones_and_the_newest_verified_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    let backups: Vec<_> = (1..=6).map(|n| add(&store, manifest(n, n.cast_signed()))).collect();
    verify(&backups[0], 10, true);
    verify(&backups[1], 10, true);
    verify(&backups[4], 10, false);
    // 6 and 4 are good, 5 is between them, 2 is the newest verified one.
    let pruned = store.prune(2).unwrap();
    assert_eq!(pruned.removed, [backups[2].id.clone(), backups[0].id.clone()]);
    assert_eq!(offsets(&store), [6, 5, 4, 2]);
    assert_eq!(store.prune(2).unwrap(), Pruned::default());
}

#[test]
fn a_suspicious_backup_freezes_pruning() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    for n in 1..=3 {
        add(&store, manifest(n, n.cast_signed()));
    }
    let empty = Manifest { suspicious: Some("it is empty".into()), ..manifest(4, 4) };
    add(&store, empty);
    let pruned = store.prune(1).unwrap();
    assert_eq!(pruned.removed.len(), 0);
    assert_eq!(pruned.frozen.unwrap(), "the newest backup is suspicious: it is empty");
    // The data came back: the suspicious one is no longer the newest.
    add(&store, manifest(5, 5));
    store.prune(1).unwrap();
    assert_eq!(offsets(&store), [5]);
}

#[test]
fn there_is_one_writer_and_what_is_read_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = BackupStore::new(dir.path(), "main");
    let first = add(&store, manifest(1, 1));
    add(&store, manifest(2, 2));
    let lock = store.lock().unwrap();
    assert!(matches!(store.prune(1), Err(BackupError::Busy(_))));
    drop(lock);
    let reading = hold(&first).unwrap();
    assert_eq!(store.prune(1).unwrap().removed.len(), 0);
    drop(reading);
    assert_eq!(store.prune(1).unwrap().removed, [first.id]);
}

#[test]
fn a_cluster_name_cannot_lead_out_of_the_folder() {
    for name in ["../x", "a/b", "..", ".", "a b"] {
        let store = BackupStore::new("/backups", name);
        assert_eq!(store.root.parent(), Some(Path::new("/backups")), "{name}");
        assert_eq!(store.cluster(), name);
    }
}

#[test]
fn an_unusable_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = BackupStore::new(&file, "main").lock().unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    assert!(error.to_string().contains("file/main"), "{error}");
}
