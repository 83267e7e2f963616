//! A log that is taken away while it is in use, by a clean-up or a person: it is missed at once, and written anew from memory.

use std::fs;

use crate::kit::{HOUR_MS, MINUTE_MS, check, fill, open};

const SERIES: usize = 20;
const STEP_MS: i64 = 10_000;

#[test]
fn a_log_that_is_taken_away_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = open(folder.path(), 0);
    fill(disk.store(), SERIES, 0, MINUTE_MS, STEP_MS);
    disk.flush().unwrap();
    for file in fs::read_dir(folder.path().join("log")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    fill(disk.store(), SERIES, MINUTE_MS, 2 * MINUTE_MS, STEP_MS);
    disk.flush().unwrap_err();
    assert!(!disk.log_complete() && disk.write_failures() > 0);
    let flushes = (0..10).take_while(|_| !disk.log_complete() && disk.flush().is_ok()).count();
    assert!(disk.log_complete(), "after {flushes} flushes");
    drop(disk);
    let (disk, report) = open(folder.path(), HOUR_MS);
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    check(disk.store(), SERIES, 0, 2 * MINUTE_MS, STEP_MS);
}
