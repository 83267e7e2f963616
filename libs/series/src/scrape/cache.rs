//! What the scrapes of a target have in common.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::{ScrapeError, count};
use crate::append::SeriesRef;
use crate::labels::{Label, Labels};
use crate::text::RawSample;

/// Rewrites the labels of a series, or drops it. Called once for every series a scrape meets first.
pub type Relabel = Arc<dyn Fn(Labels) -> Option<Labels> + Send + Sync>;

/// How a target's samples are taken.
#[derive(Clone)]
pub struct ScrapeOptions {
    /// Of a label that text and target both have, the text's value counts; otherwise the text's becomes `exported_<name>`.
    pub honor_labels: bool,
    /// Timestamps in the text count.
    pub honor_timestamps: bool,
    /// Most samples of a scrape, counted after relabelling.
    pub sample_limit: Option<usize>,
    /// Most labels of a series, counted before relabelling.
    pub label_limit: Option<usize>,
    /// Classic buckets are stored beside native ones; otherwise instead of them only.
    pub classic_histograms: bool,
    /// Applied to the labels of each series.
    pub relabel: Option<Relabel>,
}

impl Default for ScrapeOptions {
    fn default() -> Self {
        Self {
            honor_labels: false,
            honor_timestamps: true,
            sample_limit: None,
            label_limit: None,
            classic_histograms: false,
            relabel: None,
        }
    }
}

impl fmt::Debug for ScrapeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScrapeOptions")
            .field("honor_labels", &self.honor_labels)
            .field("honor_timestamps", &self.honor_timestamps)
            .field("sample_limit", &self.sample_limit)
            .field("label_limit", &self.label_limit)
            .field("classic_histograms", &self.classic_histograms)
            .finish_non_exhaustive()
    }
}

/// What a target's scrapes have in common: its labels, and the series its lines stand for.
#[derive(Debug)]
pub struct ScrapeCache {
    pub(super) target: Labels,
    pub(super) options: Arc<ScrapeOptions>,
    /// In the order of the last scrape.
    pub(super) known: Vec<Known>,
    /// What the lines say, one behind the other.
    texts: String,
    /// The last scrape's number.
    pub(super) scrape: u32,
    /// What the last scrape said about its metrics.
    pub(super) statements: u64,
    /// The series about the scrapes themselves; empty before the first.
    pub(super) report: Box<[SeriesRef]>,
}

/// A series by its text. Small: there is one for every series of the store.
#[derive(Debug)]
pub(super) struct Known {
    start: u32,
    end: u32,
    /// `None`: dropped by relabelling.
    pub(super) series: Option<SeriesRef>,
    /// The last scrape that had it.
    pub(super) scrape: u32,
    /// Lines with a timestamp of their own end by themselves and get no staleness marker.
    pub(super) timed: bool,
}

impl ScrapeCache {
    /// For a target with these labels.
    pub fn with_options(target: &Labels, options: Arc<ScrapeOptions>) -> Self {
        Self {
            target: target.clone(),
            options,
            known: Vec::new(),
            texts: String::new(),
            scrape: 0,
            statements: 0,
            report: Box::default(),
        }
    }

    /// The text at `position`; empty beyond the last.
    pub(super) fn text(&self, position: usize) -> &str {
        let known = self.known.get(position);
        known.map_or("", |known| &self.texts[known.start as usize..known.end as usize])
    }

    /// Adds a series; its position.
    pub(super) fn push(&mut self, text: &str, series: Option<SeriesRef>) -> u32 {
        let start = count(self.texts.len());
        self.texts.push_str(text);
        let end = count(self.texts.len());
        // Not met in this scrape yet: its line is stored after it.
        let scrape = self.scrape.wrapping_sub(1);
        self.known.push(Known { start, end, series, scrape, timed: false });
        count(self.known.len() - 1)
    }

    /// Keeps the series at these positions, in this order, and nothing else.
    pub(super) fn reorder(&mut self, positions: &[u32]) {
        let mut texts = String::with_capacity(self.texts.len());
        let mut known = Vec::with_capacity(positions.len());
        for position in positions {
            let at = *position as usize;
            let start = count(texts.len());
            texts.push_str(self.text(at));
            let old = &mut self.known[at];
            let (scrape, timed) = (old.scrape, old.timed);
            let series = old.series.take();
            known.push(Known { start, end: count(texts.len()), series, scrape, timed });
        }
        texts.shrink_to_fit();
        (self.known, self.texts) = (known, texts);
    }

    /// A table of all texts.
    pub(super) fn table(&self) -> Table {
        let hasher = RandomState::new();
        let mut positions = HashTable::with_capacity(self.known.len());
        for at in 0..self.known.len() {
            let hash = |at: &u32| hasher.hash_one(self.text(*at as usize));
            positions.insert_unique(hasher.hash_one(self.text(at)), count(at), hash);
        }
        Table { hasher, positions }
    }

    /// The labels of a line's series, after relabelling; `None` if that dropped it.
    pub(super) fn labels(&self, sample: &RawSample<'_>) -> Result<Option<Labels>, ScrapeError> {
        let own = sample.labels()?;
        let mut labels: Vec<Label> = Vec::with_capacity(own.len() + self.target.len());
        for (name, value) in &own {
            let mut name = name.to_string();
            let taken = |name: &str| {
                self.target.get(name).is_some() || own.iter().any(|(own, _)| own == name)
            };
            if self.target.get(&name).is_some() && !self.options.honor_labels {
                while taken(&name) {
                    name.insert_str(0, "exported_");
                }
            }
            labels.push(Label::new(name, &**value));
        }
        for label in self.target.as_slice() {
            if !own.iter().any(|(name, _)| **name == *label.name) || !self.options.honor_labels {
                labels.push(label.clone());
            }
        }
        let labels = Labels::from_labels(labels);
        if let Some(limit) = self.options.label_limit.filter(|limit| labels.len() > *limit) {
            let (line, found) = (sample.line, labels.len());
            return Err(ScrapeError::LabelLimit { line, found, limit });
        }
        match &self.options.relabel {
            Some(relabel) => Ok(relabel(labels).filter(|l| !l.metric_name().is_empty())),
            None => Ok(Some(labels)),
        }
    }
}

/// Finds texts that are not where they were.
pub(super) struct Table {
    hasher: RandomState,
    positions: HashTable<u32>,
}

impl Table {
    pub(super) fn find(&self, cache: &ScrapeCache, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.positions.find(hash, |at| cache.text(*at as usize) == text).copied()
    }
}
