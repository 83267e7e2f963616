//! What one process tells the next, and what the next does with it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::{Balancer, Conditions, Refused, Who, lock};
use crate::handover::{ByServer, State, UpgradeError};
use crate::pool::Pool;
use crate::pool::server::Server;
use crate::pool::state::Cause;
use crate::proxy::listener::Listener;

/// As the journal tells it.
const UPGRADE: &str = "upgrade ordered";
const TARGET: &str = "upgrade";

/// Somebody who wants another process to take over, and waits to hear which does.
pub(crate) type UpgradeOrder = oneshot::Sender<Result<u32, UpgradeError>>;

impl Balancer {
    /// Has another process take over. Returns which, once it serves.
    pub(crate) async fn upgrade(
        &self,
        who: &Who,
        conditions: &Conditions,
    ) -> Result<Result<u32, UpgradeError>, Refused> {
        let answer = {
            let (order, answer) = oneshot::channel();
            let change = self.enter(who, conditions)?;
            // One at a time.
            self.upgrades.try_send(order).map_err(|_| Refused::TakenOver)?;
            change.done(UPGRADE, TARGET, &Value::Null, &Value::Null);
            answer
        };
        Ok(answer.await.unwrap_or(Err(UpgradeError::GivenUp)))
    }

    /// Notes that a signal asks for what [`Self::upgrade`] does.
    pub(crate) fn note_upgrade(&self, signal: &str) {
        if let Ok(change) = self.enter(&Who::ourselves(signal), &Conditions::default()) {
            change.done(UPGRADE, TARGET, &Value::Null, &Value::Null);
        }
    }

    /// Makes no changes and writes nothing more while another process takes over, and after it has. A reload under way ends first.
    pub(crate) async fn make_way(&self) {
        let _config = self.config.lock().await;
        lock(&self.ledger).close(true);
        self.recorder.pause().await;
    }

    /// Goes on as before, because no other process has taken over.
    pub(crate) fn stay(&self) {
        lock(&self.ledger).close(false);
        self.recorder.resume();
    }

    pub(super) fn is_making_way(&self) -> bool {
        lock(&self.ledger).is_closed()
    }

    /// What is known and set at run time.
    pub(crate) fn state(&self) -> State {
        let now = crate::pool::now();
        let bans = self.limits.bans.list(self.limits.clock.now(), usize::MAX).0;
        State {
            epoch: lock(&self.ledger).epoch(),
            kept: self.kept(),
            health: self.by_server(|_, server| Some(server.record().state.health())),
            ejections: self.by_server(|_, server| server.record().state.ejection_left(now)),
            drains: self.by_server(|_, server| self.drain_wish(server)),
            bans,
            left: self.left(),
        }
    }

    /// Goes on where the process before us was. What the settings name no more is not missed.
    pub(crate) fn adopt(self: &Arc<Self>, state: &State) {
        self.metrics.record.restored.set(1);
        lock(&self.ledger).heed(state.epoch);
        self.apply(&state.kept);
        // In case the process before us could not write it down.
        self.keep();
        self.each_known(&state.health, |pool, server, health| {
            // Whether a server is well depends on what is asked, and the settings may ask for nothing now.
            if pool.rules().check.is_some() {
                pool.change(server, |record, _| record.state.assume_health(*health));
            }
        });
        self.each_known(&state.ejections, |pool, server, ejection| {
            let rules = pool.rules();
            let judged = match ejection.cause {
                Cause::Failures => rules.fails_max > 0,
                Cause::Errors | Cause::SuccessRate | Cause::Latency => rules.outliers.is_some(),
            };
            if judged {
                pool.change(server, |record, now| record.state.assume_ejection(now, ejection));
            }
        });
        self.each_known(&state.drains, |pool, server, drain| {
            self.follow_wish(pool, server, Some(drain));
        });
        self.limits.bans.adopt(&state.bans, self.limits.clock.now());
        self.note_left(state.left.clone());
        tracing::info!(
            pools = state.health.len(),
            bans = state.bans.len(),
            "took over from the process before"
        );
    }

    /// What `find` finds of each server.
    pub(super) fn by_server<T>(&self, find: impl Fn(&Pool, &Server) -> Option<T>) -> ByServer<T> {
        let of_pool = |pool: &Pool| {
            let members = pool.members();
            let found = members.iter().filter_map(|server| {
                let found = find(pool, server)?;
                Some((server.name().to_string(), found))
            });
            found.collect()
        };
        self.pools().iter().map(|(name, pool)| (name.to_string(), of_pool(pool))).collect()
    }

    /// Shows `act` each server that there still is, with what was found of it.
    pub(super) fn each_known<T>(
        &self,
        found: &ByServer<T>,
        act: impl Fn(&Arc<Pool>, &Arc<Server>, &T),
    ) {
        let pools = self.pools();
        for (name, servers) in found {
            let Some(pool) = pools.get(&**name) else { continue };
            for (name, found) in servers {
                if let Some(server) = pool.member(name) {
                    act(pool, &server, found);
                }
            }
        }
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
