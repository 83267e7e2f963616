//! The latest publications of each channel, as this node has heard or published them: what is left of them when the primary is not.
//!
//! A promoted replica may lack the end of streams. Nodes that hold it can write it again, and know by its absence that something is
//! missing. Kept by *run*: publications in a row under one replication history. When a stream goes on under another history without
//! having lost anything, so does the run; otherwise the old run waits for its repair beside the new one.
//!
//! Bounded in age and bytes by two generations: what was not used in the younger one is dropped with the older one. A replica that is
//! further behind than that should not have been promoted, and what clients are told is still true.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::stream::Lineage;

/// Publications of one run. A replica that is this far behind in one channel is seconds behind.
const RUN_MAX: usize = 64;

/// A generation is given up after this time; so tails live for 30 to 60 s, well above the lag of a replica worth promoting.
const GENERATION: Duration = Duration::from_secs(30);

/// A generation is given up early beyond this many bytes, so all tails take at most twice as much.
const GENERATION_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What one publication takes beside its body, about.
const ENTRY_BYTES: usize = 48;

/// Runs of one channel: the present one and one that waits for repair.
const RUNS_MAX: usize = 2;

/// Publications in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Epoch as clients see it: `epoch.history`.
    pub(super) visible: Arc<str>,
    /// Offsets and bodies; offsets grow, and may leave gaps until what is under way arrives.
    entries: VecDeque<(u64, Bytes)>,
}

impl Run {
    /// The stream's own epoch, and the history.
    pub(super) fn names(&self) -> (&str, &str) {
        self.visible.rsplit_once('.').unwrap_or((&self.visible, ""))
    }

    /// Offset of the latest publication.
    pub(super) fn last(&self) -> u64 {
        self.entries.back().map_or(0, |(offset, _)| *offset)
    }

    /// The publications that end the run without gap: offset of the first, and the bodies.
    pub(super) fn end(&self) -> (u64, Vec<Bytes>) {
        let mut first = self.last() + 1;
        let end = self.entries.iter().rev().take_while(|(offset, _)| {
            let next = offset + 1 == first;
            if next {
                first = *offset;
            }
            next
        });
        let mut bodies: Vec<_> = end.map(|(_, body)| body.clone()).collect();
        bodies.reverse();
        (first, bodies)
    }

    fn insert(&mut self, offset: u64, body: &Bytes) -> usize {
        let at = self.entries.partition_point(|(known, _)| *known < offset);
        if self.entries.get(at).is_some_and(|(known, _)| *known == offset) {
            return 0;
        }
        // A copy: the body lies in a larger buffer, which it would keep alive.
        self.entries.insert(at, (offset, Bytes::copy_from_slice(body)));
        if self.entries.len() > RUN_MAX {
            self.entries.pop_front();
        }
        body.len() + ENTRY_BYTES
    }
}

type Channels = HashMap<Box<str>, VecDeque<Run>>;

struct Generations {
    young: Channels,
    old: Channels,
    young_bytes: usize,
    turned_at: Instant,
}

/// All tails of a node.
pub(super) struct Tails {
    generations: Mutex<Generations>,
}

impl Tails {
    pub(super) fn new(now: Instant) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        let generations = Generations { young, old, young_bytes: 0, turned_at: now };
        Self { generations: Mutex::new(generations) }
    }

    /// A publication came over pub/sub.
    pub(super) fn heard(
        &self,
        now: Instant,
        channel: &str,
        lineage: &Lineage,
        offset: u64,
        body: &Bytes,
    ) {
        let mut generations = self.lock();
        let runs = generations.runs(now, channel);
        if let Some(run) = runs.back_mut()
            && run.visible != *lineage.visible()
            && lineage.continues(&run.visible, run.last())
        {
            run.visible = Arc::clone(lineage.visible());
        }
        let added = insert(runs, lineage.visible(), offset, body);
        generations.young_bytes += added;
    }

    /// A publication of this node's own was stored.
    pub(super) fn published(
        &self,
        now: Instant,
        channel: &str,
        visible: &Arc<str>,
        offset: u64,
        body: &Bytes,
    ) {
        let mut generations = self.lock();
        let added = insert(generations.runs(now, channel), visible, offset, body);
        generations.young_bytes += added;
    }

    /// Runs of other histories than `history`, of channels that `ours` picks.
    pub(super) fn foreign(
        &self,
        now: Instant,
        history: &str,
        ours: impl Fn(&str) -> bool,
    ) -> Vec<(Box<str>, Run)> {
        let mut generations = self.lock();
        generations.turn(now);
        let Generations { young, old, .. } = &*generations;
        let channels = young.iter().chain(old).filter(|(channel, _)| ours(channel));
        let runs = channels.flat_map(|(channel, runs)| runs.iter().map(move |run| (channel, run)));
        runs.filter(|(_, run)| run.names().1 != history)
            .map(|(channel, run)| (channel.clone(), run.clone()))
            .collect()
    }

    /// The run under `visible` is contained in the stream up to `reached`, which is now known as `now_visible`.
    pub(super) fn repaired(
        &self,
        channel: &str,
        visible: &str,
        now_visible: &Arc<str>,
        reached: u64,
    ) {
        let mut generations = self.lock();
        let Generations { young, old, .. } = &mut *generations;
        for channels in [young, old] {
            let Some(runs) = channels.get_mut(channel) else { continue };
            let known = runs.iter().any(|run| run.visible == *now_visible);
            // What was appended elsewhere comes back over pub/sub, in its new place.
            runs.retain(|run| &*run.visible != visible || (run.last() <= reached && !known));
            for run in runs.iter_mut().filter(|run| &*run.visible == visible) {
                run.visible = Arc::clone(now_visible);
            }
        }
    }

    /// A panic while the lock is held is a bug that has been reported; the tails are still publications that were made.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a publication to the run of its history; how many bytes that takes.
fn insert(runs: &mut VecDeque<Run>, visible: &Arc<str>, offset: u64, body: &Bytes) -> usize {
    if runs.back().is_none_or(|run| run.visible != *visible) {
        if let Some(run) = runs.iter_mut().find(|run| run.visible == *visible) {
            return run.insert(offset, body);
        }
        if runs.len() == RUNS_MAX {
            runs.pop_front();
        }
        runs.push_back(Run { visible: Arc::clone(visible), entries: VecDeque::new() });
    }
    runs.back_mut().map_or(0, |run| run.insert(offset, body))
}

impl Generations {
    /// The runs of a channel, in the younger generation.
    fn runs(&mut self, now: Instant, channel: &str) -> &mut VecDeque<Run> {
        self.turn(now);
        if !self.young.contains_key(channel) {
            let runs = self.old.remove(channel).unwrap_or_default();
            let bytes =
                runs.iter().flat_map(|run| &run.entries).map(|(_, b)| b.len() + ENTRY_BYTES);
            self.young_bytes += bytes.sum::<usize>();
            self.young.insert(channel.into(), runs);
        }
        self.young.get_mut(channel).expect("it was just inserted")
    }

    fn turn(&mut self, now: Instant) {
        let age = now - self.turned_at;
        if age < GENERATION && self.young_bytes < GENERATION_BYTES_MAX {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if age >= 2 * GENERATION {
            self.old = HashMap::new();
        }
        (self.young_bytes, self.turned_at) = (0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(tails: &Tails, now: Instant, history: &str) -> Vec<(String, u64, usize)> {
        let runs = tails.foreign(now, history, |_| true);
        let mut found: Vec<_> = runs
            .iter()
            .map(|(_, run)| (run.visible.to_string(), run.end().0, run.end().1.len()))
            .collect();
        found.sort();
        found
    }

    fn lineage(history: &str, forks: &str) -> Lineage {
        Lineage::new("e", history, forks)
    }

    #[test]
    fn what_was_heard_in_any_order_is_held_in_a_row() {
        let (tails, now) = (Tails::new(Instant::now()), Instant::now());
        for offset in [1, 4, 6, 5, 5] {
            tails.heard(now, "a", &lineage("h1", ""), offset, &Bytes::from("x"));
        }
        tails.published(now, "a", &"e.h1".into(), 7, &Bytes::from("x"));
        assert_eq!(offsets(&tails, now, "h1"), []);
        assert_eq!(offsets(&tails, now, "h2"), [("e.h1".into(), 4, 4)]);
        for offset in 8..200 {
            tails.heard(now, "a", &lineage("h1", ""), offset, &Bytes::from("x"));
        }
        assert_eq!(offsets(&tails, now, "h2"), [("e.h1".into(), 200 - 64, 64)]);
    }

    #[test]
    fn a_run_goes_on_under_a_new_history_unless_something_was_lost() {
        let (tails, now) = (Tails::new(Instant::now()), Instant::now());
        tails.heard(now, "a", &lineage("h1", ""), 5, &Bytes::from("x"));
        tails.heard(now, "a", &lineage("h2", "h1@5,"), 6, &Bytes::from("x"));
        assert_eq!(offsets(&tails, now, "h2"), []);
        tails.heard(now, "a", &lineage("h3", "h1@5,h2@5,"), 6, &Bytes::from("y"));
        assert_eq!(offsets(&tails, now, "h3"), [("e.h2".into(), 5, 2)]);
        tails.repaired("a", "e.h2", &"e.h3".into(), 5);
        assert_eq!(offsets(&tails, now, "h3"), []);
        assert_eq!(offsets(&tails, now, "h4"), [("e.h3".into(), 6, 1)]);
        tails.repaired("a", "e.h3", &"e.h4".into(), 6);
        assert_eq!(offsets(&tails, now, "h5"), [("e.h4".into(), 6, 1)]);
    }

    #[test]
    fn tails_are_bounded_in_age_and_bytes() {
        let start = Instant::now();
        let tails = Tails::new(start);
        let body = Bytes::from(vec![b'x'; 1024 * 1024]);
        tails.heard(start, "old", &lineage("h1", ""), 1, &body);
        for offset in 0..32 {
            tails.heard(start, &offset.to_string(), &lineage("h1", ""), 1, &body);
        }
        let held = offsets(&tails, start, "h2").len();
        assert!((16..=32).contains(&held), "{held}");
        assert_eq!(offsets(&tails, start + 3 * GENERATION, "h2"), []);
    }
}
