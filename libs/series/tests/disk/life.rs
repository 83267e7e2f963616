//! An undisturbed life: restarts, cuts, compaction, retention, imports.

use std::sync::Arc;
use std::time::Duration;

use holdfast_series::{
    AppendError, Disk, Histogram, Labels, MatchKind, Matcher, OpenError, Sample, Span,
};

use crate::kit::{HOUR_MS, MINUTE_MS, check, config, fill, labels, open, open_as, read};

#[test]
fn what_was_flushed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let histogram = Arc::new(Histogram {
        count: 3.0,
        positive_spans: vec![Span { offset: -2, length: 2 }],
        positive_counts: vec![1.0, 2.0],
        ..Histogram::default()
    });
    let named = Labels::from_pairs([("__name__", "latency")]);
    for round in 0..3 {
        let (disk, report) = open(folder.path(), HOUR_MS);
        assert_eq!(report.damage, [""; 0]);
        assert_eq!(report.series, if round == 0 { 0 } else { 21 });
        let store = disk.store();
        check(store, 20, HOUR_MS, HOUR_MS + round * MINUTE_MS, 5000);
        let begin = HOUR_MS + round * MINUTE_MS;
        fill(store, 20, begin, begin + MINUTE_MS, 5000);
        store.append_histogram(&named, begin, Arc::clone(&histogram)).unwrap();
        let found = store.select(&[Matcher::equal("__name__", "latency")], 0, i64::MAX);
        assert_eq!(found[0].histograms.len(), usize::try_from(round + 1).unwrap());
        assert_eq!(found[0].histograms[0].histogram, histogram);
        disk.flush().unwrap();
        assert!(disk.stats().log_complete);
    }
}

#[test]
fn a_folder_is_used_by_one_store_only() {
    let folder = tempfile::tempdir().unwrap();
    let (_disk, _) = open(folder.path(), 0);
    let second = Disk::open(folder.path(), config(), 0);
    assert!(matches!(second.err(), Some(OpenError::InUse { .. })));
}

#[test]
fn memory_and_blocks_answer_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = open(folder.path(), 0);
    let store = disk.store();
    let mut now_ms = 0;
    let mut cuts = 0;
    while now_ms < 5 * HOUR_MS {
        fill(store, 30, now_ms, now_ms + 2 * MINUTE_MS, 10_000);
        now_ms += 2 * MINUTE_MS;
        disk.flush().unwrap();
        cuts += disk.maintain(now_ms).unwrap().cut;
    }
    check(store, 30, 0, now_ms, 10_000);
    assert!(cuts >= 27, "{cuts} cuts");
    let stats = disk.stats();
    assert!(stats.compactions_total >= 4 && stats.blocks < 12, "{stats:?}");
    assert!(store.stats().samples < 30 * 6 * 30, "memory holds less than half an hour");
    // A window over the border between both, an instant in a block, labels on disk only.
    assert_eq!(read(store, 7, now_ms - HOUR_MS, now_ms).len(), 360);
    let m = [Matcher::equal("__name__", "m"), Matcher::equal("number", "3")];
    assert_eq!(store.select_latest(&m, 0, HOUR_MS + 5)[0].samples[0].timestamp_ms, HOUR_MS);
    let few = Matcher::new(MatchKind::Regex, "number", "1|2|2.").unwrap();
    assert_eq!(store.series_within(&[few], 0, HOUR_MS).len(), 12);
    assert_eq!(store.label_values_within("number", &[], 0, HOUR_MS).len(), 30);
    assert_eq!(store.label_names_within(&[], 0, 1).len(), 3);
    let bytes = stats.block_bytes as f64 / stats.block_samples as f64;
    assert!(bytes < 2.0, "{bytes} bytes per sample");
    drop(disk);
    let (disk, report) = open(folder.path(), now_ms);
    assert_eq!(report.damage, [""; 0]);
    check(disk.store(), 30, 0, now_ms, 10_000);
}

#[test]
fn a_restart_between_cut_and_its_end_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = open(folder.path(), 0);
    fill(disk.store(), 5, 0, 30 * MINUTE_MS, 10_000);
    disk.flush().unwrap();
    assert_eq!(disk.maintain(30 * MINUTE_MS).unwrap().cut, 1);
    drop(disk);
    let (disk, report) = open(folder.path(), 30 * MINUTE_MS);
    assert_eq!(report.samples, 5 * 60, "what the block has is not read again");
    check(disk.store(), 5, 0, 30 * MINUTE_MS, 10_000);
    fill(disk.store(), 5, 30 * MINUTE_MS, 50 * MINUTE_MS, 10_000);
    disk.maintain(50 * MINUTE_MS).unwrap();
    disk.maintain(50 * MINUTE_MS).unwrap();
    assert_eq!(disk.stats().block_samples, 5 * 240);
    check(disk.store(), 5, 0, 50 * MINUTE_MS, 10_000);
}

#[test]
fn late_samples_and_imports_find_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let day_ms = 24 * HOUR_MS;
    let now_ms = 20 * day_ms;
    let (disk, _) = open(folder.path(), now_ms);
    let store = disk.store();
    disk.maintain(now_ms).unwrap();
    let at = |at_ms: i64| Sample { timestamp_ms: at_ms, value: at_ms as f64 };
    store.append(&labels(0), now_ms, 1.0).unwrap();
    store.append(&labels(0), now_ms - 4 * MINUTE_MS, 2.0).unwrap();
    let too_late = store.append(&labels(0), now_ms - 6 * MINUTE_MS, 3.0);
    assert!(matches!(too_late, Err(AppendError::OutOfOrder { .. })));
    let mut importer = store.importer();
    let (mut series, new) = importer.series(&labels(1)).unwrap();
    assert!(new);
    for hour in (0..15 * 24).rev() {
        importer.push(&mut series, at(5 * day_ms + hour * HOUR_MS)).unwrap();
    }
    let beyond = importer.push(&mut series, at(-11 * day_ms));
    assert!(matches!(beyond, Err(AppendError::TooOld { .. })));
    drop(importer);
    disk.flush().unwrap();
    for minutes in [0, 10, 20, 30] {
        disk.maintain(now_ms + minutes * MINUTE_MS).unwrap();
    }
    let stats = disk.stats();
    assert_eq!((stats.blocks, stats.block_samples), (16, 15 * 24 + 2), "a block per day");
    assert_eq!(store.stats().samples, 0);
    assert_eq!(read(store, 1, i64::MIN, i64::MAX).len(), 15 * 24);
    drop(disk);
    let (disk, _) = open(folder.path(), now_ms);
    assert_eq!(read(disk.store(), 1, i64::MIN, i64::MAX).len(), 15 * 24);
    assert_eq!(read(disk.store(), 0, i64::MIN, i64::MAX).len(), 2);
    assert_eq!(read(disk.store(), 1, 6 * day_ms, 6 * day_ms + 2 * HOUR_MS).len(), 3);
}

#[test]
fn retention_drops_blocks_by_time_and_by_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.store.retention = Duration::from_hours(2);
    let (disk, _) = open_as(folder.path(), config, 0);
    let mut now_ms = 0;
    while now_ms < 4 * HOUR_MS {
        fill(disk.store(), 20, now_ms, now_ms + 10 * MINUTE_MS, 10_000);
        now_ms += 10 * MINUTE_MS;
        disk.maintain(now_ms).unwrap();
    }
    let oldest_ms = disk.stats().oldest_ms.unwrap();
    assert!((HOUR_MS..=2 * HOUR_MS).contains(&oldest_ms), "{oldest_ms}");
    assert!(read(disk.store(), 3, 0, oldest_ms - 1).is_empty());
    let before = disk.stats();
    drop(disk);
    config.bytes_max = Some(before.block_bytes / 2);
    let (disk, _) = open_as(folder.path(), config, now_ms);
    assert!(disk.maintain(now_ms).unwrap().expired > 0);
    let after = disk.stats();
    assert!(after.block_bytes <= before.block_bytes / 2, "{after:?}");
    assert!(after.oldest_ms > before.oldest_ms);
}
