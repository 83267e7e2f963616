//! The metrics store under the worst: a supervisor that is killed while samples come in from all sides, files with flipped bits, a full disk.
//!
//! Every round is one life of a real supervisor. Samples come in by scrapes, imports and remote write (`evidence` notes what was
//! confirmed) until it is killed at a random moment. The next life must open the same files and have everything that was flushed; what
//! it has must be right. In some rounds a bit of a file is flipped in between: then samples may be missing, but it must say so.

mod daemon;
mod evidence;
mod feed;
mod full_disk;
mod remote_write;
mod small_disk;
mod target;

pub use full_disk::{FullDisk, full_disk};

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::process::Process;
use crate::wait;
use daemon::{Daemon, Seen};
use evidence::{Batch, SERIES, WAYS, Way, oldest};
use feed::Feed;
use target::{Target, text};

/// How long a supervisor lives, counted from when it has confirmed something.
const LIFE_MS: std::ops::Range<u64> = 600..4000;
/// Time between two looks at what was scraped and flushed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Whatever has not happened within this will not.
const PATIENCE: Duration = Duration::from_mins(2);
/// Older samples to be cut into a block: one batch a minute, from so many minutes ago on.
const OLD_MINUTES: i64 = 120;

#[expect(clippy::disallowed_methods, reason = "samples bear the time of day")]
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// A supervisor to be killed, again and again.
#[derive(Debug)]
pub struct MetricsSoak {
    daemon: Arc<Daemon>,
    target: Target,
    process: Process,
    _folder: tempfile::TempDir,
    /// Batches of earlier rounds that were found again and have to stay.
    kept: BTreeMap<u64, Vec<Batch>>,
}

/// What came of a round.
#[derive(Debug, Default)]
pub struct Round {
    /// Its number, which is its seed too.
    pub seed: u64,
    /// Samples that were confirmed.
    pub confirmed: usize,
    /// Samples that were flushed for certain, and must be there.
    pub flushed: usize,
    /// Samples that were flushed for certain and are not there.
    pub missing: usize,
    /// Samples that are not there, whether they were flushed or not.
    pub lost: usize,
    /// How old the oldest of them was when the supervisor was killed.
    pub lost_age: Duration,
    /// The file in which a bit was flipped, and where.
    pub flipped: Option<(String, usize)>,
    /// Whether the supervisor said that something is damaged.
    pub told: bool,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, confirmed, flushed, missing, lost, told, .. } = self;
        let age_ms = self.lost_age.as_millis();
        write!(
            f,
            "seed={seed} confirmed={confirmed} flushed={flushed} missing={missing} lost={lost} oldest_lost_ms={age_ms}"
        )?;
        match &self.flipped {
            Some((file, at)) => write!(f, " flipped={file}:{at} told={told}"),
            None => Ok(()),
        }
    }
}

impl Round {
    /// Whether nothing happened that must not.
    pub fn is_good(&self) -> bool {
        match self.flipped {
            Some(_) => self.missing == 0 || self.told,
            None => self.missing == 0 && !self.told,
        }
    }
}

impl MetricsSoak {
    /// Starts the first supervisor.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = Target::start().await;
        let daemon = Daemon::new(folder.path(), &target.address().to_string(), None);
        let process = daemon.start().await;
        // So old that the next life begins by cutting a block.
        let now_ms = now_ms();
        let old = (1..=OLD_MINUTES).map(|minute| text(Way::Import, 0, now_ms - minute * 60_000));
        let taken = daemon.send(Way::Import, old.collect::<String>().into()).await;
        assert!(taken, "the import was refused: {}", process.output());
        let kept = BTreeMap::new();
        Self { daemon: Arc::new(daemon), target, process, _folder: folder, kept }
    }

    /// One life, its end, and what the next one knows. With `flip` a bit of a file is flipped in between.
    ///
    /// # Panics
    /// If the supervisor does not start again, answers a wrong value, or panicked.
    pub async fn round(&mut self, seed: u64, flip: bool) -> Round {
        let mut random = Rng::with_seed(seed);
        self.target.set_round(seed);
        let feed = Feed::start(&self.daemon, seed);
        wait::until("the first samples to be confirmed", PATIENCE, async || {
            if feed.evidence().batches().0.is_empty() { Err(()) } else { Ok(()) }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.u64(LIFE_MS))).await;
        self.process.signal(Signal::SIGKILL);
        let killed = now();
        self.process.wait(PATIENCE).await;
        let evidence = feed.stop().await;
        let output = self.process.output();
        assert!(!output.contains("panicked"), "seed {seed}: {output}");
        let flipped = flip.then(|| flip_bit(&self.daemon.store(), &mut random));
        self.process = self.daemon.start().await;
        let (batches, flushed) = evidence.batches();
        let (must, may) = batches.split_at(flushed);
        let missing = missing(&self.daemon, seed, must).await;
        let mut lost = missing.clone();
        lost.extend(self::missing(&self.daemon, seed, may).await);
        let told = self.told(flipped.is_some() && !missing.is_empty()).await;
        if flipped.is_some() {
            // What earlier rounds had may be gone too.
            self.kept.clear();
        } else {
            self.kept.insert(seed, must.to_vec());
        }
        Round {
            seed,
            confirmed: batches.len() * SERIES,
            flushed: flushed * SERIES,
            missing: missing.len() * SERIES,
            lost: lost.len() * SERIES,
            lost_age: oldest(&lost, killed),
            flipped,
            told,
        }
    }

    /// Whether the supervisor says that something is damaged. Its figures follow what readers meet within seconds, which is worth
    /// waiting for only if something is missing.
    async fn told(&self, expected: bool) -> bool {
        let deadline = now() + PATIENCE;
        loop {
            let damaged = self.daemon.figure("supervisor_store_damaged_total").await;
            // Damage at the end of the log cannot be told from a write that the kill cut.
            let told = damaged.is_some_and(|count| count > 0.0)
                || (expected && torn_bytes(&self.process.output()) > 0);
            if told || !expected || now() > deadline {
                return told;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many samples of all rounds since the last flipped bit are not there any more.
    ///
    /// # Panics
    /// If the supervisor does not answer.
    pub async fn missing_of_all(&self) -> usize {
        let mut count = 0;
        for (round, batches) in &self.kept {
            count += missing(&self.daemon, *round, batches).await.len() * SERIES;
        }
        count
    }
}

/// Which of `batches` are not there as a whole.
async fn missing(daemon: &Daemon, round: u64, batches: &[Batch]) -> Vec<Batch> {
    let mut missing = Vec::new();
    for way in WAYS {
        let all: BTreeSet<Seen> = daemon.all_samples(way, round).await.into_iter().collect();
        let whole =
            |batch: &&Batch| !(0..SERIES).all(|number| all.contains(&(number, batch.at_ms)));
        missing.extend(batches.iter().filter(|batch| batch.way == way).filter(whole));
    }
    missing
}

/// What a supervisor that has started says it cut off the end of its log.
fn torn_bytes(output: &str) -> u64 {
    let after = output.split("torn_bytes").skip(1);
    let digits = after.map(|rest| {
        let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
    });
    digits.filter_map(|digits| digits.parse::<u64>().ok()).max().unwrap_or_default()
}

/// Flips a bit of a file, each kind of file as often as the others; returns which file, and where.
fn flip_bit(store: &Path, random: &mut Rng) -> (String, usize) {
    let mut by_kind: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    for part in ["log", "blocks"] {
        for entry in std::fs::read_dir(store.join(part)).expect("the folder of a store") {
            let path = entry.expect("the folder of a store").path();
            let kind = path.extension().unwrap_or_default().to_owned();
            if kind != "damaged" && path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
                by_kind.entry(kind).or_default().push(path);
            }
        }
    }
    let files = random.choice(by_kind.values()).expect("a store that took samples has a log");
    let file = random.choice(files).expect("a kind has a file");
    let mut bytes = std::fs::read(file).expect("a file of the store");
    let at = random.usize(..bytes.len());
    bytes[at] ^= 1 << random.u8(0..8);
    std::fs::write(file, bytes).expect("a file of the store");
    (file.strip_prefix(store).unwrap_or(file).display().to_string(), at)
}

/// The result row of some rounds, and whether it is good. `oldest_lost_ms` is the age of the oldest
/// sample that a kill cost, in rounds without a flipped bit.
pub fn row(rounds: &[Round], missing_of_all: usize) -> (String, bool) {
    let confirmed: usize = rounds.iter().map(|round| round.confirmed).sum();
    let missing: usize = rounds.iter().filter(|r| r.flipped.is_none()).map(|r| r.missing).sum();
    let flips = rounds.iter().filter(|round| round.flipped.is_some()).count();
    let untold = rounds.iter().filter(|round| !round.is_good()).count();
    let whole = rounds.iter().filter(|round| round.flipped.is_none());
    let oldest_ms = whole.map(|round| round.lost_age.as_millis()).max().unwrap_or_default();
    let row = format!(
        "soak-metrics rounds={} confirmed={confirmed} flushed_lost={} oldest_lost_ms={oldest_ms} flips={flips} bad={untold}",
        rounds.len(),
        missing + missing_of_all,
    );
    (row, missing + missing_of_all + untold == 0)
}
