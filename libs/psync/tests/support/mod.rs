//! Real Redis servers that end with the test, however it ends.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_psync::{Address, Connection, Endpoint};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longest wait for anything; only a broken test gets there.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A `redis-server` of our own.
pub(crate) struct Redis {
    pub(crate) pid: u32,
    pub(crate) port: u16,
    /// Goes when the server has gone.
    _dir: TempDir,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Redis {
    /// Starts a server with `options` beside the usual ones and waits until it answers.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = holdfast_ports::take().expect("a free port");
        let mut arguments: Vec<String> =
            "--pdeathsig KILL redis-server --save  --appendonly no --bind 127.0.0.1 \
            --repl-diskless-sync-delay 0 --enable-debug-command yes --loglevel notice --logfile log"
                .split(' ')
                .map(str::to_owned)
                .collect();
        arguments.extend(["--port".to_owned(), port.to_string()]);
        arguments.extend(["--dir".to_owned(), dir.path().display().to_string()]);
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let (pid_sender, pid) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        // The server is killed when the thread that started it ends, so that thread stays.
        let keeper = std::thread::spawn(move || {
            let mut child: Child = Command::new("setpriv")
                .args(&arguments)
                .stdout(Stdio::null())
                .spawn()
                .expect("setpriv and redis-server are installed");
            pid_sender.send(child.id()).expect("the test waits for it");
            // Ends when the test is through or gone.
            stopped.recv().ok();
            child.kill().ok();
            child.wait().ok();
        });
        let pid = pid.recv().expect("the server was started");
        let redis = Self { pid, port, _dir: dir, stop: Some(stop), keeper: Some(keeper) };
        redis
            .until("it answers", |redis| async move {
                match Connection::open(&redis.endpoint()).await {
                    Ok(mut connection) => connection.command(&["PING"]).await.is_ok(),
                    Err(_) => false,
                }
            })
            .await;
        redis
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::new(Address::Tcp(format!("127.0.0.1:{}", self.port)))
    }

    pub(crate) async fn open(&self) -> Connection {
        Connection::open(&self.endpoint()).await.expect("the server is up")
    }

    /// One command, its reply as text.
    pub(crate) async fn run(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let reply = self.open().await.command(&words).await.expect("the command succeeds");
        reply.text().unwrap_or_else(|| format!("{reply:?}"))
    }

    /// Waits for a condition, at most [`PATIENCE`].
    pub(crate) async fn until<'a, F: Future<Output = bool>>(
        &'a self,
        what: &str,
        condition: impl Fn(&'a Self) -> F,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self).await {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn replication(&self, name: &str) -> String {
        let info = self.open().await.info("replication").await.expect("INFO works");
        info.into_iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
            .unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            keeper.join().ok();
        }
    }
}
