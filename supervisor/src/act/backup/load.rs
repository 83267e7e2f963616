//! A stored backup, loaded by a running server: the one way in, for verification and for restore.
//!
//! We listen, tell the server to follow us, and give it the snapshot. While it is our replica it keeps keys that have expired meanwhile,
//! so its keys can be compared one for one with the backup's; only then it is made a primary.

use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_psync::rdb::{self, Summary};
use holdfast_psync::{Connection, Endpoint, Offer, Served, serve_snapshot};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::error::{BackupError, blocking, chain};
use super::manifest::{DatabaseKeys, Manifest};
use super::parts::open_snapshot;
use super::store::Backup;
use super::{BackupOptions, Phase, Progress, Reporter};

/// Decoded at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks between disk and connection.
const QUEUE_CHUNKS: usize = 4;

/// How often a server that loads is asked how it goes.
const POLL: Duration = Duration::from_millis(50);

/// A replica asks for its data within a second of being told to follow; a busy one may need some more.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Hexadecimal digits in a replication id.
const REPLID_DIGITS: usize = 40;

/// How the server gets to us.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// Our address, which it is told.
    pub(super) bind: IpAddr,
    /// Its address; nobody else gets the data.
    pub(super) allowed: Option<IpAddr>,
    /// What it is shown if it speaks TLS to its primary.
    pub(super) secure: Option<Arc<ServerConfig>>,
}

/// Reads a stored backup from end to end: hashes, compression, checksum, and the numbers in the manifest.
pub(super) async fn check(backup: &Backup, report: &Reporter) -> Result<(), BackupError> {
    let (backup, report) = (backup.clone(), Reporter::clone(report));
    blocking("check", move || {
        let damaged = |source| BackupError::Damaged { id: backup.id.clone(), source };
        let total = Some(backup.manifest.raw_bytes);
        let source = open_snapshot(&backup.dir, &backup.manifest)
            .map_err(|source| damaged(rdb::RdbError::Read { at: 0, source }))?;
        let progress = |bytes| report(Progress { phase: Phase::Verify, bytes, total });
        let summary: Summary =
            rdb::inspect(Counting { source, bytes: 0, progress }).map_err(damaged)?;
        match backup.manifest.difference(&summary) {
            Some(detail) => Err(BackupError::Mismatch { id: backup.id.clone(), detail }),
            None => Ok(()),
        }
    })
    .await
}

/// Tells how much was read.
struct Counting<R, F> {
    source: R,
    bytes: u64,
    progress: F,
}

impl<R: Read, F: Fn(u64)> Read for Counting<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes += count as u64;
        (self.progress)(self.bytes);
        Ok(count)
    }
}

/// Makes the server at `endpoint` a primary with exactly the data of `backup`. Whatever it had is gone when it begins to load.
/// On failure it is left as a replica of nobody there; the caller puts that right.
pub(super) async fn load(
    backup: &Backup,
    endpoint: &Endpoint,
    way: Way,
    options: &BackupOptions,
    report: &Reporter,
) -> Result<u64, BackupError> {
    let listening = |source| BackupError::Listen { address: way.bind, source };
    let listener = TcpListener::bind((way.bind, 0)).await.map_err(listening)?;
    let port = listener.local_addr().map_err(listening)?.port();
    follow(endpoint, &way.bind.to_string(), &port.to_string()).await?;
    let (sender, mut chunks) = mpsc::channel(QUEUE_CHUNKS);
    let (dir, manifest) = (backup.dir.clone(), backup.manifest.clone());
    // Ends with the snapshot, or when nobody takes its chunks any more.
    let reader = tokio::task::spawn_blocking(move || decode(&dir, &manifest, &sender));
    let offer = Offer {
        replid: (0..REPLID_DIGITS)
            .map(|_| char::from_digit(fastrand::u32(0..16), 16).expect("below 16"))
            .collect(),
        offset: backup.manifest.offset,
        length: backup.manifest.raw_bytes,
        allowed: way.allowed,
        secure: way.secure.clone(),
        accept_timeout: ACCEPT_TIMEOUT,
        stall_timeout: options.stall_timeout,
    };
    let total = Some(offer.length);
    let sent = |bytes| report(Progress { phase: Phase::Load, bytes, total });
    let served = serve_snapshot(&listener, &offer, &mut chunks, sent).await;
    drop(chunks);
    reader.await.map_err(|_| BackupError::Worker("load"))?;
    let address = &endpoint.address;
    let mut served =
        served.map_err(|source| BackupError::Serve { address: address.clone(), source })?;
    loaded(endpoint, &mut served, options.load_timeout).await?;
    let found = keys(endpoint).await?;
    if backup.manifest.keys_counted
        && let Some(detail) = difference(&backup.manifest.databases, &found)
    {
        return Err(BackupError::Keys { address: address.clone(), detail });
    }
    follow(endpoint, "NO", "ONE").await?;
    Ok(found.iter().map(|(_, keys)| keys).sum())
}

/// Decodes the parts into `sender`.
fn decode(dir: &std::path::Path, manifest: &Manifest, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut source = match open_snapshot(dir, manifest) {
        Ok(source) => source,
        Err(error) => {
            // Nobody listens any more: then there is nobody to tell.
            sender.blocking_send(Err(error)).ok();
            return;
        }
    };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = source.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        let message = match read {
            Ok(0) => return,
            Ok(_) => Ok(Bytes::from(chunk)),
            Err(error) => Err(error),
        };
        let ended = message.is_err();
        if sender.blocking_send(message).is_err() || ended {
            return;
        }
    }
}

/// `REPLICAOF`, on a connection of its own.
pub(super) async fn follow(endpoint: &Endpoint, host: &str, port: &str) -> Result<(), BackupError> {
    let run = async { Connection::open(endpoint).await?.command(&["REPLICAOF", host, port]).await };
    let failed = |source| BackupError::Target { address: endpoint.address.clone(), source };
    run.await.map(drop).map_err(failed)
}

/// Waits until the server has loaded what it got.
async fn loaded(
    endpoint: &Endpoint,
    served: &mut Served,
    patience: Duration,
) -> Result<(), BackupError> {
    let not_loaded =
        |detail: String| BackupError::NotLoaded { address: endpoint.address.clone(), detail };
    let deadline = Instant::now() + patience;
    let mut last = String::new();
    let poll = async {
        while Instant::now() < deadline {
            match is_loaded(endpoint).await {
                Ok(true) => return Ok(()),
                Ok(false) => "it is still loading".clone_into(&mut last),
                // A server that empties itself does not answer for a while.
                Err(error) => last = chain(&error),
            }
            sleep(POLL).await;
        }
        Err(format!("gave up after {} s: {last}", patience.as_secs()))
    };
    tokio::select! {
        result = poll => result.map_err(not_loaded),
        () = served.ended() => {
            Err(not_loaded("it hung up; its own log says why (a newer format, no memory, no disk)".to_owned()))
        }
    }
}

async fn is_loaded(endpoint: &Endpoint) -> Result<bool, holdfast_psync::Error> {
    let info = Connection::open(endpoint).await?.info("everything").await?;
    let is = |name: &str, value: &str| info.iter().any(|(n, v)| n == name && v == value);
    Ok(is("loading", "0") && is("master_link_status", "up") && is("master_sync_in_progress", "0"))
}

/// Keys of each database of a server.
pub(super) async fn keys(endpoint: &Endpoint) -> Result<Vec<(u64, u64)>, BackupError> {
    let ask = async { Connection::open(endpoint).await?.info("keyspace").await };
    let failed = |source| BackupError::Target { address: endpoint.address.clone(), source };
    Ok(ask
        .await
        .map_err(failed)?
        .iter()
        .filter_map(|(name, value)| keyspace(name, value))
        .collect())
}

/// Reads `db0:keys=3,expires=1,avg_ttl=0`.
fn keyspace(name: &str, value: &str) -> Option<(u64, u64)> {
    let index = name.strip_prefix("db")?.parse().ok()?;
    let keys = value.split(',').find_map(|field| field.strip_prefix("keys="))?;
    Some((index, keys.parse().ok()?))
}

fn difference(expected: &[DatabaseKeys], found: &[(u64, u64)]) -> Option<String> {
    let count =
        |index| found.iter().find(|(found, _)| *found == index).map_or(0, |(_, keys)| *keys);
    let differing = expected.iter().find(|database| count(database.index) != database.keys);
    if let Some(DatabaseKeys { index, keys, .. }) = differing {
        return Some(format!("database {index} has {} keys, expected {keys}", count(*index)));
    }
    let extra =
        found.iter().find(|(index, _)| expected.iter().all(|database| database.index != *index));
    extra.map(|(index, keys)| format!("database {index} has {keys} keys, expected none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_keys_are_named() {
        let expected = [DatabaseKeys { index: 0, keys: 3, expiring: 0 }];
        assert_eq!(keyspace("db0", "keys=3,expires=1,avg_ttl=0"), Some((0, 3)));
        assert_eq!(difference(&expected, &[(0, 3)]), None);
        let text = |found: &[(u64, u64)]| difference(&expected, found).unwrap();
        assert_eq!(text(&[(0, 2)]), "database 0 has 2 keys, expected 3");
        assert_eq!(text(&[]), "database 0 has 0 keys, expected 3");
        assert_eq!(text(&[(0, 3), (7, 1)]), "database 7 has 1 keys, expected none");
    }
}
