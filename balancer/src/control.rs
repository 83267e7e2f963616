//! The balancer as a whole, as the operator API, the signals and the checks see it.
//!
//! Everything that changes pools and listeners goes through [`Balancer`]: settings by [`Balancer::reload`], the operator's changes under
//! an epoch. Data-path threads hold snapshots and notice changes with the next connection or request.

mod changes;
mod drain;
mod keeping;
mod pace;
mod predecessor;
mod rebalance;
mod reload;
mod sessions;
mod succession;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::check;
use crate::config::admin::AdminConfig;
use crate::config::{Config, FaultRules, ServerConfig};
use crate::handover::link::Left;
use crate::handover::{ByServer, State};
use crate::limits::{Limits, shared};
use crate::metrics::{Close, Metrics};
use crate::pool::server::Server;
use crate::pool::{Pool, Pools};
use crate::proxy::listener::{Listener, Settings};
use crate::proxy::worker::{Command, Handle};
use crate::record::{self, Recorder};
use crate::sight::Sight;
use crate::stick;
use crate::store::RedisRules;
use changes::Ledger;

pub use crate::proxy::session::{Kind, Phase};
pub use changes::{Change, Conditions, Refused, Who};
pub(crate) use drain::DrainOrder;
pub use drain::DrainView;
pub use reload::ReloadError;
pub use sessions::{SESSIONS_PAGE_MAX, SessionFilter, SessionQuery, SessionView};
pub(crate) use succession::UpgradeOrder;

/// How often time has its effect on pools: ramps rise in steps of this, ejections end this late at most.
const POOL_TICK: Duration = Duration::from_millis(50);

/// All there is, shared by everything that is not the data path.
#[derive(Debug)]
pub struct Balancer {
    /// The settings in force; locked for the length of a reload, so that there is one at a time.
    config: tokio::sync::Mutex<Config>,
    pools: Arc<RwLock<Arc<Pools>>>,
    /// Pools taken out whose connections go on.
    leaving: Mutex<Vec<Arc<Pool>>>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    limits: Arc<Limits>,
    workers: Arc<[Handle]>,
    metrics: Arc<Metrics>,
    started: DateTime<Utc>,
    ledger: Mutex<Ledger>,
    /// Who is known; tokens and certificates follow a reload.
    admin: RwLock<Arc<AdminConfig>>,
    /// Whether faults may be injected.
    faults: RwLock<Option<FaultRules>>,
    recorder: Recorder,
    /// Who wants to know of single requests, if anybody.
    sight: Option<Arc<Sight>>,
    keeps_changes: bool,
    /// What several balancers share.
    redis: watch::Sender<Option<Arc<RedisRules>>>,
    /// Servers of the settings that an operator has taken out, by pool.
    removed: Mutex<BTreeMap<String, Vec<String>>>,
    /// Paced drains by server.
    drains: Mutex<HashMap<u64, Arc<drain::Drain>>>,
    /// What the process before this one has left.
    before: Mutex<ByServer<Left>>,
    /// Whether that process is still there.
    accompanied: AtomicBool,
    /// To whoever starts the process that follows this one.
    upgrades: mpsc::Sender<UpgradeOrder>,
    tasks: TaskTracker,
    ended: CancellationToken,
}

impl Balancer {
    /// Builds pools and listeners from `config` on sockets already bound, in the order of its listeners. Nothing is served yet. Orders
    /// for another process to take over go to `upgrades`.
    pub(crate) fn new(
        config: Config,
        sockets: Vec<std::net::TcpListener>,
        workers: Arc<[Handle]>,
        metrics: Arc<Metrics>,
        upgrades: mpsc::Sender<UpgradeOrder>,
    ) -> std::io::Result<Self> {
        let pools: Pools = config
            .pools
            .iter()
            .map(|pool| (Arc::clone(&pool.name), Arc::new(Pool::new(pool, &metrics))))
            .collect();
        let limits = Arc::new(Limits::new(&config, &metrics));
        let sight = Sight::start(&config, &metrics.sight)?;
        let mut listeners = Vec::with_capacity(sockets.len());
        for (listener, socket) in config.listeners.iter().zip(sockets) {
            let settings = Settings::new(listener.clone(), &pools, &limits);
            listeners.push(Arc::new(Listener::new(socket, settings, &metrics, sight.clone())?));
        }
        metrics.reload_successful.set(1);
        metrics.reload_timestamp.set(unix_seconds());
        let admin = config.admin.clone();
        let faults = config.faults;
        let kept =
            record::Limits { bytes_max: admin.journal_bytes_max, files: admin.journal_files };
        let record = Arc::clone(&metrics.record);
        let recorder = Recorder::start(admin.state_dir.as_deref(), kept, record)?;
        let keeps_changes = admin.keep_changes;
        let redis = config.redis.clone();
        Ok(Self {
            config: tokio::sync::Mutex::new(config),
            pools: Arc::new(RwLock::new(Arc::new(pools))),
            leaving: Mutex::default(),
            listeners: Mutex::new(listeners),
            limits,
            workers,
            metrics,
            started: Utc::now(),
            ledger: Mutex::new(Ledger::new()),
            admin: RwLock::new(Arc::new(admin)),
            faults: RwLock::new(faults),
            recorder,
            sight,
            keeps_changes,
            redis: watch::Sender::new(redis),
            removed: Mutex::default(),
            drains: Mutex::default(),
            before: Mutex::default(),
            accompanied: AtomicBool::new(false),
            upgrades,
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
        })
    }

    /// Goes on where the process before was, or sets what the last run has kept; starts checks and lets every worker accept.
    pub(crate) async fn start(self: &Arc<Self>, before: Option<State>) {
        match &before {
            Some(state) => self.adopt(state),
            None => self.restore(),
        }
        let (limits, pools) = (Arc::clone(&self.limits), Arc::clone(&self.pools));
        let metrics = || Arc::clone(&self.metrics);
        if self.redis.borrow().is_some() {
            // Whoever scrapes first finds the figures there.
            drop(self.metrics.shared_limits.handles());
        }
        self.spawn(shared::keep(limits, self.redis.subscribe(), metrics()));
        self.spawn(stick::shared::keep(pools, self.redis.subscribe(), metrics()));
        for pool in self.pools().values() {
            for server in pool.members().iter() {
                self.start_checks(pool, server);
            }
        }
        self.spawn(Arc::clone(&self.limits).keep_figures());
        for listener in self.listeners() {
            self.listen(&listener).await;
        }
    }

    /// Lets time have its effect on the pools until the end.
    pub(crate) async fn keep_time(&self) -> Infallible {
        let mut ticks = interval(POOL_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for pool in self.pools().values() {
                pool.tick();
            }
            lock(&self.leaving).retain(|pool| {
                pool.tick();
                pool.is_leaving()
            });
        }
    }

    /// Whether faults may be injected, and for how long.
    pub fn fault_rules(&self) -> Option<FaultRules> {
        *self.faults.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pools in force.
    pub fn pools(&self) -> Arc<Pools> {
        Arc::clone(&self.pools.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bans, and what is remembered of clients.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bound addresses by listener.
    pub fn addresses(&self) -> HashMap<Arc<str>, SocketAddr> {
        let name = |listener: &Listener| Arc::clone(&listener.settings().config.name);
        self.listeners().iter().map(|listener| (name(listener), listener.address())).collect()
    }

    /// Who is known to the operator API.
    pub(crate) fn admin_config(&self) -> Arc<AdminConfig> {
        Arc::clone(&self.admin.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the program began.
    pub(crate) fn started(&self) -> DateTime<Utc> {
        self.started
    }

    /// Opens the access log anew, because somebody has moved its file away.
    pub(crate) fn reopen_log(&self) {
        if let Some(sight) = &self.sight {
            sight.reopen();
        }
    }

    /// Every figure.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What was changed.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Adds a server at run time; it begins with a ramp.
    pub fn add_server(&self, pool: &Arc<Pool>, config: &ServerConfig) -> Arc<Server> {
        let server = pool.add(config, false, true);
        self.start_checks(pool, &server);
        server
    }

    /// Ends the connections that are bound to a server.
    pub async fn close_server(&self, server: &Server) {
        self.tell_workers(|| Command::CloseServer(server.id(), Close::ServerRemoved)).await;
    }

    /// Accepts nothing more and lets what is in flight end.
    pub(crate) async fn finish(&self) {
        for listener in self.listeners() {
            listener.close();
        }
        self.tell_workers(|| Command::Finish).await;
    }

    /// Ends what is left, then the workers and the checks.
    pub(crate) async fn stop(&self) {
        self.tell_workers(|| Command::CloseAll(Close::Shutdown)).await;
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Connections open on all workers.
    pub(crate) fn active(&self) -> usize {
        self.workers.iter().map(Handle::active).sum()
    }

    /// The listeners in force.
    pub(crate) fn listeners(&self) -> Vec<Arc<Listener>> {
        lock(&self.listeners).clone()
    }

    async fn listen(&self, listener: &Arc<Listener>) {
        self.tell_workers(|| Command::Listen(Arc::clone(listener))).await;
        let purpose = format!("listener:{}", listener.settings().config.name);
        holdfast_telemetry::announce::listening(&purpose, listener.address());
    }

    async fn tell_workers(&self, command: impl Fn() -> Command) {
        for worker in self.workers.iter() {
            worker.tell(command()).await;
        }
    }

    fn start_checks(&self, pool: &Arc<Pool>, server: &Arc<Server>) {
        let watch = check::watch(Arc::clone(pool), Arc::clone(server), Arc::clone(&self.workers));
        self.spawn(watch);
    }

    /// Runs `work` until the end.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Plain values stand behind these locks, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds() -> f64 {
    Utc::now().timestamp_millis() as f64 / 1_000.0
}
