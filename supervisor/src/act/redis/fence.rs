//! The fence a supervisor puts on the Redis server on its own host: by its lease, and for a change that replaces that server.
//!
//! `min-replicas-to-write` is raised by a number no cluster reaches, so that clients get an error at once and the value from before can be
//! told from it: nothing has to be remembered, and whoever finds the fence later can take it away. The order goes over the connection that
//! is open anyway: a server that hangs runs it as the first thing when it runs again.

use holdfast_psync::resp::Reply;
use holdfast_telemetry::errors::Chain;
use tokio::time::{Duration, Instant};

use super::RedisController;
use super::controller::LEASE;
use super::repair::Aside;
use crate::cluster::{Address, RedisRole};
use crate::judge::redis::Fenced;
use crate::observe::redis::{AskError, Watch, command};
use crate::record::{Kind, Severity};

/// Added to `min-replicas-to-write`: more replicas than anybody has.
pub(super) const OUT_OF_REACH: u64 = 1_000_000;

/// A server that hangs answers when it runs again; until then the order waits in its connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What stands on a server beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) fence: Option<Fenced>,
    /// An order is on its way.
    pub(super) under_way: bool,
}

impl RedisController {
    /// Fences the servers beside us that must not take writes, and frees those that may.
    pub(super) fn mind_fences(&mut self) {
        let Some(contact) = self.agreement.contact() else { return };
        if self.planner.forbidden().is_some() {
            return;
        }
        let is_over = contact.is_over(Instant::now().into_std(), LEASE);
        let register = self.planner.register();
        let primary = register.primary.clone();
        let change = register.change.clone();
        let beside: Vec<_> = self.beside().cloned().collect();
        for server in beside {
            let Some(watch) = self.watch(&server).cloned() else { continue };
            let role = watch.view().sample.map(|sample| sample.role);
            let stands = self.fences.get(&server).copied();
            let fence = stands.and_then(|standing| standing.fence);
            let replaced = change.as_ref().filter(|change| change.from == server);
            let wanted = match replaced {
                _ if role == Some(RedisRole::Replica) => None,
                _ if is_over => Some(Fenced::Lease),
                Some(change) => Some(Fenced::Change(change.epoch)),
                // A former primary stays fenced until it is a replica.
                None if primary.as_ref() != Some(&server) => fence,
                None => None,
            };
            if wanted == fence || stands.is_some_and(|standing| standing.under_way) {
                continue;
            }
            let is_change_of_reason = wanted.is_some() && fence.is_some();
            self.fences.insert(
                server.clone(),
                Standing { fence: wanted, under_way: !is_change_of_reason },
            );
            if !is_change_of_reason {
                self.asides.spawn(async move {
                    let done = set_fence(&watch, wanted.is_some()).await;
                    let error = done.err().map(|error| Chain(&error).to_string());
                    Aside::LocalFence { server, fence: wanted, error }
                });
            }
        }
    }

    pub(super) fn note_fence(
        &mut self,
        server: &Address,
        fence: Option<Fenced>,
        error: Option<String>,
    ) {
        if let Some(error) = error {
            // It is tried again at the next round.
            self.fences.remove(server);
            tracing::warn!(redis = %server, error, "the fence of the server beside us could not be set");
            return;
        }
        if let Some(standing) = self.fences.get_mut(server) {
            standing.under_way = false;
        }
        let message = match fence {
            Some(Fenced::Lease) => format!("{server} takes no writes: no majority has answered us"),
            Some(Fenced::Change(epoch)) => {
                format!("{server} takes no writes: epoch {epoch} replaces it")
            }
            None => format!("{server} may take writes again"),
        };
        let severity = if fence.is_some() { Severity::Warning } else { Severity::Info };
        (self.sink)(self.draft(Kind::ActionTaken, severity, message));
    }

    /// Servers on this host.
    pub(super) fn beside(&self) -> impl Iterator<Item = &Address> {
        let servers = self.config.servers.iter().filter(|server| server.pid_file.is_some());
        servers.map(|server| &server.address)
    }
}

/// Sets or takes away the fence of one server. Safe to repeat.
pub(super) async fn set_fence(watch: &Watch, fenced: bool) -> Result<(), AskError> {
    let key = "min-replicas-to-write";
    let reply = watch.order(command(["CONFIG", "GET", key]), ANSWER_LIMIT).await?;
    let value = match &reply {
        Reply::Array(Some(pair)) => pair.get(1).and_then(Reply::text),
        _ => None,
    };
    let value = value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let next = match (fenced, value >= OUT_OF_REACH) {
        (true, false) => value + OUT_OF_REACH,
        (false, true) => value - OUT_OF_REACH,
        _ => return Ok(()),
    };
    let set = command(["CONFIG", "SET", key, &next.to_string()]);
    watch.order(set, ANSWER_LIMIT).await.map(drop)
}
