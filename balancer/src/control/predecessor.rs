//! The process before this one, for as long as it has connections: what it has left, and what is wanted of it.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Balancer, lock};
use crate::handover::ByServer;
use crate::handover::link::{self, Left, Wish};
use crate::pool::Pool;
use crate::pool::server::Server;

impl Balancer {
    /// Speaks with the process before this one until it has ended, if there is one.
    pub(crate) fn accompany(self: &Arc<Self>, line: Option<UnixStream>) {
        let Some(line) = line else { return self.note_nothing_left() };
        self.accompanied.store(true, Ordering::Relaxed);
        let balancer = Arc::clone(self);
        self.spawn(async move {
            link::accompany(&balancer, line).await;
            balancer.note_nothing_left();
        });
    }

    /// Whether the process before this one is still there, and only this one speaks with it.
    pub(crate) fn is_accompanied(&self) -> bool {
        self.accompanied.load(Ordering::Relaxed)
    }

    /// What this process and those before it have at each server.
    pub(crate) fn left(&self) -> ByServer<Left> {
        self.by_server(|pool, server| {
            let before = self.left_before(pool, server).connections;
            let connections = server.active() + before;
            Some(Left { connections, drained: self.drained(pool, server) })
        })
    }

    /// What operators want of each server by now.
    pub(crate) fn wishes(&self) -> ByServer<Wish> {
        self.by_server(|_, server| {
            let state = server.record().state.admin();
            Some(Wish { state, drain: self.drain_wish(server) })
        })
    }

    /// Does what another process is asked for.
    pub(crate) fn follow(self: &Arc<Self>, wishes: &ByServer<Wish>) {
        self.each_known(wishes, |pool, server, wish| {
            if server.record().state.admin() != wish.state {
                pool.change(server, |record, now| record.state.set_admin(now, wish.state));
            }
            self.follow_wish(pool, server, wish.drain.as_ref());
        });
    }

    /// Takes in what the process before this one has left.
    pub(crate) fn note_left(&self, left: ByServer<Left>) {
        *lock(&self.before) = left;
    }

    /// The process before this one has ended. What its drains have done is not forgotten.
    fn note_nothing_left(&self) {
        for left in lock(&self.before).values_mut().flat_map(|servers| servers.values_mut()) {
            left.connections = 0;
        }
        self.accompanied.store(false, Ordering::Relaxed);
    }

    /// What the process before this one has left at a server.
    pub(crate) fn left_before(&self, pool: &Pool, server: &Server) -> Left {
        let before = lock(&self.before);
        let left = before.get(&**pool.name()).and_then(|servers| servers.get(&**server.name()));
        left.copied().unwrap_or_default()
    }
}
