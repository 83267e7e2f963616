//! A whole cluster by `holdfast up`, in a temporary folder and on free ports, with the handles a test needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_supervisor::cluster::{AlertStatus, Health, Status};
use holdfast_supervisor::record::{Event, Incident};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::process::{self, Process, binary};
use crate::wait;

/// From the start of `holdfast up` until the cluster is ready. It takes seconds; the machine may be compiling beside it.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// From SIGTERM until everything has ended.
const STOPPED_WITHIN: Duration = Duration::from_secs(40);

/// Longest wait for an answer; they take milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A running cluster; everything ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    up: Process,
    dir: TempDir,
    client: reqwest::Client,
    /// Settings as `holdfast up` wrote them.
    supervisor: toml::Table,
    balancer: toml::Table,
}

impl Cluster {
    /// Starts `holdfast up` on free ports with further `args` and waits until the canary is served.
    ///
    /// # Panics
    /// If the cluster is not ready in time; with all that was printed.
    pub async fn start(args: &[&str]) -> Self {
        Self::configured("", args).await
    }

    /// As [`Cluster::start`], with settings for `holdfast up --config`.
    ///
    /// # Panics
    /// If the cluster is not ready in time; with all that was printed.
    pub async fn configured(settings_of_up: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let state = dir.path().join("state");
        let up = dir.path().join("up.toml");
        std::fs::write(&up, settings_of_up).expect("our own folder is writable");
        let mut all = vec!["up", "--ports", "free", "--state-dir", path(&state)];
        all.extend(["--config", path(&up)]);
        all.extend(args);
        let mut up = Process::start(&binary("holdfast"), &all, &dir.path().join("up.log"));
        let latest = state.join("latest");
        let client_file = latest.join("client.toml");
        wait::until("the cluster's settings", READY_WITHIN, async || {
            assert!(up.ended().is_none(), "holdfast up ended: {}", up.output());
            if client_file.exists() { Ok(()) } else { Err(up.output()) }
        })
        .await;
        let client = process::http_client();
        let supervisor = settings(&latest.join("etc/holdfast.toml"));
        let balancer = settings(&latest.join("etc/balancer.toml"));
        let cluster = Self { up, dir, client, supervisor, balancer };
        cluster.healthy(READY_WITHIN).await;
        cluster
    }

    /// Waits until the supervisor finds nothing wrong.
    ///
    /// # Panics
    /// After `deadline`, with the last status.
    pub async fn healthy(&self, deadline: Duration) -> Status {
        wait::until("a healthy cluster", deadline, async || match self.try_status().await {
            Ok(status) if status.health == Health::Ok => Ok(status),
            Ok(status) => Err(format!("{:?} {status:#?}", status.problems)),
            Err(error) => Err(format!("{error}\n{}", self.up.output())),
        })
        .await
    }

    /// The folder of this run.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("state/latest")
    }

    /// What `holdfast up` has printed.
    pub fn output(&self) -> String {
        self.up.output()
    }

    /// The process of `holdfast up` itself.
    pub fn up(&mut self) -> &mut Process {
        &mut self.up
    }

    /// Process id of a program of the cluster: `redis-1`, `chatnode-2`, `balancer`, `supervisor`.
    ///
    /// # Panics
    /// If it has no readable pid file.
    pub fn pid(&self, program: &str) -> u32 {
        let file = self.folder().join("pids").join(format!("{program}.pid"));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().parse().unwrap_or_else(|error| panic!("{}: {text:?}: {error}", file.display()))
    }

    /// Process ids of all programs of the cluster.
    ///
    /// # Panics
    /// If the folder of pid files cannot be read.
    pub fn pids(&self) -> Vec<u32> {
        let files = std::fs::read_dir(self.folder().join("pids")).expect("the folder of pid files");
        let texts = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        texts.filter_map(|text| text.trim().parse().ok()).collect()
    }

    /// Kills a program with SIGKILL and returns its process id.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill(&self, program: &str) -> u32 {
        let pid = self.pid(program);
        process::signal_pid(pid, nix::sys::signal::Signal::SIGKILL);
        pid
    }

    /// WebSocket address of the chat, through the balancer.
    ///
    /// # Panics
    /// If the settings are not as expected.
    pub fn chat_url(&self) -> String {
        let listener = &self.balancer["listener"][0]["listen"];
        format!("ws://{}/connection/websocket", listener.as_str().expect("an address"))
    }

    /// Secret for connection tokens.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn chat_secret(&self) -> holdfast_settings::Secret {
        let file = self.folder().join("secrets/chat.secret");
        holdfast_settings::Secret::from_file(&file).expect("the cluster's chat secret")
    }

    /// Addresses of all Redis servers.
    ///
    /// # Panics
    /// If the settings have none.
    pub fn redis(&self) -> Vec<String> {
        let servers = self.supervisor["redis"]["servers"].as_array().expect("servers");
        servers.iter().filter_map(|server| server.as_str().map(str::to_owned)).collect()
    }

    /// The name (`redis-1`, …) of the server at `address`.
    ///
    /// # Panics
    /// If there is none.
    pub fn redis_name(&self, address: &str) -> String {
        let index = self.redis().iter().position(|server| server == address);
        format!("redis-{}", index.expect("one of the cluster's servers") + 1)
    }

    /// Base URLs of the admin listeners of all three kinds of program, for `/metrics` and `/health`.
    ///
    /// # Panics
    /// If the settings are not as expected.
    pub fn admins(&self) -> Vec<(String, String)> {
        let url = |value: &toml::Value| format!("http://{}", value.as_str().expect("an address"));
        let nodes = self.supervisor["node"].as_array().expect("nodes").iter();
        let name = |node: &toml::Value| node["name"].as_str().expect("a name").to_owned();
        nodes
            .map(|node| (name(node), url(&node["metrics"])))
            .chain([
                ("balancer".to_owned(), url(&self.balancer["admin"]["listen"])),
                ("supervisor".to_owned(), self.supervisor_url()),
            ])
            .collect()
    }

    /// Base URL of the supervisor.
    ///
    /// # Panics
    /// If the settings are not as expected.
    pub fn supervisor_url(&self) -> String {
        let listen = self.supervisor["supervisor"]["listen"].as_str().expect("an address");
        format!("http://{listen}")
    }

    /// `GET` as text.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub async fn get(&self, url: &str) -> Result<String, String> {
        let request = self.client.get(url).timeout(ANSWER_WITHIN);
        let response = request.send().await.map_err(|error| format!("{url}: {error}"))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| format!("{url}: {error}"))?;
        if status.is_success() { Ok(text) } else { Err(format!("{url}: {status} {text}")) }
    }

    async fn operator<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let text = self.get(&format!("{}/operator/v1/{path}", self.supervisor_url())).await?;
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
    }

    /// The supervisor's view.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn try_status(&self) -> Result<Status, String> {
        self.operator("status").await
    }

    /// The supervisor's view.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn status(&self) -> Status {
        self.try_status().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Events of the journal, oldest first, with an id above `since`.
    ///
    /// # Panics
    /// If the supervisor does not answer.
    pub async fn events(&self, since: u64) -> Vec<Event> {
        let path = format!("events?since_id={since}&limit=1000");
        let page: EventPage = self.operator(&path).await.unwrap_or_else(|error| panic!("{error}"));
        page.events
    }

    /// Incidents, newest first.
    ///
    /// # Panics
    /// If the supervisor does not answer.
    pub async fn incidents(&self) -> Vec<Incident> {
        let page: IncidentPage =
            self.operator("incidents").await.unwrap_or_else(|error| panic!("{error}"));
        page.incidents
    }

    /// Waits for an event that `wanted` accepts, with an id above `since`.
    ///
    /// # Panics
    /// After `deadline`, with all events.
    pub async fn event(
        &self,
        what: &str,
        since: u64,
        deadline: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Event {
        wait::until(what, deadline, async || {
            let events = self.events(since).await;
            let found = events.iter().find(|event| wanted(event)).cloned();
            found.ok_or_else(|| {
                let line =
                    |e: &Event| format!("{} {:?} {}: {}", e.id, e.kind, e.subject, e.message);
                events.iter().map(line).collect::<Vec<_>>()
            })
        })
        .await
    }

    /// Id of the newest event.
    pub async fn last_event(&self) -> u64 {
        self.events(0).await.last().map_or(0, |event| event.id)
    }

    /// Mails that arrived, as text.
    pub fn mails(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder().join("mail")).into_iter().flatten();
        let read = |file: std::fs::DirEntry| std::fs::read_to_string(file.path()).ok();
        files.filter_map(|file| read(file.ok()?)).collect()
    }

    /// What the webhook received: one JSON document a line.
    pub fn webhooks(&self) -> Vec<Hook> {
        let text = std::fs::read_to_string(self.folder().join("webhook.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Runs the `holdfast` command line against this cluster.
    pub async fn cli(&self, args: &[&str]) -> (std::process::ExitStatus, String) {
        let token = self.folder().join("secrets/supervisor.token");
        let url = self.supervisor_url();
        let mut all = vec!["--server", &url, "--token-file", path(&token)];
        all.extend(args);
        process::run(&binary("holdfast"), &all).await
    }

    /// Ends the cluster as an operator would, and returns what it printed.
    ///
    /// # Panics
    /// If it does not end with success in time, or leaves a process behind.
    pub async fn stop(mut self) -> String {
        let pids = self.pids();
        assert!(!pids.is_empty(), "the cluster has processes");
        self.up.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.up.wait(STOPPED_WITHIN).await;
        assert!(status.success(), "holdfast up ended with {status}: {}", self.up.output());
        let left: Vec<_> = pids.into_iter().filter(|pid| process::is_alive(*pid)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        self.up.output()
    }
}

#[derive(Deserialize)]
struct EventPage {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct IncidentPage {
    incidents: Vec<Incident>,
}

/// A webhook call in Alertmanager's format, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Hook {
    /// `firing` or `resolved`.
    pub status: String,
    /// The alerts.
    pub alerts: Vec<HookAlert>,
}

/// An alert in a webhook call.
#[derive(Debug, Clone, Deserialize)]
pub struct HookAlert {
    /// `firing` or `resolved`.
    pub status: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// Whether an alert of this name is firing.
pub fn is_firing(alerts: &[AlertStatus], name: &str) -> bool {
    use holdfast_supervisor::cluster::AlertState;
    alerts.iter().any(|alert| alert.name == name && alert.state == AlertState::Firing)
}

fn settings(file: &Path) -> toml::Table {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
