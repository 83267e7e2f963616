//! Real Redis servers and Sentinels.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::until;

/// A Redis server or Sentinel of its own, ended with the test.
pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    process: Child,
    _dir: TempDir,
}

impl Redis {
    pub(crate) async fn start(address: SocketAddr, settings: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("redis.conf");
        let port = address.port();
        let (path, at) = ("/usr/local/bin:/usr/bin:/bin", dir.path().display());
        let text = format!("bind 127.0.0.1\nport {port}\nsave \"\"\ndir {at}\n{settings}");
        std::fs::write(&file, text).unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "redis-server", file.to_str().unwrap()])
            .args(arguments)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self { address, process, _dir: dir };
        until("Redis", async || TcpStream::connect(address).await.map(drop)).await;
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has found out before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
