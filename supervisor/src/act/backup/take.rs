//! Taking a backup: snapshot from a server, through zstd, into the store.
//!
//! The connection is read by a task and handed to a thread that checks the RDB file as it passes, compresses and writes it. The queue
//! between them is short: when the disk is slow, the source waits, and nothing is collected here.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use holdfast_psync::rdb::{self, RdbError, Summary};
use holdfast_psync::{Address, Endpoint, Snapshot, SyncOptions};
use tokio::sync::mpsc;

use super::error::{BackupError, blocking, chain};
use super::manifest::{self, FORMAT, Manifest, Part, Role, Source};
use super::parts::PartWriter;
use super::source::{self, Choice};
use super::store::{Backup, BackupStore};
use super::verify::verify_with;
use super::{BackupOptions, Phase, Progress, Reporter};

/// Chunks between connection and disk; one is at most 256 KiB.
const QUEUE_CHUNKS: usize = 8;

/// Takes a backup of the cluster that consists of `sources`, whichever of them is the primary now, and verifies it if the options say so.
/// A backup that is suspiciously empty is stored and returned with [`Manifest::suspicious`] set.
///
/// # Errors
/// No server could give a whole snapshot, or it could not be stored: then there is no new backup. Or the verification failed: then the
/// backup is there, with that result.
pub async fn take(
    store: &BackupStore,
    sources: &[Endpoint],
    options: &BackupOptions,
    now: DateTime<Utc>,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Backup, BackupError> {
    let report: Reporter = Arc::new(progress);
    report(Progress { phase: Phase::Connect, bytes: 0, total: None });
    let of_lock = store.clone();
    let _lock = blocking("clean-up", move || {
        let lock = of_lock.lock()?;
        of_lock.sweep(&lock)?;
        Ok(lock)
    })
    .await?;
    let states = join_all(sources.iter().map(source::ask)).await;
    let addresses = sources.iter().map(|source| source.address.clone());
    let servers: Vec<_> = addresses.zip(states).collect();
    let mut failures: Vec<String> = Vec::new();
    for choice in source::order(&servers) {
        let endpoint = &sources[choice.index];
        match attempt(store, endpoint, &choice, &failures, options, now, &report).await {
            Ok(backup) if options.verify => {
                return verify_with(backup, options, now, &report).await;
            }
            Ok(backup) => return Ok(backup),
            // Another server may do better; a full disk would stay full.
            Err(error @ (BackupError::Source { .. } | BackupError::Payload { .. })) => {
                let failure = chain(&error);
                tracing::warn!(address = %endpoint.address, error = failure, "server gave no backup");
                failures.push(failure);
            }
            Err(error) => return Err(error),
        }
    }
    for (address, state) in servers {
        if let source::State::Unusable(reason) = state {
            failures.push(format!("{address}: {reason}"));
        } else if matches!(state, source::State::Replica { in_step: false, .. }) {
            failures.push(format!("{address} is not in step with its primary"));
        }
    }
    Err(BackupError::NoSource(failures.join("; ")))
}

/// One try, with one server.
async fn attempt(
    store: &BackupStore,
    endpoint: &Endpoint,
    choice: &Choice,
    failures: &[String],
    options: &BackupOptions,
    now: DateTime<Utc>,
    report: &Reporter,
) -> Result<Backup, BackupError> {
    let address = endpoint.address.clone();
    let failed = |source| BackupError::Source { address: address.clone(), source };
    let stall_timeout = options.stall_timeout;
    let sync = SyncOptions { rdb_only: true, stall_timeout, ..SyncOptions::default() };
    let mut snapshot = Snapshot::start(endpoint, &sync).await.map_err(failed)?;
    let (replid, offset) = (snapshot.replid.clone(), snapshot.offset);
    let (of_begin, timeline) = (store.clone(), replid.clone());
    let partial = blocking("start", move || of_begin.begin(&timeline, offset)).await?;
    let received = receive(&mut snapshot, &partial, options, report).await;
    let mut reason = choice.reason.clone();
    if !failures.is_empty() {
        reason = format!("{reason}; failed before: {}", failures.join("; "));
    }
    let source = Source { address: address.to_string(), role: choice.role, reason };
    let history = History { cluster: store.cluster().to_owned(), source, replid, offset };
    let (store, accept_empty) = (store.clone(), options.accept_empty);
    blocking("completion", move || {
        let committed = received.and_then(|(summary, parts)| {
            let mut manifest = history.manifest(&summary, parts, now);
            if !accept_empty {
                manifest.suspicious = suspicion(&manifest, &store.list()?.backups);
            }
            store.commit(&partial, manifest)
        });
        if committed.is_err()
            && let Err(error) = std::fs::remove_dir_all(&partial)
        {
            let dir = partial.display();
            tracing::warn!(%dir, %error, "unfinished backup stays until the next one");
        }
        committed
    })
    .await
}

/// Receives the snapshot into parts in the folder `partial`.
async fn receive(
    snapshot: &mut Snapshot,
    partial: &Path,
    options: &BackupOptions,
    report: &Reporter,
) -> Result<(Summary, Vec<Part>), BackupError> {
    let (sender, chunks) = mpsc::channel(QUEUE_CHUNKS);
    let address = snapshot.address().clone();
    let writer = PartWriter::new(partial, options.part_bytes_max);
    let (dir, level, of_payload) = (partial.to_owned(), options.compression_level, address.clone());
    let worker = tokio::task::spawn_blocking(move || {
        store_snapshot(chunks, writer, level, &dir, of_payload)
    });
    let mut failure = None;
    loop {
        match snapshot.next_chunk().await {
            Ok(Some(chunk)) => {
                // The worker has ended: its result says why.
                if sender.send(Ok(chunk)).await.is_err() {
                    break;
                }
                let (bytes, total) = (snapshot.received(), snapshot.length);
                report(Progress { phase: Phase::Snapshot, bytes, total });
            }
            Ok(None) => break,
            Err(error) => {
                // The worker may have ended too; then it needs no message.
                sender.send(Err(io::ErrorKind::ConnectionAborted.into())).await.ok();
                failure = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let stored = worker.await.map_err(|_| BackupError::Worker("transfer"))?;
    match failure {
        Some(source) => Err(BackupError::Source { address, source }),
        None => stored,
    }
}

/// Checks, compresses and stores what comes through `chunks`.
fn store_snapshot(
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    writer: PartWriter,
    level: i32,
    dir: &Path,
    address: Address,
) -> Result<(Summary, Vec<Part>), BackupError> {
    let failed = |source| BackupError::Write { path: dir.to_owned(), source };
    let encoder = zstd::Encoder::new(writer, level).map_err(failed)?;
    let mut intake = Intake { chunks, current: Bytes::new(), encoder, failure: None };
    let inspected = rdb::inspect(&mut intake);
    if let Some(failure) = intake.failure {
        return Err(failed(failure));
    }
    let summary = inspected.map_err(|source: RdbError| BackupError::Payload { address, source })?;
    let parts = intake.encoder.finish().and_then(PartWriter::finish).map_err(failed)?;
    Ok((summary, parts))
}

/// The snapshot as it comes in; whatever is read from here has been handed to the compressor.
struct Intake {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    encoder: zstd::Encoder<'static, PartWriter>,
    /// Why storing failed, which is not the source's fault.
    failure: Option<io::Error>,
}

impl Read for Intake {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunks.blocking_recv().transpose()? {
                None => return Ok(0),
                Some(chunk) => self.current = chunk,
            }
            if let Err(failure) = self.encoder.write_all(&self.current) {
                self.failure = Some(failure);
                return Err(io::Error::other("the snapshot could not be stored"));
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Where a snapshot belongs.
struct History {
    cluster: String,
    source: Source,
    replid: String,
    offset: u64,
}

impl History {
    fn manifest(self, summary: &Summary, parts: Vec<Part>, taken_at: DateTime<Utc>) -> Manifest {
        Manifest {
            format: FORMAT,
            cluster: self.cluster,
            source: self.source,
            replid: self.replid,
            offset: self.offset,
            redis_version: summary.aux.get("redis-ver").cloned(),
            taken_at,
            raw_bytes: summary.bytes,
            stored_bytes: parts.iter().map(|part| part.bytes).sum(),
            used_memory_bytes: summary.aux.get("used-mem").and_then(|bytes| bytes.parse().ok()),
            rdb_checksum: manifest::checksum_text(summary),
            databases: manifest::databases(summary),
            keys_counted: manifest::keys_counted(summary),
            functions: summary.functions,
            parts,
            suspicious: None,
        }
    }
}

/// A primary without persistence that crashed comes back empty, with its replicas: a backup of that must not push out the good ones.
fn suspicion(new: &Manifest, earlier: &[Backup]) -> Option<String> {
    let trusted = earlier.iter().find(|backup| backup.manifest.suspicious.is_none())?;
    let before = trusted.manifest.keys();
    let empty = new.keys_counted && new.keys() == 0 && before > 0;
    let role = match new.source.role {
        Role::Primary => "primary",
        Role::Replica => "replica",
    };
    empty.then(|| {
        format!(
            "the {role} {} has no keys, the backup before ({}) has {before}",
            new.source.address, trusted.id
        )
    })
}
