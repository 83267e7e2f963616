//! Pools: the servers that serve the same, and the choice between them.
//!
//! [`state`] and [`balance`] decide and are pure; [`server`] is what threads share; this file joins them: it takes events in (a check,
//! a failure, an operator's change), publishes what follows, counts and logs it. Choosing a server reads a snapshot of the members and
//! takes no lock but round robin's own.

pub mod balance;
pub mod server;
pub mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use chrono::Utc;

use crate::config::{Algorithm, PoolConfig, PoolRules, ServerConfig};
use crate::metrics::{Metrics, PoolMetrics};
use balance::{Candidate, RoundRobin};
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
}

impl Pool {
    /// A pool with the servers of the settings file, none of them heard of yet.
    pub fn new(config: &PoolConfig, families: &Arc<Metrics>) -> Self {
        let pool = Self {
            name: Arc::clone(&config.name),
            families: Arc::clone(families),
            metrics: families.pools.handles(&config.name),
            rules: RwLock::new(Arc::new(config.rules.clone())),
            members: RwLock::new(Arc::new([])),
            leaving: Mutex::default(),
            turn: Mutex::default(),
            rotation: AtomicUsize::new(0),
            panic: AtomicBool::new(false),
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

    /// Chooses a server that was not tried yet for a client whose address hashes to `source`.
    ///
    /// A pool in panic uses every server the operator lets it use; once an attempt has failed, those believed to work come first.
    pub fn pick(&self, source: u64, tried: &Tried) -> Option<Lease> {
        let members = self.members();
        let panic = self.panic.load(Ordering::Relaxed);
        let choose = |in_panic: bool| {
            let candidates = members.iter().enumerate().filter_map(|(index, server)| {
                if tried.count > 0 && tried.contains(server) {
                    return None;
                }
                server.candidate(index, in_panic)
            });
            self.choose(candidates, members.len(), source)
        };
        let index = if panic && tried.count == 0 {
            choose(true)
        } else {
            choose(false).or_else(|| if panic { choose(true) } else { None })
        };
        index.map(|index| Lease::new(Arc::clone(&members[index])))
    }

    fn choose(
        &self,
        candidates: impl Iterator<Item = Candidate>,
        servers: usize,
        source: u64,
    ) -> Option<usize> {
        let algorithm = self.rules.read().unwrap_or_else(PoisonError::into_inner).algorithm;
        match algorithm {
            Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => {
                lock(&self.turn).next(candidates)
            }
            Algorithm::LeastConnections => {
                let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
                balance::least_connections(candidates, servers, rotation)
            }
            Algorithm::SourceHash => balance::source_hash(candidates, source),
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

    /// Takes in traffic that worked.
    pub fn handle_success(&self, server: &Server) {
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
        let server = Arc::new(Server::new(config, in_file, returning, metrics));
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

    /// Puts new rules in force.
    pub(crate) fn set_rules(&self, rules: PoolRules) {
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
    }
}

/// A panic while one of these is held leaves plain values, so poison carries no news.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of the pools, read at this edge only.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
