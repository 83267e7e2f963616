//! One server of a pool as the programs' threads share it.
//!
//! The [`ServerState`] stands behind a lock that is taken when something about the server changes. What the data path asks for each
//! connection (may it, with what share, how many has it) is published beside it in atomics, so choosing a server takes no lock.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::balance::{self, Candidate, PeakEwma};
use super::lifetime;
use super::outliers::Tally;
use super::room::Room;
use super::state::{Health, ServerState};
use crate::config::{Address, CheckPlace, PoolRules, ServerConfig, Weight};
use crate::metrics::ServerMetrics;

/// Thousandths: a ramp has steps even at weight 1.
const SHARE_UNIT: f64 = 1_000.0;

/// Numbers servers over the life of the process; a server that returns under an old name is another one.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A server and everything known of it.
#[derive(Debug)]
pub struct Server {
    id: u64,
    name: Arc<str>,
    address: Address,
    key: u64,
    record: Mutex<Record>,
    /// Share of new connections, in thousandths of weight; 0 if not usable.
    share: AtomicU32,
    /// Share when nobody is usable; 0 if the operator does not want it used.
    share_in_panic: AtomicU32,
    /// Connections it may have; the largest number if there is no limit.
    connections_max: AtomicU64,
    /// New WebSockets and TCP connections it is given per second.
    admission: Admission,
    /// What the traffic shows, where outliers are detected.
    pub(crate) tally: Tally,
    /// Whether failures are being counted, so that a success is worth taking the lock.
    failing: AtomicBool,
    latency: Mutex<PeakEwma>,
    /// For its connections that live long.
    pub(crate) lifetime: lifetime::Published,
    /// The line for a place here or at another server of the pool.
    room: Arc<Room>,
    pub(crate) metrics: ServerMetrics,
    /// Wakes the active check early, because traffic has failed.
    pub(crate) check_now: Notify,
    /// Cancelled when the server is taken from its pool.
    pub(crate) removed: CancellationToken,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) state: ServerState,
    /// Weight the settings or the one who added it gave; the API may have set another since.
    pub(crate) configured_weight: Weight,
    /// Connections it may have, if not as many as its pool says.
    pub(crate) connections_max: Option<NonZeroU32>,
    /// That as the settings or the one who added it said; the API may have set another since.
    pub(crate) configured_connections_max: Option<NonZeroU32>,
    /// What its checks have otherwise than the pool's.
    pub(crate) check: CheckPlace,
    /// Whether the settings file names it.
    pub(crate) in_file: bool,
    /// The operator's reason for the last change of state or weight.
    pub(crate) reason: Option<String>,
    pub(crate) last_change: DateTime<Utc>,
}

impl Server {
    /// A server nobody has heard of yet.
    pub(crate) fn new(
        config: &ServerConfig,
        in_file: bool,
        returning: bool,
        metrics: ServerMetrics,
        room: Arc<Room>,
    ) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: Arc::clone(&config.name),
            address: config.address.clone(),
            key: balance::hash(config.name.as_bytes()),
            record: Mutex::new(Record {
                state: ServerState::new(config.weight, returning),
                configured_weight: config.weight,
                connections_max: config.connections_max,
                configured_connections_max: config.connections_max,
                check: config.check.clone(),
                in_file,
                reason: None,
                last_change: Utc::now(),
            }),
            share: AtomicU32::new(0),
            share_in_panic: AtomicU32::new(0),
            connections_max: AtomicU64::new(u64::MAX),
            admission: Admission::default(),
            tally: Tally::default(),
            failing: AtomicBool::new(false),
            latency: Mutex::default(),
            lifetime: lifetime::Published::default(),
            room,
            metrics,
            check_now: Notify::new(),
            removed: CancellationToken::new(),
        }
    }

    /// Unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Name in its pool.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// [`balance::hash`] of its name: the same in every balancer, and says nothing to a client.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Takes in the latency of a response.
    pub(crate) fn observe_latency(&self, now: Duration, latency: Duration) {
        self.latency().observe(now, latency);
    }

    /// What a further request is expected to cost here.
    pub(crate) fn cost(&self, now: Duration, candidate: &Candidate) -> f64 {
        self.latency().cost(now, candidate)
    }

    fn latency(&self) -> MutexGuard<'_, PeakEwma> {
        // Two numbers; a panic between their assignments leaves nothing worse than a wrong date.
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connections in use: requests in flight, upgraded and TCP connections.
    pub fn active(&self) -> u64 {
        u64::try_from(self.metrics.active.get()).unwrap_or(0)
    }

    /// Whether new connections go there.
    pub fn is_usable(&self) -> bool {
        self.share.load(Ordering::Relaxed) > 0
    }

    /// Whether the operator lets it take connections at all.
    pub(crate) fn may_be_tried(&self) -> bool {
        self.share_in_panic.load(Ordering::Relaxed) > 0
    }

    /// Whether a success has to be reported.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// This server for the choice, if it may be chosen and has room.
    pub(crate) fn candidate(&self, index: usize, panic: bool) -> Option<Candidate> {
        let share = if panic { &self.share_in_panic } else { &self.share };
        let share = share.load(Ordering::Relaxed);
        let active = self.active();
        let has_room = active < self.connections_max();
        (share > 0 && has_room).then_some(Candidate { index, share, active, key: self.key })
    }

    /// Its share of new connections, in thousandths of weight.
    pub(crate) fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    /// Connections it may have at a time; the largest number if there is no limit.
    pub fn connections_max(&self) -> u64 {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Whether it may be full, or given too much at once.
    pub(crate) fn is_limited(&self) -> bool {
        self.connections_max() < u64::MAX || self.admission.is_limited()
    }

    /// How many WebSockets and TCP connections it may be given.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        // A panic while it is held cannot leave it half written: every change is an assignment of plain values.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends checks and shows that nothing new goes there; what is open goes on.
    pub(crate) fn retire(&self) {
        self.removed.cancel();
        self.share.store(0, Ordering::Relaxed);
        self.share_in_panic.store(0, Ordering::Relaxed);
        self.metrics.usable.set(0);
    }

    /// Shows what `record` says to the data path and in the metrics.
    pub(crate) fn publish(&self, record: &Record, rules: &PoolRules, now: Instant) {
        let state = &record.state;
        // What still goes on at a server that was taken out must not show it as usable again.
        let member = !self.removed.is_cancelled();
        let usable = member && state.is_usable(rules);
        let weight = state.effective_weight(now, rules);
        // At most 256,000, and at least 1 where there is any weight.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "weights are between 0 and 256"
        )]
        let share = (weight * SHARE_UNIT).ceil() as u32;
        self.share.store(if usable { share } else { 0 }, Ordering::Relaxed);
        let in_panic = if member && state.may_be_tried() { share } else { 0 };
        self.share_in_panic.store(in_panic, Ordering::Relaxed);
        self.failing.store(state.is_failing(), Ordering::Relaxed);
        let agent = state.agent();
        let written = record.connections_max.or(rules.server_connections_max);
        // Whoever knows of the narrowest place is right.
        let max = written.into_iter().chain(agent.connections_max).min();
        let max = max.map_or(u64::MAX, |max| max.get().into());
        self.connections_max.store(max, Ordering::Relaxed);
        let ramp = state.ramp(now, rules.slow_start);
        let rate = rules.server_rate_max.map(|rate| f64::from(rate.get()) * ramp);
        self.admission.set_rate(rate);
        self.lifetime.set(&rules.lifetime);

        let up = match state.health() {
            Health::Up => true,
            Health::Unknown => rules.check.is_none(),
            Health::Down => false,
        };
        self.metrics.up.set(up.into());
        self.metrics.usable.set(usable.into());
        self.metrics.weight.set(state.weight().get().into());
        self.metrics.effective_weight.set(weight);
        for (gauge, each) in self.metrics.state.iter().zip(super::state::AdminState::ALL) {
            gauge.set((state.admin() == each).into());
        }
    }
}

/// A server in use by one request or connection; dropping it gives the place back.
#[derive(Debug)]
pub struct Lease {
    server: Arc<Server>,
}

impl Lease {
    /// Takes a place at `server`; `None` if it has as many connections as it may.
    pub(crate) fn new(server: Arc<Server>) -> Option<Self> {
        server.metrics.active.inc();
        // Counted before it is looked at, so that of two who come at once not both get the last place.
        let lease = Self { server };
        (lease.server.active() <= lease.server.connections_max()).then_some(lease)
    }
}

impl Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.metrics.active.dec();
        self.server.room.note_free();
    }
}
