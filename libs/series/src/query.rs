//! Asking the store: memory and blocks as one.
//!
//! What lies in memory is handed on series by series, with one buffer for all. Where the time asked for reaches back to blocks, what
//! they hold is gathered by series first and memory is merged in; where both have an instant, memory counts. Blocks that cannot be
//! read are left out and noted, never an error of the query.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Sample;
use crate::disk::{Block, Gathered};
use crate::histogram::HistogramSample;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::selection::Selected;
use crate::series::Found;
use crate::store::{SeriesData, Store};

/// All time.
const EVER: (i64, i64) = (i64::MIN, i64::MAX);

/// What a query does with a series: its labels, its samples and its histograms, in order of time.
pub type Visitor<'a> = dyn FnMut(&Labels, &[Sample], &[HistogramSample]) -> ControlFlow<()> + 'a;

impl Store {
    fn selected(&self, matchers: &[Matcher]) -> Selected {
        let index = self.index();
        self.selections().get(&index, matchers)
    }

    /// Calls `each` for every series that passes all matchers and has samples from `start_ms` to `end_ms`, both included: its labels,
    /// its samples and its histograms, in order of time, staleness markers included. With `newest_only` only the newest sample or
    /// histogram, which costs no decoding. Stops when `each` says so.
    pub fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        newest_only: bool,
        each: &mut Visitor<'_>,
    ) {
        let blocks = self.blocks_within(start_ms, end_ms);
        if !blocks.is_empty() {
            self.visit_gathered(&blocks, matchers, (start_ms, end_ms), newest_only, each);
            return;
        }
        let mut found = Found::default();
        for series in self.selected(matchers).iter() {
            found.clear();
            let data = series.lock();
            if newest_only {
                data.latest(start_ms, end_ms, &mut found);
            } else {
                data.read(start_ms, end_ms, &mut found);
            }
            drop(data);
            if !found.is_empty()
                && each(&series.labels, &found.samples, &found.histograms).is_break()
            {
                return;
            }
        }
    }

    fn visit_gathered(
        &self,
        on_disk: &[Arc<Block>],
        matchers: &[Matcher],
        span: (i64, i64),
        newest_only: bool,
        each: &mut Visitor<'_>,
    ) {
        let mut gathered = match &self.blocks {
            Some(blocks) => blocks.gather(on_disk, matchers, span),
            None => Gathered::default(),
        };
        for series in self.selected(matchers).iter() {
            let mut found = Found::default();
            series.lock().read(span.0, span.1, &mut found);
            if !found.is_empty() {
                gathered.add(&series.labels, found);
            }
        }
        for (labels, mut found) in gathered.series {
            if newest_only {
                found.keep_newest();
            }
            if !found.is_empty() && each(&labels, &found.samples, &found.histograms).is_break() {
                return;
            }
        }
    }

    fn blocks_within(&self, start_ms: i64, end_ms: i64) -> Vec<Arc<Block>> {
        let blocks = self.blocks.as_ref();
        blocks.map(|blocks| blocks.overlapping(start_ms, end_ms)).unwrap_or_default()
    }

    fn collect(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        newest_only: bool,
    ) -> Vec<SeriesData> {
        let mut all = Vec::new();
        self.visit(matchers, start_ms, end_ms, newest_only, &mut |labels, samples, histograms| {
            let histograms = if histograms.is_empty() { Arc::default() } else { histograms.into() };
            all.push(SeriesData { labels: labels.clone(), samples: samples.into(), histograms });
            ControlFlow::Continue(())
        });
        all
    }

    /// Series that pass all matchers and have samples from `start_ms` to `end_ms`, both included.
    pub fn select(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<SeriesData> {
        self.collect(matchers, start_ms, end_ms, false)
    }

    /// As [`Store::select`], with only the newest sample or histogram of each series.
    pub fn select_latest(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Vec<SeriesData> {
        self.collect(matchers, start_ms, end_ms, true)
    }

    /// Label sets of the series that pass all matchers, sorted.
    pub fn series(&self, matchers: &[Matcher]) -> Vec<Labels> {
        self.series_within(matchers, EVER.0, EVER.1)
    }

    /// As [`Store::series`], of the time from `start_ms` to `end_ms`. To the block: a series may be listed that has no sample there.
    pub fn series_within(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Vec<Labels> {
        let on_disk = self.blocks_within(start_ms, end_ms);
        let mut labels = match &self.blocks {
            Some(blocks) if !on_disk.is_empty() => blocks.labels(&on_disk, matchers),
            _ => BTreeSet::new(),
        };
        if self.memory_reaches(end_ms) {
            labels.extend(self.selected(matchers).iter().map(|series| series.labels.clone()));
        }
        labels.into_iter().collect()
    }

    /// Label names of the series that pass all matchers.
    pub fn label_names(&self, matchers: &[Matcher]) -> BTreeSet<Arc<str>> {
        self.label_names_within(matchers, EVER.0, EVER.1)
    }

    /// As [`Store::label_names`], of the time from `start_ms` to `end_ms`, to the block.
    pub fn label_names_within(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> BTreeSet<Arc<str>> {
        if !matchers.is_empty() {
            let series = self.series_within(matchers, start_ms, end_ms);
            let labels = series.iter().flat_map(Labels::as_slice);
            return labels.map(|label| Arc::clone(&label.name)).collect();
        }
        let mut names = self.words_on_disk(None, start_ms, end_ms);
        if self.memory_reaches(end_ms) {
            names.extend(self.index().label_names());
        }
        names
    }

    /// Values of the label `name` of the series that pass all matchers.
    pub fn label_values(&self, name: &str, matchers: &[Matcher]) -> BTreeSet<Arc<str>> {
        self.label_values_within(name, matchers, EVER.0, EVER.1)
    }

    /// As [`Store::label_values`], of the time from `start_ms` to `end_ms`, to the block.
    pub fn label_values_within(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> BTreeSet<Arc<str>> {
        if !matchers.is_empty() {
            let series = self.series_within(matchers, start_ms, end_ms);
            let labels = series.iter().flat_map(Labels::as_slice);
            let named = labels.filter(|label| *label.name == *name);
            return named.map(|label| Arc::clone(&label.value)).collect();
        }
        let mut values = self.words_on_disk(Some(name), start_ms, end_ms);
        if self.memory_reaches(end_ms) {
            values.extend(self.index().label_values(name));
        }
        values
    }

    /// Whether memory may hold samples up to `end_ms`: late ones are few, so what is older than the blocks' end counts as not.
    fn memory_reaches(&self, end_ms: i64) -> bool {
        end_ms >= self.floor_ms.load(Ordering::Relaxed)
            || self.late.load(Ordering::Relaxed) > 0
            || self.blocks_within(i64::MIN, i64::MAX).is_empty()
    }

    fn words_on_disk(&self, name: Option<&str>, start_ms: i64, end_ms: i64) -> BTreeSet<Arc<str>> {
        let on_disk = self.blocks_within(start_ms, end_ms);
        let blocks = self.blocks.as_ref().filter(|_| !on_disk.is_empty());
        blocks.map(|blocks| blocks.words(&on_disk, name)).unwrap_or_default()
    }
}
