//! Flipped bits in every kind of file: never a panic, never a wrong value; what is left out is reported, the rest is served.

use std::path::{Path, PathBuf};

use holdfast_series::{Disk, Matcher};

use crate::kit::{HOUR_MS, MINUTE_MS, fill, open, value};

/// Series in the damaged stores.
const SERIES: usize = 200;
const STEP_MS: i64 = 30_000;

/// A store with a block, a checkpoint and a log.
fn make(folder: &Path) -> i64 {
    let (disk, _) = open(folder, 0);
    let now_ms = HOUR_MS;
    fill(disk.store(), SERIES, 0, now_ms, STEP_MS);
    disk.maintain(now_ms).unwrap();
    disk.maintain(now_ms).unwrap();
    fill(disk.store(), SERIES, now_ms, now_ms + 2 * MINUTE_MS, STEP_MS);
    disk.flush().unwrap();
    now_ms + 2 * MINUTE_MS
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["log", "blocks"]
        .iter()
        .flat_map(|part| std::fs::read_dir(folder.join(part)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    for part in ["log", "blocks"] {
        let _absent = std::fs::remove_dir_all(to.join(part));
        std::fs::create_dir_all(to.join(part)).unwrap();
    }
    for file in files(from) {
        let name = file.strip_prefix(from).unwrap();
        std::fs::copy(&file, to.join(name)).unwrap();
    }
}

/// Reads everything; returns how many samples there are. Every one must have its value.
fn samples(disk: &Disk) -> usize {
    let found = disk.store().select(&[Matcher::equal("__name__", "m")], i64::MIN, i64::MAX);
    for series in &found {
        let number = series.labels.value("number").parse().unwrap();
        for sample in &*series.samples {
            let expected = value(number, sample.timestamp_ms);
            assert_eq!(sample.value.to_bits(), expected.to_bits(), "{}", series.labels);
        }
    }
    found.iter().map(|series| series.samples.len()).sum()
}

#[test]
fn flipped_bits_are_left_out_and_reported() {
    let (original, damaged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(original.path());
    let all = {
        let (disk, report) = open(original.path(), HOUR_MS);
        assert!(report.damage.is_empty());
        samples(&disk)
    };
    assert_eq!(all, SERIES * 124);
    let kinds: Vec<_> = files(original.path());
    assert_eq!(kinds.len(), 3, "a block, a checkpoint, a segment: {kinds:?}");
    let mut random = fastrand::Rng::with_seed(11);
    for file in kinds {
        let name = file.strip_prefix(original.path()).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let edges = (0..24).chain(bytes.len() - 80..bytes.len());
        let places = edges.chain((0..40).map(|_| random.usize(..bytes.len())));
        for place in places.collect::<Vec<_>>() {
            copy(original.path(), damaged.path());
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << random.u8(0..8);
            std::fs::write(damaged.path().join(name), &flipped).unwrap();
            let (disk, report) = open(damaged.path(), HOUR_MS);
            let left = samples(&disk);
            let told = report.damage.len() + disk.take_damage().len();
            let at = format!("{} byte {place}: {left} of {all}", name.display());
            assert!(left <= all, "{at}");
            assert!(told > 0 || report.torn_bytes > 0 || left == all, "{at}, and nobody said so");
            assert!(left >= SERIES * 4, "{at}: the undamaged files must be served");
            // It goes on, and repairs its log by a checkpoint.
            disk.flush().unwrap();
            assert!(disk.log_complete(), "{at}");
        }
    }
}

#[test]
fn a_block_set_aside_is_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let block = files(folder.path()).into_iter().find(|file| file.extension().unwrap() == "block");
    let block = block.unwrap();
    let len = std::fs::metadata(&block).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&block).unwrap().set_len(len / 2).unwrap();
    let (disk, report) = open(folder.path(), HOUR_MS);
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert!(report.damage[0].contains("footer"), "{:?}", report.damage);
    assert_eq!(disk.stats().damaged_total, 1);
    drop(disk);
    assert!(block.with_extension("damaged").exists() && !block.exists());
    let (_, report) = open(folder.path(), HOUR_MS);
    assert!(report.damage.is_empty());
}
