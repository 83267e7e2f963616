//! Checkpoints: every series in memory with those of its samples that no block has, in one file.
//!
//! Written after a block was cut, so that the log before it can go; and after the log had a gap, because memory then knows more than the
//! files do. The store goes on meanwhile: a series is locked only while its own samples are copied, and what is taken after the
//! log was rotated is in the segments after the checkpoint, whether the checkpoint has it or not. Twice does no harm.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::block::sync_folder;
use super::log::{MAGIC, checkpoint_path};
use super::record::Record;
use crate::series::Series;

/// Series in one record.
const SERIES: usize = 1000;

/// Writes the checkpoint numbered `segment`; what is in order and older than `from_ms` is in blocks.
pub(crate) fn write(
    folder: &Path,
    segment: u64,
    all: &[Arc<Series>],
    from_ms: i64,
) -> std::io::Result<()> {
    // A name of its own: both the log's thread and the maintenance may be at it.
    let temporary = folder.join(format!("{segment:010}.tmp"));
    let result = write_to(&temporary, all, from_ms)
        .and_then(|()| std::fs::rename(&temporary, checkpoint_path(folder, segment)))
        .and_then(|()| sync_folder(&temporary));
    if result.is_err() {
        // Space that a full disk needs; what cannot be removed is overwritten by the next one.
        let _left = std::fs::remove_file(&temporary);
    }
    result
}

fn write_to(path: &Path, all: &[Arc<Series>], from_ms: i64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(256 * 1024, File::create(path)?);
    file.write_all(MAGIC)?;
    let mut bytes = Vec::new();
    for some in all.chunks(SERIES) {
        let snapshot = some
            .iter()
            .map(|series| (series.id, series.labels.clone(), series.lock().unwritten(from_ms)));
        bytes.clear();
        Record::Snapshot(snapshot.collect()).write(&mut bytes)?;
        file.write_all(&bytes)?;
    }
    bytes.clear();
    Record::End(all.len() as u64).write(&mut bytes)?;
    file.write_all(&bytes)?;
    file.flush()?;
    file.get_ref().sync_all()
}
