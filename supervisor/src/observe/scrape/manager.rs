//! Starts and stops the scrapers as settings and files ask.
//!
//! Level-triggered: at every tick and reload the targets that should be are compared with those that run. A file with a fault keeps the
//! targets it listed last, and so does a name that DNS does not answer for; settings with a fault keep the jobs as they are.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_series::{Labels, ScrapeOptions, Store};
use holdfast_telemetry::errors::Chain;
use tokio::signal::unix::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::discover::{self, Found, Group};
use super::dns::{self, DnsError};
use super::{Facts, Plan, ScrapeMetrics, Scraper, Source, Target, Targets, fetch};
use crate::config::{Config, DnsLookup, ScrapeJob};
use crate::observe::relabel;

/// Files with targets are read again this often; they are small.
const FILES_EVERY: Duration = Duration::from_secs(5);
/// A larger file with targets is refused.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most targets of all jobs together; each costs a task and a connection.
const TARGETS_MAX: usize = 2_000;
/// Most dropped targets that are remembered for operators.
const DROPPED_MAX: usize = 1_000;

/// What scrapers share.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where samples go.
    pub store: Arc<Store>,
    /// Figures of all scrapes.
    pub metrics: ScrapeMetrics,
    /// Figures of chat nodes.
    pub facts: Facts,
    /// How targets are doing.
    pub targets: Targets,
}

/// The names of a lookup.
#[derive(Debug, Default)]
struct Names {
    groups: Vec<Group>,
    /// When they are asked for again; never while that is being done.
    due: Option<Instant>,
    /// The fault that was logged.
    fault: Option<String>,
}

/// Runs all scrapers.
pub struct Manager {
    parts: Parts,
    /// The settings file, read again at a reload.
    settings: PathBuf,
    hangups: Signal,
    own: Vec<Target>,
    jobs: Vec<Arc<ScrapeJob>>,
    /// What each file listed when it was last good.
    files: HashMap<PathBuf, Vec<Group>>,
    /// Faults of files that were logged.
    faults: HashMap<PathBuf, String>,
    /// What DNS said when it last answered.
    names: HashMap<DnsLookup, Names>,
    lookups: JoinSet<(DnsLookup, Result<Vec<Group>, DnsError>)>,
    running: HashMap<(u64, Labels), CancellationToken>,
    scrapers: JoinSet<()>,
}

impl Manager {
    /// For the cluster's `own` targets and the `jobs` of the operator, which are read again from `settings` at each hang-up.
    pub fn new(
        parts: Parts,
        settings: PathBuf,
        own: Vec<Target>,
        jobs: Vec<Arc<ScrapeJob>>,
        hangups: Signal,
    ) -> Self {
        Self {
            parts,
            settings,
            hangups,
            own,
            jobs,
            files: HashMap::new(),
            faults: HashMap::new(),
            names: HashMap::new(),
            lookups: JoinSet::new(),
            running: HashMap::new(),
            scrapers: JoinSet::new(),
        }
    }

    /// Runs until `shutdown`, or until a scraper panics.
    pub async fn run(mut self, shutdown: CancellationToken) {
        for target in std::mem::take(&mut self.own) {
            self.start(target, CancellationToken::new(), &shutdown);
        }
        let mut tick = tokio::time::interval(FILES_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
                _ = self.hangups.recv() => self.reload().await,
                Some(answer) = self.lookups.join_next() => match answer {
                    Ok((lookup, answer)) => self.take_names(&lookup, answer),
                    Err(error) => {
                        tracing::error!(%error, "a look-up of targets panicked");
                        return;
                    }
                },
                Some(ended) = self.scrapers.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a scraper panicked");
                        return;
                    }
                    continue;
                }
            }
            self.files = self.read_files().await;
            self.ask_for_names();
            self.settle(&shutdown);
        }
        while self.scrapers.join_next().await.is_some() {}
    }

    /// Takes the jobs from the settings file as it is now.
    async fn reload(&mut self) {
        let path = self.settings.clone();
        match tokio::task::spawn_blocking(move || Config::read(&path)).await {
            Ok(Ok(config)) => {
                self.jobs = config.scrape.jobs;
                tracing::info!(jobs = self.jobs.len(), "scrape jobs read again");
            }
            Ok(Err(faults)) => {
                tracing::error!(error = %faults, "scrape jobs stay as they are: the settings have faults");
            }
            Err(error) => tracing::error!(%error, "scrape jobs stay as they are"),
        }
    }

    /// Reads all files with targets.
    async fn read_files(&mut self) -> HashMap<PathBuf, Vec<Group>> {
        let patterns: Vec<String> = self.jobs.iter().flat_map(|job| job.files.clone()).collect();
        if patterns.is_empty() {
            return HashMap::new();
        }
        let read = tokio::task::spawn_blocking(move || read_all(&patterns)).await;
        let mut files = HashMap::new();
        for (path, groups) in read.unwrap_or_default() {
            match groups {
                Ok(groups) => {
                    self.faults.remove(&path);
                    files.insert(path, groups);
                }
                Err(error) => {
                    let last = self.files.remove(&path).unwrap_or_default();
                    if self.faults.insert(path.clone(), error.clone()).as_ref() != Some(&error) {
                        let file = path.display().to_string();
                        tracing::warn!(file, error, "targets stay as the file listed them last");
                    }
                    files.insert(path, last);
                }
            }
        }
        files
    }

    /// Asks DNS for what is due.
    fn ask_for_names(&mut self) {
        let now = Instant::now();
        let wanted: HashSet<&DnsLookup> = self.jobs.iter().flat_map(|job| &job.dns).collect();
        self.names.retain(|lookup, _| wanted.contains(lookup));
        for lookup in wanted {
            let known = self.names.entry(lookup.clone());
            let is_new = matches!(known, Entry::Vacant(_));
            let known = known.or_default();
            if is_new || known.due.is_some_and(|due| due <= now) {
                known.due = None;
                let lookup = lookup.clone();
                self.lookups.spawn(async move {
                    let answer = dns::look_up(&lookup).await;
                    (lookup, answer)
                });
            }
        }
    }

    fn take_names(&mut self, lookup: &DnsLookup, answer: Result<Vec<Group>, DnsError>) {
        // A reload may have taken the names away meanwhile.
        let Some(known) = self.names.get_mut(lookup) else { return };
        known.due = Some(Instant::now() + lookup.refresh);
        match answer {
            Ok(groups) => (known.groups, known.fault) = (groups, None),
            Err(error) => {
                let (names, error) = (lookup.names.join(" "), Chain(&error).to_string());
                if known.fault.as_ref() != Some(&error) {
                    tracing::warn!(names, error, "targets stay as DNS listed them last");
                }
                known.fault = Some(error);
            }
        }
    }

    /// Starts what should run and does not, and the other way round.
    fn settle(&mut self, shutdown: &CancellationToken) {
        let (mut wanted, mut all_dropped) = (HashMap::new(), Vec::new());
        for job in self.jobs.clone() {
            let groups = self.groups_of(&job);
            let (found, dropped) = discover::targets(&job, &groups);
            all_dropped.extend(dropped);
            for target in found {
                wanted.insert((job.identity, target.labels.clone()), (Arc::clone(&job), target));
            }
        }
        all_dropped.truncate(DROPPED_MAX);
        self.parts.targets.set_dropped(all_dropped);
        self.running.retain(|key, gone| {
            let stays = wanted.contains_key(key);
            if !stays {
                gone.cancel();
            }
            stays
        });
        let mut clients = HashMap::new();
        for (key, (job, found)) in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            if self.running.len() >= TARGETS_MAX {
                tracing::error!(TARGETS_MAX, "too many targets, the rest is not scraped");
                return;
            }
            match target(&job, found, &mut clients) {
                Ok(target) => {
                    let gone = CancellationToken::new();
                    self.running.insert(key, gone.clone());
                    self.start(target, gone, shutdown);
                }
                Err(error) => {
                    let error = Chain(&error).to_string();
                    tracing::error!(job = job.name, error, "no client for a target");
                }
            }
        }
    }

    fn groups_of(&self, job: &ScrapeJob) -> Vec<Group> {
        let patterns = job.files.iter().filter_map(|text| glob::Pattern::new(text).ok());
        let mut paths: Vec<&PathBuf> = patterns
            .flat_map(|pattern| self.files.keys().filter(move |path| pattern.matches_path(path)))
            .collect();
        paths.sort_unstable();
        paths.dedup();
        let listed = paths.into_iter().flat_map(|path| self.files[path].clone());
        let named = job.dns.iter().filter_map(|lookup| self.names.get(lookup));
        listed.chain(named.flat_map(|known| known.groups.clone())).collect()
    }

    fn start(&mut self, target: Target, gone: CancellationToken, shutdown: &CancellationToken) {
        let Parts { store, metrics, facts, targets } = self.parts.clone();
        let scraper = Scraper::new(target, store, metrics, facts, targets);
        self.scrapers.spawn(scraper.run(gone, shutdown.clone()));
    }
}

/// A found target with the client of its job. A server name is tied to an address, so such a target gets a client of its own.
fn target(
    job: &ScrapeJob,
    found: Found,
    clients: &mut HashMap<u64, reqwest::Client>,
) -> Result<Target, reqwest::Error> {
    let client = match clients.get(&job.identity) {
        Some(client) if job.tls.server_name.is_none() => client.clone(),
        _ => {
            let client = fetch::client(&job.tls, &found.address)?;
            clients.insert(job.identity, client.clone());
            client
        }
    };
    let rules = job.metric_relabel.clone();
    let relabel: holdfast_series::Relabel = Arc::new(move |labels| relabel::apply(&rules, labels));
    let options = ScrapeOptions {
        honor_labels: job.honor_labels,
        honor_timestamps: job.honor_timestamps,
        sample_limit: job.sample_limit,
        label_limit: job.label_limit,
        classic_histograms: job.classic_histograms,
        relabel: (!job.metric_relabel.is_empty()).then_some(relabel),
    };
    Ok(Target {
        job: job.name.clone(),
        discovered: found.discovered,
        labels: found.labels,
        source: Source::Http { url: found.url, client, login: job.login.clone() },
        plan: Plan {
            interval: job.interval,
            timeout: job.timeout,
            body_bytes_max: job.body_bytes_max,
            native_histograms: job.native_histograms,
            options: Arc::new(options),
        },
        node: None,
    })
}

type FileRead = (PathBuf, Result<Vec<Group>, String>);

/// What all files say that the patterns name.
fn read_all(patterns: &[String]) -> Vec<FileRead> {
    let paths = patterns.iter().filter_map(|pattern| glob::glob(pattern).ok()).flatten().flatten();
    paths.map(|path| (path.clone(), read_file(&path))).collect()
}

fn read_file(path: &Path) -> Result<Vec<Group>, String> {
    let read = || -> io::Result<String> {
        if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        std::fs::read_to_string(path)
    };
    read().map_err(|error| error.to_string()).and_then(|text| discover::parse(path, &text))
}
