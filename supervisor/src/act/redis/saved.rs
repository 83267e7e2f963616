//! The epoch and the primary, and what operators ordered, kept over our own restart.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why the state could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not hold the state of a Redis primary", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SavedError {
    /// The task that wrote ended before it was done.
    pub(super) fn ended(path: &Path, error: tokio::task::JoinError) -> Self {
        Self::Write { path: path.to_owned(), source: io::Error::other(error) }
    }
}

/// A file of ours; `None` if there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SavedError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SavedError::Read { path: path.to_owned(), source }),
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| SavedError::Parse { path: path.to_owned(), source })
}

/// Writes all or nothing, on the disk when it returns.
pub(super) fn write_json(path: &Path, content: &impl Serialize) -> Result<(), SavedError> {
    let fail = |source| SavedError::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(content).map_err(|e| fail(io::Error::other(e)))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)
}
