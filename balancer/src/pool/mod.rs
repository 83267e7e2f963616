//! Pools: the servers that serve the same, and the choice between them.
//!
//! [`state`], [`outliers`] and [`balance`] decide and are pure; [`server`] is what threads share; this file joins them for
//! the choice and for the operator, `events` for what happens by itself. Choosing a server reads a snapshot of the members and
//! takes no lock but round robin's own.

pub mod admission;
pub mod agent;
pub mod balance;
mod events;
mod lifetime;
pub mod outliers;
pub(crate) mod rebalance;
pub mod retry;
pub(crate) mod room;
pub mod server;
pub mod state;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::config::{Algorithm, PoolConfig, PoolRules, ServerConfig};
use crate::faults::{Fault, Faults, Order, TooMany};
use crate::metrics::{Metrics, PoolMetrics};
use crate::published::{Local, Published};
use crate::stick::{Stick, StickRules, StickTable};
use balance::{Candidate, RoundRobin};
use outliers::Detector;
use retry::{Budget, Permit};
use room::Room;
use server::{Lease, Record, Server};

/// Servers tried for one request or connection before giving up: enough to pass over a rack of dead ones, few enough to answer soon.
pub const ATTEMPTS_MAX: usize = 5;

/// All pools by name. Replaced as a whole, never changed in place.
pub type Pools = BTreeMap<Arc<str>, Arc<Pool>>;

/// Servers already tried for one request or connection.
#[derive(Debug, Clone, Copy, Default)]
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

    /// Servers tried so far.
    pub fn count(&self) -> usize {
        self.count
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
    /// Whether it opens something that stays (a WebSocket, a TCP connection), of which a server may be given so many per second.
    pub opens: bool,
}

/// Comparing servers, and when that is due again.
#[derive(Debug, Default)]
struct Comparison {
    due: Option<Instant>,
    detector: Detector,
}

/// What a request finds in a pool; replaced as a whole.
#[derive(Debug)]
pub(crate) struct View {
    /// In force.
    pub(crate) rules: Arc<PoolRules>,
    /// The servers in force.
    members: Arc<[Arc<Server>]>,
}

/// A number that every request changes, in a cache line of its own: what stands beside it is only read.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Rotation(AtomicUsize);

/// One pool.
#[derive(Debug)]
pub struct Pool {
    name: Arc<str>,
    families: Arc<Metrics>,
    pub(crate) metrics: PoolMetrics,
    view: Published<View>,
    /// Servers taken out whose connections go on.
    leaving: Mutex<Vec<Arc<Server>>>,
    turn: Mutex<RoundRobin>,
    rotation: Rotation,
    panic: AtomicBool,
    pub(crate) room: Arc<Room>,
    retries: Budget,
    faults: Faults,
    /// Whether servers are compared by their traffic.
    detects: AtomicBool,
    detector: Mutex<Comparison>,
    /// Whether the algorithm wants to know latencies.
    judges_latency: AtomicBool,
    /// When it was made; latencies are dated by its age.
    made: Instant,
    /// Which server a client has been to, where that is remembered.
    stick: RwLock<Option<Arc<StickTable>>>,
}

impl Pool {
    /// A pool with the servers of the settings file, none of them heard of yet.
    pub fn new(config: &PoolConfig, families: &Arc<Metrics>) -> Self {
        let metrics = families.pools.handles(&config.name);
        let pool = Self {
            name: Arc::clone(&config.name),
            families: Arc::clone(families),
            room: Arc::new(Room::new(metrics.queued.clone())),
            metrics,
            retries: Budget::new(&config.rules.retries),
            faults: Faults::new(families.faults.handles(&config.name)),
            detects: AtomicBool::new(config.rules.outliers.is_some()),
            detector: Mutex::default(),
            view: Published::new(View {
                rules: Arc::new(config.rules.clone()),
                members: Arc::new([]),
            }),
            leaving: Mutex::default(),
            turn: Mutex::default(),
            rotation: Rotation::default(),
            panic: AtomicBool::new(false),
            judges_latency: AtomicBool::new(config.rules.algorithm == Algorithm::PeakEwma),
            made: now(),
            stick: RwLock::default(),
        };
        pool.set_stick(config.rules.stick.as_ref());
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
        Arc::clone(&self.view.get().rules)
    }

    /// The servers in force.
    pub fn members(&self) -> Arc<[Arc<Server>]> {
        Arc::clone(&self.view.get().members)
    }

    /// Rules and servers for a worker, at no cost for the others.
    pub(crate) fn view(&self) -> Rc<Local<View>> {
        self.view.local()
    }

    /// The servers in force, and those taken out whose connections go on.
    pub(crate) fn present_and_past(&self) -> Vec<Arc<Server>> {
        let mut servers = self.members().to_vec();
        servers.extend(lock(&self.leaving).iter().cloned());
        servers
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<Arc<Server>> {
        self.members().iter().find(|server| &**server.name() == name).cloned()
    }

    /// Chooses a server that was not tried yet: the one a client has been to if it may be used, else as the algorithm has it.
    ///
    /// A pool in panic uses every server the operator lets it use; once an attempt has failed, those believed to work come first.
    pub fn pick(&self, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let view = self.view();
        let members = &view.members;
        let lease = |server: &Arc<Server>| {
            let lease = Lease::new(Arc::clone(server))?;
            // The place first: a token that was taken is gone.
            let admitted = !ask.opens
                || !server.admission().is_limited()
                || server.admission().take(self.age());
            admitted.then_some(lease)
        };
        let admits = |server: &Server| {
            !ask.opens
                || !server.admission().is_limited()
                || server.admission().tokens(self.age()) > 0
        };
        if let Some(key) = ask.sticky {
            let known = members.iter().find(|server| server.key() == key && server.is_usable());
            let known = known.filter(|server| !tried.contains(server));
            if let Some(lease) = known.and_then(lease) {
                return Some(lease);
            }
        }
        let panic = self.panic.load(Ordering::Relaxed);
        let choose = |in_panic: bool| {
            let candidates = members.iter().enumerate().filter_map(|(index, server)| {
                if tried.count > 0 && tried.contains(server) {
                    return None;
                }
                server.candidate(index, in_panic).filter(|_| admits(server))
            });
            self.choose(candidates, &view, ask)
        };
        let index = if panic && tried.count == 0 {
            choose(true)
        } else {
            choose(false).or_else(|| if panic { choose(true) } else { None })
        };
        lease(&members[index?])
    }

    /// After [`Self::pick`] has found nobody: whether it would have if a server had room.
    pub(crate) fn lacks_room(&self, tried: &Tried) -> bool {
        self.members().iter().any(|server| {
            let panic = self.panic.load(Ordering::Relaxed);
            let wanted = server.is_usable() || (panic && server.may_be_tried());
            server.is_limited() && wanted && !tried.contains(server)
        })
    }

    /// Faults that operators have injected.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Puts a fault in force.
    ///
    /// # Errors
    /// There are too many already.
    pub fn inject(&self, order: Order) -> Result<Arc<Fault>, TooMany> {
        let fault = self.faults.inject(now(), Utc::now(), order)?;
        tracing::warn!(pool = %self.name, fault = fault.id, effect = fault.order.effect.as_str(),
            server = fault.order.server.as_deref(), share = fault.order.share, ends = %fault.ends,
            "fault injected");
        Ok(fault)
    }

    /// Ends the faults for which `over` holds, and says how many.
    pub fn end_faults(&self, over: impl Fn(&Fault) -> bool) -> usize {
        let ended = self.faults.end(over);
        self.note_ended(&ended);
        ended.len()
    }

    fn note_ended(&self, ended: &[Arc<Fault>]) {
        for fault in ended {
            tracing::warn!(pool = %self.name, fault = fault.id, effect = fault.order.effect.as_str(),
                injected = fault.injected(), "injected fault ended");
        }
    }

    /// The place of a client in the table that remembers its server, if there is one; of the hashes of its address and of the part of
    /// its request by which the pool knows clients.
    pub(crate) fn stick(&self, rules: &PoolRules, source: u64, part: Option<u64>) -> Option<Stick> {
        let subject = rules.stick.as_ref()?.subject(source, part)?;
        Some(Stick::new(self.stick_table()?, subject))
    }

    /// What remembers the servers of clients, if anything.
    pub(crate) fn stick_table(&self) -> Option<Arc<StickTable>> {
        self.stick.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same if other balancers share it.
    pub(crate) fn shared_stick_table(&self) -> Option<Arc<StickTable>> {
        self.stick_table().filter(|table| table.rules().shared)
    }

    /// A table with other rules begins empty: what it went by may be something else.
    fn set_stick(&self, rules: Option<&StickRules>) {
        let mut table = self.stick.write().unwrap_or_else(PoisonError::into_inner);
        if table.as_ref().map(|table| table.rules()) == rules {
            return;
        }
        let families = &self.families.sticks;
        if rules.is_none() {
            families.forget(&self.name);
        }
        let new = |rules: &StickRules| {
            Arc::new(StickTable::new(rules.clone(), now(), families.handles(&self.name)))
        };
        *table = rules.map(new);
    }

    /// Permission to ask another server after one has failed, if not too much is being asked again already.
    pub(crate) fn permit_retry(&self, rules: &PoolRules) -> Option<Permit> {
        let active = self.members().iter().map(|server| server.active()).sum();
        let permit = self.retries.permit(self.age(), active, &rules.retries);
        if permit.is_none() {
            self.metrics.retries_denied.inc();
        }
        permit
    }

    fn choose(
        &self,
        candidates: impl Iterator<Item = Candidate> + Clone,
        view: &View,
        ask: &Ask,
    ) -> Option<usize> {
        let members = &view.members;
        match view.rules.algorithm {
            Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => {
                lock(&self.turn).next(candidates)
            }
            Algorithm::LeastConnections => {
                // One server has no turn.
                let rotation = match members.len() {
                    0 | 1 => 0,
                    _ => self.rotation.0.fetch_add(1, Ordering::Relaxed),
                };
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
        self.retries.set_rules(&rules.retries);
        self.set_stick(rules.stick.as_ref());
        self.detects.store(rules.outliers.is_some(), Ordering::Relaxed);
        self.room.note_change();
        self.judges_latency.store(rules.algorithm == Algorithm::PeakEwma, Ordering::Relaxed);
        let rules = Arc::new(rules);
        let old = self.rules();
        self.view
            .change(|view| View { rules: Arc::clone(&rules), members: Arc::clone(&view.members) });
        let check_differs = match (&old.check, &rules.check) {
            (Some(old), Some(new)) => old.kind != new.kind || old.port != new.port,
            (None, None) => false,
            _ => true,
        };
        for server in self.members().iter() {
            let mut record = server.record();
            if check_differs {
                record.state.forget_health();
            }
            if rules.agent.is_none() {
                record.state.forget_agent();
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
        self.end_faults(|_| true);
        self.families.faults.forget(&self.name);
        self.families.pools.forget(&self.name);
        self.set_stick(None);
    }

    /// Whether servers that left still have connections.
    pub(crate) fn is_leaving(&self) -> bool {
        !lock(&self.leaving).is_empty()
    }

    fn set_members(&self, change: impl FnOnce(&mut Vec<Arc<Server>>)) {
        self.view.change(|view| {
            let mut list = view.members.to_vec();
            change(&mut list);
            View { rules: Arc::clone(&view.rules), members: list.into() }
        });
        // Positions have moved, so what each position has earned is void.
        *lock(&self.turn) = RoundRobin::default();
        self.refresh_panic();
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

/// Two random numbers, read at this edge only.
fn draws() -> [u64; 2] {
    [fastrand::u64(..), fastrand::u64(..)]
}

/// The clock of the pools, read at this edge only.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
