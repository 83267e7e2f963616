//! The real daemon on settings of the test.

use std::path::Path;
use std::process::{Child, Stdio};

use reqwest::Client;

use super::{bound_to_us, free_port, until};

pub(crate) const TOKEN: &str = "correct-horse";

/// A running supervisor; ends with the test, by a signal that gives it no time.
pub(crate) struct Supervisor {
    pub(crate) base: String,
    client: Client,
    child: Child,
}

impl Supervisor {
    /// Starts it in a folder, which holds its settings and its state.
    pub(crate) async fn start(folder: &Path, settings: &str) -> Self {
        // Another test of this process may have installed it already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = free_port();
        std::fs::write(folder.join("token"), TOKEN).unwrap();
        let file = folder.join("supervisor.toml");
        let text = format!(
            "[supervisor]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"token\"\n\
             state_dir = \"state\"\n{settings}"
        );
        std::fs::write(&file, text).unwrap();
        let child = bound_to_us(env!("CARGO_BIN_EXE_holdfast"))
            .args(["supervise", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("supervisor.log")).unwrap())
            .spawn()
            .unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        let supervisor = Self { base: format!("http://127.0.0.1:{port}"), client, child };
        until("the supervisor is ready", async || {
            let ready = supervisor.client.get(format!("{}/-/ready", supervisor.base)).send().await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        supervisor
    }

    /// The body of a page.
    pub(crate) async fn get(&self, path: &str) -> String {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        response.text().await.unwrap()
    }

    /// Imports a text.
    pub(crate) async fn import(&self, text: &str) {
        let url = format!("{}/api/v1/import/prometheus", self.base);
        let request = self.client.post(url).bearer_auth(TOKEN).body(text.to_owned());
        assert_eq!(request.send().await.unwrap().status(), 204);
    }

    /// Asks it to read its settings again.
    pub(crate) fn hang_up(&self) {
        let pid = self.child.id().to_string();
        assert!(
            std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success()
        );
    }

    /// The first value of a metric.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // It may have ended by itself, then there is nothing to kill.
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}
