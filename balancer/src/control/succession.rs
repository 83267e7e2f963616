//! What one process tells the next, and what the next does with it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use super::{Balancer, lock};
use crate::handover::State;
use crate::proxy::listener::Listener;

impl Balancer {
    /// What is known and set at run time.
    pub(crate) fn state(&self) -> State {
        let (pools, mut health) = (self.pools(), BTreeMap::new());
        for (name, pool) in pools.iter() {
            let members = pool.members();
            let found = members.iter().map(|server| {
                let health = server.record().state.health();
                (server.name().to_string(), health)
            });
            health.insert(name.to_string(), found.collect());
        }
        State { epoch: lock(&self.ledger).epoch(), kept: self.kept(), health }
    }

    /// Refuses changes while another process takes over, and after it has.
    pub(crate) fn refuse_changes(&self, refuse: bool) {
        lock(&self.ledger).close(refuse);
    }

    /// Goes on where the process before us was. What the settings name no more is not missed.
    pub(crate) fn adopt(&self, state: &State) {
        self.metrics.record.restored.set(1);
        lock(&self.ledger).heed(state.epoch);
        self.apply(&state.kept);
        let pools = self.pools();
        for (name, servers) in &state.health {
            let Some(pool) = pools.get(&**name) else { continue };
            // Whether a server is well depends on what is asked, and the settings may ask for nothing now.
            if pool.rules().check.is_none() {
                continue;
            }
            for (name, health) in servers {
                if let Some(server) = pool.member(name) {
                    pool.change(&server, |record, _| record.state.assume_health(*health));
                }
            }
        }
        tracing::info!(pools = state.health.len(), "took over from the process before");
    }

    /// The listening sockets once more, each with its listener's name.
    pub(crate) fn sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let listeners = self.listeners();
        let socket = |listener: &Listener| {
            let name = listener.settings().config.name.to_string();
            Ok((name, OwnedFd::from(listener.socket()?)))
        };
        listeners.iter().map(|listener| socket(listener)).collect()
    }
}
