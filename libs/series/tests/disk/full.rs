//! A disk that is full: the store goes on in memory, says so, and writes all of it once there is space.
//!
//! The limit on the size of files stands for the full disk: it needs no rights and no mount, and a write fails in the middle just the
//! same. It holds for a whole process, so this test runs in a child of its own.

use std::path::Path;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kit::{HOUR_MS, MINUTE_MS, check, fill, open};

const CHILD: &str = "HOLDFAST_FULL_CHILD";
const SERIES: usize = 200;
const STEP_MS: i64 = 10_000;
/// Bytes a file may have while the disk is full: less than any flush, checkpoint or block needs.
const FULL_BYTES: u64 = 600;

#[test]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let (disk, _) = open(Path::new(&folder), 0);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, FULL_BYTES, hard).unwrap();
    let (mut now_ms, mut failed) = (0, 0);
    while now_ms < 40 * MINUTE_MS {
        fill(disk.store(), SERIES, now_ms, now_ms + MINUTE_MS, STEP_MS);
        now_ms += MINUTE_MS;
        failed += u64::from(disk.flush().is_err());
        failed += u64::from(disk.maintain(now_ms).is_err());
    }
    assert!(failed > 0 && disk.write_failures() >= failed, "{failed}");
    assert!(!disk.log_complete());
    check(disk.store(), SERIES, 0, now_ms, STEP_MS);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    // Space again: some flushes later the log tells all, and the next maintenance cuts what is due.
    let flushes = (0..10).take_while(|_| !disk.log_complete() && disk.flush().is_ok()).count();
    assert!(disk.log_complete(), "after {flushes} flushes");
    assert!(disk.maintain(now_ms).unwrap().cut > 0);
    disk.maintain(now_ms).unwrap();
    fill(disk.store(), SERIES, now_ms, now_ms + MINUTE_MS, STEP_MS);
    disk.flush().unwrap();
    check(disk.store(), SERIES, 0, now_ms + MINUTE_MS, STEP_MS);
}

#[test]
fn a_full_disk_costs_nothing_once_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("env")
        // The signal that would end the process at the limit is ignored, so that writes fail instead.
        .args(["--ignore-signal=XFSZ", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "full::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    let (disk, report) = open(folder.path(), HOUR_MS);
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    check(disk.store(), SERIES, 0, 41 * MINUTE_MS, STEP_MS);
}
