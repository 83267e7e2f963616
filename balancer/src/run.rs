//! The life of the process: bind everything, serve, end gracefully.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::{announce, metrics as telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, doors};
use crate::config::admin::UnixSocket;
use crate::config::{Config, TcpRules};
use crate::control::{Balancer, Who};
use crate::metrics::Metrics;
use crate::proxy::listener;
use crate::proxy::worker::{self, Command, Handle};
use doors::Doors;

/// How often the end looks whether the last connection has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Connections that are told to end have done so within a few wake-ups.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

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
}

impl Bound {
    /// Binds every address of `config`.
    ///
    /// # Errors
    /// The first that cannot be bound, by key and address.
    pub fn bind(config: Config) -> Result<Self, RunError> {
        let bind = |key: String, address, rules: &TcpRules| {
            listener::bind(address, rules).map_err(|source| RunError::Bind { key, address, source })
        };
        let admin = bind("admin.listen".to_owned(), config.admin.listen, &TcpRules::default())?;
        let unix = config.admin.unix.as_ref().map(bind_unix).transpose()?;
        let sockets = config
            .listeners
            .iter()
            .enumerate()
            .map(|(i, listener)| {
                bind(format!("listener[{i}].listen"), listener.listen, &listener.tcp)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { config, admin, unix, sockets })
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
        let Self { config, admin, unix, sockets } = self;
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

        let drain_period = config.drain_period;
        let balancer = Balancer::new(config, sockets, Arc::clone(&handles), metrics)
            .map_err(system("set up listeners and the journal"))?;
        let balancer = Arc::new(balancer);
        let admin = tokio::net::TcpListener::from_std(admin).map_err(system("poll a socket"))?;
        let admin_address = admin.local_addr().map_err(system("read a socket's address"))?;
        let router = admin::router(Arc::clone(&balancer), registry, readiness.clone());
        let router = router.into_make_service_with_connect_info::<admin::Via>();
        let doors = Doors::open(&balancer, admin, unix).map_err(system("poll a socket"))?;
        let mut admin = tokio::spawn(axum::serve(doors, router).into_future());

        // Both are listened for before the first address is announced: whoever reads it may signal at once.
        let hangups = signal(SignalKind::hangup()).map_err(system("listen for SIGHUP"))?;
        let moves = signal(SignalKind::user_defined1()).map_err(system("listen for SIGUSR1"))?;
        let mut shutdown = std::pin::pin!(shutdown);
        let start = async {
            announce::listening("admin", admin_address);
            balancer.start().await;
            serving.met();
            tracing::info!(workers = count, "serving");
            if let Some(started) = started {
                let balancer = Arc::clone(&balancer);
                // Whoever asked may have lost interest.
                let _ = started.send(Started { admin: admin_address, balancer });
            }
            tokio::select! {
                () = worker_ended.cancelled() => RunError::WorkerEnded,
                _ = &mut admin => RunError::AdminEnded,
                never = balancer.keep_time() => match never {},
                never = reload_on_hangup(&balancer, hangups) => match never {},
                never = reopen_on_signal(&balancer, moves) => match never {},
            }
        };
        let outcome = tokio::select! {
            biased;
            () = &mut shutdown => Ok(()),
            error = start => Err(error),
        };
        readiness.begin_shutdown();
        if outcome.is_ok() {
            drain(&balancer, drain_period).await;
        }
        balancer.stop().await;
        end_workers(&balancer, &handles, threads).await;
        admin.abort();
        outcome
    }
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
        // It has logged and counted what was wrong.
        let _ = balancer.reload(&Who::ourselves("SIGHUP")).await;
    }
}

/// Waits until the last connection has ended, for the drain period at most.
async fn drain(balancer: &Balancer, period: Duration) {
    balancer.finish().await;
    let deadline = Instant::now() + period;
    while balancer.active() > 0 && Instant::now() < deadline {
        sleep(DRAIN_POLL).await;
    }
    let left = balancer.active();
    if left > 0 {
        tracing::warn!(connections = left, "drain period is over, closing what is left");
    }
}

async fn end_workers(balancer: &Balancer, handles: &[Handle], threads: Vec<JoinHandle<()>>) {
    let ended = async {
        while balancer.active() > 0 {
            sleep(DRAIN_POLL).await;
        }
    };
    if timeout(CLOSE_GRACE, ended).await.is_err() {
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
