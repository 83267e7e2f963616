//! Reading the log back into a store that is empty.
//!
//! The newest checkpoint first, then the segments from its number on. What is damaged is skipped and reported; the rest is served. A
//! segment that ends in the middle of a record was being written when the process was killed: the rest of it is cut off.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::Path;

use super::block::Cut;
use super::log::{FORMER_MAGIC, Kind, MAGIC, files};
use super::record::{Next, Record, next};
use crate::Sample;
use crate::append::SeriesRef;
use crate::labels::Labels;
use crate::series::Found;
use crate::store::Store;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Samples and histograms put into the store.
    pub(crate) samples: u64,
    /// Damage: which file, and what was left out.
    pub(crate) problems: Vec<String>,
    /// Bytes of records that a kill had cut.
    pub(crate) torn_bytes: u64,
    /// The number for the next segment.
    pub(crate) next_segment: u64,
}

/// Puts what is in `folder` into `store`. What `cut` says is in blocks already is left out.
pub(crate) fn replay(store: &Store, folder: &Path, cut: Option<Cut>) -> std::io::Result<Replay> {
    let files = files(folder)?;
    let newest = files.iter().filter(|(_, _, kind)| *kind == Kind::Checkpoint).map(|file| file.0);
    let from = newest.max().unwrap_or(0);
    let next_segment = files.last().map_or(0, |(number, _, _)| number + 1);
    let mut reader = Reader {
        store,
        series: HashMap::new(),
        unknown: 0,
        cut_ms: i64::MIN,
        replay: Replay { next_segment, ..Replay::default() },
    };
    for (number, path, kind) in files {
        if number < from {
            // A crash came between a checkpoint and the removal of what it replaces.
            std::fs::remove_file(path)?;
            continue;
        }
        let before = cut.filter(|cut| number <= cut.segment);
        reader.cut_ms = before.map_or(i64::MIN, |cut| cut.until_ms);
        let bytes = std::fs::read(&path)?;
        let torn_at = reader.file(&path, &bytes, kind);
        if let Some(len) = torn_at {
            OpenOptions::new().write(true).open(&path)?.set_len(len as u64)?;
        }
    }
    if reader.unknown > 0 {
        let text = format!("{} samples of series whose names were lost", reader.unknown);
        reader.replay.problems.push(text);
    }
    Ok(reader.replay)
}

struct Reader<'a> {
    store: &'a Store,
    series: HashMap<u64, SeriesRef>,
    unknown: u64,
    /// Samples before are in a block.
    cut_ms: i64,
    replay: Replay,
}

impl Reader<'_> {
    /// Reads a file; returns the length to which it should be cut.
    fn file(&mut self, path: &Path, bytes: &[u8], kind: Kind) -> Option<usize> {
        if bytes.len() < MAGIC.len() {
            self.replay.torn_bytes += bytes.len() as u64;
            return (!bytes.is_empty()).then_some(0);
        }
        if bytes.starts_with(FORMER_MAGIC) {
            self.problem(path, "an older version wrote it, whose format is not read any more");
            return None;
        }
        if !bytes.starts_with(MAGIC) {
            self.problem(path, "its beginning is damaged");
        }
        let mut position = MAGIC.len();
        let mut ended = false;
        loop {
            match next(bytes, position) {
                Next::Record(record, following) => {
                    ended = matches!(record, Record::End(_));
                    self.record(record);
                    position = following;
                }
                Next::Bad(following) => {
                    let text = format!("bytes {position} to {following} are damaged and left out");
                    self.problem(path, &text);
                    position = following;
                }
                Next::Torn if kind == Kind::Segment => {
                    self.replay.torn_bytes += (bytes.len() - position) as u64;
                    return Some(position);
                }
                Next::Torn | Next::End => break,
            }
        }
        if kind == Kind::Checkpoint && !ended {
            self.problem(path, &format!("it is cut at byte {position}"));
        }
        None
    }

    fn problem(&mut self, path: &Path, text: &str) {
        self.replay.problems.push(format!("{}: {text}", path.display()));
    }

    fn record(&mut self, record: Record) {
        match record {
            Record::Series(all) => {
                for (id, labels) in all {
                    self.name(id, &labels);
                }
            }
            Record::Samples(all) => {
                let mut appender = self.store.restorer();
                for (id, sample) in all {
                    let Some(series) = self.series.get_mut(&id) else {
                        self.unknown += 1;
                        continue;
                    };
                    if sample.timestamp_ms >= self.cut_ms {
                        // What the checkpoint had already is refused, and should be.
                        self.replay.samples += u64::from(appender.push(series, sample).is_ok());
                    }
                }
            }
            Record::Histograms(all) => {
                let mut appender = self.store.restorer();
                for (id, sample) in all {
                    let Some(series) = self.series.get_mut(&id) else {
                        self.unknown += 1;
                        continue;
                    };
                    let (at, histogram) = (sample.timestamp_ms, sample.histogram);
                    if at >= self.cut_ms {
                        let taken = appender.push_histogram(series, at, histogram).is_ok();
                        self.replay.samples += u64::from(taken);
                    }
                }
            }
            Record::Snapshot(all) => {
                for (id, labels, found) in all {
                    self.name(id, &labels);
                    self.snapshot(id, found);
                }
            }
            Record::End(_) => {}
        }
    }

    fn name(&mut self, id: u64, labels: &Labels) {
        let series = self.store.restore_series(id, labels);
        self.series.insert(id, series);
    }

    fn snapshot(&mut self, id: u64, found: Found) {
        let Some(series) = self.series.get_mut(&id) else { return };
        let mut appender = self.store.restorer();
        let cut_ms = self.cut_ms;
        let samples = found.samples.into_iter().filter(|sample| sample.timestamp_ms >= cut_ms);
        for Sample { timestamp_ms, value } in samples {
            let taken = appender.push(series, Sample { timestamp_ms, value }).is_ok();
            self.replay.samples += u64::from(taken);
        }
        let histograms = found.histograms.into_iter().filter(|h| h.timestamp_ms >= cut_ms);
        for sample in histograms {
            let taken =
                appender.push_histogram(series, sample.timestamp_ms, sample.histogram).is_ok();
            self.replay.samples += u64::from(taken);
        }
    }
}
