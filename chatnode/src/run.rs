//! Puts the node together, runs it, and takes it down in order.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::{self, SetupError, Surroundings};
use crate::broker::Broker;
use crate::broker::bus::{Bus, Switchboard};
use crate::broker::memory::MemoryBroker;
use crate::broker::redis::RedisBroker;
use crate::config::{self, Config};
use crate::connections::Connections;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::probe::Probe;
use crate::server::{self, LISTENER_GRACE, Node, Operators, Wheel};
use crate::session::{Bucket, Shared};
use crate::watch::Watch;
use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::metrics::registry;

/// How long closed connections may take to end, which is the time clients have to answer a close and a little more.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(6);

/// How long the broker's tasks may take to end.
const BROKER_GRACE: Duration = Duration::from_secs(1);

/// The sockets a node listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub client: TcpListener,
    /// For operators and scrapers.
    pub admin: TcpListener,
}

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {key} = {address}")]
pub struct BindError {
    key: &'static str,
    address: std::net::SocketAddr,
    source: io::Error,
}

impl Listeners {
    /// Binds both, or none.
    ///
    /// # Errors
    /// One of the addresses is taken or not ours.
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        let bind = async |key, address| {
            TcpListener::bind(address).await.map_err(|source| BindError { key, address, source })
        };
        let client = bind("node.listen", config.listen).await?;
        let admin = bind("node.admin_listen", config.admin_listen).await?;
        Ok(Self { client, admin })
    }
}

/// Why a node did not run, or did not run on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be put together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A node that cannot be reached is worse than one that is started again.
    #[error("the listener for {0} has ended")]
    ListenerEnded(&'static str),
}

/// Runs a node until `stop` is ready or it is asked to drain, then drains it.
///
/// # Errors
/// It could not be put together, or a listener ended by itself.
pub async fn run(
    listeners: Listeners,
    config: Config,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let registry = registry("chatnode", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&registry);
    let readiness = Readiness::new();
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());

    let hub = Arc::new(Hub::new(metrics.clone()));
    let (switchboard, lines) = Switchboard::new(Arc::clone(&hub) as _, metrics.clone());
    let switchboard = Arc::new(switchboard);
    let broker: Arc<dyn Broker> = match config.broker {
        config::Broker::Memory => {
            warn!("messages are kept in memory: this node is alone, and they end with it");
            Arc::new(MemoryBroker::start(switchboard, &tasks, &shutdown))
        }
        config::Broker::Redis(settings) => {
            let name = &config.name;
            Arc::new(RedisBroker::start(settings, name, switchboard, &metrics, &tasks, &shutdown))
        }
    };
    let condition = readiness.condition("redis");
    let probe = Probe::new(Arc::clone(&broker), lines.probe, metrics.clone(), condition);
    tasks.spawn(probe.run(shutdown.clone()));
    let bus = Bus::new(Arc::clone(&broker), &config.name, metrics.clone());
    tasks.spawn(bus.clone().run(lines.bus, shutdown.clone()));
    let connections = Arc::new(Connections::new(&config.client, metrics.clone()));
    let entrance = access::start(
        config.access,
        Surroundings {
            name: &config.name,
            file: config.file,
            broker: Arc::clone(&broker),
            bus: bus.clone(),
            connections: Arc::clone(&connections),
            hub: Arc::clone(&hub),
            registry: &registry,
            tasks: &tasks,
            shutdown: &shutdown,
        },
    )?;
    let namespaces = entrance.gate.namespaces.clone();
    let watch = Watch {
        hub: Arc::clone(&hub),
        broker: Arc::clone(&broker),
        namespaces: namespaces.clone(),
    };
    tasks.spawn(watch.run(shutdown.clone()));

    server::emulation::answer(&bus, Arc::clone(&connections));
    let wheel = Arc::new(Wheel::default());
    tasks.spawn(Arc::clone(&wheel).run(shutdown.clone()));
    let client_tasks = TaskTracker::new();
    let connect_bucket = Bucket::full(config.client.connect_rate, server::now().instant);
    let shared = Shared { limits: config.client, namespaces, node: Arc::clone(bus.node()) };
    let node = Arc::new(Node {
        shared: Arc::new(shared),
        gate: Arc::new(entrance.gate),
        broker,
        bus,
        hub,
        connections: Arc::clone(&connections),
        tasks: client_tasks.clone(),
        wheel,
        connect_bucket: Mutex::new(connect_bucket),
        metrics,
    });
    let clients = server::serve_clients(
        listeners.client,
        node,
        entrance.client_routes,
        readiness.clone(),
        shutdown.clone(),
    );
    let (token, reload) = (config.admin_token, entrance.reload);
    let operators = Operators { token, connections: Arc::clone(&connections), reload };
    let admin = server::serve_admin(
        listeners.admin,
        operators,
        entrance.admin_routes,
        registry,
        readiness.clone(),
        shutdown.clone(),
    );
    let (mut clients, mut admin) = (tokio::spawn(clients), tokio::spawn(admin));
    info!(node = config.name, "chat node is running");

    tokio::select! {
        () = stop => {}
        () = connections.drain_requested() => {}
        ended = first_to_end(&mut clients, &mut admin) => return Err(RunError::ListenerEnded(ended)),
    }
    connections.drain(config.drain_period, &readiness).await;
    client_tasks.close();
    if timeout(CONNECTIONS_GRACE, client_tasks.wait()).await.is_err() {
        warn!(tasks = client_tasks.len(), "connections did not end in time");
    }
    shutdown.cancel();
    tasks.close();
    // What is left is idle: kept-alive HTTP connections, and broker tasks that wait for a Redis that is gone.
    let _ = timeout(LISTENER_GRACE, futures_util::future::join(clients, admin)).await;
    let _ = timeout(BROKER_GRACE, tasks.wait()).await;
    info!("chat node has ended");
    Ok(())
}

/// Whose listener ends before anybody has asked it to.
async fn first_to_end(clients: &mut JoinHandle<()>, admin: &mut JoinHandle<()>) -> &'static str {
    tokio::select! {
        _ = clients => "clients",
        _ = admin => "operators",
    }
}
