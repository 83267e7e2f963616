//! The ledger as the consensus library wants it: kept in memory, published after every change, snapshots on the disk.
//!
//! Entries after the snapshot are applied again after a start, so that applying one costs no write.

use std::sync::Arc;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{AnyError, EntryPayload, OptionalSend, StorageIOError};
use tokio::sync::watch;

use super::writer::{Op, Writer};
use super::{Stored, json, sealed};
use crate::group::ledger::{Applied, Ledger};
use crate::group::types::{
    LogEntry, LogId, Membership, Snapshot, SnapshotMeta, StorageError, Types,
};

/// Where the rest of the program sees the ledger.
#[derive(Debug, Clone, Default)]
pub(in crate::group) struct Published {
    pub(in crate::group) ledger: watch::Sender<Arc<Ledger>>,
    pub(in crate::group) applied: watch::Sender<Option<LogId>>,
}

/// The ledger with where it stands.
pub(in crate::group) struct Machine {
    ledger: Arc<Ledger>,
    applied: Option<LogId>,
    membership: Membership,
    snapshot: Option<Stored>,
    writer: Writer,
    published: Published,
}

impl Machine {
    pub(super) fn new(snapshot: Option<Stored>, writer: Writer, published: Published) -> Self {
        let Stored { meta, ledger } = snapshot.clone().unwrap_or_default();
        let machine = Self {
            ledger: Arc::new(ledger),
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshot,
            writer,
            published,
        };
        machine.publish();
        machine
    }

    fn publish(&self) {
        self.published.ledger.send_replace(Arc::clone(&self.ledger));
        self.published.applied.send_replace(self.applied);
    }

    async fn keep(&mut self, stored: Stored) -> Result<(), StorageError> {
        let written = self.writer.write(vec![stored.to_op()]).await;
        written.map_err(|error| {
            StorageIOError::write_snapshot(Some(stored.meta.signature()), AnyError::new(&error))
        })?;
        self.snapshot = Some(stored);
        Ok(())
    }
}

/// Takes a snapshot of the ledger as it was when it was asked for.
pub(in crate::group) struct Builder {
    stored: Stored,
    writer: Writer,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let written = self.writer.write(vec![self.stored.to_op()]).await;
        written.map_err(|error| {
            let signature = self.stored.meta.signature();
            StorageIOError::write_snapshot(Some(signature), AnyError::new(&error))
        })?;
        Ok(self.stored.to_snapshot())
    }
}

impl Stored {
    fn to_op(&self) -> Op {
        Op::Snapshot(self.meta.last_log_id.map_or(0, |last| last.index), sealed(self))
    }

    fn to_snapshot(&self) -> Snapshot {
        Snapshot { meta: self.meta.clone(), snapshot: Box::new(json(&self.ledger)) }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut results = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            results.push(match entry.payload {
                EntryPayload::Blank => Applied::Done,
                EntryPayload::Normal(command) => {
                    Arc::make_mut(&mut self.ledger).apply(entry.log_id.index, command)
                }
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    Applied::Done
                }
            });
        }
        self.publish();
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.applied.map(|applied| applied.to_string()).unwrap_or_default(),
        };
        let stored = Stored { meta, ledger: Ledger::clone(&self.ledger) };
        self.snapshot = Some(stored.clone());
        Builder { stored, writer: self.writer.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Vec<u8>>,
    ) -> Result<(), StorageError> {
        let ledger: Ledger = serde_json::from_slice(&snapshot).map_err(|error| {
            StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error))
        })?;
        self.keep(Stored { meta: meta.clone(), ledger: ledger.clone() }).await?;
        self.ledger = Arc::new(ledger);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.snapshot.as_ref().map(Stored::to_snapshot))
    }
}
