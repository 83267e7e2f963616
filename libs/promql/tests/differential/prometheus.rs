//! A real Prometheus on a block of samples, for as long as the test lasts.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;

use super::When;

/// How long Prometheus may take to start or to answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Prometheus {
    address: SocketAddr,
    /// Held until the end; dropping it ends the thread that holds the process.
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts it on the samples of an `OpenMetrics` text.
    pub(crate) fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (input, data) = (folder.path().join("samples.txt"), folder.path().join("data"));
        std::fs::write(&input, text).unwrap();
        let made = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([&input, &data])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, "global: {}\n").unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, holdfast_ports::take().unwrap()));
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "prometheus", "--storage.tsdb.retention.time=100y"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (stop, stopped) = channel::<()>();
        // The process dies with the thread that started it, so that thread stays.
        let keeper = std::thread::spawn(move || {
            let mut child: Child = command.spawn().unwrap();
            let _dropped = stopped.recv();
            // It may have ended by itself, then there is nothing to kill.
            let _ended = child.kill();
            child.wait().unwrap();
        });
        let prometheus = Self { address, stop: Some(stop), keeper: Some(keeper), _folder: folder };
        prometheus.wait_until_ready();
        prometheus
    }

    fn wait_until_ready(&self) {
        let (_never, pause) = channel::<()>();
        let tries = PATIENCE.as_millis() / 50;
        for _ in 0..tries {
            if matches!(self.get("/-/ready"), Ok((200, _))) {
                return;
            }
            let _timeout = pause.recv_timeout(Duration::from_millis(50));
        }
        panic!("Prometheus was not ready within {PATIENCE:?}");
    }

    /// Its answer to a query: what stands under `data`, or its error.
    pub(crate) fn ask(&self, query: &str, when: When) -> Result<Json, String> {
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let query = encode(query);
        let path = match when {
            When::At(at) => format!("/api/v1/query?query={query}&time={}", seconds(at)),
            When::Range { start, end, step } => format!(
                "/api/v1/query_range?query={query}&start={}&end={}&step={}",
                seconds(start),
                seconds(end),
                seconds(step)
            ),
        };
        let (_, body) = self.get(&path).unwrap();
        let mut answer: Json = serde_json::from_str(&body).unwrap();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].as_str().unwrap_or(&body).to_owned()),
        }
    }

    fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: the body ends with the connection and comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let bad = || std::io::Error::other("no HTTP answer");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
        Ok((status, body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // A panic in there has been reported already.
            let _result = keeper.join();
        }
    }
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
        out
    })
}
