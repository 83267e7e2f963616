//! `holdfast up`: a whole cluster on this machine, from nothing to ready with one command, and gone without a trace afterwards.
//!
//! Real programs, nothing simulated: `redis-server` processes, `holdfast-chatnode`, `holdfast-balancer` and `holdfast supervise`, started
//! with generated settings in a folder of their own. Only the mail server and the webhook receiver are played by this process, which shows
//! what arrives. What ends unexpectedly is started again after four seconds, as systemd would; the rest of the healing is the supervisor's.
//!
//! Children are started through `setpriv --pdeathsig KILL`, so that the kernel ends them should this process be killed. That signal is tied
//! to the *thread* that starts a child, so everything here runs on the main thread: [`run`] must be called inside a current-thread runtime.
//! Rejected: a guardian process per child (one more thing that can be killed) and control groups (need rights on the machine).
//!
//! ```text
//! <state-dir>/latest            → the newest run that was ready
//! <state-dir>/run-<time>/etc    settings of every program, rule files
//!                       /secrets tokens and passwords, 0600
//!                       /pids /logs /mail /redis-<n> /state /backups /drills
//!                       /webhook.jsonl  what the webhook received
//!                       /client.toml    what `holdfast status` and the others read
//! ```

mod banner;
mod children;
mod folder;
mod mail;
mod ports;
mod probe;
mod programs;
mod rules;
mod scenario;
mod settings;
mod show;
mod webhook;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_telemetry::shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use ports::PortChoice;
pub use scenario::Scenario;

use crate::cli::client::Client;
use children::{Children, Program, Stage};
use folder::Run;
use programs::{Binaries, require_program};

/// From the first program's start until everything is ready: two seconds on an idle machine, more on one that compiles beside it.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Lines of news that wait to be shown; more are dropped, because a terminal that stands still must not hold the cluster up.
const NEWS_MAX: usize = 1024;

/// Attempts with other ports when somebody takes a free one between our look and the program's start.
const PORT_ATTEMPTS: u32 = 3;

/// What `holdfast up` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Folder for everything the cluster writes; every run gets a folder of its own in it
    #[arg(long, value_name = "DIR", default_value = ".holdfast")]
    pub state_dir: PathBuf,
    /// Settings of the local cluster: `nodes`, `replicas`, `restart_after`, and a table `ports` (see docs/cli.md)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Chat nodes [default: 3]
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// Redis replicas beside the primary [default: 2]
    #[arg(long, value_name = "N")]
    pub replicas: Option<usize>,
    /// The documented ports, or any that are free
    #[arg(long, value_enum, default_value_t = PortChoice::Default)]
    pub ports: PortChoice,
    /// Stop by itself this long after the cluster is ready, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = holdfast_settings::duration::parse)]
    pub exit_after: Option<Duration>,
    /// Run a demonstration when the cluster is ready, print its result, stop; the exit code follows the result
    #[arg(long, value_enum, value_name = "NAME")]
    pub scenario: Option<Scenario>,
}

/// Why a local cluster could not be run.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] holdfast_settings::Faults),
    /// A number is out of range.
    #[error("{0}")]
    Usage(String),
    /// Something it needs is not on this machine.
    #[error("{0}")]
    Missing(String),
    /// Ports are taken.
    #[error("{0}")]
    Ports(String),
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program did not come up.
    #[error("{0}")]
    NotReady(String),
    /// The demonstration did not show what it should.
    #[error("{0}")]
    Scenario(String),
}

impl UpError {
    /// Whether the command line or its file is to blame.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Usage(_))
    }
}

/// What the local cluster consists of.
#[derive(Debug, Clone)]
struct Plan {
    nodes: Vec<NodePlan>,
    redis: Vec<RedisPlan>,
    chat: SocketAddr,
    balancer_admin: SocketAddr,
    supervisor: SocketAddr,
    sentinel: SocketAddr,
    mail: SocketAddr,
    webhook: SocketAddr,
}

#[derive(Debug, Clone)]
struct NodePlan {
    name: String,
    client: SocketAddr,
    admin: SocketAddr,
}

#[derive(Debug, Clone)]
struct RedisPlan {
    name: String,
    address: SocketAddr,
}

/// Runs a local cluster until it is told to stop.
///
/// # Errors
/// It could not be started, or the demonstration failed. Nothing is left running either way.
pub async fn run(options: Options) -> Result<(), UpError> {
    let wanted = settings::Wanted::from(&options)?;
    let binaries = Binaries::find()?;
    require_program("redis-server", "redis-server").await?;
    require_program("setpriv", "util-linux").await?;
    let stop = async {
        let mut hangup =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { () = shutdown::signal() => {}, _ = hung_up => {} }
    };
    tokio::pin!(stop);
    let (news, shown) = mpsc::channel(NEWS_MAX);
    let shower = tokio::spawn(show::lines(shown));
    let result = run_until(&options, &wanted, &binaries, &news, stop).await;
    drop(news);
    // It ends when nobody can send any more, which is now; a panic in it is no reason to fail.
    let _shown = shower.await;
    result
}

async fn run_until(
    options: &Options,
    wanted: &settings::Wanted,
    binaries: &Binaries,
    news: &mpsc::Sender<String>,
    stop: impl Future<Output = ()>,
) -> Result<(), UpError> {
    tokio::pin!(stop);
    let mut cluster = tokio::select! {
        started = start(options, wanted, binaries, news) => started?,
        () = &mut stop => {
            // What was begun is dropped, and killed by that.
            show::say(news, "stopped before everything was ready".to_owned());
            return Ok(());
        }
    };
    banner::print(&cluster.plan, &cluster.run, &cluster.children, options.scenario.is_some());
    cluster.run.publish()?;
    let client = cluster.run.client(&cluster.plan);
    cluster.helpers.spawn(show::events(client.clone(), news.clone()));
    let until = options.exit_after.map(|time| Instant::now() + time);
    let expired = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        () = stop => Ok(()),
        () = expired => Ok(()),
        result = demonstrate(options.scenario, &cluster, &client, news) => result,
    };
    show::say(news, "stopping; a second Ctrl-C kills at once".to_owned());
    // The mail and webhook receivers end last: what the stop itself causes is still received.
    tokio::select! {
        () = cluster.children.stop() => {}
        // Somebody is in a hurry. What is dropped is killed.
        () = shutdown::signal() => show::say(news, "killed what had not ended".to_owned()),
    }
    cluster.helpers.shutdown().await;
    cluster.run.ended();
    show::say(news, format!("stopped; everything is in {}", cluster.run.folder().display()));
    result
}

/// A running cluster.
struct Cluster {
    plan: Plan,
    run: Run,
    children: Children,
    /// Mail and webhook receivers, and whoever shows the events.
    helpers: JoinSet<()>,
}

/// Runs the scenario, if there is one; else never ends.
async fn demonstrate(
    scenario: Option<Scenario>,
    cluster: &Cluster,
    client: &Client,
    news: &mpsc::Sender<String>,
) -> Result<(), UpError> {
    match scenario {
        Some(scenario) => scenario::run(scenario, &cluster.plan, &cluster.run, client, news).await,
        None => std::future::pending().await,
    }
}

/// Starts everything; with free ports it tries again with others should one be taken in between.
async fn start(
    options: &Options,
    wanted: &settings::Wanted,
    binaries: &Binaries,
    news: &mpsc::Sender<String>,
) -> Result<Cluster, UpError> {
    let mut attempt = 1;
    loop {
        let plan = ports::plan(wanted, options.ports)?;
        let run = Run::create(&options.state_dir)?;
        let folder = run.folder().display().to_string();
        match launch(plan, run, binaries, news, wanted.restart_after).await {
            Err(UpError::NotReady(text))
                if options.ports == PortChoice::Free
                    && attempt < PORT_ATTEMPTS
                    && text.contains("in use") =>
            {
                attempt += 1;
            }
            Err(UpError::NotReady(text)) => {
                return Err(UpError::NotReady(format!("{text}\nall it wrote is in {folder}")));
            }
            result => return result,
        }
    }
}

async fn launch(
    plan: Plan,
    run: Run,
    binaries: &Binaries,
    news: &mpsc::Sender<String>,
    restart_after: Duration,
) -> Result<Cluster, UpError> {
    run.write(&plan)?;
    let mut helpers = JoinSet::new();
    helpers.spawn(mail::receive(bind(plan.mail, "mail").await?, run.path("mail"), news.clone()));
    let log = run.path("webhook.jsonl");
    helpers.spawn(webhook::receive(bind(plan.webhook, "webhook").await?, log, news.clone()));
    let mut children = Children::new(news.clone(), restart_after);
    let deadline = Instant::now() + READY_WITHIN;
    let started = begin(&plan, &run, binaries, &mut children, deadline).await;
    if let Err(error) = started {
        children.stop().await;
        run.ended();
        return Err(error);
    }
    children.restart_from_now_on();
    Ok(Cluster { plan, run, children, helpers })
}

/// Starts the programs in the order in which they need each other.
async fn begin(
    plan: &Plan,
    run: &Run,
    binaries: &Binaries,
    children: &mut Children,
    deadline: Instant,
) -> Result<(), UpError> {
    let http = probe::http();
    for redis in &plan.redis {
        let config = run.path(&redis.name).join("redis.conf");
        let program = Program::new(
            run,
            &redis.name,
            Stage::Redis,
            Path::new("redis-server"),
            [config.as_os_str()],
        );
        children.start(program)?;
    }
    for redis in &plan.redis {
        let is_primary = redis.name == plan.redis[0].name;
        let ready = async || probe::redis(redis.address, is_primary).await;
        children.wait_for(&redis.name, deadline, ready).await?;
    }
    let config = run.settings("holdfast.toml");
    let arguments = ["supervise".as_ref(), "--config".as_ref(), config.as_os_str()];
    children.start(Program::new(
        run,
        "supervisor",
        Stage::Supervisor,
        &binaries.holdfast,
        arguments,
    ))?;
    for node in &plan.nodes {
        let config = run.settings(&format!("{}.toml", node.name));
        let arguments = ["--config".as_ref(), config.as_os_str()];
        children.start(Program::new(
            run,
            &node.name,
            Stage::Nodes,
            &binaries.chatnode,
            arguments,
        ))?;
    }
    let config = run.settings("balancer.toml");
    let arguments = ["--config".as_ref(), config.as_os_str()];
    children.start(Program::new(
        run,
        "balancer",
        Stage::Balancer,
        &binaries.balancer,
        arguments,
    ))?;
    let nodes = plan.nodes.iter().map(|node| (node.name.as_str(), node.admin));
    let others = [("balancer", plan.balancer_admin), ("supervisor", plan.supervisor)];
    for (name, address) in nodes.chain(others) {
        let url = format!("http://{address}/health/ready");
        let ready = async || crate::cli::http::readiness(&http, &url).await;
        children.wait_for(name, deadline, ready).await?;
    }
    let client = run.client(plan);
    children.wait_for("supervisor", deadline, async || probe::cluster(&client).await).await
}

async fn bind(address: SocketAddr, purpose: &str) -> Result<tokio::net::TcpListener, UpError> {
    tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| UpError::Ports(format!("{purpose}: cannot listen on {address}: {error}")))
}
