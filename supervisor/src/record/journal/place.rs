//! Where the journal is kept, and what happens when what is there cannot be used.

use std::path::PathBuf;

use chrono::Utc;
use holdfast_telemetry::errors::Chain;
use redb::Database;

use super::JournalError;
use crate::record::event::{Draft, Kind, Severity};
use crate::record::store::{self, Left, Opener, StoreError};

/// Where the journal is kept.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) opener: Opener,
}

pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) left: Left,
    /// Says that the former file was damaged.
    pub(super) moved_aside: Option<Draft>,
}

impl Place {
    /// Opens the file; if it is damaged, moves it aside and begins a new one.
    pub(super) fn open_or_begin(&self) -> Result<Opened, JournalError> {
        let unusable = |source: StoreError| JournalError::Open {
            path: self.path.clone(),
            source: Box::new(source),
        };
        match store::open(&self.opener) {
            Ok((database, left)) => Ok(Opened { database, left, moved_aside: None }),
            Err(error) if error.is_damage() => {
                let aside = self.move_aside()?;
                let cause = Chain(&error).to_string();
                tracing::error!(path = %self.path.display(), moved_to = %aside.display(),
                    error = cause, "journal is damaged, moved aside and begun anew");
                let text = format!(
                    "The journal could not be read; it was moved to {} and a new one begun",
                    aside.display()
                );
                let draft = Draft::new(Kind::ActionTaken, Severity::Warning, "journal", text);
                let (database, left) = store::open(&self.opener).map_err(unusable)?;
                Ok(Opened { database, left, moved_aside: Some(draft.because(cause)) })
            }
            Err(error) => Err(unusable(error)),
        }
    }

    fn move_aside(&self) -> Result<PathBuf, JournalError> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(Utc::now().format(".damaged-%Y%m%dT%H%M%S%.3fZ").to_string());
        let aside = PathBuf::from(name);
        std::fs::rename(&self.path, &aside)
            .map_err(|source| JournalError::MoveAside { path: self.path.clone(), source })?;
        Ok(aside)
    }
}
