//! New settings in place of the old ones, without dropping a connection.
//!
//! The whole file is read and checked and every new address bound before anything changes; a fault leaves all as it was. Then the
//! difference is applied: a listener whose address stays keeps its socket, a server whose entry stays keeps what was set at run time,
//! one that goes keeps its connections. Servers added at run time are not the file's business and stay.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use holdfast_settings::Faults;
use serde_json::Value;

use super::{Balancer, Conditions, Refused, Who, lock, unix_seconds};
use crate::config::{self, Config, FaultRules, ListenerConfig, PoolConfig, ServerConfig};
use crate::pool::{Pool, Pools};
use crate::proxy::listener::{self, Listener, Settings};

/// Why the old settings stay in force.
#[derive(Debug, thiserror::Error)]
#[error("the settings were refused, the old ones stay in force")]
pub struct ReloadError {
    /// What was wrong, one line each.
    pub faults: Vec<String>,
}

impl From<Faults> for ReloadError {
    fn from(faults: Faults) -> Self {
        Self { faults: faults.to_string().lines().map(str::to_owned).collect() }
    }
}

impl Balancer {
    /// The settings file in force, and where it was read.
    pub(crate) async fn settings(&self) -> (PathBuf, Arc<str>) {
        let config = self.config.lock().await;
        (config.file.clone(), Arc::clone(&config.text))
    }

    /// Reads the settings file again and puts it in force. Returns what changed, in words.
    ///
    /// # Errors
    /// The file has faults or a new address cannot be bound; nothing has changed then.
    pub async fn reload(&self, who: &Who) -> Result<Vec<String>, ReloadError> {
        let mut current = self.config.lock().await;
        let outcome = if self.is_making_way() {
            // The one that takes over has read the file for itself.
            Err(ReloadError { faults: vec![Refused::TakenOver.to_string()] })
        } else {
            self.replace(&current).await
        };
        self.metrics.reload_successful.set(outcome.is_ok().into());
        match outcome {
            Ok((config, changed)) => {
                *current = config;
                self.note_reload(who, &changed);
                self.metrics.reload_timestamp.set(unix_seconds());
                tracing::info!(changes = changed.len(), "settings reloaded");
                for change in &changed {
                    tracing::info!(change, "settings changed");
                }
                Ok(changed)
            }
            Err(error) => {
                for fault in &error.faults {
                    tracing::error!(fault, "settings refused");
                }
                Err(error)
            }
        }
    }

    async fn replace(&self, old: &Config) -> Result<(Config, Vec<String>), ReloadError> {
        let new = config::load(&old.file)?;
        let mut sockets = self.bind_new(&new)?;
        let mut changed = restart_needed(old, &new);
        self.limits.set(&new);
        if old.redis != new.redis {
            self.redis.send_replace(new.redis.clone());
            changed.push("redis has new rules".to_owned());
        }
        if old.bans != new.bans {
            changed.push("bans have new rules".to_owned());
        }
        self.replace_pools(old, &new, &mut changed);
        self.replace_listeners(&new, &mut sockets, &mut changed).await;
        self.close_pools(&new, &mut changed);
        self.replace_fault_rules(new.faults);
        *self.admin.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new.admin.clone());
        Ok((new, changed))
    }

    /// Where no faults may be injected any more, none is.
    fn replace_fault_rules(&self, rules: Option<FaultRules>) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = rules;
        if rules.is_none() {
            for pool in self.pools().values() {
                pool.end_faults(|_| true);
            }
        }
    }

    fn note_reload(&self, who: &Who, changed: &[String]) {
        // What the settings name is there again.
        lock(&self.removed).clear();
        if let Ok(change) = self.enter(who, &Conditions::default()) {
            change.done("settings reloaded", "config", &Value::Null, &changed.into());
        }
    }

    /// A socket for each listener that is new, by name: a bound address under another name is doubled, any other is bound.
    fn bind_new(&self, new: &Config) -> Result<HashMap<Arc<str>, TcpListener>, ReloadError> {
        let listeners = self.listeners();
        let mut sockets = HashMap::new();
        let mut faults = Vec::new();
        for (i, config) in new.listeners.iter().enumerate() {
            if listeners.iter().any(|listener| is_same(listener, config)) {
                continue;
            }
            let socket = match listeners.iter().find(|l| has_address(l, config)) {
                Some(listener) => listener.socket(),
                None => listener::bind(config.listen, &config.tcp),
            };
            match socket {
                Ok(socket) => drop(sockets.insert(Arc::clone(&config.name), socket)),
                Err(error) => {
                    faults.push(format!("listener[{i}].listen: bind {}: {error}", config.listen));
                }
            }
        }
        if faults.is_empty() { Ok(sockets) } else { Err(ReloadError { faults }) }
    }

    /// Puts rules and servers in force; pools that go are closed later, once no listener leads to them.
    fn replace_pools(&self, old: &Config, new: &Config, changed: &mut Vec<String>) {
        let before = self.pools();
        let mut after: Pools = (*before).clone();
        for config in &new.pools {
            let name = &config.name;
            let Some(pool) = before.get(name) else {
                let pool = Arc::new(Pool::new(config, &self.metrics));
                for server in pool.members().iter() {
                    self.start_checks(&pool, server);
                }
                after.insert(Arc::clone(name), pool);
                changed.push(format!("pool {name} added"));
                continue;
            };
            if *pool.rules() != config.rules {
                pool.set_rules(config.rules.clone());
                changed.push(format!("pool {name} has new rules"));
            }
            let written = old.pools.iter().find(|pool| pool.name == *name);
            self.replace_servers(pool, written, config, changed);
        }
        *self.pools.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
    }

    fn replace_servers(
        &self,
        pool: &Arc<Pool>,
        old: Option<&PoolConfig>,
        new: &PoolConfig,
        changed: &mut Vec<String>,
    ) {
        let name = pool.name();
        for server in pool.members().iter() {
            let stays = !server.record().in_file
                || new.servers.iter().any(|entry| entry.name == *server.name());
            if !stays {
                pool.remove(server);
                changed.push(format!("pool {name}: server {} removed", server.name()));
            }
        }
        for entry in &new.servers {
            let written = old.and_then(|pool| pool.servers.iter().find(|s| s.name == entry.name));
            self.replace_server(pool, written, entry, changed);
        }
    }

    fn replace_server(
        &self,
        pool: &Arc<Pool>,
        old: Option<&ServerConfig>,
        new: &ServerConfig,
        changed: &mut Vec<String>,
    ) {
        let label = format!("pool {}: server {}", pool.name(), new.name);
        let Some(server) = pool.member(&new.name) else {
            let server = pool.add(new, true, true);
            self.start_checks(pool, &server);
            return changed.push(format!("{label} added"));
        };
        if server.address() != &new.address {
            pool.remove(&server);
            let server = pool.add(new, true, true);
            self.start_checks(pool, &server);
            return changed.push(format!("{label} moved to {}", new.address));
        }
        if old != Some(new) {
            pool.change(&server, |record, _| {
                record.in_file = true;
                record.configured_weight = new.weight;
                record.state.set_weight(new.weight);
                record.connections_max = new.connections_max;
                record.configured_connections_max = new.connections_max;
                record.check = new.check.clone();
                record.reason = None;
            });
            changed.push(format!("{label} has weight {}", new.weight.get()));
            if old.is_some_and(|old| {
                old.connections_max != new.connections_max || old.check != new.check
            }) {
                changed.push(format!("{label} has other limits or checks"));
            }
        }
    }

    async fn replace_listeners(
        &self,
        new: &Config,
        sockets: &mut HashMap<Arc<str>, TcpListener>,
        changed: &mut Vec<String>,
    ) {
        let pools = self.pools();
        let mut before = self.listeners();
        let mut after = Vec::with_capacity(new.listeners.len());
        for config in &new.listeners {
            let settings = Settings::new(config.clone(), &pools, &self.limits);
            let same = before.iter().position(|listener| is_same(listener, config));
            if let Some(position) = same {
                let listener = before.swap_remove(position);
                if !listener.settings().is_same(&settings) {
                    listener.set_settings(settings, &self.metrics);
                    changed.push(format!("listener {} changed", config.name));
                }
                after.push(listener);
                continue;
            }
            let Some(socket) = sockets.remove(&config.name) else { continue };
            match Listener::new(socket, settings, &self.metrics, self.sight.clone()) {
                Ok(listener) => {
                    let listener = Arc::new(listener);
                    self.listen(&listener).await;
                    after.push(listener);
                    changed.push(format!("listener {} added at {}", config.name, config.listen));
                }
                // A bound socket always has an address; if not, the others are none the worse.
                Err(error) => tracing::error!(listener = %config.name, %error, "cannot listen"),
            }
        }
        for listener in before {
            let name = Arc::clone(&listener.settings().config.name);
            listener.close();
            if new.listeners.iter().all(|config| config.name != name) {
                listener.settings().forget_certificates(&self.metrics);
                self.metrics.listeners.forget(&name);
                self.metrics.limits.forget(&name);
            }
            changed.push(format!("listener {name} removed from {}", listener.address()));
        }
        *lock(&self.listeners) = after;
    }

    fn close_pools(&self, new: &Config, changed: &mut Vec<String>) {
        let mut pools: Pools = (*self.pools()).clone();
        pools.retain(|name, pool| {
            let stays = new.pools.iter().any(|config| config.name == *name);
            if !stays {
                pool.close();
                lock(&self.leaving).push(Arc::clone(pool));
                changed.push(format!("pool {name} removed"));
            }
            stays
        });
        *self.pools.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pools);
    }
}

/// Whether `config` is of the listener that is there already.
fn is_same(listener: &Listener, config: &ListenerConfig) -> bool {
    let old = listener.settings();
    old.config.name == config.name
        && (old.config.listen == config.listen || has_address(listener, config))
}

/// Whether the listener is bound where `config` asks. Port 0 asks for a new one.
fn has_address(listener: &Listener, config: &ListenerConfig) -> bool {
    listener.address() == config.listen
}

/// Settings that only a start reads, where they differ.
fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let admin = old.admin.differs_at_start(&new.admin);
    let others = [
        ("log", old.log_level != new.log_level || old.log_format != new.log_format),
        ("drain", old.drain != new.drain),
        ("workers.count", old.workers != new.workers),
        ("access_log", old.access_log != new.access_log),
        ("traces", old.traces != new.traces),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key));
    let keys = admin.into_iter().chain(others);
    keys.map(|key| format!("{key} takes effect after a restart")).collect()
}
