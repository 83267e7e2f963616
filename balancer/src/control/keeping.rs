//! What operators set comes back after a restart, if the settings ask for it.
//!
//! As with a reload, the settings file has the last word on what it names anew: a weight or a limit comes back only if the configured one is
//! what it was, a server that was taken out comes back out only while the file names it.

use std::sync::Arc;

use holdfast_telemetry::errors::Chain;
use serde_json::Value;

use super::{Balancer, Who, lock};
use crate::config::{Address, ServerConfig, Weight};
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::pool::state::AdminState;
use crate::record::{self, Entry, Kept, KeptPool, KeptServer, NewServer};

impl Balancer {
    /// Writes a change down, and what is to come back.
    pub(super) fn record(
        &self,
        version: u64,
        who: &Who,
        action: &'static str,
        target: &str,
        old: &Value,
        new: &Value,
    ) {
        self.recorder.note(Entry {
            time: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            version,
            who: who.name.clone(),
            from: who.from.clone(),
            epoch: who.epoch,
            action: action.to_owned(),
            target: target.to_owned(),
            old: old.clone(),
            new: new.clone(),
        });
        self.keep();
    }

    /// Keeps what is set now.
    pub(super) fn keep(&self) {
        if self.keeps_changes {
            self.recorder.keep(self.kept());
        }
    }

    pub(super) fn kept(&self) -> Kept {
        let removed = lock(&self.removed);
        let pools = self.pools();
        let pools = pools.values().filter_map(|pool| {
            let mut kept = KeptPool {
                removed: removed.get(&**pool.name()).cloned().unwrap_or_default(),
                ..KeptPool::default()
            };
            for server in pool.members().iter() {
                keep_server(&mut kept, server);
            }
            (kept != KeptPool::default()).then(|| (pool.name().to_string(), kept))
        });
        Kept::new(pools.collect())
    }

    /// Notes that a server of the settings was taken out.
    pub(crate) fn note_removed(&self, pool: &Pool, server: &Server) {
        if server.record().in_file {
            let mut removed = lock(&self.removed);
            removed.entry(pool.name().to_string()).or_default().push(server.name().to_string());
        }
    }

    /// Sets what the last run has kept. What cannot be read is put aside and reported; the settings file rules then.
    pub(super) fn restore(&self) {
        self.metrics.record.restored.set(1);
        let Some(dir) = self.admin_config().state_dir.clone().filter(|_| self.keeps_changes) else {
            return;
        };
        let path = record::kept_path(&dir);
        match record::load_kept(&path) {
            Ok(None) => {}
            Ok(Some(kept)) => {
                self.apply(&kept);
                tracing::info!(pools = kept.pools.len(), "changes of the last run are in force");
            }
            Err(error) => {
                self.metrics.record.restored.set(0);
                let aside = path.with_extension("json.bad");
                if let Err(error) = std::fs::rename(&path, &aside) {
                    tracing::warn!(%error, path = %path.display(), "cannot put a file aside");
                }
                tracing::error!(path = %path.display(), aside = %aside.display(), error = %Chain(&error),
                    "the changes of the last run are lost, the settings file rules");
            }
        }
    }

    /// Sets what was kept.
    pub(super) fn apply(&self, kept: &Kept) {
        for (name, kept) in &kept.pools {
            self.restore_pool(name, kept);
        }
    }

    fn restore_pool(&self, name: &str, kept: &KeptPool) {
        let pools = self.pools();
        let Some(pool) = pools.get(name) else {
            return tracing::warn!(pool = name, "changes of the last run are for no pool");
        };
        for name in &kept.removed {
            if let Some(server) = pool.member(name) {
                self.note_removed(pool, &server);
                pool.remove(&server);
            }
        }
        for server in &kept.added {
            restore_added(pool, server);
        }
        for (name, kept) in &kept.servers {
            let Some(server) = pool.member(name) else {
                tracing::warn!(pool = %pool.name(), server = name,
                    "changes of the last run are for no server");
                continue;
            };
            restore_server(pool, &server, kept);
        }
    }
}

fn restore_added(pool: &Arc<Pool>, server: &NewServer) {
    let address = Address::try_new(&server.address);
    let (Some(address), Some(weight)) = (address, Weight::try_new(server.weight)) else {
        return tracing::error!(pool = %pool.name(), server = server.name, address = server.address,
            "a server of the last run has no usable address or weight");
    };
    // The settings file may name it by now.
    if pool.member(&server.name).is_none() {
        let config = ServerConfig::new(&server.name, address, weight);
        pool.add(&ServerConfig { connections_max: server.max_connections, ..config }, false, false);
    }
}

fn keep_server(kept: &mut KeptPool, server: &Server) {
    let record = server.record();
    let (weight, configured) = (record.state.weight().get(), record.configured_weight.get());
    let (max, configured_max) = (record.connections_max, record.configured_connections_max);
    let state = record.state.admin();
    if !record.in_file {
        kept.added.push(NewServer {
            name: server.name().to_string(),
            address: server.address().to_string(),
            weight: configured,
            max_connections: configured_max,
        });
    }
    if state != AdminState::Ready || weight != configured || max != configured_max {
        let entry = KeptServer {
            state,
            weight,
            configured_weight: configured,
            max_connections: max,
            configured_max_connections: configured_max,
            reason: record.reason.clone(),
        };
        kept.servers.insert(server.name().to_string(), entry);
    }
}

fn restore_server(pool: &Pool, server: &Server, kept: &KeptServer) {
    pool.change(server, |record, now| {
        if record.configured_weight.get() == kept.configured_weight
            && let Some(weight) = Weight::try_new(kept.weight)
        {
            record.state.set_weight(weight);
        }
        if record.configured_connections_max == kept.configured_max_connections {
            record.connections_max = kept.max_connections;
        }
        if record.state.admin() != kept.state {
            record.state.set_admin(now, kept.state);
        }
        record.reason.clone_from(&kept.reason);
    });
}
