//! A balancer in this process, servers it can lose, and a client that says exactly what it is told to.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod authority;
pub(crate) mod frames;
pub(crate) mod http2;
pub(crate) mod naive;
pub(crate) mod program;
pub(crate) mod redis;
pub(crate) mod upstream;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_balancer::{Bound, Started, config};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use upstream::Upstream;

/// Everything a test waits for comes within this time, or never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const TOKEN: &str = "the-token";

/// A balancer that runs until it is dropped or ended.
pub(crate) struct Balancer {
    pub(crate) admin: SocketAddr,
    started: Started,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    dir: TempDir,
}

impl Balancer {
    /// Starts one with `settings` below the usual `[admin]` table.
    pub(crate) async fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        let file = dir.path().join("balancer.toml");
        std::fs::write(&file, text(&dir, settings)).unwrap();
        let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
        let bound = Bound::bind(config).unwrap();
        let (shutdown, ended) = oneshot::channel::<()>();
        let (tell, started) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async { drop(ended.await) };
            bound.run(shutdown, Some(tell)).await.unwrap();
        });
        let started = timeout(DEADLINE, started).await.unwrap().unwrap();
        Self { admin: started.admin, started, shutdown: Some(shutdown), running, dir }
    }

    /// Writes other settings, which a reload will find.
    pub(crate) fn write(&self, settings: &str) {
        std::fs::write(self.file(), text(&self.dir, settings)).unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("balancer.toml")
    }

    /// The balancer itself.
    pub(crate) fn core(&self) -> &holdfast_balancer::control::Balancer {
        &self.started.balancer
    }

    /// Where a listener is bound.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.started.balancer.addresses()[listener]
    }

    /// Asks the operator API.
    pub(crate) async fn api(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> (u16, serde_json::Value) {
        self.api_with(method, path, &[("Authorization", &format!("Bearer {TOKEN}"))], body).await
    }

    /// As [`Self::api`] with other headers.
    pub(crate) async fn api_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, serde_json::Value) {
        let path = format!("/api/v1{path}");
        let response = request(self.admin, method, &path, headers, body.as_bytes()).await;
        (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
    }

    /// A server of the pool `p`, as the operator API shows it.
    pub(crate) async fn server(&self, name: &str) -> serde_json::Value {
        let (_, pool) = self.api("GET", "/pools/p", "").await;
        let servers = pool["servers"].as_array().cloned().unwrap_or_default();
        servers.into_iter().find(|server| server["name"] == name).unwrap_or_default()
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let response = request(self.admin, "GET", "/metrics", &[], b"").await;
        String::from_utf8(response.body).unwrap()
    }

    /// One series' value; labels in alphabetical order, as they are printed.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
    }

    /// Waits until a series has a value. What a client sees comes before it is counted: an answer is sent, a connection closed, and
    /// only then does the worker that did it raise the counter.
    pub(crate) async fn wait_metric(&self, series: &str, value: f64) {
        until(&format!("{series} = {value}"), async || {
            let seen = self.metric(series).await;
            if (seen - value).abs() < 0.1 { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Waits until a server is, or is not, usable.
    pub(crate) async fn wait_usable(&self, name: &str, usable: bool) {
        until(&format!("{name} usable={usable}"), async || {
            let server = self.server(name).await;
            if server["usable"] == usable { Ok(()) } else { Err(server) }
        })
        .await;
    }

    /// Ends it gracefully, and waits for that.
    pub(crate) async fn end(mut self) {
        let _ = self.shutdown.take().unwrap().send(());
        timeout(DEADLINE, &mut self.running).await.unwrap().unwrap();
    }

    /// Asks it to end, without waiting.
    pub(crate) fn begin_end(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
    }

    /// Whether it has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.running.is_finished()
    }
}

fn text(dir: &TempDir, settings: &str) -> String {
    let token = dir.path().join("token");
    let token = token.display();
    format!("[admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{token}\"\n{settings}")
}

/// Settings of one HTTP listener `l` and a pool `p` with these servers.
pub(crate) fn settings(pool: &str, servers: &[(&str, SocketAddr)]) -> String {
    let mut text = format!(
        "[drain]\nperiod = \"1s\"\n[[listener]]\nname = \"l\"\nlisten = \"127.0.0.1:0\"\npool = \"p\"\n\
         [[pool]]\nname = \"p\"\n{pool}\n"
    );
    for (name, address) in servers {
        write!(text, "[[pool.server]]\nname = \"{name}\"\naddress = \"{address}\"\n").unwrap();
    }
    text
}

/// Quick health checks over HTTP, which a busy machine does not fail.
pub(crate) const CHECKED: &str = "[pool.health_check]\ntype = \"http\"\npath = \"/health/ready\"\n\
    interval = \"50ms\"\ntimeout = \"30s\"\n";

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if !body.is_empty() {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    head.push_str("\r\n");
    let answer = raw(address, &[head.as_bytes(), body].concat()).await;
    parse(&answer).unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(&answer)))
}

/// An address that nobody else gets, also while its server is not there.
pub(crate) fn free() -> SocketAddr {
    ([127, 0, 0, 1], holdfast_ports::take().unwrap()).into()
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let send = async {
            // The other side may refuse before it has read everything.
            let _ = write.write_all(bytes).await;
        };
        let receive = async {
            let mut chunk = vec![0; 65_536];
            while let Ok(count @ 1..) = read.read(&mut chunk).await {
                answer.extend_from_slice(&chunk[..count]);
            }
        };
        tokio::join!(send, receive);
        answer
    };
    timeout(DEADLINE, exchange).await.expect("an answer in time")
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    Some(Response { status, head: head.to_lowercase(), body: answer[end + 4..].to_vec() })
}

/// Looks again and again until it is so; says what it saw last if it never is.
pub(crate) async fn until<T, S: std::fmt::Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) => assert!(Instant::now() < deadline, "waited for {what}; saw {seen:#?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}
