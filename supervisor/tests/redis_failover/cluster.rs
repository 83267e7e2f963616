//! A Redis primary with replicas and a controller over them, all ending with the test, however it ends.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_psync::{Address as RedisAddress, Connection, Endpoint};
use holdfast_supervisor::act::redis::{Families, Handles, RedisController};
use holdfast_supervisor::cluster::{Address, Manager, RedisState, RedisStatus};
use holdfast_supervisor::config;
use holdfast_supervisor::control::{ControlError, Failover, FailoverReport, RedisCommand, Reply};
use holdfast_supervisor::group::{Entry, Group, Settings};
use holdfast_supervisor::plan::failover::{RedisEntry, Standing};
use holdfast_supervisor::record::Sink;
use holdfast_telemetry::Registry;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle as Task;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; only a broken test gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends with the test, however that ends.
pub(crate) struct Process {
    pub(crate) pid: u32,
    stop: Option<std::sync::mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(program: &str, arguments: Vec<String>) -> Self {
        let fixed = ["--pdeathsig", "KILL", program].map(str::to_owned);
        let (pid_sender, pid) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        // The process is killed when the thread that started it ends, so that thread stays.
        let keeper = std::thread::spawn(move || {
            let mut command = Command::new("setpriv");
            command.args(fixed).args(&arguments).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            pid_sender.send(child.id()).unwrap();
            // Ends when the test is through or gone.
            stopped.recv().ok();
            child.kill().ok();
            child.wait().ok();
        });
        Self { pid: pid.recv().unwrap(), stop: Some(stop), keeper: Some(keeper) }
    }

    /// Sends a signal by name to this process only.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            keeper.join().ok();
        }
    }
}

/// A `redis-server` of our own.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) process: Process,
    /// How tests talk to it.
    endpoint: Endpoint,
    /// Goes when the server has gone.
    dir: TempDir,
}

impl Server {
    /// Starts a server without persistence and waits until it answers.
    pub(crate) async fn start(port: u16, options: &[&str]) -> Self {
        let address = RedisAddress::Tcp(format!("127.0.0.1:{port}"));
        Self::reached_by(Endpoint::new(address), port, options).await
    }

    /// One that tests reach by `endpoint`.
    pub(crate) async fn reached_by(mut endpoint: Endpoint, port: u16, options: &[&str]) -> Self {
        endpoint.connect_timeout = PATIENCE;
        endpoint.command_timeout = PATIENCE;
        let dir = tempfile::tempdir().unwrap();
        let program = program();
        let fixed =
            "--save  --appendonly no --bind 127.0.0.1 --repl-diskless-sync-delay 0 --logfile log";
        let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        // Before 7.0 it was always on.
        if version(&program).await >= 7 {
            arguments.extend(["--enable-debug-command", "yes"].map(str::to_owned));
        }
        let dir_path = dir.path().display().to_string();
        let port_text = port.to_string();
        arguments.extend(["--port", &port_text, "--dir", &dir_path].map(str::to_owned));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let process = Process::start(&program, arguments);
        let server = Self { port, process, endpoint, dir };
        until("a server answers", || async { server.try_run("PING").await.is_some() }).await;
        server
    }

    pub(crate) fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port)
    }

    /// A file with its process id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        let path = self.dir.path().join("pid");
        std::fs::write(&path, self.process.pid.to_string()).unwrap();
        path
    }

    pub(crate) async fn open(&self) -> Option<Connection> {
        Connection::open(&self.endpoint).await.ok()
    }

    /// One command, its reply as text; `None` if it does not answer or refuses.
    pub(crate) async fn try_run(&self, command: &str) -> Option<String> {
        let words: Vec<&str> = command.split(' ').collect();
        let reply = self.open().await?.command(&words).await.ok()?;
        Some(reply.text().unwrap_or_else(|| format!("{reply:?}")))
    }

    /// A write that a replica has confirmed.
    pub(crate) async fn confirmed_write(&self, key: &str, value: &str) {
        let mut connection = self.open().await.unwrap();
        connection.command(&["SET", key, value]).await.unwrap();
        let wait = ["WAIT", "1", &PATIENCE.as_millis().to_string()];
        let confirmed = connection.command(&wait).await.unwrap();
        assert!(confirmed.integer().unwrap() >= 1);
    }

    pub(crate) async fn info(&self, field: &str) -> String {
        let text = self.try_run("INFO").await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        line.unwrap_or_default().trim_end().to_owned()
    }

    /// Sends a signal by name to this server only.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}

/// The server under test: that of the system, or another version of it.
fn program() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "`make redis-versions` runs these tests on others"
    )]
    std::env::var("HOLDFAST_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// Its major version.
async fn version(program: &str) -> u32 {
    let output = tokio::process::Command::new(program).arg("--version").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.split("v=").nth(1).and_then(|rest| rest.split('.').next()).unwrap();
    version.parse().unwrap()
}

/// A port that nobody else gets while this process lives.
pub(crate) fn free_port() -> u16 {
    holdfast_ports::take().unwrap()
}

/// A group of one at work, with what it has agreed on in `folder`.
fn open_group(folder: &std::path::Path, stop: &CancellationToken) -> (Group, Task<()>) {
    let begun = Instant::now();
    loop {
        let settings = Settings::alone(folder.to_owned(), "test");
        match Group::open(settings, &Registry::new(), Arc::new(|_| {})) {
            Ok((group, keeper)) => return (group, tokio::spawn(keeper.run(None, stop.clone()))),
            // The former run's last task may still have the file open.
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Waits for a condition with a deadline.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// One primary and two replicas, linked.
pub(crate) async fn servers() -> Vec<Option<Server>> {
    let primary = Server::start(free_port(), &[]).await;
    let port = primary.port.to_string();
    let mut servers = vec![Some(primary)];
    for _ in 0..2 {
        let replica = Server::start(free_port(), &["--replicaof", "127.0.0.1", &port]).await;
        until("a replica is linked", || async { replica.info("master_link_status").await == "up" })
            .await;
        servers.push(Some(replica));
    }
    servers
}

/// A controller at work.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Option<Server>>,
    pub(crate) handles: Handles,
    pub(crate) registry: Registry,
    pub(crate) commands: mpsc::Sender<RedisCommand>,
    pub(crate) records: Arc<Mutex<Vec<String>>>,
    pub(crate) state_dir: TempDir,
    pub(crate) shutdown: CancellationToken,
    settings: config::Redis,
    task: Option<Task<()>>,
    keeper: Option<Task<()>>,
}

impl Cluster {
    /// Starts a controller over `servers` and waits until it calls the primary healthy.
    pub(crate) async fn start(
        servers: Vec<Option<Server>>,
        change: impl FnOnce(&mut config::Redis),
    ) -> Self {
        let settings = settings_of(&servers, change);
        Self::with_settings(servers, settings).await
    }

    /// As [`Cluster::start`], with settings of the test's own.
    pub(crate) async fn with_settings(
        servers: Vec<Option<Server>>,
        settings: config::Redis,
    ) -> Self {
        let cluster = Self::control(servers, settings, tempfile::tempdir().unwrap());
        cluster.until_healthy(0).await;
        cluster
    }

    /// As [`Cluster::start`], with what was agreed on in earlier runs.
    pub(crate) async fn with_agreed(
        servers: Vec<Option<Server>>,
        entries: Vec<RedisEntry>,
        change: impl FnOnce(&mut config::Redis),
    ) -> Self {
        let state_dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let (group, keeper) = open_group(state_dir.path(), &stop);
        until("the group has a leader", || async { group.leading().is_some() }).await;
        for entry in entries {
            group.propose(Entry::Redis { name: "main".to_owned(), entry }).await.unwrap();
        }
        stop.cancel();
        keeper.await.unwrap();
        drop(group);
        let settings = settings_of(&servers, change);
        let cluster = Self::control(servers, settings, state_dir);
        cluster.until_healthy(0).await;
        cluster
    }

    fn control(servers: Vec<Option<Server>>, settings: config::Redis, state_dir: TempDir) -> Self {
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink: Sink = {
            let records = Arc::clone(&records);
            Arc::new(move |draft| {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                records.push(format!("{draft:?}"));
            })
        };
        let registry = Registry::new();
        let (commands, receiver) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let (group, keeper) = open_group(state_dir.path(), &shutdown);
        let (controller, handles) = RedisController::new(
            settings.clone(),
            false,
            state_dir.path().to_owned(),
            group,
            &Families::register(&registry),
            sink,
            receiver,
        );
        let task = Some(tokio::spawn(controller.run(shutdown.clone())));
        let keeper = Some(keeper);
        Self {
            servers,
            handles,
            registry,
            commands,
            records,
            state_dir,
            shutdown,
            settings,
            task,
            keeper,
        }
    }

    /// Ends the controller as a restart of the supervisor would, changes the world, and starts another with the same state.
    pub(crate) async fn restart(
        mut self,
        meanwhile: impl FnOnce(&mut Vec<Option<Server>>),
    ) -> Self {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap();
        self.keeper.take().unwrap().await.unwrap();
        let mut servers = std::mem::take(&mut self.servers);
        meanwhile(&mut servers);
        let state_dir = std::mem::replace(&mut self.state_dir, tempfile::tempdir().unwrap());
        Self::control(servers, self.settings.clone(), state_dir)
    }

    pub(crate) fn status(&self) -> RedisStatus {
        self.handles.status.borrow().clone()
    }

    pub(crate) async fn until_healthy(&self, epoch_above: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if status.state == RedisState::Healthy && status.epoch > epoch_above {
                return;
            }
            let records = self.records();
            assert!(Instant::now() < deadline, "not healthy: {status:#?}\n{records:#?}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn primary(&self) -> &Server {
        let primary = self.status().primary.unwrap();
        let servers = self.servers.iter().flatten();
        servers.into_iter().find(|server| server.address() == primary).unwrap()
    }

    pub(crate) fn records(&self) -> Vec<String> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn recorded(&self, text: &str) -> bool {
        self.records().iter().any(|record| record.contains(text))
    }

    /// Waits until something was recorded: a status may be published before the events that explain it.
    pub(crate) async fn until_recorded(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.recorded(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:#?}", self.records());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a metric has a value; `line` as it is exported.
    pub(crate) async fn until_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = holdfast_telemetry::metrics::encode(&self.registry);
            if text.lines().any(|found| found == line) {
                return;
            }
            assert!(Instant::now() < deadline, "no {line} in {text}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn switch_over(
        &self,
        target: Option<Address>,
    ) -> Result<FailoverReport, ControlError> {
        let by = "test".to_owned();
        self.order(|reply| RedisCommand::FailOver(Failover { target, by, reply })).await
    }

    /// Gives an order and waits for the answer.
    pub(crate) async fn order<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> RedisCommand,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.unwrap();
        answer.await.unwrap()
    }
}

fn settings_of(
    servers: &[Option<Server>],
    change: impl FnOnce(&mut config::Redis),
) -> config::Redis {
    let mut settings = config::Redis {
        name: "main".to_owned(),
        servers: servers
            .iter()
            .flatten()
            .map(|server| config::RedisServer {
                address: server.address(),
                pid_file: None,
                standing: Standing::default(),
            })
            .collect(),
        username: None,
        password: None,
        tls: None,
        manager: Manager::Holdfast,
        sentinels: None,
        probe_interval: Duration::from_millis(100),
        probe_timeout: Duration::from_millis(500),
        // A busy machine is no hang; tests of hangs set their own.
        hang_after: Duration::from_secs(20),
        failover_cooldown: Duration::from_secs(30),
        loss_bytes_max: None,
        approval: None,
        hooks: Vec::new(),
        synchronous: None,
        restart: None,
    };
    change(&mut settings);
    settings
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
