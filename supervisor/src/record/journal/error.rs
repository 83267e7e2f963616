//! Why the journal cannot be used.

use std::path::PathBuf;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be opened; another process may hold it.
    #[error("cannot open the journal {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is damaged and cannot be moved out of the way.
    #[error("the journal {} is damaged and cannot be moved aside", path.display())]
    MoveAside {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file was taken away while it was in use: what is written to it would be lost with the process.
    #[error("the journal {} is not there any more", .0.display())]
    Gone(PathBuf),
    /// Events cannot be written; they are kept in memory and tried again.
    #[error("cannot write the journal")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its thread cannot be started.
    #[error("cannot start the journal's thread")]
    Thread(#[source] std::io::Error),
}
