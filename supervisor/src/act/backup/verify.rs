//! Is a stored backup good? Decided by what a restore would do, on a server nobody uses.
//!
//! The steps, each of which ends it when it fails: every part has its hash and decompresses; the RDB file has its checksum and the
//! numbers of the manifest; a scratch server loads it; the scratch server has as many keys in each database as the snapshot.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_psync::{Connection, Endpoint};

use super::error::{BackupError, blocking, chain};
use super::load::{Way, check, load};
use super::manifest::Verification;
use super::scratch::Scratch;
use super::store::{Backup, BackupStore, hold};
use super::{BackupOptions, Progress, Reporter};

/// The scratch server is on this machine.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A loaded data set may need this much more memory than it took where it came from.
const MEMORY_MARGIN: f64 = 1.2;

/// Verifies the backup `id` and records the result beside it.
///
/// # Errors
/// There is no such backup, it is not good, or that could not be found out. In the last two cases a failed verification is recorded.
pub async fn verify(
    store: &BackupStore,
    id: &str,
    options: &BackupOptions,
    now: DateTime<Utc>,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Backup, BackupError> {
    let (of_find, wanted) = (store.clone(), id.to_owned());
    let backup = blocking("search", move || of_find.find(&wanted)).await?;
    let report: Reporter = Arc::new(progress);
    verify_with(backup, options, now, &report).await
}

/// As [`verify`]; returns the backup with its new verification.
pub(super) async fn verify_with(
    backup: Backup,
    options: &BackupOptions,
    now: DateTime<Utc>,
    report: &Reporter,
) -> Result<Backup, BackupError> {
    let of_hold = backup.clone();
    let _hold = blocking("lock", move || hold(&of_hold)).await?;
    let result = prove(&backup, options, report).await;
    let verification = match &result {
        Ok((keys, redis_version)) => Verification {
            at: now,
            passed: true,
            failure: None,
            redis_version: redis_version.clone(),
            keys: *keys,
        },
        Err(error) => Verification {
            at: now,
            passed: false,
            failure: Some(chain(error)),
            redis_version: None,
            keys: 0,
        },
    };
    let backup = Backup { verification: Some(verification.clone()), ..backup };
    let of_record = backup.clone();
    blocking("record", move || BackupStore::record(&of_record, &verification)).await?;
    result.map(|_| backup)
}

/// Loads the backup into a scratch server; returns its keys and the server's version.
async fn prove(
    backup: &Backup,
    options: &BackupOptions,
    report: &Reporter,
) -> Result<(u64, Option<String>), BackupError> {
    check(backup, report).await?;
    let program = &options.redis_server;
    let failed = |detail| BackupError::Scratch { program: program.clone(), detail };
    room_for(backup).map_err(failed)?;
    let scratch = Scratch::start(program).await?;
    let way = Way { bind: LOOPBACK, allowed: Some(LOOPBACK), secure: None };
    let loaded = load(backup, &scratch.endpoint(), way, options, report).await;
    let version = version(&scratch.endpoint()).await;
    let exited = scratch.exited().map(str::to_owned);
    scratch.stop().await;
    match (loaded, exited) {
        (Ok(keys), _) => Ok((keys, version)),
        // What it said last is worth more than that it went away.
        (Err(_), Some(reason)) => Err(failed(format!("it ended while loading: {reason}"))),
        (Err(error), None) => Err(error),
    }
}

async fn version(endpoint: &Endpoint) -> Option<String> {
    let info = Connection::open(endpoint).await.ok()?.info("server").await.ok()?;
    info.into_iter().find(|(name, _)| name == "redis_version").map(|(_, version)| version)
}

/// A scratch server must not push the machine into swapping, on which a real one may run.
fn room_for(backup: &Backup) -> Result<(), String> {
    let needed = backup.manifest.used_memory_bytes.map(|bytes| bytes as f64 * MEMORY_MARGIN);
    let (Some(needed), Some(available)) = (needed, available_memory(Path::new("/proc/meminfo")))
    else {
        return Ok(());
    };
    if needed > available {
        let (needed, available) = (needed / 1e9, available / 1e9);
        return Err(format!("it needs {needed:.1} GB of memory, {available:.1} GB are available"));
    }
    Ok(())
}

/// Bytes of memory that can be had without swapping; `None` where the kernel does not say.
fn available_memory(meminfo: &Path) -> Option<f64> {
    let text = fs::read_to_string(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kilobytes: f64| kilobytes * 1024.0)
}
