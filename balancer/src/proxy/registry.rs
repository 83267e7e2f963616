//! All sessions of a worker as an operator, a drain or a rebalancing sees them: selected, listed, told to leave.
//!
//! Nothing is kept for this beside the sessions themselves, so it costs nothing until somebody asks; then a worker walks its sessions once
//! (some microseconds per thousand) and answers by a channel. What is asked for is bounded by the one who asks, a page or a handful.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::session::{Kind, Phase, Session};
use crate::metrics::Close;

/// More workers than there may be; session numbers count in steps of it, so that each says which worker has it.
const WORKERS_MAX: u64 = 256;

/// Unique in this process: session `count` of worker `index`. Exact as a JSON number for some 10^13 connections.
pub(super) fn number(count: u64, index: usize) -> u64 {
    (count + 1) * WORKERS_MAX + index as u64
}

/// Which worker has session `number`.
pub(crate) fn worker(number: u64) -> usize {
    // Below WORKERS_MAX.
    usize::try_from(number % WORKERS_MAX).unwrap_or(0)
}

/// Which sessions are meant: those of which all that is set is true.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// This one.
    pub(crate) id: Option<u64>,
    /// Those with a larger number.
    pub(crate) after: u64,
    /// Of this listener.
    pub(crate) listener: Option<Arc<str>>,
    /// Relayed to one of these servers.
    pub(crate) servers: Option<Vec<u64>>,
    /// Whether only those that are relayed.
    pub(crate) relayed: bool,
    /// Whether only those that were told to leave.
    pub(crate) leaving: bool,
    /// From there.
    pub(crate) client: Option<IpNet>,
    /// Of this kind.
    pub(crate) kind: Option<Kind>,
    /// As old as this or older.
    pub(crate) age_min: Duration,
}

/// One session, as its worker sees it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) listener: Arc<str>,
    pub(crate) client: SocketAddr,
    /// The server it is relayed to, or 0.
    pub(crate) server: u64,
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    pub(crate) age: Duration,
    /// Since the last byte.
    pub(crate) rest: Duration,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Selection {
    fn has(&self, id: u64, session: &Session) -> bool {
        id > self.after
            && self.id.is_none_or(|wanted| wanted == id)
            && self.kind.is_none_or(|kind| kind == session.kind())
            && (!self.relayed || session.server() != 0)
            && (!self.leaving || session.farewell().is_some())
            && self.servers.as_ref().is_none_or(|servers| servers.contains(&session.server()))
            && self.client.is_none_or(|net| net.contains(&session.peer().ip()))
            && (self.age_min.is_zero() || session.age() >= self.age_min)
            && self.listener.as_ref().is_none_or(|name| session.listener.has_name(name))
    }

    /// The first `max` by number.
    pub(super) fn list(&self, sessions: &HashMap<u64, Rc<Session>>, max: usize) -> Vec<Listed> {
        let mut chosen: Vec<_> =
            sessions.iter().filter(|(id, session)| self.has(**id, session)).collect();
        chosen.sort_unstable_by_key(|(id, _)| **id);
        chosen.truncate(max);
        chosen.into_iter().map(|(id, session)| Listed::new(*id, session)).collect()
    }

    /// How many there are.
    pub(super) fn count(&self, sessions: &HashMap<u64, Rc<Session>>) -> usize {
        sessions.iter().filter(|(id, session)| self.has(**id, session)).count()
    }

    /// Tells at most `max` to leave that were not told yet; how many that were.
    pub(super) fn dismiss(
        &self,
        sessions: &HashMap<u64, Rc<Session>>,
        max: usize,
        cause: Close,
    ) -> usize {
        sessions
            .iter()
            .filter(|(id, session)| self.has(**id, session) && session.leave(cause))
            .take(max)
            .count()
    }
}

impl Listed {
    fn new(id: u64, session: &Session) -> Self {
        Self {
            id,
            listener: Arc::clone(&session.listener.settings().config.name),
            client: session.peer(),
            server: session.server(),
            kind: session.kind(),
            phase: session.phase(),
            age: session.age(),
            rest: session.rest(),
            received: session.received(),
            sent: session.sent(),
        }
    }
}
