//! The folder of backups: what is in it, what may go, and how something gets in whole or not at all.
//!
//! A backup is built in a folder whose name ends in `.partial`; that folder gets its real name when everything in it, manifest last, is
//! on disk. What a crash leaves behind is therefore never taken for a backup, and the next backup clears it away. Deleting goes the same
//! way backwards. Calls here block for a few small files.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::BackupError;
use super::manifest::{Manifest, Verification};

const MANIFEST: &str = "manifest.json";
const BASE: &str = "base";
const VERIFY: &str = "verify";
const LOCK: &str = ".lock";
const PARTIAL: &str = ".partial";

/// A manifest of a petabyte is smaller; a larger file is something else.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Records of verification kept for each backup.
const VERIFICATIONS_MAX: usize = 20;

/// The backups of one Redis cluster.
#[derive(Debug, Clone)]
pub struct BackupStore {
    root: PathBuf,
    cluster: String,
}

/// A stored backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// `<replication id>/<offset>`, unique in its cluster.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// What it contains.
    pub manifest: Manifest,
    /// Its latest verification.
    pub verification: Option<Verification>,
}

impl Backup {
    /// Whether its latest verification passed.
    pub fn verified(&self) -> bool {
        self.verification.as_ref().is_some_and(|verification| verification.passed)
    }

    /// Neither suspicious nor found damaged.
    pub fn good(&self) -> bool {
        let failed = self.verification.as_ref().is_some_and(|verification| !verification.passed);
        self.manifest.suspicious.is_none() && !failed
    }
}

/// What is in the folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups, newest first.
    pub backups: Vec<Backup>,
    /// Folders that look like backups and are none, with the reason.
    pub damaged: Vec<BackupError>,
}

/// What pruning did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Identifiers of what was deleted.
    pub removed: Vec<String>,
    /// Why nothing may be deleted for now.
    pub frozen: Option<String>,
}

/// Held while something is written or deleted; given back when dropped, also by a crash.
#[derive(Debug)]
pub(super) struct StoreLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl BackupStore {
    /// The backups of `cluster` below `dir`. Nothing is created yet.
    pub fn new(dir: impl Into<PathBuf>, cluster: impl Into<String>) -> Self {
        let cluster = cluster.into();
        // The name becomes a folder's name; a leading dot would hide it or lead upwards.
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let folder: String = cluster.chars().map(safe).collect();
        let folder = folder.strip_prefix('.').map(|rest| format!("_{rest}")).unwrap_or(folder);
        Self { root: dir.into().join(folder), cluster }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// All backups, newest first. A folder that does not exist holds none.
    ///
    /// # Errors
    /// A folder cannot be read. Damaged backups are no error but part of the result.
    pub fn list(&self) -> Result<Listing, BackupError> {
        let mut listing = Listing::default();
        for timeline in folders(&self.root)? {
            for dir in folders(&timeline.join(BASE))? {
                if name_of(&dir).ends_with(PARTIAL) {
                    continue;
                }
                match read_backup(&dir) {
                    Ok(backup) => listing.backups.push(backup),
                    Err(error) => listing.damaged.push(error),
                }
            }
        }
        let age = |backup: &Backup| (backup.manifest.taken_at, backup.manifest.offset);
        listing.backups.sort_by_key(|backup| std::cmp::Reverse(age(backup)));
        Ok(listing)
    }

    /// The newest backup, whatever its state.
    ///
    /// # Errors
    /// As [`BackupStore::list`].
    pub fn newest(&self) -> Result<Option<Backup>, BackupError> {
        Ok(self.list()?.backups.into_iter().next())
    }

    /// The newest backup that was verified and is not suspicious: what to restore unless told otherwise.
    ///
    /// # Errors
    /// As [`BackupStore::list`].
    pub fn newest_verified(&self) -> Result<Option<Backup>, BackupError> {
        Ok(self.list()?.backups.into_iter().find(|backup| backup.verified() && backup.good()))
    }

    /// The backup `id`.
    ///
    /// # Errors
    /// There is none, or its manifest is damaged.
    pub fn find(&self, id: &str) -> Result<Backup, BackupError> {
        let listing = self.list()?;
        if let Some(backup) = listing.backups.into_iter().find(|backup| backup.id == id) {
            return Ok(backup);
        }
        let is_it = |error: &BackupError| matches!(error, BackupError::Manifest { path, .. } if id_of(path) == id);
        let damaged = listing.damaged.into_iter().find(is_it);
        Err(damaged
            .unwrap_or_else(|| BackupError::NotFound { id: id.to_owned(), dir: self.root.clone() }))
    }

    /// Deletes old backups, so that `keep` good ones stay. Kept beside those: whatever is newer than the oldest of them, up to `keep` more,
    /// and always the newest verified one. While the newest backup is suspicious, nothing is deleted.
    ///
    /// # Errors
    /// Another backup is running, or a folder cannot be read or deleted.
    pub fn prune(&self, keep: usize) -> Result<Pruned, BackupError> {
        let _lock = self.lock()?;
        let backups = self.list()?.backups;
        let doomed = match doomed(&backups, keep) {
            Ok(doomed) => doomed,
            Err(frozen) => return Ok(Pruned { removed: Vec::new(), frozen: Some(frozen) }),
        };
        let mut removed = Vec::new();
        for backup in doomed {
            // A restore that reads it holds the manifest.
            if in_use(&backup.dir)? {
                continue;
            }
            let gone = backup.dir.with_file_name(format!("{}{PARTIAL}", name_of(&backup.dir)));
            fs::rename(&backup.dir, &gone).map_err(BackupError::storage("remove", &backup.dir))?;
            fs::remove_dir_all(&gone).map_err(BackupError::storage("remove", &gone))?;
            removed.push(backup.id.clone());
        }
        Ok(Pruned { removed, frozen: None })
    }

    /// Takes the right to write; there is one writer at a time, whatever the process.
    pub(super) fn lock(&self) -> Result<StoreLock, BackupError> {
        fs::create_dir_all(&self.root).map_err(BackupError::storage("create", &self.root))?;
        let path = self.root.join(LOCK);
        let file = File::create(&path).map_err(BackupError::storage("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(StoreLock(file)),
            Err(TryLockError::WouldBlock) => Err(BackupError::Busy(self.root.clone())),
            Err(TryLockError::Error(source)) => {
                Err(BackupError::Storage { action: "lock", path, source })
            }
        }
    }

    /// Clears away what interrupted backups left behind.
    pub(super) fn sweep(&self, _lock: &StoreLock) -> Result<(), BackupError> {
        for timeline in folders(&self.root)? {
            for dir in folders(&timeline.join(BASE))? {
                if name_of(&dir).ends_with(PARTIAL) {
                    tracing::info!(dir = %dir.display(), "unfinished backup cleared away");
                    fs::remove_dir_all(&dir).map_err(BackupError::storage("remove", &dir))?;
                }
            }
        }
        Ok(())
    }

    /// A new folder to build a backup in.
    pub(super) fn begin(&self, replid: &str, offset: u64) -> Result<PathBuf, BackupError> {
        let dir = self.root.join(replid).join(BASE).join(format!("{offset}{PARTIAL}"));
        fs::create_dir_all(&dir).map_err(BackupError::storage("create", &dir))?;
        Ok(dir)
    }

    /// Makes what was built in `partial` a backup.
    pub(super) fn commit(&self, partial: &Path, manifest: Manifest) -> Result<Backup, BackupError> {
        write_json(partial, MANIFEST, &manifest)?;
        let base = partial.parent().expect("it was made by begin()");
        // The same offset again means that nothing was written in between, but each backup stands for itself.
        let mut dir = base.join(manifest.offset.to_string());
        let mut copy = 1;
        while dir.exists() {
            copy += 1;
            dir = base.join(format!("{}-{copy}", manifest.offset));
        }
        fs::rename(partial, &dir).map_err(BackupError::storage("rename", partial))?;
        for folder in base.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
            sync_folder(folder)?;
        }
        let id = id_of(&dir.join(MANIFEST));
        Ok(Backup { id, dir, manifest, verification: None })
    }

    /// Adds the result of a verification.
    pub(super) fn record(backup: &Backup, result: &Verification) -> Result<(), BackupError> {
        let dir = backup.dir.join(VERIFY);
        fs::create_dir_all(&dir).map_err(BackupError::storage("create", &dir))?;
        write_json(&dir, &verification_name(result.at), result)?;
        let records = verifications(&backup.dir)?;
        for old in records.iter().rev().skip(VERIFICATIONS_MAX) {
            fs::remove_file(old).map_err(BackupError::storage("remove", old))?;
        }
        Ok(())
    }
}

/// Which of `backups` (newest first) may be deleted, or why none may.
fn doomed(backups: &[Backup], keep: usize) -> Result<Vec<&Backup>, String> {
    if let Some(reason) = backups.first().and_then(|newest| newest.manifest.suspicious.as_deref()) {
        return Err(format!("the newest backup is suspicious: {reason}"));
    }
    let newest_verified = backups.iter().find(|backup| backup.verified() && backup.good());
    let (mut good, mut other) = (0, 0);
    let mut doomed = Vec::new();
    for backup in backups {
        let in_time = good < keep;
        let count = if backup.good() { &mut good } else { &mut other };
        *count += 1;
        let wanted = in_time && *count <= keep;
        if !wanted && newest_verified.is_none_or(|verified| verified.id != backup.id) {
            doomed.push(backup);
        }
    }
    Ok(doomed)
}

/// Shared hold on a backup that is being read; pruning leaves it alone.
pub(super) fn hold(backup: &Backup) -> Result<File, BackupError> {
    let path = backup.dir.join(MANIFEST);
    let file = File::open(&path).map_err(BackupError::storage("open", &path))?;
    file.lock_shared().map_err(BackupError::storage("lock", &path))?;
    Ok(file)
}

fn in_use(dir: &Path) -> Result<bool, BackupError> {
    let path = dir.join(MANIFEST);
    let file = File::open(&path).map_err(BackupError::storage("open", &path))?;
    Ok(file.try_lock().is_err())
}

fn read_backup(dir: &Path) -> Result<Backup, BackupError> {
    let path = dir.join(MANIFEST);
    let manifest: Manifest = read_json(&path)?;
    manifest.check().map_err(|detail| BackupError::Manifest { path, detail })?;
    // A record that cannot be read proves nothing; the backup is still there.
    let verification = verifications(dir)?.iter().rev().find_map(|path| read_json(path).ok());
    let id = id_of(&dir.join(MANIFEST));
    Ok(Backup { id, dir: dir.to_owned(), manifest, verification })
}

/// Records of verification, oldest first: their names sort by time.
fn verifications(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut files = entries(&dir.join(VERIFY))?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

/// To the nanosecond, and always of the same length.
fn verification_name(at: DateTime<Utc>) -> String {
    format!("{}.json", at.to_rfc3339_opts(SecondsFormat::Nanos, true).replace(':', ""))
}

/// The identifier of the backup with this manifest.
fn id_of(manifest: &Path) -> String {
    let folders: Vec<_> = manifest.iter().rev().skip(1).take(3).collect();
    match folders.as_slice() {
        [offset, _, timeline] => format!("{}/{}", timeline.display(), offset.display()),
        _ => String::new(),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder; nothing if there is no such folder.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(BackupError::storage("read", dir)),
    }
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    Ok(entries(dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn sync_folder(dir: &Path) -> Result<(), BackupError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(BackupError::storage("sync", dir))
}

fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), BackupError> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let write = || {
        let mut file = File::create(&temporary)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(BackupError::storage("write", &path))?;
    sync_folder(dir)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, BackupError> {
    let damaged = |detail: String| BackupError::Manifest { path: path.to_owned(), detail };
    let size = fs::metadata(path).map_err(|error| damaged(error.to_string()))?.len();
    if size > MANIFEST_BYTES_MAX {
        return Err(damaged(format!("it has {size} bytes")));
    }
    let text = fs::read(path).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests;
