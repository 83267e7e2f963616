//! One supervisor process: its settings, its life, what is asked of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;

use super::evidence::{Way, value};
use super::small_disk::SmallDisk;
use crate::process::{Process, binary, free_address, http_client, workspace};
use crate::wait;

const TOKEN: &str = "a-token-for-a-soak";
/// A start reads back what is on disk; on a machine with other work that takes its time.
const STARTED_WITHIN: Duration = Duration::from_mins(2);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// As far back as samples of a run reach.
const RANGE: &str = "12h";

/// A sample of a batch as the supervisor answers it: number of the series, instant.
pub(super) type Seen = (usize, i64);

/// How supervisors of a soak are started.
#[derive(Debug)]
pub(super) struct Daemon {
    folder: PathBuf,
    base: String,
    client: Client,
    disk: Option<SmallDisk>,
    starts: AtomicU32,
}

impl Daemon {
    /// Settings in `folder` that scrape `target`; the state lies in `folder/state`, on `disk` if there is one.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub(super) fn new(folder: &Path, target: &str, disk: Option<SmallDisk>) -> Self {
        let address = free_address();
        let rules = workspace().join("alerts/supervisor.yml");
        let settings = format!(
            "[supervisor]\nlisten = \"{address}\"\ntoken_file = \"token\"\nstate_dir = \"state\"\n\
             [log]\nlevel = \"info\"\n\
             [scrape]\ninterval = \"250ms\"\ntimeout = \"250ms\"\n\
             [[scrape.job]]\nname = \"soak\"\ntargets = [\"{target}\"]\n\
             [rules]\nfiles = [\"{}\"]\n",
            rules.display()
        );
        std::fs::write(folder.join("token"), TOKEN).expect("the soak's own folder");
        std::fs::write(folder.join("supervisor.toml"), settings).expect("the soak's own folder");
        let client = http_client();
        Self {
            folder: folder.to_owned(),
            base: format!("http://{address}"),
            client,
            disk,
            starts: AtomicU32::new(0),
        }
    }

    /// Where the metrics store has its files.
    pub(super) fn store(&self) -> PathBuf {
        self.folder.join("state/metrics")
    }

    /// The small disk.
    pub(super) fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready; with what it printed.
    pub(super) async fn start(&self) -> Process {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let output = self.folder.join(format!("supervisor-{number}.log"));
        let settings = self.folder.join("supervisor.toml");
        let settings = settings.to_str().expect("a temporary folder has a plain name");
        let (holdfast, args) = (binary("holdfast"), ["supervise", "--config", settings]);
        let mut process = match &self.disk {
            None => Process::start(&holdfast, &args, &output),
            Some(disk) => {
                let (program, args) = disk.command(&holdfast, &args);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                Process::start(&program, &args, &output)
            }
        };
        wait::until("the supervisor to be ready", STARTED_WITHIN, async || {
            if let Some(status) = process.ended() {
                panic!("the supervisor ended with {status}: {}", process.output());
            }
            let ready = self.client.get(format!("{}/-/ready", self.base)).send().await;
            match ready {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(answer.status().to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        process
    }

    async fn text(&self, path: &str, query: &[(&str, &str)]) -> Result<String, reqwest::Error> {
        let url = format!("{}{path}", self.base);
        let request = self.client.get(url).query(query).timeout(REQUEST_TIMEOUT);
        request.send().await?.error_for_status()?.text().await
    }

    /// Sends samples by import or remote write; whether they were confirmed.
    pub(super) async fn send(&self, way: Way, body: Vec<u8>) -> bool {
        let path = if way == Way::RemoteWrite { "write" } else { "import/prometheus" };
        let url = format!("{}/api/v1/{path}", self.base);
        let request = self.client.post(url).bearer_auth(TOKEN).body(body).timeout(REQUEST_TIMEOUT);
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// A figure that the supervisor exposes about itself.
    pub(super) async fn figure(&self, name: &str) -> Option<f64> {
        let text = self.text("/metrics", &[]).await.ok()?;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Names of the alerts that fire.
    pub(super) async fn firing(&self) -> Vec<String> {
        let text = self.text("/api/v1/alerts", &[]).await.unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .filter_map(|alert| alert["labels"]["alertname"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// All samples of a round that came in one way within `range` before now, by number and time; `None` if it does not answer.
    ///
    /// # Panics
    /// If one of them does not have its value.
    pub(super) async fn samples(&self, way: Way, round: u64, range: &str) -> Option<Vec<Seen>> {
        let query = format!("{}{{round=\"{round}\"}}[{range}]", way.metric());
        let text = self.text("/api/v1/query", &[("query", query.as_str())]).await.ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        let mut seen = Vec::new();
        for series in answer["data"]["result"].as_array()? {
            let number = series["metric"]["number"].as_str()?.parse().ok()?;
            for sample in series["values"].as_array()? {
                #[expect(clippy::cast_possible_truncation, reason = "an instant in this century")]
                let at_ms = (sample[0].as_f64()? * 1000.0).round() as i64;
                let got: f64 = sample[1].as_str()?.parse().ok()?;
                let expected = value(number, at_ms);
                assert!(
                    got.to_bits() == expected.to_bits(),
                    "{query} {number} at {at_ms}: {got}, not {expected}"
                );
                seen.push((number, at_ms));
            }
        }
        Some(seen)
    }

    /// As [`Daemon::samples`], of all time.
    ///
    /// # Panics
    /// If it does not answer.
    pub(super) async fn all_samples(&self, way: Way, round: u64) -> Vec<Seen> {
        self.samples(way, round, RANGE).await.expect("a supervisor that is ready answers")
    }
}
