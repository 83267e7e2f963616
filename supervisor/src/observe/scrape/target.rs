//! What is scraped, and how it is doing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_series::{Labels, ScrapeOptions};

use super::fetch::Login;

/// Reads an exposition that needs no network of its own.
pub type Read = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Where a target's exposition comes from.
#[derive(Clone)]
pub enum Source {
    /// `GET` of this URL with this client.
    Http {
        /// The URL.
        url: String,
        /// The client; its connections are kept.
        client: reqwest::Client,
        /// Sent with every request.
        login: Login,
    },
    /// Put together in this process: our own registry, or figures from a connection that is open anyway.
    Read(Read),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, .. } => write!(f, "Http({url})"),
            Self::Read(_) => write!(f, "Read"),
        }
    }
}

/// How a target is scraped.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Time between two scrapes.
    pub interval: Duration,
    /// A scrape that takes longer has failed; at most `interval`.
    pub timeout: Duration,
    /// A larger exposition is refused.
    pub body_bytes_max: usize,
    /// Asked for in protobuf, which has native histograms.
    pub native_histograms: bool,
    /// How its samples are taken.
    pub options: Arc<ScrapeOptions>,
}

/// Something to scrape.
#[derive(Debug, Clone)]
pub struct Target {
    /// The job it belongs to.
    pub job: String,
    /// What it was before relabelling.
    pub discovered: Labels,
    /// Labels of all its series, `job` and `instance` among them.
    pub labels: Labels,
    /// Where its exposition comes from.
    pub source: Source,
    /// How.
    pub plan: Plan,
    /// The chat node whose facts are in it.
    pub node: Option<String>,
}

/// What the last scrape of a target said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetState {
    /// There was none yet.
    #[default]
    Unknown,
    /// It succeeded.
    Up,
    /// It failed.
    Down,
}

/// A target as operators see it.
#[derive(Debug, Clone)]
pub struct TargetHealth {
    /// The job it belongs to.
    pub job: String,
    /// What it was before relabelling.
    pub discovered: Labels,
    /// Labels of all its series.
    pub labels: Labels,
    /// The URL; empty if it is read within the process.
    pub url: String,
    /// Result of the last scrape.
    pub state: TargetState,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began, milliseconds since the Unix epoch.
    pub last_scrape_ms: Option<i64>,
    /// How long it took.
    pub last_duration: Duration,
    /// Samples it brought.
    pub samples: usize,
    /// Time between two scrapes.
    pub interval: Duration,
    /// A scrape that takes longer has failed.
    pub timeout: Duration,
}

/// A target that relabelling dropped.
#[derive(Debug, Clone)]
pub struct DroppedTarget {
    /// The job it would belong to.
    pub job: String,
    /// What it was before relabelling.
    pub discovered: Labels,
}

/// All targets and how they are doing. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Targets(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    active: BTreeMap<u64, TargetHealth>,
    dropped: Vec<DroppedTarget>,
}

impl Targets {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that are scraped, oldest first.
    pub fn active(&self) -> Vec<TargetHealth> {
        self.table().active.values().cloned().collect()
    }

    /// Those that relabelling dropped, up to a bound.
    pub fn dropped(&self) -> Vec<DroppedTarget> {
        self.table().dropped.clone()
    }

    pub(super) fn set_dropped(&self, dropped: Vec<DroppedTarget>) {
        self.table().dropped = dropped;
    }

    /// Adds a target; its number.
    pub(super) fn add(&self, target: &Target) -> u64 {
        let url = match &target.source {
            Source::Http { url, .. } => url.clone(),
            Source::Read(_) => String::new(),
        };
        let health = TargetHealth {
            job: target.job.clone(),
            discovered: target.discovered.clone(),
            labels: target.labels.clone(),
            url,
            state: TargetState::Unknown,
            error: None,
            last_scrape_ms: None,
            last_duration: Duration::ZERO,
            samples: 0,
            interval: target.plan.interval,
            timeout: target.plan.timeout,
        };
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        table.active.insert(id, health);
        id
    }

    pub(super) fn update(&self, id: u64, change: impl FnOnce(&mut TargetHealth)) {
        if let Some(health) = self.table().active.get_mut(&id) {
            change(health);
        }
    }

    pub(super) fn remove(&self, id: u64) {
        self.table().active.remove(&id);
    }
}
