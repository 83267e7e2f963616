//! The folder of what was saved: for each salvage its commands (`<id>.resp`) and what is known about them (`<id>.json`).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cluster::Address;
use crate::plan::failover::Fork;

/// Salvages kept; the oldest go first.
const COUNT_MAX: usize = 20;

/// Bytes of commands kept in all: four of the largest.
const TOTAL_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What is known about one salvage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Under which it is listed, shown and replayed.
    pub id: String,
    /// Name of the primary.
    pub redis: String,
    /// The epoch of the change that made the server a former primary.
    pub epoch: u64,
    /// The former primary.
    pub server: Address,
    /// Where its successor left its history.
    pub fork: Fork,
    /// When it was saved.
    pub at: DateTime<Utc>,
    /// Commands in it.
    pub commands: u64,
    /// Bytes of the stream it covers.
    pub bytes: u64,
    /// The replay of it, if there was one.
    pub replay: Option<Replayed>,
}

/// A replay that went to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replayed {
    /// When.
    pub at: DateTime<Utc>,
    /// Who wanted it.
    pub by: String,
    /// Commands carried out.
    pub applied: u64,
    /// Commands left out.
    pub skipped: u64,
    /// Commands the primary refused.
    pub failed: u64,
}

/// Why the folder cannot be used as wanted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such salvage.
    #[error("there is no salvage {0}")]
    Unknown(String),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// It need not exist yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the commands of a salvage are.
    pub fn commands_path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.resp"))
    }

    fn manifest_path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Keeps a salvage and lets the oldest go if there are too many. Commands first: a manifest never names what is not there.
    ///
    /// # Errors
    /// The disk refuses. A salvage is whole or absent.
    pub fn keep(&self, manifest: &Manifest, commands: &[u8]) -> Result<(), StoreError> {
        std::fs::create_dir_all(&self.folder).map_err(self.fault(&self.folder))?;
        self.write(&self.commands_path(&manifest.id), commands)?;
        self.write_manifest(manifest)?;
        self.retain()
    }

    /// Keeps what has become of a salvage.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let path = self.manifest_path(&manifest.id);
        let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other);
        self.write(&path, &text.map_err(self.fault(&path))?)
    }

    /// All that there are, newest first.
    ///
    /// # Errors
    /// The folder or a manifest in it cannot be read.
    pub fn list(&self) -> Result<Vec<Manifest>, StoreError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.fault(&self.folder)(error)),
        };
        let mut manifests = Vec::new();
        for entry in entries {
            let path = entry.map_err(self.fault(&self.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read(&path).map_err(self.fault(&path))?;
                let read = serde_json::from_slice(&text).map_err(io::Error::other);
                manifests.push(read.map_err(self.fault(&path))?);
            }
        }
        manifests.sort_by_key(|manifest: &Manifest| std::cmp::Reverse(manifest.at));
        Ok(manifests)
    }

    /// One of them. Only what is listed is ever opened: `id` is no path.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    pub fn manifest(&self, id: &str) -> Result<Manifest, StoreError> {
        let found = self.list()?.into_iter().find(|manifest| manifest.id == id);
        found.ok_or_else(|| StoreError::Unknown(id.to_owned()))
    }

    /// Its commands as they were saved.
    ///
    /// # Errors
    /// As [`Store::manifest`].
    pub fn commands(&self, manifest: &Manifest) -> Result<Vec<u8>, StoreError> {
        let path = self.commands_path(&manifest.id);
        std::fs::read(&path).map_err(self.fault(&path))
    }

    fn retain(&self) -> Result<(), StoreError> {
        let mut kept = 0;
        for (index, manifest) in self.list()?.into_iter().enumerate() {
            kept += manifest.bytes;
            // The newest stays, however large.
            if index > 0 && (index >= COUNT_MAX || kept > TOTAL_BYTES_MAX) {
                for path in [self.manifest_path(&manifest.id), self.commands_path(&manifest.id)] {
                    std::fs::remove_file(&path).map_err(self.fault(&path))?;
                }
            }
        }
        Ok(())
    }

    /// All or nothing, on the disk when it returns, readable by us alone: it is what users wrote.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let written = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(content)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            std::fs::File::open(&self.folder)?.sync_all()
        };
        written().map_err(self.fault(path))
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: a fault of this store")]
    fn fault(&self, path: &Path) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::File { path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(number: i64, bytes: u64) -> Manifest {
        Manifest {
            id: format!("main-{number}"),
            redis: "main".to_owned(),
            epoch: 1,
            server: "127.0.0.1:1".parse().unwrap(),
            fork: Fork { replid: "a".to_owned(), offset: 5 },
            at: DateTime::from_timestamp(number, 0).unwrap(),
            commands: 1,
            bytes,
            replay: None,
        }
    }

    #[test]
    fn salvages_are_listed_newest_first_and_read_by_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("salvage"));
        assert_eq!(store.list().unwrap(), []);
        for number in 1..=2 {
            store.keep(&manifest(number, 10), b"*1").unwrap();
        }
        assert_eq!(store.list().unwrap(), [manifest(2, 10), manifest(1, 10)]);
        assert_eq!(store.commands(&store.manifest("main-1").unwrap()).unwrap(), b"*1");
        for strange in ["main-3", "../salvage/main-1", ""] {
            let error = store.manifest(strange).unwrap_err();
            assert!(matches!(error, StoreError::Unknown(_)), "{error}");
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        for number in 1..=i64::try_from(COUNT_MAX).unwrap() + 2 {
            store.keep(&manifest(number, 10), b"").unwrap();
        }
        assert_eq!(store.list().unwrap().len(), COUNT_MAX);
        assert!(store.manifest("main-2").is_err());
        assert!(!store.commands_path("main-2").exists());
        store.keep(&manifest(100, TOTAL_BYTES_MAX), b"").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
    }
}
