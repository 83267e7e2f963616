//! `holdfast restore`: a backup into a Redis server, on this machine, without a supervisor.
//!
//! With TLS the same certificate is shown twice: to the server when we ask it, and when it comes as our replica for the data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_psync::{Credentials, Endpoint, Tls};
use holdfast_settings::Secret;
use holdfast_settings::tls::{ClientSection, SectionFault};
use holdfast_telemetry::errors::Chain;
use rustls::ServerConfig;
use serde_json::json;

use super::arguments::Restore;
use super::cluster::Bar;
use super::context::LOCAL_RUN;
use super::print::{append, bytes};
use super::{CliError, Output};
use crate::act::backup::{
    BackupError, BackupOptions, BackupStore, Progress, RestoreOptions, restore,
};
use crate::config::Config;
use crate::serve::tls::ServerFiles;

/// The settings' own default.
const CLUSTER_DEFAULT: &str = "main";

pub(super) async fn run(wanted: Restore, output: Output) -> Result<(), CliError> {
    let store = store(&wanted)?;
    let failed = |error: BackupError| CliError::Failed(Chain(&error).to_string());
    let id = match &wanted.backup {
        Some(id) => id.clone(),
        None => newest(&store).await?,
    };
    let password = match &wanted.password_file {
        Some(path) => {
            Some(Secret::from_file(path).map_err(|error| CliError::Usage(error.to_string()))?)
        }
        None => None,
    };
    let credentials = password.map(|password| Credentials {
        username: wanted.username.clone(),
        password: password.expose().to_owned(),
    });
    let address = holdfast_psync::Address::Tcp(wanted.to.to_string());
    let mut target = Endpoint::new(address).with_credentials(credentials);
    let secure;
    (target.tls, secure) = security(&wanted)?;
    let options = RestoreOptions { overwrite: wanted.overwrite, bind: wanted.bind, secure };
    let bar = Bar::new();
    let shown = bar.clone();
    let show =
        move |progress: Progress| shown.show(progress.phase.name(), progress.bytes, progress.total);
    let restored = restore(&store, &id, &target, &options, &BackupOptions::default(), show).await;
    bar.clear();
    let restored = restored.map_err(failed)?;
    let taken_at = restored.backup.manifest.taken_at;
    let value = json!({
        "backup": id, "taken_at": taken_at, "target": wanted.to, "keys": restored.keys, "keys_now": restored.keys_now,
    });
    output.result(&value, || {
        let size = bytes(restored.backup.manifest.raw_bytes as f64);
        let mut text = format!(
            "Backup {id} of {} is restored into {}: {} keys, {size}.",
            taken_at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S"),
            wanted.to,
            restored.keys
        );
        if restored.keys_now < restored.keys {
            append!(text, " {} of them have expired since.", restored.keys - restored.keys_now);
        }
        text
    })
}

/// Whom we believe and what we show: when we ask the server, and when it comes for the data.
fn security(wanted: &Restore) -> Result<(Option<Tls>, Option<Arc<ServerConfig>>), CliError> {
    let Some(authority) = &wanted.tls_ca_file else { return Ok((None, None)) };
    let (certificate, key) = (wanted.tls_certificate_file.clone(), wanted.tls_key_file.clone());
    let name = wanted.tls_server_name.clone();
    let section = ClientSection::new(authority.clone(), certificate.clone(), key.clone(), name);
    let (client, name) = section.load(|path| path).map_err(|SectionFault { key, message }| {
        let option = key.map(|key| format!("--tls-{}: ", key.replace('_', "-")));
        CliError::Usage(format!("{}{message}", option.unwrap_or_default()))
    })?;
    let files = certificate.zip(key).map(|(certificate, key)| ServerFiles {
        certificate,
        key,
        client_authorities: Some(authority.clone()),
    });
    let server = files.map(|files| files.load()).transpose();
    let server = server.map_err(|error| CliError::Usage(Chain(&error).to_string()))?;
    Ok((Some(Tls::new(Arc::new(client), name)), server))
}

/// Where the backups are.
fn store(wanted: &Restore) -> Result<BackupStore, CliError> {
    if let Some(dir) = &wanted.dir {
        let cluster = wanted.cluster.as_deref().unwrap_or(CLUSTER_DEFAULT);
        return Ok(BackupStore::new(dir, cluster));
    }
    let local = Path::new(LOCAL_RUN).join("etc/holdfast.toml");
    let path = wanted.config.clone().unwrap_or_else(|| {
        if local.is_file() { local } else { PathBuf::from("/etc/holdfast/holdfast.toml") }
    });
    let config = Config::read(&path)?;
    let Some(backup) = config.backup else {
        return Err(CliError::Usage(format!("{} has no [backup]; give --dir", path.display())));
    };
    Ok(BackupStore::new(&backup.dir, wanted.cluster.as_deref().unwrap_or(&backup.redis)))
}

/// The newest backup that is proven to restore.
async fn newest(store: &BackupStore) -> Result<String, CliError> {
    let store = store.clone();
    let found = tokio::task::spawn_blocking(move || {
        let found = store.newest_verified()?;
        Ok::<_, BackupError>((found, store.cluster().to_owned()))
    });
    let found = found.await.map_err(|error| CliError::Failed(error.to_string()))?;
    match found.map_err(|error| CliError::Failed(Chain(&error).to_string()))? {
        (Some(backup), _) => Ok(backup.id),
        (None, cluster) => Err(CliError::Failed(format!(
            "there is no verified backup of {cluster:?}; `holdfast backup list` shows what there is"
        ))),
    }
}
