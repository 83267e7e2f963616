//! Samples from all sides, and notes of what was confirmed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::daemon::Daemon;
use super::evidence::{Evidence, SERIES, Way};
use super::target::text;
use super::{LOOK_EVERY, now, now_ms, remote_write};

/// Pause between two imports, and between two remote writes.
const PAUSE_MS: std::ops::Range<u64> = 5..40;
/// How far a look at what was scraped reaches back: over a pause of a busy machine.
const LOOK_BACK: &str = "20s";

/// Imports, remote writes and looks at what was scraped and flushed, until it is stopped.
#[derive(Debug)]
pub(super) struct Feed {
    evidence: Evidence,
    stop: CancellationToken,
    tasks: JoinSet<Option<()>>,
}

impl Feed {
    /// Begins to feed a supervisor with samples of a round.
    pub(super) fn start(daemon: &Arc<Daemon>, round: u64) -> Self {
        let (evidence, stop) = (Evidence::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for way in [Way::Import, Way::RemoteWrite] {
            let (daemon, evidence) = (Arc::clone(daemon), evidence.clone());
            let work = async move { send(&daemon, &evidence, way, round).await };
            tasks.spawn(stop.clone().run_until_cancelled_owned(work));
        }
        let (watched, noted) = (Arc::clone(daemon), evidence.clone());
        let work = async move { watch(&watched, &noted, round).await };
        tasks.spawn(stop.clone().run_until_cancelled_owned(work));
        Self { evidence, stop, tasks }
    }

    /// What is known so far.
    pub(super) fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Ends it.
    ///
    /// # Panics
    /// If a wrong value was seen.
    pub(super) async fn stop(mut self) -> Evidence {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("values are right");
        }
        self.evidence
    }
}

/// Sends batch after batch.
async fn send(daemon: &Daemon, evidence: &Evidence, way: Way, round: u64) {
    loop {
        let at_ms = now_ms();
        let body = match way {
            Way::RemoteWrite => remote_write::body(round, at_ms),
            Way::Import | Way::Scrape => text(way, round, at_ms).into(),
        };
        if daemon.send(way, body).await {
            evidence.confirmed(way, at_ms);
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(PAUSE_MS))).await;
    }
}

/// Notes how often the log was flushed, and what was scraped: a scrape is confirmed when a query finds it.
async fn watch(daemon: &Daemon, evidence: &Evidence, round: u64) {
    let mut last_ms = i64::MIN;
    loop {
        let asked = now();
        if let Some(count) = daemon.figure("supervisor_store_flush_seconds_count").await {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small whole number"
            )]
            evidence.flushed(asked, count as u64);
        }
        let scraped = daemon.samples(Way::Scrape, round, LOOK_BACK).await.unwrap_or_default();
        let mut series: HashMap<i64, usize> = HashMap::new();
        for (_, at_ms) in scraped.into_iter().filter(|(_, at_ms)| *at_ms > last_ms) {
            *series.entry(at_ms).or_default() += 1;
        }
        for (at_ms, _) in series.into_iter().filter(|(_, count)| *count == SERIES) {
            evidence.confirmed(Way::Scrape, at_ms);
            last_ms = last_ms.max(at_ms);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
