//! The daemon: wires the parts together, runs them, and ends when one of them ends.
//!
//! Everything that can fail at the start fails before anything acts: rules are read, the state folder is made, all addresses are
//! bound, the journal and the group's file are opened; only then do the loops begin. Afterwards a loop that ends or panics takes the process down, because a
//! supervisor that is half alive is worse than one that is restarted.

mod backups;
mod circuits;
mod clients;
mod group;
mod incidents;
mod redis;
mod remote;
mod rules;
mod sentinels;
mod servers;
mod store;
mod tasks;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_series::{Disk, Labels};
use holdfast_telemetry::health::Readiness;
use holdfast_telemetry::operators::{self, Limits, OperatorServer};
use holdfast_telemetry::{Registry, announce, metrics};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::act::upstreams::HoldfastBalancer;
use crate::cluster::{Address, ServersStatus};
use crate::config::Config;
use crate::control::{Control, QUEUE_MAX};
use crate::group::Group;
use crate::judge::rules::{Identity, RuleSet};
use crate::observe::canary::Canary;
use crate::observe::scrape::{
    Facts, Login, Manager, Parts, Plan, ScrapeMetrics, Source, Target, Targets,
};
use crate::record::{Draft, Journal, Kind, Retention, Severity, Sink};
use crate::rehearse::{DrillInputs, DrillRunner};
use crate::remote::facts::RemoteFacts;
use crate::serve::http::{ApiState, StatusSources, router};
use crate::tell::{AlertNotice, Notifier, Sender};
use tasks::Tasks;

pub use rules::read as read_rules;

/// Events and incidents the journal keeps: about a year of a cluster that has ten events a day, and bounded however many it has.
const RETENTION: Retention = Retention { events_max: 100_000, incidents_max: 5_000 };
/// Causes that an earlier run or another member left open count as over when this one has not found them again within this time: longer
/// than any rule holds before it fires on something that has been wrong all along.
const CONFIRM_WITHIN: Duration = Duration::from_mins(5);
/// The parts may take this long to end.
const GRACE: Duration = Duration::from_secs(8);

/// Why the supervisor could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The rule files cannot be used.
    #[error("{0}")]
    Rules(String),
    /// An address is taken.
    #[error("{key}: cannot listen on {address}")]
    Bind {
        /// The key in the settings.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The state folder cannot be used.
    #[error("supervisor.state_dir: cannot use {}", path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Reads the rules that `config` names.
///
/// # Errors
/// [`StartError::Rules`] with every fault.
pub async fn rules_of(config: &Config) -> Result<RuleSet, StartError> {
    let settings = config.rules.clone();
    let read = tokio::task::spawn_blocking(move || read_rules(&settings)).await;
    read.unwrap_or_else(|error| Err(error.to_string())).map_err(StartError::Rules)
}

/// Runs the supervisor until `shutdown`.
///
/// # Errors
/// It could not start, or one of its parts ended.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let rules = rules_of(&config).await?;
    let http = bind("supervisor.listen", config.supervisor.listen).await?;
    let sentinel = match &config.sentinel {
        Some(sentinel) => Some(bind("sentinel.listen", sentinel.listen).await?),
        None => None,
    };
    let state_dir = config.supervisor.state_dir.clone();
    std::fs::create_dir_all(&state_dir)
        .map_err(|source| StartError::StateDir { path: state_dir.clone(), source })?;
    let (metrics_dir, settings) = (state_dir.clone(), config.metrics.clone());
    let disk = tokio::task::spawn_blocking(move || store::open(&metrics_dir, &settings)).await??;
    let journal = Arc::new(Journal::open(&state_dir.join("journal.redb"), RETENTION)?);
    let registry = metrics::registry("supervisor", env!("CARGO_PKG_VERSION"));
    journal.register(&registry);
    let address = http.local_addr()?;
    announce::listening("http", address);
    let listener = match &config.group {
        Some(group) => Some(bind("group.listen", group.listen).await?),
        None => None,
    };
    if let Some(listener) = &listener {
        announce::listening("group", listener.local_addr()?);
    }
    let endpoint = sentinel.as_ref().map(TcpListener::local_addr).transpose()?;
    let url = external_url(&config, address);
    let (group, keeper) = group::open(&config, url, endpoint, &registry, &journal)?;
    if let Some(listener) = &sentinel {
        announce::listening("sentinel", listener.local_addr()?);
    }
    let mut tasks = Tasks::new();
    tasks.spawn("group", |stop| keeper.run(listener, stop));
    let daemon = Daemon { config, journal, disk, registry, address, group, tasks };
    daemon.run(rules, http, sentinel, shutdown).await
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { key, address, source })
}

fn sink_of(journal: &Arc<Journal>) -> Sink {
    let journal = Arc::clone(journal);
    Arc::new(move |draft| {
        journal.append(draft, chrono::Utc::now());
    })
}

/// Where people reach this supervisor.
fn external_url(config: &Config, address: SocketAddr) -> String {
    let own = || format!("http://{address}");
    config.supervisor.external_url.clone().unwrap_or_else(own)
}

/// The parts while they are put together.
struct Daemon {
    config: Config,
    journal: Arc<Journal>,
    disk: Arc<Disk>,
    registry: Registry,
    address: SocketAddr,
    group: Group,
    tasks: Tasks,
}

impl Daemon {
    async fn run(
        mut self,
        rules: RuleSet,
        http: TcpListener,
        sentinel: Option<TcpListener>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let sink = self.sink();
        let readiness = Readiness::new();
        let started = readiness.condition("started");
        let store = Arc::clone(self.disk.store());
        self.keep_store();
        let prometheus = remote::prometheus(&self.config)?;
        let state_dir = &self.config.supervisor.state_dir;
        remote::write(&self.config, state_dir, &store, &self.registry, &mut self.tasks)?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        sink(Draft::new(Kind::Started, Severity::Info, "supervisor", "supervisor started"));

        let facts = watch::Sender::new(HashMap::new());
        let (calls, calls_seen) = watch::channel(rules::Calls::default());
        let (alerts, alerts_seen) = watch::channel(Vec::new());
        let (described, rules_seen) = watch::channel(serde_json::Value::Null);
        let notices = self.notifier()?;

        let (reload, reloads) = mpsc::channel(QUEUE_MAX);
        let outputs =
            rules::Outputs { calls, alerts, rules: described, notices, sink: Arc::clone(&sink) };
        let inputs = rules::Inputs {
            settings: self.config.rules.clone(),
            rules,
            identity: Identity {
                external_url: self.external_url(),
                external_labels: self.config.metrics.external_labels.clone(),
            },
            source: remote::source(prometheus.as_ref(), &store, &self.registry),
            reloads,
        };
        let rule_loop = rules::RuleLoop::new(inputs, outputs, &self.registry);

        // Installed here so that a hang-up sent at any time from now on reloads and does not end us.
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        self.tasks.spawn("hang-ups", |stop| rules::reload_on(hangups, reload.clone(), stop));
        let mut control = Control { reload: Some(reload), ..Control::default() };
        let servers = self.servers(&client, calls_seen, &facts, &mut control, &sink);
        let redis = self.redis(sentinel, &mut control, &sink)?;
        if self.config.redis.len() == 1 {
            let (group, words) = (self.group.clone(), facts.subscribe());
            self.tasks.spawn("clients", |stop| clients::share(group, words, stop));
        }
        let backup = self.backups(&mut control, &sink);
        let canary = self.config.canary.clone().map(|settings| {
            let (canary, handle, seen) = Canary::new(settings, &self.registry, Arc::clone(&sink));
            self.tasks.spawn("canary", |stop| canary.run(stop));
            (handle, seen)
        });
        let (drills, commands) = mpsc::channel(QUEUE_MAX);
        control.drills = Some(drills);
        let inputs = DrillInputs {
            config: &self.config,
            servers: servers.clone(),
            redis: redis.iter().map(|redis| redis.status.clone()).collect(),
            canary: canary.clone(),
            alerts: alerts_seen.clone(),
            journal: Arc::clone(&self.journal),
            balancer: self.balancer(&client),
            commands,
        };
        let (runner, drill) = DrillRunner::new(inputs, &self.registry, Arc::clone(&sink));
        let runner = runner.scheduled_if(group::leads(&self.group));
        self.tasks.spawn("drills", |stop| runner.run(stop));
        let targets = self.scrapers(&client, &facts, &redis)?;
        if let Some(remote) = prometheus.as_ref().filter(|_| !self.config.scrape.enabled) {
            let (nodes, every) = (self.config.nodes.clone(), self.config.scrape.interval);
            let remote = RemoteFacts::new(Arc::clone(remote), nodes, facts, every);
            self.tasks.spawn("facts from the remote", |stop| remote.run(stop));
        }
        self.tasks.spawn("rules", |stop| rule_loop.run(stop));
        self.share_incidents();

        let api = ApiState {
            sources: StatusSources {
                servers,
                redis: redis.into_iter().map(|redis| redis.status).collect(),
                canary: canary.map(|(_, seen)| seen),
                backup: backup.as_ref().map(|(_, seen)| seen.clone()),
                drill: Some(drill),
                alerts: alerts_seen,
                rules: rules_seen,
                targets,
            },
            journal: Arc::clone(&self.journal),
            control,
            token: self.config.supervisor.token.clone(),
            store,
            metrics: remote::info(&self.config, prometheus),
            name: self.config.supervisor.name.clone(),
            observe_only: self.config.supervisor.observe_only,
            registry: self.registry.clone(),
            readiness: readiness.clone(),
            backups: backup.map(|(store, _)| backups::lister(store)),
            report_dir: self.config.drills.report_dir.clone(),
            group: self.group.clone(),
            shutdown: shutdown.clone(),
        };
        self.serve(http, api);
        started.met();
        tracing::info!(address = %self.address, "supervisor started");
        self.wait(&readiness, &sink, &shutdown).await
    }

    fn serve(&mut self, http: TcpListener, api: ApiState) {
        if let Err(error) = operators::close_stalled(&http) {
            tracing::warn!(%error, "operators that do not read are not noticed");
        }
        let server = OperatorServer::new(&self.registry, "supervisor", Limits::default());
        self.tasks.spawn("http", |stop| server.serve(http, router(api), stop.cancelled_owned()));
    }

    /// Waits for the end, asked for or not, and ends in order.
    async fn wait(
        &mut self,
        readiness: &Readiness,
        sink: &Sink,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let ended = tokio::select! {
            () = shutdown.cancelled() => None,
            name = self.tasks.first_to_end() => Some(name),
        };
        readiness.begin_shutdown();
        group::hand_over(&self.group).await;
        let (severity, text) = match ended {
            None => (Severity::Info, "supervisor ends as asked".to_owned()),
            Some(name) => {
                (Severity::Critical, format!("supervisor ends because its part {name} ended"))
            }
        };
        sink(Draft::new(Kind::Stopped, severity, "supervisor", text));
        let left = self.tasks.stop(GRACE).await;
        if !left.is_empty() {
            tracing::warn!(parts = left.join(", "), "parts did not end in time and were aborted");
        }
        let disk = Arc::clone(&self.disk);
        let saved = tokio::task::spawn_blocking(move || disk.flush()).await;
        if !matches!(saved, Ok(Ok(()))) {
            tracing::error!("the last samples could not be written to disk");
        }
        let journal = Arc::clone(&self.journal);
        let flushed = tokio::task::spawn_blocking(move || journal.flush(GRACE)).await;
        if !flushed.unwrap_or(false) {
            tracing::error!("the last events could not be written to the journal");
        }
        match ended {
            None => Ok(()),
            Some(name) => anyhow::bail!("the part {name} ended, which it never should"),
        }
    }

    /// Writing samples to disk, and what they are written into in order.
    fn keep_store(&mut self) {
        let keeper = store::Keeper::new(Arc::clone(&self.disk), &self.registry);
        let flusher = keeper.flusher();
        self.tasks.spawn("metrics log", async move |stop| {
            stop.run_until_cancelled(flusher).await;
        });
        let maintainer = keeper.maintainer();
        self.tasks.spawn("metrics blocks", async move |stop| {
            stop.run_until_cancelled(maintainer).await;
        });
    }

    /// One list of incidents for the whole group, and what its other members have done.
    fn share_incidents(&mut self) {
        let (group, journal) = (self.group.clone(), Arc::clone(&self.journal));
        self.tasks.spawn("incidents", |stop| incidents::keep(group, journal, stop));
        if self.config.group.is_some() {
            let (group, journal) = (self.group.clone(), Arc::clone(&self.journal));
            self.tasks.spawn("deeds", |stop| incidents::fetch(group, journal, stop));
        }
    }

    /// Telling people; where alerts go.
    fn notifier(&mut self) -> anyhow::Result<mpsc::Sender<AlertNotice>> {
        let name = self.config.supervisor.name.clone();
        let sender = Sender { name, external_url: self.external_url() };
        let journal = Arc::clone(&self.journal);
        let (notifier, notices) =
            Notifier::new(&self.config.notify, sender, journal, &self.registry)?;
        let (tell, told) = mpsc::channel(group::NOTES_MAX);
        let notifier = notifier.ruled_by(group::policy(&self.group, tell));
        let group = self.group.clone();
        self.tasks.spawn("told", |stop| group::note_told(group, told, stop));
        self.tasks.spawn("notifier", |stop| notifier.run(stop));
        Ok(notices)
    }

    fn sink(&self) -> Sink {
        sink_of(&self.journal)
    }

    fn external_url(&self) -> String {
        external_url(&self.config, self.address)
    }

    /// Who speaks with the balancer, if there is one.
    fn balancer(&self, client: &reqwest::Client) -> Option<HoldfastBalancer> {
        let balancer = self.config.balancer.clone()?;
        Some(HoldfastBalancer::new(balancer, client.clone()))
    }

    /// Chat nodes and balancer.
    fn servers(
        &mut self,
        client: &reqwest::Client,
        calls: watch::Receiver<rules::Calls>,
        facts: &Facts,
        control: &mut Control,
        sink: &Sink,
    ) -> watch::Receiver<ServersStatus> {
        let Some(balancer) = self.config.balancer.clone() else {
            // Nothing to control. The sender may go: the receiver keeps the value.
            return watch::channel(ServersStatus::default()).1;
        };
        let driver = HoldfastBalancer::new(balancer.clone(), client.clone());
        let (sender, commands) = mpsc::channel(QUEUE_MAX);
        control.servers = Some(sender);
        let group = self.group.clone();
        let inputs = servers::Inputs { calls, facts: facts.subscribe(), commands, group };
        let (controller, seen) = servers::ServerController::new(
            &self.config,
            balancer,
            driver,
            inputs,
            &self.registry,
            Arc::clone(sink),
        );
        self.tasks.spawn("servers", |stop| controller.run(stop));
        seen
    }

    fn backups(
        &mut self,
        control: &mut Control,
        sink: &Sink,
    ) -> Option<(crate::act::backup::BackupStore, watch::Receiver<crate::cluster::BackupStatus>)>
    {
        let settings = self.config.backup.clone()?;
        let redis = self.config.redis.iter().find(|redis| redis.name == settings.redis)?;
        let (sender, commands) = mpsc::channel(QUEUE_MAX);
        control.backup = Some(sender);
        let (scheduler, seen) = backups::BackupScheduler::new(
            settings,
            redis,
            commands,
            &self.registry,
            Arc::clone(sink),
            group::leads(&self.group),
        );
        let store = scheduler.store();
        self.tasks.spawn("backups", |stop| scheduler.run(stop));
        Some((store, seen))
    }

    /// One scraper for every target.
    fn scrapers(
        &mut self,
        client: &reqwest::Client,
        facts: &Facts,
        redis: &[redis::Parts],
    ) -> anyhow::Result<Targets> {
        let settings = &self.config.scrape;
        let plan = Plan {
            interval: settings.interval,
            timeout: settings.timeout,
            body_bytes_max: settings.body_bytes_max,
            native_histograms: false,
            options: Arc::default(),
        };
        let target = |job: &str, instance: String, label: Option<(&str, &str)>, source| {
            let own = [("job", job), ("instance", &instance)];
            let labels = Labels::from_pairs(own.into_iter().chain(label));
            let (discovered, plan) = (labels.clone(), plan.clone());
            Target { job: job.to_owned(), discovered, labels, source, plan, node: None }
        };
        let http = |address: &Address| Source::Http {
            url: format!("http://{address}/metrics"),
            client: client.clone(),
            login: Login::None,
        };
        let registry = self.registry.clone();
        let own = Source::Read(Arc::new(move || Ok(metrics::encode(&registry))));
        let mut targets = vec![target("supervisor", self.address.to_string(), None, own)];
        let scraped = if settings.enabled { self.config.nodes.as_slice() } else { &[] };
        targets.extend(scraped.iter().map(|node| {
            let server = Some(("server", node.name.as_str()));
            let found = target("chatnode", node.metrics.to_string(), server, http(&node.metrics));
            Target { node: Some(node.name.clone()), ..found }
        }));
        let balancer = self.config.balancer.iter().filter(|_| settings.enabled);
        targets.extend(balancer.map(|balancer| {
            target("balancer", balancer.admin.to_string(), None, http(&balancer.admin))
        }));
        targets.extend(redis.iter().flat_map(|redis| {
            let name = Some(("redis", redis.settings.name.as_str()));
            redis.sources().map(move |(instance, source)| target("redis", instance, name, source))
        }));
        let parts = Parts {
            store: Arc::clone(self.disk.store()),
            metrics: ScrapeMetrics::register(&self.registry),
            facts: facts.clone(),
            targets: Targets::default(),
        };
        let health = parts.targets.clone();
        let jobs = settings.jobs.clone();
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let manager = Manager::new(parts, self.config.file.clone(), targets, jobs, hangups);
        self.tasks.spawn("scrapers", |stop| manager.run(stop));
        Ok(health)
    }
}
