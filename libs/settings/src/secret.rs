//! Values that must not reach a log, a metric, a trace or an error.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::source::read_bounded;

/// The largest file a secret is read from; the longest tokens have some KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret; its `Debug` and `Display` print `<redacted>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a secret could not be read from its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("cannot read the secret file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause, printed inline because this error ends up in one line of [`crate::Faults`].
        source: std::io::Error,
    },
    /// The file is not one that holds a secret: a key in PEM, a list of tokens, a log.
    #[error("the secret file {} has more than one line, expected one", path.display())]
    Lines {
        /// The file.
        path: PathBuf,
    },
    /// The file is empty.
    #[error("the secret file {} is empty, expected one line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Wraps a value that is already at hand.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Reads a one-line file; white space around the line is dropped.
    ///
    /// # Errors
    /// The file cannot be read, holds nothing or several lines, which no protocol could carry.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let text = read_bounded(path, FILE_BYTES_MAX)
            .map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
        let value = text.trim();
        if value.is_empty() {
            return Err(SecretError::Empty { path: path.to_owned() });
        }
        if value.contains(['\n', '\r']) {
            return Err(SecretError::Lines { path: path.to_owned() });
        }
        Ok(Self(value.to_owned()))
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "<redacted> <redacted>");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn an_empty_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " \n").unwrap();
        let error = Secret::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("token") && error.contains("expected one line"), "{error}");
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "hunter2\n").unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().expose(), "hunter2");
        std::fs::write(&path, "hunter2\nhunter3\n").unwrap();
        let error = Secret::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("more than one line") && !error.contains("hunter"), "{error}");
        let endless = Secret::from_file(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(endless.contains("larger than 65536 bytes"), "{endless}");
    }
}
