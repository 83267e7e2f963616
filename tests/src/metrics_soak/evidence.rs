//! What a supervisor must still know after it was killed.
//!
//! A batch is some series with a sample each, all of one instant; it is noted when the supervisor has confirmed it. The store promises to
//! keep what was taken before its last flush, and flushes once a second. Whether a flush came after a batch is read from the supervisor's
//! own counter, not from a clock: a busy machine may flush late, and that is no loss.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Series of a batch.
pub(super) const SERIES: usize = 10;

/// How samples come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Way {
    /// Scraped from a target.
    Scrape,
    /// As a text with timestamps.
    Import,
    /// By remote write.
    RemoteWrite,
}

/// All ways.
pub(super) const WAYS: [Way; 3] = [Way::Scrape, Way::Import, Way::RemoteWrite];

impl Way {
    /// The metric of its samples.
    pub(super) fn metric(self) -> &'static str {
        match self {
            Self::Scrape => "soak_scraped",
            Self::Import => "soak_imported",
            Self::RemoteWrite => "soak_written",
        }
    }
}

/// The value of series `number` at an instant, whatever its way.
pub(super) fn value(number: usize, at_ms: i64) -> f64 {
    at_ms.rem_euclid(1_000_000_000) as f64 * 0.25 + number as f64
}

/// A confirmed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// How it came in.
    pub(super) way: Way,
    /// The instant of its samples, milliseconds since the Unix epoch.
    pub(super) at_ms: i64,
    /// When it was confirmed.
    pub(super) confirmed: Instant,
}

/// What is known of one life of the supervisor.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    batches: Vec<Batch>,
    /// When somebody began to ask how many flushes there had been, and the answer.
    flushes: Vec<(Instant, u64)>,
}

impl Evidence {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a batch that was confirmed just now.
    #[expect(clippy::disallowed_methods, reason = "a test measures real time")]
    pub(super) fn confirmed(&self, way: Way, at_ms: i64) {
        self.lock().batches.push(Batch { way, at_ms, confirmed: Instant::now() });
    }

    /// Notes that there had been so many flushes at some time after `asked`.
    pub(super) fn flushed(&self, asked: Instant, count: u64) {
        self.lock().flushes.push((asked, count));
    }

    /// The confirmed batches, and how many of them, from the first on, were flushed for certain.
    ///
    /// A flush that was running when a batch was confirmed may have begun before; the one after it has the batch. So a batch is flushed
    /// when, after a look that began later than it, the counter has gone up by two.
    pub(super) fn batches(&self) -> (Vec<Batch>, usize) {
        let mut known = self.lock();
        known.batches.sort_by_key(|batch| batch.confirmed);
        let last = known.flushes.iter().map(|(_, count)| *count).max().unwrap_or_default();
        let looks = known.flushes.iter().filter(|(_, count)| count + 2 <= last);
        let until = looks.map(|(asked, _)| *asked).max();
        let flushed = known.batches.partition_point(|batch| Some(batch.confirmed) < until);
        (known.batches.clone(), flushed)
    }
}

/// How old the oldest of `missing` was when the supervisor was killed.
pub(super) fn oldest(missing: &[Batch], killed: Instant) -> Duration {
    let age = |batch: &Batch| killed.saturating_duration_since(batch.confirmed);
    missing.iter().map(age).max().unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_flushed_two_flushes_after_a_later_look() {
        let evidence = Evidence::default();
        assert_eq!(evidence.batches(), (Vec::new(), 0));
        evidence.flushed(Instant::now(), 4);
        evidence.confirmed(Way::Import, 1);
        evidence.flushed(Instant::now(), 4);
        evidence.flushed(Instant::now(), 5);
        assert_eq!(evidence.batches().1, 0, "the fifth may have begun before");
        evidence.confirmed(Way::Scrape, 2);
        evidence.flushed(Instant::now(), 6);
        assert_eq!(evidence.batches().1, 1);
        evidence.flushed(Instant::now(), 8);
        let (batches, flushed) = evidence.batches();
        assert_eq!((batches.len(), flushed), (2, 2));
        assert_eq!(oldest(&[], Instant::now()), Duration::ZERO);
    }
}
