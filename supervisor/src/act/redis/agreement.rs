//! The way to the group's agreement on one Redis primary.

use std::path::{Path, PathBuf};

use super::saved::{self, SavedError};
use crate::judge::redis::{Council, Opinion};
use crate::plan::failover::{RedisEntry, Refused, Register};

/// The term of a supervisor by itself.
const OWN_TERM: u64 = 1;

/// Why nothing was agreed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgreeError {
    /// The others have decided otherwise in the meantime.
    #[error("it is refused")]
    Refused(#[source] Refused),
    /// It cannot be kept.
    #[error("it cannot be kept")]
    Keep(#[source] SavedError),
}

/// What is agreed on, and how to agree on more.
pub(super) struct Agreement {
    path: PathBuf,
    register: Register,
}

impl Agreement {
    /// What was agreed on in earlier runs.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, SavedError> {
        let register = saved::read_json(path)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), register })
    }

    /// Nothing is agreed on.
    pub(super) fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), register: Register::default() }
    }

    pub(super) fn register(&self) -> &Register {
        &self.register
    }

    /// Has the members agree on `entry`; when this returns it is kept and applied.
    ///
    /// # Errors
    /// It was refused or could not be kept.
    pub(super) async fn propose(&mut self, entry: RedisEntry) -> Result<(), AgreeError> {
        let mut next = self.register.clone();
        next.apply(OWN_TERM, entry).map_err(AgreeError::Refused)?;
        let (path, kept) = (self.path.clone(), next.clone());
        tokio::task::spawn_blocking(move || saved::write_json(&path, &kept))
            .await
            .unwrap_or_else(|error| Err(SavedError::ended(&self.path, error)))
            .map_err(AgreeError::Keep)?;
        self.register = next;
        Ok(())
    }

    /// As [`Self::propose`], if there is anything to propose.
    pub(super) async fn propose_some(
        &mut self,
        entry: Option<RedisEntry>,
    ) -> Result<(), AgreeError> {
        match entry {
            Some(entry) => self.propose(entry).await,
            None => Ok(()),
        }
    }

    /// What the other members say, and our place among them.
    pub(super) fn council(&self) -> Council {
        Council::of_one()
    }

    /// Tells the other members what we see.
    pub(super) fn share(&self, opinion: Option<Opinion>) {
        drop(opinion);
    }
}
