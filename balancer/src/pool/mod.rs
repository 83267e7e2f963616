//! Pools: the servers that serve the same, and the choice between them.
//!
//! [`state`] and [`balance`] decide and are pure; [`server`] is what threads share; this file joins them: it takes events in (a check,
//! a failure, an operator's change), publishes what follows, counts and logs it. Choosing a server reads a snapshot of the members and
//! takes no lock but round robin's own.

pub mod balance;
pub(crate) mod room;
pub mod server;
pub mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::config::{Algorithm, PoolConfig, PoolRules, ServerConfig};
use crate::metrics::{Metrics, PoolMetrics};
use balance::{Candidate, RoundRobin};
use room::Room;
use server::{Lease, Record, Server};
use state::{Change, CheckResult, ServerState};

/// Servers tried for one request or connection before giving up: enough to pass over a rack of dead ones, few enough to answer soon.
pub const ATTEMPTS_MAX: usize = 5;

/// All pools by name. Replaced as a whole, never changed in place.
pub type Pools = BTreeMap<Arc<str>, Arc<Pool>>;

/// Servers already tried for one request or connection.
#[derive(Debug, Default)]
pub struct Tried {
    ids: [u64; ATTEMPTS_MAX],
    count: usize,
}

impl Tried {
    /// Notes an attempt.
    pub fn add(&mut self, server: &Server) {
        if let Some(slot) = self.ids.get_mut(self.count) {
            *slot = server.id();
            self.count += 1;
        }
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no attempt is left.
    pub fn is_full(&self) -> bool {
        self.count == ATTEMPTS_MAX
    }

    fn contains(&self, server: &Server) -> bool {
        self.ids[..self.count].contains(&server.id())
    }
}

/// What a request or connection brings to the choice of its server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask {
    /// [`balance::hash`] of the client's address.
    pub source: u64,
    /// [`balance::hash`] of what the pool's rules key the choice by, if it has that.
    pub key: Option<u64>,
    /// The server it has been to, by [`Server::key`].
    pub sticky: Option<u64>,
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    name: Arc<str>,
    families: Arc<Metrics>,
    pub(crate) metrics: PoolMetrics,
    rules: RwLock<Arc<PoolRules>>,
    members: RwLock<Arc<[Arc<Server>]>>,
    /// Servers taken out whose connections go on.
    leaving: Mutex<Vec<Arc<Server>>>,
    turn: Mutex<RoundRobin>,
    rotation: AtomicUsize,
    panic: AtomicBool,
    /// Connections a server may have; the largest number if there is no limit.
    connections_max: AtomicU64,
    pub(crate) room: Arc<Room>,
    /// Whether the algorithm wants to know latencies.
    judges_latency: AtomicBool,
    /// When it was made; latencies are dated by its age.
    made: Instant,
}

impl Pool {
    /// A pool with the servers of the settings file, none of them heard of yet.
    pub fn new(config: &PoolConfig, families: &Arc<Metrics>) -> Self {
        let metrics = families.pools.handles(&config.name);
        let pool = Self {
            name: Arc::clone(&config.name),
            families: Arc::clone(families),
            room: Arc::new(Room::new(metrics.queued.clone())),
            connections_max: AtomicU64::new(connections_max(&config.rules)),
            metrics,
            rules: RwLock::new(Arc::new(config.rules.clone())),
            members: RwLock::new(Arc::new([])),
            leaving: Mutex::default(),
            turn: Mutex::default(),
            rotation: AtomicUsize::new(0),
            panic: AtomicBool::new(false),
            judges_latency: AtomicBool::new(config.rules.algorithm == Algorithm::PeakEwma),
            made: now(),
        };
        for server in &config.servers {
            pool.add(server, true, false);
        }
        pool
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<PoolRules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The servers in force.
    pub fn members(&self) -> Arc<[Arc<Server>]> {
        Arc::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<Arc<Server>> {
        self.members().iter().find(|server| &**server.name() == name).cloned()
    }

    /// Chooses a server that was not tried yet: the one a client has been to if it may be used, else as the algorithm has it.
    ///
    /// A pool in panic uses every server the operator lets it use; once an attempt has failed, those believed to work come first.
    pub fn pick(&self, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let members = self.members();
        let max = self.connections_max.load(Ordering::Relaxed);
        if let Some(key) = ask.sticky {
            let known = members.iter().find(|server| server.key() == key && server.is_usable());
            let known = known.filter(|server| !tried.contains(server));
            if let Some(lease) = known.and_then(|server| Lease::new(Arc::clone(server), max)) {
                return Some(lease);
            }
        }
        let panic = self.panic.load(Ordering::Relaxed);
        let choose = |in_panic: bool| {
            let candidates = members.iter().enumerate().filter_map(|(index, server)| {
                if tried.count > 0 && tried.contains(server) {
                    return None;
                }
                server.candidate(index, in_panic).filter(|candidate| candidate.active < max)
            });
            self.choose(candidates, &members, ask)
        };
        let index = if panic && tried.count == 0 {
            choose(true)
        } else {
            choose(false).or_else(|| if panic { choose(true) } else { None })
        };
        Lease::new(Arc::clone(&members[index?]), max)
    }

    /// After [`Self::pick`] has found nobody: whether it would have if a server had room.
    pub(crate) fn lacks_room(&self, tried: &Tried) -> bool {
        let max = self.connections_max.load(Ordering::Relaxed);
        max < u64::MAX
            && self.members().iter().any(|server| {
                let panic = self.panic.load(Ordering::Relaxed);
                let wanted = server.is_usable() || (panic && server.may_be_tried());
                wanted && !tried.contains(server)
            })
    }

    fn choose(
        &self,
        candidates: impl Iterator<Item = Candidate> + Clone,
        members: &[Arc<Server>],
        ask: &Ask,
    ) -> Option<usize> {
        let algorithm = self.rules.read().unwrap_or_else(PoisonError::into_inner).algorithm;
        match algorithm {
            Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => {
                lock(&self.turn).next(candidates)
            }
            Algorithm::LeastConnections => {
                let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
                balance::least_connections(candidates, members.len(), rotation)
            }
            Algorithm::RandomTwo => balance::two_choices(candidates, draws(), balance::load),
            Algorithm::PeakEwma => {
                let now = self.age();
                let cost = |candidate: &Candidate| members[candidate.index].cost(now, candidate);
                balance::two_choices(candidates, draws(), cost)
            }
            Algorithm::SourceHash => balance::rendezvous(candidates, ask.source),
            Algorithm::Hash => balance::rendezvous(candidates, ask.key.unwrap_or(ask.source)),
        }
    }

    /// Takes in the result of an active check.
    pub fn handle_check(&self, server: &Server, result: CheckResult) -> Option<Change> {
        let counter = match result {
            CheckResult::Pass => &server.metrics.checks_passed,
            CheckResult::Fail | CheckResult::Silent => &server.metrics.checks_failed,
        };
        counter.inc();
        self.update(server, |state, rules, now| {
            state.handle_check(now, result, rules.check.as_ref()?)
        })
    }

    /// Takes in a connection that could not be made or a request without a response.
    pub fn handle_failure(&self, server: &Server) {
        self.update(server, |state, rules, now| state.handle_failure(now, rules));
        server.check_now.notify_one();
    }

    /// Takes in traffic that worked, with the time to the response, or of the connection where there is none.
    pub fn handle_success(&self, server: &Server, latency: Duration) {
        if self.judges_latency.load(Ordering::Relaxed) {
            server.observe_latency(self.age(), latency);
        }
        if server.is_failing() {
            self.update(server, |state, _, _| {
                state.handle_success();
                None
            });
        }
    }

    /// Lets time have its effect: ejections end, ramps rise, servers that left are forgotten once they are empty.
    pub fn tick(&self) {
        for server in self.members().iter() {
            let waiting = {
                let rules = self.rules();
                server.record().state.is_waiting(now(), rules.slow_start)
            };
            if waiting {
                self.update(server, |state, _, now| state.tick(now));
            }
        }
        let mut leaving = lock(&self.leaving);
        leaving.retain(|server| {
            let stays = server.active() > 0;
            if !stays && self.member(server.name()).is_none() {
                self.families.servers.forget(&self.name, server.name());
            }
            stays
        });
    }

    /// Makes an operator's change and publishes it.
    pub(crate) fn change(&self, server: &Server, change: impl FnOnce(&mut Record, Instant)) {
        let rules = self.rules();
        {
            let mut record = server.record();
            change(&mut record, now());
            record.last_change = Utc::now();
            server.publish(&record, &rules, now());
        }
        self.refresh_panic();
        server.check_now.notify_one();
    }

    /// Adds a server. `returning` if the pool is at work already, so that it begins with a ramp.
    pub(crate) fn add(&self, config: &ServerConfig, in_file: bool, returning: bool) -> Arc<Server> {
        let metrics = self.families.servers.handles(&self.name, &config.name);
        let server =
            Arc::new(Server::new(config, in_file, returning, metrics, Arc::clone(&self.room)));
        server.publish(&server.record(), &self.rules(), now());
        self.set_members(|members| members.push(Arc::clone(&server)));
        server
    }

    /// Takes a server out. Its connections go on; its series go with the last of them.
    pub(crate) fn remove(&self, server: &Arc<Server>) {
        self.set_members(|members| members.retain(|member| member.id() != server.id()));
        server.retire();
        lock(&self.leaving).push(Arc::clone(server));
        self.tick();
    }

    fn age(&self) -> Duration {
        now().duration_since(self.made)
    }

    /// Puts new rules in force.
    pub(crate) fn set_rules(&self, rules: PoolRules) {
        self.connections_max.store(connections_max(&rules), Ordering::Relaxed);
        self.room.note_change();
        self.judges_latency.store(rules.algorithm == Algorithm::PeakEwma, Ordering::Relaxed);
        let rules = Arc::new(rules);
        let old = self.rules();
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&rules);
        let check_differs = match (&old.check, &rules.check) {
            (Some(old), Some(new)) => old.kind != new.kind,
            (None, None) => false,
            _ => true,
        };
        for server in self.members().iter() {
            let mut record = server.record();
            if check_differs {
                record.state.forget_health();
            }
            server.publish(&record, &rules, now());
        }
        self.refresh_panic();
    }

    /// Takes every server out, because the pool itself is gone.
    pub(crate) fn close(&self) {
        for server in self.members().iter() {
            self.remove(server);
        }
        self.families.pools.forget(&self.name);
    }

    /// Whether servers that left still have connections.
    pub(crate) fn is_leaving(&self) -> bool {
        !lock(&self.leaving).is_empty()
    }

    fn set_members(&self, change: impl FnOnce(&mut Vec<Arc<Server>>)) {
        {
            let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
            let mut list = members.to_vec();
            change(&mut list);
            *members = list.into();
        }
        // Positions have moved, so what each position has earned is void.
        *lock(&self.turn) = RoundRobin::default();
        self.refresh_panic();
    }

    fn update(
        &self,
        server: &Server,
        change: impl FnOnce(&mut ServerState, &PoolRules, Instant) -> Option<Change>,
    ) -> Option<Change> {
        let rules = self.rules();
        let change = {
            let mut record = server.record();
            let now = now();
            let change = change(&mut record.state, &rules, now);
            if change.is_some() {
                record.last_change = Utc::now();
            }
            server.publish(&record, &rules, now);
            change
        };
        if let Some(change) = change {
            if change == Change::Ejected {
                server.metrics.ejections.inc();
            }
            tracing::info!(pool = %self.name, server = %server.name(), address = %server.address(),
                change = %change, usable = server.is_usable(), "server changed");
            self.refresh_panic();
        }
        change
    }

    /// Whether so small a share of the servers is usable that all are used.
    fn refresh_panic(&self) {
        let members = self.members();
        let wanted = members.iter().filter(|server| server.may_be_tried()).count();
        let usable = members.iter().filter(|server| server.is_usable()).count();
        let share = if wanted == 0 { 1.0 } else { usable as f64 / wanted as f64 };
        let panic = share < self.rules().panic_threshold;
        if self.panic.swap(panic, Ordering::Relaxed) != panic {
            tracing::info!(pool = %self.name, panic, usable, servers = wanted, "panic mode changed");
        }
        self.metrics.panic.set(panic.into());
        self.room.note_change();
    }
}

/// A panic while one of these is held leaves plain values, so poison carries no news.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connections_max(rules: &PoolRules) -> u64 {
    rules.server_connections_max.map_or(u64::MAX, |max| max.get().into())
}

/// Two random numbers, read at this edge only.
fn draws() -> [u64; 2] {
    [fastrand::u64(..), fastrand::u64(..)]
}

/// The clock of the pools, read at this edge only.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
