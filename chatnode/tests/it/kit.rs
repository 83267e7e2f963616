//! What the tests stand on: processes that die with the test, Redis servers, nodes, plain HTTP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_chatnode::config::Config;
use holdfast_chatnode::{Listeners, RunError, run};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// Everything here takes milliseconds; the rest is room for a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const SECRET: &str = "a secret";
pub(crate) const ADMIN_TOKEN: &str = "an admin token";

/// Waits until `condition` yields something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "{what} did not happen within {DEADLINE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A port that nobody else gets while this process lives.
pub(crate) fn free_port() -> u16 {
    holdfast_ports::take().unwrap()
}

/// A process that dies when this is dropped, and also when the test is killed.
pub(crate) struct Process {
    pub(crate) pid: u32,
    end: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(program: &str, arguments: &[String]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (started, child) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        // The kernel kills the child when the thread that started it ends, so this one stays.
        let keeper = std::thread::spawn(move || {
            let mut child: Child = command.spawn().unwrap();
            started.send(child.id()).unwrap();
            let _ = ended.recv();
            child.kill().unwrap();
            child.wait().unwrap();
        });
        Self { pid: child.recv().unwrap(), end: Some(end), keeper: Some(keeper) }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) {
        drop(self.end.take());
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Redis server.
pub(crate) struct Redis {
    pub(crate) port: u16,
    pub(crate) process: Process,
    _dir: TempDir,
}

impl Redis {
    pub(crate) async fn primary() -> Self {
        Self::start(&[]).await
    }

    /// A replica of `primary`, connected to it.
    pub(crate) async fn replica_of(primary: &Self) -> Self {
        let replica =
            Self::start(&["--replicaof".into(), format!("127.0.0.1 {}", primary.port)]).await;
        eventually("replication", async || {
            let info = replica.command(&["INFO", "replication"]).await;
            let up = info.contains("master_link_status:up");
            let info = primary.command(&["INFO", "replication"]).await;
            // Before its first acknowledgement the primary sends it nothing, so that it cannot confirm anything.
            let online = info.lines().any(|line| {
                line.contains(&format!("port={},state=online", replica.port))
                    && !line.contains(",offset=0,")
            });
            (up && online).then_some(())
        })
        .await;
        replica
    }

    async fn start(arguments: &[String]) -> Self {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let mut all: Vec<String> =
            ["--save", "", "--bind", "127.0.0.1", "--port"].map(Into::into).into();
        all.push(port.to_string());
        all.extend(
            ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--dir"]
                .map(Into::into),
        );
        all.push(dir.path().display().to_string());
        all.extend_from_slice(arguments);
        let redis = Self { port, process: Process::start("redis-server", &all), _dir: dir };
        eventually("start of Redis", async || {
            let pong = redis.try_command(&["PING"]).await?;
            pong.starts_with("+PONG").then_some(())
        })
        .await;
        redis
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The raw reply to a command.
    pub(crate) async fn command(&self, words: &[&str]) -> String {
        self.try_command(words).await.unwrap()
    }

    pub(crate) async fn try_command(&self, words: &[&str]) -> Option<String> {
        redis_command(self.port, words).await
    }
}

/// The raw reply to a command.
async fn redis_command(port: u16, words: &[&str]) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len()).unwrap();
    }
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = Vec::new();
    while reply_length(&reply).is_none() {
        if timeout(DEADLINE, stream.read_buf(&mut reply)).await.ok()?.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(reply).ok()
}

/// How long the reply is that these bytes begin with; `None` if it is not whole yet.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let head = line + 2;
    let count = || std::str::from_utf8(&bytes[1..line]).unwrap().parse::<i64>().unwrap();
    match bytes[0] {
        b'$' => {
            let whole = usize::try_from(count()).map_or(head, |length| head + length + 2);
            (bytes.len() >= whole).then_some(whole)
        }
        b'*' => (0..count()).try_fold(head, |at, _| Some(at + reply_length(&bytes[at..])?)),
        _ => Some(head),
    }
}

/// A Redis Sentinel that watches `primary` under the name `main`.
pub(crate) struct Sentinel {
    pub(crate) port: u16,
    _process: Process,
    _dir: TempDir,
}

impl Sentinel {
    pub(crate) async fn watching(primary: &Redis) -> Self {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let config = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 5000\n",
            dir.path().display(),
            primary.port
        );
        std::fs::write(&config, text).unwrap();
        let arguments = [config.display().to_string(), "--sentinel".to_owned()];
        let process = Process::start("redis-server", &arguments);
        eventually("Sentinel's knowledge of the replica", async || {
            let replicas = redis_command(port, &["SENTINEL", "REPLICAS", "main"]).await?;
            replicas.contains("slave-repl-offset").then_some(())
        })
        .await;
        Self { port, _process: process, _dir: dir }
    }
}

/// Answers as Sentinel does, with the address it is told.
pub(crate) async fn announcer(address: watch::Receiver<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut address = address.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let mut subscribed = false;
                loop {
                    let answer = tokio::select! {
                        read = stream.read(&mut buffer) => match read {
                            Ok(0) | Err(_) => return,
                            Ok(length) if buffer[..length].windows(9).any(|w| w == b"SUBSCRIBE") => {
                                subscribed = true;
                                "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n".to_owned()
                            }
                            Ok(_) => {
                                let now = address.borrow().clone();
                                let (host, port) = now.split_once(':').unwrap();
                                format!("*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n", host.len(), port.len())
                            }
                        },
                        Ok(()) = address.changed(), if subscribed => {
                            let now = address.borrow().replace(':', " ");
                            let payload = format!("main 127.0.0.1 1 {now}");
                            format!("*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${}\r\n{payload}\r\n", payload.len())
                        }
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    endpoint
}

/// A chat node in this process.
pub(crate) struct Node {
    pub(crate) client: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Dropped, it stops the node.
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
    /// Its settings are in `chatnode.toml`.
    pub(crate) dir: TempDir,
}

/// Settings of a node; `redis` is the body of that section, `more` whatever else.
pub(crate) fn settings(dir: &Path, redis: &str, more: &str) -> String {
    for (name, secret) in [("chat.secret", SECRET), ("admin.token", ADMIN_TOKEN)] {
        std::fs::write(dir.join(name), secret).unwrap();
    }
    let dir = dir.display();
    format!(
        "[node]\nname = \"node\"\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         admin_token_file = \"{dir}/admin.token\"\n\
         [tokens]\nhmac_secret_file = \"{dir}/chat.secret\"\n[redis]\n{redis}\n{more}\n\
         [channels]\npresence = true\njoin_leave = true\nhistory_size = 100\nhistory_ttl = \"1h\"\n\
         force_positioning = true\nforce_recovery = true\nallow_subscribe_for_client = true\n\
         allow_publish_for_client = true\nallow_presence_for_client = true\nallow_history_for_client = true\n\
         [[namespace]]\nname = \"plain\"\nallow_subscribe_for_client = true\nallow_publish_for_client = true\n\
         [[namespace]]\nname = \"closed\"\npresence = true\nhistory_size = 1\nhistory_ttl = \"1m\"\n"
    )
}

impl Node {
    /// A node on the Redis server at `address`.
    pub(crate) async fn on(redis: &Redis) -> Self {
        // A replica of a busy machine may take its time to confirm.
        let patience = "confirm_timeout = \"10s\"\ncommand_timeout = \"20s\"";
        Self::with(&format!("address = \"{}\"\n{patience}", redis.address()), "").await
    }

    /// A node with these settings, ready for clients.
    pub(crate) async fn with(redis: &str, more: &str) -> Self {
        Self::with_tokens("", redis, more).await
    }

    /// The same, and `tokens` in the section about them.
    pub(crate) async fn with_tokens(tokens: &str, redis: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("chatnode.toml");
        let text = settings(dir.path(), redis, more);
        std::fs::write(&file, text.replacen("[tokens]\n", &format!("[tokens]\n{tokens}"), 1))
            .unwrap();
        let config = Config::load(&file).unwrap();
        let listeners = Listeners::bind(&config).await.unwrap();
        let client = listeners.client.local_addr().unwrap();
        let admin = listeners.admin.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(run(listeners, config, stopped));
        eventually("readiness", async || {
            let (status, _) = http(client, "GET", "/health/ready", None).await;
            (status == 200).then_some(())
        })
        .await;
        Self { client, admin, stop, task, dir }
    }

    /// Stops the node and waits for its end.
    pub(crate) async fn stop(self) {
        let Self { stop, mut task, .. } = self;
        drop(stop);
        timeout(DEADLINE, &mut task).await.expect("the node ends").unwrap().unwrap();
    }

    /// Waits for the node's end.
    pub(crate) async fn ended(mut self) {
        timeout(DEADLINE, &mut self.task).await.expect("the node ends").unwrap().unwrap();
    }

    /// Waits until a metric is this high: a client has its answer before that is counted.
    pub(crate) async fn until_metric(&self, series: &str, at_least: f64) {
        eventually(series, async || (self.metric(series).await >= at_least).then_some(())).await;
    }

    /// The value of a metric, by its full series name.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = http(self.admin, "GET", "/metrics", None).await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not exported")).parse().unwrap()
    }
}

/// Status and body of an HTTP request.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> (u16, String) {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{token}\r\n");
    raw_http(address, &head).await
}

/// Status and the rest of the answer to a request as written.
pub(crate) async fn raw_http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}
