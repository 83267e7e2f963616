//! Under which epoch does this run of the supervisor act at the balancer?
//!
//! The balancer refuses whoever is older than the latest it has heard of. The epoch is the time of the start in seconds, so that a
//! supervisor installed anew comes after the one it replaces, and at least one more than that of the run before, which is kept in the
//! state folder: a clock that was set back must not make us a stranger to our own balancer.

use std::io::{self, Write as _};
use std::path::Path;

use chrono::{DateTime, Utc};

/// File in the state folder.
const FILE: &str = "balancer-epoch";

/// The epoch of a run that begins `now`. Without a usable folder it is the time alone.
pub(super) fn begin(state_dir: &Path, now: DateTime<Utc>) -> u64 {
    let path = state_dir.join(FILE);
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok(),
        Err(_) => None,
    };
    let epoch = next(before, now);
    if let Err(error) = keep(state_dir, &path, epoch) {
        tracing::error!(path = %path.display(), %error, "the epoch cannot be kept; with a clock set back the balancer would refuse the next run");
    }
    epoch
}

fn next(before: Option<u64>, now: DateTime<Utc>) -> u64 {
    let clock = u64::try_from(now.timestamp()).unwrap_or_default();
    clock.max(before.map_or(0, |before| before.saturating_add(1)))
}

/// All or nothing.
fn keep(folder: &Path, path: &Path, epoch: u64) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{epoch}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn each_run_is_later_than_the_one_before_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let begun: Vec<_> =
            [100, 100, 50, 200].map(|second| begin(folder.path(), at(second))).to_vec();
        assert_eq!(begun, [100, 101, 102, 200]);
    }

    #[test]
    fn a_file_that_makes_no_sense_or_cannot_be_kept_is_no_reason_not_to_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "soon").unwrap();
        assert_eq!(begin(folder.path(), at(7)), 7);
        assert_eq!(begin(&folder.path().join("missing"), at(8)), 8);
    }
}
