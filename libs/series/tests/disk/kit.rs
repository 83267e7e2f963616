//! What the tests share: a store in a temporary folder and samples that can be told from each other.

use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_series::{
    Disk, DiskConfig, Labels, Matcher, OpenError, OpenReport, Sample, Store, StoreConfig,
};

pub(crate) const MINUTE_MS: i64 = 60_000;
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;

pub(crate) fn config() -> DiskConfig {
    DiskConfig {
        store: StoreConfig {
            retention: Duration::from_hours(24 * 30),
            series_max: 10_000,
            ..StoreConfig::default()
        },
        bytes_max: None,
    }
}

/// Opens a store. Tests start processes, and until such a process runs its own program it shares the locks of this one; so a folder that
/// is in use is tried again for a while.
pub(crate) fn open(folder: &Path, now_ms: i64) -> (Disk, OpenReport) {
    open_as(folder, config(), now_ms)
}

/// As [`open`], with settings of its own.
pub(crate) fn open_as(folder: &Path, config: DiskConfig, now_ms: i64) -> (Disk, OpenReport) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match Disk::open(folder, config, now_ms) {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

pub(crate) fn labels(number: usize) -> Labels {
    let number = number.to_string();
    Labels::from_pairs([("__name__", "m"), ("number", &number), ("job", "test")])
}

/// The value that series `number` has at `at_ms`.
pub(crate) fn value(number: usize, at_ms: i64) -> f64 {
    (at_ms / 1000) as f64 * 0.25 + number as f64
}

/// Gives `series` series a sample every `step_ms` from `start_ms` to `end_ms`, the end not included.
pub(crate) fn fill(store: &Store, series: usize, start_ms: i64, end_ms: i64, step_ms: i64) {
    for at_ms in (start_ms..end_ms).step_by(usize::try_from(step_ms).unwrap()) {
        for number in 0..series {
            store.append(&labels(number), at_ms, value(number, at_ms)).unwrap();
        }
    }
}

/// Samples of series `number`.
pub(crate) fn read(store: &Store, number: usize, start_ms: i64, end_ms: i64) -> Vec<Sample> {
    let matchers = [Matcher::equal("__name__", "m"), Matcher::equal("number", number.to_string())];
    let found = store.select(&matchers, start_ms, end_ms);
    assert!(found.len() <= 1);
    found.first().map(|series| series.samples.to_vec()).unwrap_or_default()
}

/// Asserts that series 0 to `series` have a sample every `step_ms` from `start_ms` to `end_ms`, and no other.
#[track_caller]
pub(crate) fn check(store: &Store, series: usize, start_ms: i64, end_ms: i64, step_ms: i64) {
    for number in 0..series {
        let expected: Vec<Sample> = (start_ms..end_ms)
            .step_by(usize::try_from(step_ms).unwrap())
            .map(|at_ms| Sample { timestamp_ms: at_ms, value: value(number, at_ms) })
            .collect();
        let found = read(store, number, i64::MIN, i64::MAX);
        assert_eq!(found.len(), expected.len(), "series {number}");
        assert_eq!(found, expected, "series {number}");
    }
}
