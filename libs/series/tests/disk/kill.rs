//! Killed at any moment: a child appends and says what was flushed; it is killed by SIGKILL, and everything it said must be there.
//!
//! The child is this test program itself, told by an environment variable what to do. Its clock runs fast, so that cuts, checkpoints and
//! compactions happen all the time and kills hit them. `HOLDFAST_KILL_ROUNDS` sets the number of rounds.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_series::{Disk, Matcher};

use crate::kit::{HOUR_MS, fill, open, value};

/// What tells the child that it is one, and the folder.
const CHILD: &str = "HOLDFAST_KILL_CHILD";
/// The child's samples are this far apart.
const STEP_MS: i64 = 10_000;
/// Its series.
const SERIES: usize = 20;
/// Steps between two flushes.
const STEPS: i64 = 6;

#[test]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let (disk, report) = open(Path::new(&folder), 0);
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let mut now_ms = newest_ms(&disk) + STEP_MS;
    // Bounded, in case nobody kills it.
    for _ in 0..20_000 {
        let end_ms = now_ms + STEPS * STEP_MS;
        fill(disk.store(), SERIES, now_ms, end_ms, STEP_MS);
        now_ms = end_ms;
        disk.flush().unwrap();
        println!("flushed {}", now_ms - STEP_MS);
        disk.maintain(now_ms).unwrap();
    }
}

fn newest_ms(disk: &Disk) -> i64 {
    let m = [Matcher::equal("__name__", "m")];
    let found = disk.store().select_latest(&m, i64::MIN, i64::MAX);
    let newest = found.iter().map(|series| series.samples[0].timestamp_ms);
    newest.max().unwrap_or(-STEP_MS)
}

/// A child that does not outlive this process.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn nothing_flushed_is_lost_by_a_kill() {
    let rounds = std::env::var("HOLDFAST_KILL_ROUNDS").map_or(25, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut cuts = 0;
    for round in 0..rounds {
        let mut child = Killed(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
                .env(CHILD, folder.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut flushed_ms = i64::MIN;
        let mut left = random.usize(1..60);
        while left > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            // The test harness puts its own words on the line of the first one.
            if let Some((_, at)) = line.split_once("flushed ") {
                flushed_ms = at.parse().unwrap();
                left -= 1;
            }
        }
        // Somewhere in what the child does between two of its lines.
        std::thread::park_timeout(Duration::from_micros(random.u64(0..3000)));
        drop(child);
        let (disk, report) = open(folder.path(), 0);
        assert!(report.damage.is_empty(), "round {round}: {:?}", report.damage);
        let newest_ms = newest_ms(&disk);
        assert!(newest_ms >= flushed_ms, "round {round}: {newest_ms} < {flushed_ms}");
        complete(&disk, round, flushed_ms);
        cuts = disk.stats().blocks;
    }
    assert!(cuts > 0, "the rounds were too short to meet a cut");
}

/// All series have every sample up to `end_ms`, each once and with its value.
fn complete(disk: &Disk, round: usize, end_ms: i64) {
    let found = disk.store().select(&[Matcher::equal("__name__", "m")], i64::MIN, end_ms);
    assert_eq!(found.len(), SERIES, "round {round}");
    for series in found {
        let number = series.labels.value("number").parse().unwrap();
        let mut expected_ms = 0;
        for sample in &*series.samples {
            assert_eq!(sample.timestamp_ms, expected_ms, "round {round}, series {number}");
            assert!((sample.value - value(number, expected_ms)).abs() < f64::EPSILON);
            expected_ms += STEP_MS;
        }
        assert_eq!(expected_ms, end_ms + STEP_MS, "round {round}, series {number}");
    }
}

#[test]
fn a_log_cut_at_any_byte_keeps_what_comes_before() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = open(folder.path(), HOUR_MS);
    let mut lengths = Vec::new();
    for step in 0..6 {
        let at_ms = HOUR_MS + step * STEP_MS;
        fill(disk.store(), 3, at_ms, at_ms + STEP_MS, STEP_MS);
        disk.flush().unwrap();
        lengths.push(disk.stats().log_bytes);
    }
    drop(disk);
    let segment = folder.path().join("log/0000000000.log");
    let whole = std::fs::read(&segment).unwrap();
    assert_eq!(whole.len() as u64, lengths[5]);
    for len in (0..=whole.len()).rev() {
        std::fs::write(&segment, &whole[..len]).unwrap();
        let (disk, report) = open(folder.path(), HOUR_MS);
        let flushes = lengths.iter().filter(|&&flushed| flushed <= len as u64).count();
        assert_eq!(report.samples, flushes as u64 * 3, "cut at {len}");
        assert!(report.damage.is_empty(), "cut at {len}: {:?}", report.damage);
        let at_border = len == 0 || len == 8 || lengths.contains(&(len as u64));
        // The first flush has two records, names and samples, so one border more is silent.
        assert!(report.torn_bytes > 0 || at_border || flushes == 0, "cut at {len}");
        drop(disk);
        // The next opening must not meet the same torn end again.
        let (_, report) = open(folder.path(), HOUR_MS);
        assert_eq!(report.torn_bytes, 0, "cut at {len}");
    }
}
