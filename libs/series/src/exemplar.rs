//! Exemplars: single observations with the labels (a trace's number, say) that lead from a figure to its cause.
//!
//! They are a help, not a record: one bounded ring holds the newest of all series, in memory only.

use std::collections::{BTreeMap, VecDeque};

use crate::labels::Labels;
use crate::matcher::Matcher;

/// One exemplar.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// Its own labels, such as `trace_id`.
    pub labels: Labels,
    /// What was observed.
    pub value: f64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// The exemplars of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesExemplars {
    /// What names the series.
    pub labels: Labels,
    /// In order of arrival.
    pub exemplars: Vec<Exemplar>,
}

/// The newest exemplars of all series.
#[derive(Debug)]
pub(crate) struct ExemplarRing {
    ring: VecDeque<(Labels, Exemplar)>,
    max: usize,
}

impl ExemplarRing {
    pub(crate) fn new(max: usize) -> Self {
        Self { ring: VecDeque::new(), max }
    }

    /// Adds one; the oldest makes room. One that a series has already is not added again.
    pub(crate) fn push(&mut self, series: &Labels, exemplar: Exemplar) {
        // A target repeats its exemplar at every scrape, so the same one lies at most a scrape's worth of exemplars back; looking
        // further would cost more than the double entry.
        const LOOK_BACK: usize = 1000;
        let known = |entry: &(Labels, Exemplar)| entry.0 == *series && entry.1 == exemplar;
        if self.max == 0 || self.ring.iter().rev().take(LOOK_BACK).any(known) {
            return;
        }
        if self.ring.len() >= self.max {
            self.ring.pop_front();
        }
        self.ring.push_back((series.clone(), exemplar));
    }

    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Exemplars from `start_ms` to `end_ms` of the series that pass one of the lists of matchers, sorted by series.
    pub(crate) fn select(
        &self,
        selectors: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Vec<SeriesExemplars> {
        let passes = |labels: &Labels| {
            selectors.iter().any(|matchers| {
                matchers.iter().all(|matcher| matcher.matches(labels.value(matcher.name())))
            })
        };
        let mut found: BTreeMap<&Labels, Vec<Exemplar>> = BTreeMap::new();
        for (labels, exemplar) in &self.ring {
            if (start_ms..=end_ms).contains(&exemplar.timestamp_ms) && passes(labels) {
                found.entry(labels).or_default().push(exemplar.clone());
            }
        }
        let series = found.into_iter();
        series
            .map(|(labels, exemplars)| SeriesExemplars { labels: labels.clone(), exemplars })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_once() {
        let mut ring = ExemplarRing::new(2);
        let series = Labels::from_pairs([("__name__", "x")]);
        let exemplar = |at| Exemplar { labels: Labels::empty(), value: 1.0, timestamp_ms: at };
        for at in [1, 2, 2, 3] {
            ring.push(&series, exemplar(at));
        }
        assert_eq!(ring.len(), 2);
        let selectors = [vec![Matcher::equal("__name__", "x")]];
        let found = ring.select(&selectors, 0, 10);
        assert_eq!(found[0].exemplars, [exemplar(2), exemplar(3)]);
        assert!(ring.select(&selectors, 4, 10).is_empty());
        assert!(ring.select(&[], 0, 10).is_empty());
    }
}
