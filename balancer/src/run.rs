//! The life of the process: bind everything, serve, end gracefully.

mod successor;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::operators::{self, OperatorServer};
use holdfast_telemetry::{announce, metrics as telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, doors};
use crate::config::admin::UnixSocket;
use crate::config::{Config, DrainRules, Pace, TcpRules};
use crate::control::{Balancer, Who};
use crate::handover::{Inherited, Program, TakenOver, link, service};
use crate::metrics::Metrics;
use crate::proxy::listener;
use crate::proxy::worker::{self, Command, Handle};
use doors::Doors;
use successor::Successor;

/// How often the end looks whether the last connection has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Connections that are told to end have done so within a few wake-ups.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// WebSockets that are told to leave have done so after a round trip; the process is to end soon.
const GOODBYE_GRACE: Duration = Duration::from_secs(2);
/// What an operator has asked for is answered; the answer only has to be read.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// Why the program could not run, or could not run on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address of the settings cannot be bound.
    #[error("{key}: bind {address}")]
    Bind {
        /// The settings key that names it.
        key: String,
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket of the operator API cannot be made.
    #[error("admin.unix: bind {}", path.display())]
    BindUnix {
        /// Where it was to be.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The system refused something basic.
    #[error("{attempt}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A worker thread has ended by itself; half a balancer is worse than a restart.
    #[error("a worker thread has ended")]
    WorkerEnded,
    /// The operator API has ended by itself.
    #[error("the operator API has ended")]
    AdminEnded,
}

/// Everything bound, nothing served yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    admin: TcpListener,
    unix: Option<UnixListener>,
    sockets: Vec<TcpListener>,
    inherited: Inherited,
    program: Option<Program>,
}

impl Bound {
    /// Binds every address of `config`.
    ///
    /// # Errors
    /// The first that cannot be bound, by key and address.
    pub fn bind(config: Config) -> Result<Self, RunError> {
        Self::bind_beside(config, Inherited::default())
    }

    /// Binds every address of `config` for which `inherited` has no socket.
    ///
    /// # Errors
    /// The first that cannot be bound, by key and address.
    pub fn bind_beside(config: Config, mut inherited: Inherited) -> Result<Self, RunError> {
        let bind = |key: String, address, rules: &TcpRules| {
            listener::bind(address, rules).map_err(|source| RunError::Bind { key, address, source })
        };
        let at = config.admin.listen;
        let admin = match inherited.take_admin(at) {
            Some(admin) => admin,
            None => bind("admin.listen".to_owned(), at, &TcpRules::default())?,
        };
        let unix = match (&config.admin.unix, inherited.take_admin_unix()) {
            (Some(socket), Some(unix)) if is_at(&unix, socket) => Some(unix),
            (Some(socket), _) => Some(bind_unix(socket)?),
            (None, _) => None,
        };
        let sockets = config
            .listeners
            .iter()
            .enumerate()
            .map(|(i, listener)| match inherited.take_listener(&listener.name, listener.listen) {
                Some(socket) => Ok(socket),
                None => bind(format!("listener[{i}].listen"), listener.listen, &listener.tcp),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { config, admin, unix, sockets, inherited, program: None })
    }

    /// Starts `program` to take over, on SIGUSR2 or when an operator asks for it.
    #[must_use]
    pub fn succeeded_by(mut self, program: Program) -> Self {
        self.program = Some(program);
        self
    }

    /// Serves until `shutdown` comes, then ends gracefully. `started` is told once connections are accepted.
    ///
    /// # Errors
    /// A part that must not end has ended.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()>,
        started: Option<oneshot::Sender<Started>>,
    ) -> Result<(), RunError> {
        let Self { config, admin, unix, sockets, mut inherited, program } = self;
        let system = |attempt| move |source| RunError::System { attempt, source };
        let registry = telemetry::registry("balancer", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::register(&registry);
        let readiness = Readiness::new();
        let serving = readiness.condition("listeners");

        let count = config.workers.unwrap_or_else(cores);
        let (handles, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| Handle::new()).unzip();
        let handles: Arc<[Handle]> = handles.into();
        let worker_ended = CancellationToken::new();
        let threads = mailboxes
            .into_iter()
            .enumerate()
            .map(|(index, mailbox)| {
                let (all, metrics) = (Arc::clone(&handles), Arc::clone(&metrics));
                let guard = worker_ended.clone().drop_guard();
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                    let _guard = guard;
                    if let Err(error) = worker::run(index, all, mailbox, metrics) {
                        tracing::error!(%error, "cannot start a worker's runtime");
                    }
                })
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(system("start a worker thread"))?;

        let rules = config.drain;
        let doors = successor::doors(&admin, unix.as_ref()).map_err(system("double a socket"))?;
        let (successor, upgrades) = Successor::new(program, doors, rules.upgrade_timeout);
        let balancer = Balancer::new(config, sockets, Arc::clone(&handles), metrics, upgrades)
            .map_err(system("set up listeners and the journal"))?;
        let balancer = Arc::new(balancer);
        let admin = tokio::net::TcpListener::from_std(admin).map_err(system("poll a socket"))?;
        let admin_address = admin.local_addr().map_err(system("read a socket's address"))?;
        operators::close_stalled(&admin).map_err(system("set up a socket"))?;
        let server = OperatorServer::new(&registry, "balancer", operators::Limits::default());
        let router = admin::router(Arc::clone(&balancer), registry, readiness.clone());
        let opened = Doors::open(&balancer, admin, unix);
        let (doors, keeper) = opened.map_err(system("poll a socket"))?;
        let mut admin = tokio::spawn(server.serve(doors, router, keeper.last_answer()));

        // Both are listened for before the first address is announced: whoever reads it may signal at once.
        let hangups = signal(SignalKind::hangup()).map_err(system("listen for SIGHUP"))?;
        let moves = signal(SignalKind::user_defined1()).map_err(system("listen for SIGUSR1"))?;
        let upgrades = signal(SignalKind::user_defined2()).map_err(system("listen for SIGUSR2"))?;
        let mut shutdown = std::pin::pin!(shutdown);
        let start = async {
            announce::listening("admin", admin_address);
            balancer.start(inherited.take_state()).await;
            serving.met();
            service::notify("READY=1");
            balancer.accompany(inherited.say_ready());
            tracing::info!(workers = count, "serving");
            if let Some(started) = started {
                let balancer = Arc::clone(&balancer);
                // Whoever asked may have lost interest.
                let _ = started.send(Started { admin: admin_address, balancer });
            }
            tokio::select! {
                () = worker_ended.cancelled() => End::Failed(RunError::WorkerEnded),
                _ = &mut admin => End::Failed(RunError::AdminEnded),
                by = successor.take_over_on(&balancer, &keeper, upgrades) => End::Replaced(by),
                never = balancer.keep_time() => match never {},
                never = balancer.rebalance() => match never {},
                never = reload_on_hangup(&balancer, hangups) => match never {},
                never = reopen_on_signal(&balancer, moves) => match never {},
            }
        };
        let end = tokio::select! {
            biased;
            () = &mut shutdown => End::Asked,
            end = start => end,
        };
        readiness.begin_shutdown();
        let outcome = match end {
            End::Asked => {
                service::notify("STOPPING=1");
                drain(&balancer, rules.period, rules.pace).await;
                Ok(())
            }
            End::Replaced(TakenOver { process, line }) => {
                tracing::info!(process, "another process has taken over");
                service::notify(&format!("READY=1\nMAINPID={process}"));
                // Who keeps a connection shall ask the new process from now on.
                keeper.release();
                link::attend(&balancer, line, linger(&balancer, rules, shutdown)).await;
                // Whoever asked for it may not have the answer yet.
                if timeout(ANSWER_GRACE, &mut admin).await.is_err() {
                    tracing::debug!("somebody at the operator API does not take an answer");
                }
                Ok(())
            }
            End::Failed(error) => Err(error),
        };
        balancer.stop().await;
        end_workers(&balancer, &handles, threads).await;
        admin.abort();
        outcome
    }
}

/// Why it serves no more.
enum End {
    /// A signal.
    Asked,
    /// Another process has taken over.
    Replaced(TakenOver),
    Failed(RunError),
}

fn is_at(unix: &UnixListener, socket: &UnixSocket) -> bool {
    unix.local_addr().is_ok_and(|address| address.as_pathname() == Some(&socket.path))
}

fn bind_unix(socket: &UnixSocket) -> Result<UnixListener, RunError> {
    let path = || socket.path.clone();
    doors::bind_unix(socket).map_err(|source| RunError::BindUnix { path: path(), source })
}

/// A balancer that accepts connections.
#[derive(Debug)]
pub struct Started {
    /// Where its operator API is.
    pub admin: SocketAddr,
    /// The balancer itself.
    pub balancer: Arc<Balancer>,
}

/// Opens the access log anew on each SIGUSR1.
async fn reopen_on_signal(balancer: &Balancer, mut moves: Signal) -> Infallible {
    loop {
        moves.recv().await;
        balancer.reopen_log();
    }
}

/// Reloads on each SIGHUP.
async fn reload_on_hangup(balancer: &Balancer, mut hangups: Signal) -> Infallible {
    loop {
        hangups.recv().await;
        service::notify_reloading();
        // It has logged and counted what was wrong.
        let _ = balancer.reload(&Who::ourselves("SIGHUP")).await;
        service::notify("READY=1");
    }
}

/// After another process has taken over: goes on with what is open for the time set, or until it is asked to end.
async fn linger(balancer: &Balancer, rules: DrainRules, asked: impl Future<Output = ()>) {
    balancer.finish().await;
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        _ = timeout(rules.upgrade_period, until_nobody_is_left(balancer)) => {}
        () = &mut asked => return drain(balancer, rules.period, rules.pace).await,
    }
    // In as many seconds as the pace needs for them all.
    let seconds =
        rules.pace.map_or(0, |pace| balancer.active() as u64 / u64::from(pace.per_second()) + 1);
    tokio::select! {
        () = drain(balancer, Duration::from_secs(seconds), rules.pace) => {}
        () = &mut asked => drain(balancer, rules.period, rules.pace).await,
    }
}

/// Waits until the last connection has ended, for `period` at most. Relayed connections are told to leave at `pace` meanwhile, and what is
/// left at the end at once.
async fn drain(balancer: &Balancer, period: Duration, pace: Option<Pace>) {
    balancer.finish().await;
    let ended = async {
        tokio::select! {
            () = until_empty(balancer) => {}
            never = balancer.say_goodbye(pace) => match never {},
        }
    };
    if timeout(period, ended).await.is_ok() {
        return;
    }
    tracing::warn!(connections = balancer.active(), "drain period is over, closing what is left");
    balancer.dismiss_all().await;
    // Who does not answer is cut off next.
    let _ = timeout(GOODBYE_GRACE, until_empty(balancer)).await;
}

async fn until_empty(balancer: &Balancer) {
    while balancer.active() > 0 {
        sleep(DRAIN_POLL).await;
    }
}

/// As [`until_empty`], also for those for whom only this process speaks.
async fn until_nobody_is_left(balancer: &Balancer) {
    while balancer.active() > 0 || balancer.is_accompanied() {
        sleep(DRAIN_POLL).await;
    }
}

async fn end_workers(balancer: &Balancer, handles: &[Handle], threads: Vec<JoinHandle<()>>) {
    if timeout(CLOSE_GRACE, until_empty(balancer)).await.is_err() {
        tracing::error!(connections = balancer.active(), "connections did not end");
    }
    for handle in handles {
        handle.tell(Command::Stop).await;
    }
    for thread in threads {
        // A worker that panicked has been reported by the panic itself.
        let _ = thread.join();
    }
}

/// One worker per core.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
