//! Putting a backup into a server.
//!
//! The backup is read from end to end before the target is touched. A target that has keys, or that follows a primary, is refused unless
//! told otherwise. If the load fails, the target gets its role back.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use holdfast_psync::{Connection, Endpoint};
use rustls::ServerConfig;

use super::error::{BackupError, blocking, chain};
use super::load::{Way, check, follow, keys, load};
use super::store::{Backup, BackupStore, hold};
use super::{BackupOptions, Phase, Progress, Reporter};

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Replace what the target has, and restore into a replica, which then follows nobody.
    pub overwrite: bool,
    /// Our address as the target reaches it; default: the one we reach the target from.
    pub bind: Option<IpAddr>,
    /// What the target is shown if it speaks TLS to its primary (`tls-replication`).
    pub secure: Option<Arc<ServerConfig>>,
}

/// A finished restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The backup.
    pub backup: Backup,
    /// Keys the target loaded: all that are in the backup.
    pub keys: u64,
    /// Keys it has now as a primary. Those that expired since the backup was taken are gone.
    pub keys_now: u64,
}

/// What the target was before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Before {
    Primary,
    Replica { host: String, port: String },
}

/// Restores the backup `id` into the server `target`, which is a primary afterwards.
///
/// # Errors
/// There is no such backup or it is damaged; the target is refused, cannot reach us, or does not load the snapshot.
///
/// # Cancel safety
/// Not safe: a target whose restore is dropped half-way is left as a replica of nobody. `REPLICAOF NO ONE` ends that.
pub async fn restore(
    store: &BackupStore,
    id: &str,
    target: &Endpoint,
    restore: &RestoreOptions,
    options: &BackupOptions,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Restored, BackupError> {
    let report: Reporter = Arc::new(progress);
    report(Progress { phase: Phase::Connect, bytes: 0, total: None });
    let (of_find, wanted) = (store.clone(), id.to_owned());
    let (backup, _hold) = blocking("search", move || {
        let backup = of_find.find(&wanted)?;
        let hold = hold(&backup)?;
        Ok((backup, hold))
    })
    .await?;
    let (before, way) = survey(target, restore).await?;
    check(&backup, &report).await?;
    match load(&backup, target, way, options, &report).await {
        Ok(loaded) => {
            let now = keys(target).await?.iter().map(|(_, keys)| keys).sum();
            Ok(Restored { backup, keys: loaded, keys_now: now })
        }
        Err(error) => Err(give_back(target, &before, error).await),
    }
}

/// Looks at the target before anything is done to it.
async fn survey(target: &Endpoint, options: &RestoreOptions) -> Result<(Before, Way), BackupError> {
    let failed = |source| BackupError::Target { address: target.address.clone(), source };
    let refused = |reason: String| BackupError::Refused { address: target.address.clone(), reason };
    let mut connection = Connection::open(target).await.map_err(failed)?;
    let info = connection.info("everything").await.map_err(failed)?;
    let value = |name: &str| {
        let found = info.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    if value("loading") != "0" {
        return Err(refused("it is still loading its own data".to_owned()));
    }
    if value("cluster_enabled") == "1" {
        return Err(refused(
            "it runs in cluster mode, where no server can be told whom to follow".to_owned(),
        ));
    }
    let before = match value("role").as_str() {
        "slave" => Before::Replica { host: value("master_host"), port: value("master_port") },
        _ => Before::Primary,
    };
    let keys: u64 = keys(target).await?.iter().map(|(_, keys)| keys).sum();
    if !options.overwrite {
        if let Before::Replica { host, port } = &before {
            let reason = format!(
                "it follows {host}:{port} and would lose the restored data to it; restore into a primary, or overwrite"
            );
            return Err(refused(reason));
        }
        if keys > 0 {
            return Err(refused(format!("it has {keys} keys; empty it first, or overwrite")));
        }
    }
    // On a Unix socket both are on one machine.
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let bind = options.bind.or_else(|| connection.local_ip()).unwrap_or(here).to_canonical();
    let allowed = Some(connection.peer_ip().unwrap_or(here).to_canonical());
    // With an address of ours given, the target may come by another way than we go.
    let allowed = allowed.filter(|_| options.bind.is_none());
    Ok((before, Way { bind, allowed, secure: options.secure.clone() }))
}

/// Makes the target what it was; `error` says why it is not what it should be.
async fn give_back(target: &Endpoint, before: &Before, error: BackupError) -> BackupError {
    let (host, port, role) = match before {
        Before::Primary => ("NO", "ONE", "a primary".to_owned()),
        Before::Replica { host, port } => {
            (host.as_str(), port.as_str(), format!("a replica of {host}:{port}"))
        }
    };
    match follow(target, host, port).await {
        Ok(()) => error,
        Err(second) => BackupError::RoleLost {
            address: target.address.clone(),
            role,
            second: chain(&second),
            source: Box::new(error),
        },
    }
}
