//! The log as the consensus library wants it: read from memory, written through to the disk.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AnyError, OptionalSend, StorageIOError};

use super::writer::{Op, Writer};
use super::{COMMITTED, Kept, PURGED, VOTE, lock, sealed};
use crate::group::types::{LogEntry, LogId, StorageError, Types, Vote};

/// Entries sent to another member in one message.
const ENTRIES_MAX: u64 = 256;

/// The log; clones share it.
#[derive(Clone)]
pub(in crate::group) struct LogStore {
    kept: Arc<Mutex<Kept>>,
    writer: Writer,
}

impl LogStore {
    pub(super) fn new(kept: Arc<Mutex<Kept>>, writer: Writer) -> Self {
        Self { kept, writer }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<LogEntry>, StorageError> {
        Ok(lock(&self.kept).log.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, StorageError> {
        self.try_get_log_entries(start..end.min(start + ENTRIES_MAX)).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let kept = lock(&self.kept);
        let last = kept.log.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id: last.or(kept.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        lock(&self.kept).vote = Some(*vote);
        let written = self.writer.write(vec![Op::Meta(VOTE, sealed(vote))]).await;
        written.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(lock(&self.kept).vote)
    }

    /// Goes to the disk with the next entries: a member that starts again learns from its leader what else is agreed.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        lock(&self.kept).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(lock(&self.kept).committed)
    }

    async fn append<I>(&mut self, entries: I, done: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut ops = Vec::new();
        {
            let mut kept = lock(&self.kept);
            for entry in entries {
                ops.push(Op::Entry(entry.log_id.index, sealed(&entry)));
                kept.log.insert(entry.log_id.index, entry);
            }
            ops.push(Op::Meta(COMMITTED, sealed(&kept.committed)));
        }
        self.writer.flush(ops, done);
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        lock(&self.kept).log.split_off(&from.index);
        let written = self.writer.write(vec![Op::CutFrom(from.index)]).await;
        written.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }

    async fn purge(&mut self, to: LogId) -> Result<(), StorageError> {
        {
            let mut kept = lock(&self.kept);
            kept.purged = Some(to);
            kept.log = kept.log.split_off(&(to.index + 1));
        }
        let ops = vec![Op::Meta(PURGED, sealed(&to)), Op::CutTo(to.index)];
        let written = self.writer.write(ops).await;
        written.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }
}
