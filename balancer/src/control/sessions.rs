//! The open connections of all workers: listed by pages, closed one by one or by what they have in common.
//!
//! Each worker is asked in turn and answers between two events; one that does not within [`ANSWER_TIMEOUT`] is left out, since half a list
//! is worth more to an operator than none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Balancer, lock};
use crate::metrics::Close;
use crate::proxy::registry::{self, Listed, Selection};
use crate::proxy::session::{Kind, Phase};
use crate::proxy::worker::{Command, Handle};

/// Sessions on one page: what a person reads, or half a megabyte of JSON for a program.
pub const SESSIONS_PAGE_MAX: usize = 1_000;
/// A worker answers between two events, thus within milliseconds; on a machine with far too much to do it may have to wait for its turn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What sessions have in common; whatever is not set does not matter.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Name of the listener.
    pub listener: Option<Arc<str>>,
    /// Name of the pool they are relayed to.
    pub pool: Option<String>,
    /// Name of the server they are relayed to.
    pub server: Option<String>,
    /// Where the client is.
    pub client: Option<IpNet>,
    /// What is spoken.
    pub kind: Option<Kind>,
    /// As old as this or older.
    pub age_min: Duration,
}

/// Some of the sessions.
#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    /// Only those with a larger number: the last of the page before.
    pub after: u64,
    /// At most so many; [`SESSIONS_PAGE_MAX`] are listed at most.
    pub limit: usize,
    /// Which.
    pub filter: SessionFilter,
}

/// One connection of a client.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SessionView {
    /// Its number.
    pub id: u64,
    /// Name of its listener.
    pub listener: Arc<str>,
    /// Address of the client.
    pub client: SocketAddr,
    /// Pool it is relayed to; none for plain HTTP.
    pub pool: Option<Arc<str>>,
    /// Server it is relayed to; none for plain HTTP.
    pub server: Option<Arc<str>>,
    /// What is spoken.
    pub kind: Kind,
    /// What it is doing.
    pub phase: Phase,
    /// Since its connection was accepted.
    pub age_seconds: f64,
    /// Since the last byte.
    pub idle_seconds: f64,
    /// From the client.
    pub received_bytes: u64,
    /// To the client.
    pub sent_bytes: u64,
}

impl Balancer {
    /// The connections that are open, by ascending number.
    pub async fn sessions(&self, query: &SessionQuery) -> Vec<SessionView> {
        let limit = query.limit.min(SESSIONS_PAGE_MAX);
        let servers = self.known_servers();
        let selection = selection(query, &servers);
        let mut listed = Vec::new();
        for worker in self.workers.iter() {
            let (reply, answer) = oneshot::channel();
            let command = Command::List(selection.clone(), limit, reply);
            listed.extend(ask(worker, command, answer).await.unwrap_or_default());
        }
        listed.sort_unstable_by_key(|session| session.id);
        listed.truncate(limit);
        listed.into_iter().map(|session| SessionView::new(session, &servers)).collect()
    }

    /// Tells one client to leave. Whether there is such a connection that was not told yet.
    pub async fn close_session(&self, id: u64) -> bool {
        let Some(worker) = self.workers.get(registry::worker(id)) else { return false };
        let selection = Selection { id: Some(id), ..Selection::default() };
        dismiss(worker, &selection, 1, Close::Operator).await > 0
    }

    /// Tells clients to leave; how many that were.
    pub async fn close_sessions(&self, query: &SessionQuery) -> usize {
        let selection = selection(query, &self.known_servers());
        self.dismiss(&selection, query.limit, Close::Operator, 0).await
    }

    /// How many connections are selected.
    pub(super) async fn count(&self, selection: &Selection) -> usize {
        let mut count = 0;
        for worker in self.workers.iter() {
            let (reply, answer) = oneshot::channel();
            let command = Command::Count(selection.clone(), reply);
            count += ask(worker, command, answer).await.unwrap_or(0);
        }
        count
    }

    /// Tells at most `max` clients to leave, beginning with those of worker `first` of all; how many that were.
    pub(super) async fn dismiss(
        &self,
        selection: &Selection,
        max: usize,
        cause: Close,
        first: usize,
    ) -> usize {
        let count = self.workers.len();
        let mut told = 0;
        for n in 0..count {
            if told >= max {
                break;
            }
            let worker = &self.workers[(first + n) % count];
            told += dismiss(worker, selection, max - told, cause).await;
        }
        told
    }

    /// Every server that may have connections, those that were taken out included.
    fn known_servers(&self) -> Vec<Known> {
        let pools = self.pools();
        let leaving = lock(&self.leaving).clone();
        let all = pools.values().chain(&leaving);
        all.flat_map(|pool| {
            let name = Arc::clone(pool.name());
            pool.present_and_past().into_iter().map(move |server| Known {
                id: server.id(),
                pool: Arc::clone(&name),
                server: Arc::clone(server.name()),
            })
        })
        .collect()
    }
}

fn selection(query: &SessionQuery, servers: &[Known]) -> Selection {
    let filter = &query.filter;
    let by_server = filter.pool.is_some() || filter.server.is_some();
    let wanted = |known: &&Known| {
        filter.pool.as_ref().is_none_or(|name| **name == *known.pool)
            && filter.server.as_ref().is_none_or(|name| **name == *known.server)
    };
    Selection {
        listener: filter.listener.clone(),
        servers: by_server.then(|| servers.iter().filter(wanted).map(|known| known.id).collect()),
        client: filter.client,
        kind: filter.kind,
        age_min: filter.age_min,
        after: query.after,
        ..Selection::default()
    }
}

/// A server's number and what it is called.
struct Known {
    id: u64,
    pool: Arc<str>,
    server: Arc<str>,
}

impl SessionView {
    fn new(session: Listed, servers: &[Known]) -> Self {
        let known = servers.iter().find(|known| known.id == session.server);
        Self {
            id: session.id,
            listener: session.listener,
            client: session.client,
            pool: known.map(|known| Arc::clone(&known.pool)),
            server: known.map(|known| Arc::clone(&known.server)),
            kind: session.kind,
            phase: session.phase,
            age_seconds: session.age.as_secs_f64(),
            idle_seconds: session.rest.as_secs_f64(),
            received_bytes: session.received,
            sent_bytes: session.sent,
        }
    }
}

async fn dismiss(worker: &Handle, selection: &Selection, max: usize, cause: Close) -> usize {
    let (reply, answer) = oneshot::channel();
    let command = Command::Dismiss(selection.clone(), max, cause, reply);
    ask(worker, command, answer).await.unwrap_or(0)
}

async fn ask<T>(worker: &Handle, command: Command, answer: oneshot::Receiver<T>) -> Option<T> {
    let asked = async {
        worker.tell(command).await;
        // A worker that has ended has no sessions.
        answer.await.ok()
    };
    let answered = timeout(ANSWER_TIMEOUT, asked).await;
    answered.unwrap_or_else(|_| {
        tracing::warn!("a worker did not answer in time");
        None
    })
}
