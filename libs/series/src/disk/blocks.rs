//! All blocks of a store, for those who ask and for the one who adds and removes some.
//!
//! Whoever reads holds the blocks it began with; a block that is removed meanwhile stays readable, because its file stays open. A block
//! or a series in it that turns out to be damaged is left out, counted and noted; the rest is served.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::block::{Block, BlockError, Cache, cache};
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::series::Found;

/// Most notes about damage kept until somebody takes them.
const NOTES_MAX: usize = 100;

/// The blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    list: RwLock<Arc<[Arc<Block>]>>,
    pub(crate) cache: Arc<Cache>,
    damaged: AtomicU64,
    notes: Mutex<Vec<String>>,
}

/// What a query found in blocks, series by series.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    positions: HashMap<Labels, usize>,
    pub(crate) series: Vec<(Labels, Found)>,
}

impl Gathered {
    /// Adds what was found of a series. What was there already counts where both have an instant.
    pub(crate) fn add(&mut self, labels: &Labels, found: Found) {
        if let Some(&position) = self.positions.get(labels) {
            self.series[position].1.merge(&found);
        } else {
            self.positions.insert(labels.clone(), self.series.len());
            self.series.push((labels.clone(), found));
        }
    }
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Self {
            list: RwLock::new(Arc::new([])),
            cache: Arc::new(cache()),
            damaged: AtomicU64::new(0),
            notes: Mutex::default(),
        }
    }

    /// All blocks, oldest first.
    pub(crate) fn all(&self) -> Arc<[Arc<Block>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds `new` and takes `old` away.
    pub(crate) fn change(&self, new: Vec<Arc<Block>>, old: &[u64]) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let kept = list.iter().filter(|block| !old.contains(&block.number)).cloned();
        let mut all: Vec<Arc<Block>> = kept.chain(new).collect();
        all.sort_by_key(|block| (block.footer.first_ms, block.number));
        *list = all.into();
    }

    /// Blocks that may hold samples from `start_ms` to `end_ms`, oldest first.
    pub(crate) fn overlapping(&self, start_ms: i64, end_ms: i64) -> Vec<Arc<Block>> {
        let all = self.all();
        all.iter().filter(|block| block.overlaps(start_ms, end_ms)).cloned().collect()
    }

    /// Notes damage found while reading.
    pub(crate) fn note(&self, text: String) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX && !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// What was noted since the last call.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often a reader met damage.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Samples from `start_ms` to `end_ms` of the series in `blocks` that pass all of `matchers`.
    pub(crate) fn gather(
        &self,
        blocks: &[Arc<Block>],
        matchers: &[Matcher],
        span: (i64, i64),
    ) -> Gathered {
        let mut gathered = Gathered::default();
        for block in blocks {
            let add = &mut |labels: &Labels, found| gathered.add(labels, found);
            let entries = block.select(matchers);
            match entries.and_then(|entries| block.visit(&entries, span, add)) {
                Ok(0) => {}
                Ok(series) => {
                    self.note(format!("{}: {series} series are damaged", block.path.display()));
                }
                Err(error) => self.note(describe(&error)),
            }
        }
        gathered
    }

    /// Labels of the series in `blocks` that pass all of `matchers`.
    pub(crate) fn labels(&self, blocks: &[Arc<Block>], matchers: &[Matcher]) -> BTreeSet<Labels> {
        let mut labels = BTreeSet::new();
        for block in blocks {
            match block.select(matchers) {
                Ok(entries) => labels.extend(entries.into_iter().map(|entry| entry.labels)),
                Err(error) => self.note(describe(&error)),
            }
        }
        labels
    }

    /// Names of all labels in `blocks`, or values of one of them.
    pub(crate) fn words(&self, blocks: &[Arc<Block>], name: Option<&str>) -> BTreeSet<Arc<str>> {
        let mut words = BTreeSet::new();
        for block in blocks {
            match (block.index(), name) {
                (Ok(index), None) => words.extend(index.label_names().cloned()),
                (Ok(index), Some(name)) => words.extend(index.label_values(name).cloned()),
                (Err(error), _) => self.note(describe(&error)),
            }
        }
        words
    }
}

/// An error with its cause.
pub(crate) fn describe(error: &BlockError) -> String {
    match error {
        BlockError::Io { source, .. } => format!("{error}: {source}"),
        BlockError::Damaged { .. } => error.to_string(),
    }
}
