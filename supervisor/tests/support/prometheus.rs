//! A real Prometheus that takes remote write.

use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{PATIENCE, bound_to_us, free_port};

/// A running server; ends with the test.
pub(crate) struct Prometheus {
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Prometheus {
    /// Starts it; `SELF` in the configuration stands for its own address.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// With further arguments.
    pub(crate) fn start_with(config: &str, arguments: &[String]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let config = config.replace("SELF", &format!("127.0.0.1:{port}"));
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let mut prometheus = Self { port, folder, arguments: arguments.to_vec(), child: None };
        prometheus.start_again();
        prometheus
    }

    /// Starts it on the data it had.
    pub(crate) fn start_again(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let child = bound_to_us("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .arg("--web.enable-remote-write-receiver")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let (_never, pause) = std::sync::mpsc::channel::<()>();
        for _ in 0..PATIENCE.as_millis() / 50 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            let _timeout = pause.recv_timeout(Duration::from_millis(50));
        }
        panic!("Prometheus did not listen within {PATIENCE:?}");
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself, then there is nothing to kill.
            let _ended = child.kill();
            child.wait().unwrap();
        }
    }

    /// Where it is.
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.stop();
    }
}
