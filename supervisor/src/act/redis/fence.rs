//! The fence a supervisor puts on the Redis server on its own host: by its lease, and for a change that replaces that server.
//!
//! `min-replicas-to-write` is raised by a number no cluster reaches, so that clients get an error at once and the value from before can be
//! told from it: nothing has to be remembered, and whoever finds the fence later can take it away. The order goes over the connection that
//! is open anyway: a server that hangs runs it as the first thing when it runs again. With another connection it may be another process,
//! which knows of no fence: what stands there is found out anew.
//!
//! Whoever leads tells by the agreed change that a server is replaced, and the supervisor beside it fences it and says so in its report.
//! Where the leader does not reach the primary and that supervisor does, clients on its side may reach it too: then the promotion waits
//! for that word, for a while. It is no condition: the word may not come because the server hangs by now, and that it is fenced as soon
//! as it runs again is the more that can be had.

use holdfast_psync::resp::Reply;
use holdfast_telemetry::errors::Chain;
use tokio::time::{Duration, Instant, timeout_at};

use super::RedisController;
use super::repair::Aside;
use crate::cluster::{Address, RedisRole};
use crate::judge::redis::{Fenced, Link};
use crate::observe::redis::{AskError, Watch, command};
use crate::plan::failover::Change;
use crate::record::{Kind, Severity};

/// Added to `min-replicas-to-write`: more replicas than anybody has.
pub(super) const OUT_OF_REACH: u64 = 1_000_000;

/// A server that hangs answers when it runs again; until then the order waits in its connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// An order that was refused is repeated after this long: the user lacks a right, or too much waits already.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Nobody has answered a supervisor that has just started, and none of them may mean to. A restart shall not cost clients their writes.
const SETTLE: Duration = Duration::from_secs(2);

/// A planned change pauses writes itself. One that takes longer was left behind, and its pause ends.
const PLANNED_MAX: Duration = Duration::from_secs(4);

/// How long the promotion waits for the word of the supervisor beside a primary we do not reach. The change is with it as soon as it is
/// agreed on; a round, an order and a report later its word is here, some milliseconds on hosts that are not overloaded.
const WORD_LIMIT: Duration = Duration::from_millis(250);

/// What stands on a server beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    fence: Option<Fenced>,
    /// An order is on its way.
    under_way: bool,
    /// The last order was refused then.
    refused_at: Option<Instant>,
    /// Since when the connection is open it stands on.
    link_since: std::time::Instant,
}

impl Standing {
    /// What stands by now.
    pub(super) fn stands(self) -> Option<Fenced> {
        self.fence.filter(|_| !self.under_way && self.refused_at.is_none())
    }
}

impl RedisController {
    /// Fences the servers beside us that must not take writes, and frees those that may.
    pub(super) fn mind_fences(&mut self) {
        if self.planner.forbidden().is_some() {
            return;
        }
        let now = Instant::now();
        let contact = self.agreement.contact();
        // A group of one fences nothing here, and frees what was fenced when it was one of several.
        let is_alone = contact.is_none();
        let is_over = now - self.started >= SETTLE
            && contact
                .is_some_and(|contact| contact.is_over(now.into_std(), self.agreement.lease()));
        let register = self.planner.register();
        let primary = register.primary.clone();
        let change = register.change.clone();
        if self.change_seen.map(|seen| seen.0) != change.as_ref().map(|change| change.epoch) {
            self.change_seen = change.as_ref().map(|change| (change.epoch, now));
        }
        let is_left = self.change_seen.is_some_and(|seen| now - seen.1 >= PLANNED_MAX);
        let fences = |change: &Change| !is_alone && (is_left || !change.is_planned);
        let beside: Vec<_> = self.beside().cloned().collect();
        for server in beside {
            let Some(watch) = self.watch(&server).cloned() else { continue };
            let view = watch.view();
            if view.link != Link::Open {
                continue;
            }
            let link_since = view.link_since;
            let role = view.sample.filter(|sample| sample.at >= link_since);
            let role = role.map(|sample| sample.role);
            let stands =
                self.fences.get(&server).filter(|standing| standing.link_since == link_since);
            let stands = stands.copied();
            let waits = stands.is_some_and(|standing| {
                standing.under_way || standing.refused_at.is_some_and(|at| now - at < RETRY_AFTER)
            });
            if waits {
                continue;
            }
            let stands = stands.filter(|standing| standing.refused_at.is_none());
            let fence = stands.and_then(|standing| standing.fence);
            let replaced = change.as_ref().filter(|change| change.from == server && fences(change));
            let wanted = match replaced {
                _ if role == Some(RedisRole::Replica) => None,
                _ if is_over => Some(Fenced::Lease),
                Some(change) => Some(Fenced::Change(change.epoch)),
                // A former primary stays as it is until it is a replica.
                None if primary.as_ref() != Some(&server) && stands.is_some() => fence,
                None if primary.as_ref() != Some(&server) && !is_alone => continue,
                None => None,
            };
            // The first look takes away what an earlier run of ours may have left.
            if wanted == fence && (stands.is_some() || role.is_none()) {
                continue;
            }
            let is_change_of_reason = wanted.is_some() && fence.is_some();
            let under_way = !is_change_of_reason;
            let standing = Standing { fence: wanted, under_way, refused_at: None, link_since };
            self.fences.insert(server.clone(), standing);
            if !is_change_of_reason {
                self.asides.spawn(async move {
                    let done = set_fence(&watch, wanted.is_some()).await;
                    let done = done.map_err(|error| Chain(&error).to_string());
                    Aside::LocalFence { server, fence: wanted, done }
                });
            }
        }
    }

    pub(super) fn note_fence(
        &mut self,
        server: &Address,
        fence: Option<Fenced>,
        done: Result<bool, String>,
    ) {
        let has_changed = match done {
            Ok(has_changed) => has_changed,
            Err(error) => {
                if let Some(standing) = self.fences.get_mut(server) {
                    (standing.under_way, standing.refused_at) = (false, Some(Instant::now()));
                }
                tracing::warn!(redis = %server, error, "the fence of the server beside us could not be set");
                return;
            }
        };
        if let Some(standing) = self.fences.get_mut(server) {
            (standing.under_way, standing.refused_at) = (false, None);
        }
        // Whoever waits for it hears of it at once.
        self.changed.notify_one();
        if !has_changed {
            return;
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

    /// What the supervisor beside `server` says of its fence, as soon as it stands; `None` if there is none that reaches it.
    pub(super) async fn await_neighbour(&self, server: &Address) -> Option<String> {
        let deadline = Instant::now() + WORD_LIMIT;
        let mut reports = self.agreement.reports();
        loop {
            reports.mark_unchanged();
            let council = self.agreement.council();
            let (name, fenced) = council.neighbour(Instant::now().into_std(), server)?;
            if fenced.is_some() {
                return Some(format!("supervisor {name} beside it says that it takes no writes"));
            }
            if timeout_at(deadline, reports.changed()).await.is_err() {
                let waited = WORD_LIMIT.as_millis();
                return Some(format!(
                    "supervisor {name} beside it has not fenced it in {waited} ms"
                ));
            }
        }
    }

    /// Servers on this host.
    pub(super) fn beside(&self) -> impl Iterator<Item = &Address> {
        let servers = self.config.servers.iter().filter(|server| server.pid_file.is_some());
        servers.map(|server| &server.address)
    }
}

/// Sets or takes away the fence of one server, and says whether that changed anything. Safe to repeat.
pub(super) async fn set_fence(watch: &Watch, fenced: bool) -> Result<bool, AskError> {
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
        _ => return Ok(false),
    };
    let set = command(["CONFIG", "SET", key, &next.to_string()]);
    watch.order(set, ANSWER_LIMIT).await.map(|_| true)
}
