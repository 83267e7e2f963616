//! Selections that are asked for again and again.
//!
//! Rules and dashboards select the same series at every tick. A selection is remembered by the text of its matchers; when series were
//! added since, only those are tested; when series were removed, it is made anew. Bounded; the one that was not asked for the longest
//! makes room.

use std::collections::HashMap;
use std::sync::Arc;

use crate::index::Index;
use crate::matcher::{MatchKind, Matcher};
use crate::series::Series;

/// Most selections remembered: some hundred rules and the panels of a few dashboards.
const SELECTIONS_MAX: usize = 512;
/// Most series in all remembered selections together, 8 bytes each.
const SERIES_MAX: usize = 2_000_000;

/// Series that pass some matchers.
pub(crate) type Selected = Arc<[Arc<Series>]>;

/// The remembered selections.
#[derive(Debug, Default)]
pub(crate) struct Selections {
    by_key: HashMap<Box<[u8]>, Entry>,
    asked: u64,
}

#[derive(Debug)]
struct Entry {
    series: Selected,
    next_id: u64,
    removals: u64,
    asked: u64,
}

impl Selections {
    /// The series that pass all of `matchers`, oldest first.
    pub(crate) fn get(&mut self, index: &Index, matchers: &[Matcher]) -> Selected {
        self.asked += 1;
        let key = key(matchers);
        if let Some(entry) = self.by_key.get_mut(&key)
            && entry.removals == index.removals()
        {
            entry.asked = self.asked;
            if entry.next_id < index.next_id() {
                let passes = |series: &&Arc<Series>| passes(series, matchers);
                let mut added = index.since(entry.next_id).filter(passes).peekable();
                if added.peek().is_some() {
                    entry.series = entry.series.iter().chain(added).cloned().collect();
                }
                entry.next_id = index.next_id();
            }
            return Arc::clone(&entry.series);
        }
        let series: Selected = index.select(matchers).into();
        let entry = Entry {
            series: Arc::clone(&series),
            next_id: index.next_id(),
            removals: index.removals(),
            asked: self.asked,
        };
        self.by_key.insert(key, entry);
        self.make_room(index.removals());
        series
    }

    fn make_room(&mut self, removals: u64) {
        let held = |by_key: &HashMap<_, Entry>| -> usize {
            by_key.values().map(|entry: &Entry| entry.series.len()).sum()
        };
        if self.by_key.len() <= SELECTIONS_MAX && held(&self.by_key) <= SERIES_MAX {
            return;
        }
        self.by_key.retain(|_, entry| entry.removals == removals);
        while self.by_key.len() > SELECTIONS_MAX || held(&self.by_key) > SERIES_MAX {
            let oldest = self.by_key.iter().min_by_key(|(_, entry)| entry.asked);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.by_key.remove(&key);
        }
    }

    /// Forgets everything, so that the memory of series about to be removed is freed.
    pub(crate) fn forget(&mut self) {
        self.by_key.clear();
    }
}

/// Whether a series passes all of `matchers`.
pub(crate) fn passes(series: &Series, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|matcher| matcher.matches(series.labels.value(matcher.name())))
}

/// Tells lists of matchers apart: kind, name and value of each, with their lengths.
fn key(matchers: &[Matcher]) -> Box<[u8]> {
    let mut key = Vec::with_capacity(64);
    for matcher in matchers {
        key.push(match matcher.kind() {
            MatchKind::Equal => 0,
            MatchKind::NotEqual => 1,
            MatchKind::Regex => 2,
            MatchKind::NotRegex => 3,
        });
        for text in [matcher.name(), matcher.value()] {
            key.extend_from_slice(&text.len().to_le_bytes());
            key.extend_from_slice(text.as_bytes());
        }
    }
    key.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;

    fn labels(name: &str) -> Labels {
        Labels::from_pairs([("__name__", name)])
    }

    #[test]
    fn a_selection_follows_the_index() {
        let mut index = Index::default();
        let mut selections = Selections::default();
        let up = [Matcher::equal("__name__", "up")];
        let any = [Matcher::new(MatchKind::Regex, "__name__", ".+").unwrap()];
        index.insert(&labels("up"));
        assert_eq!(selections.get(&index, &up).len(), 1);
        assert_eq!(selections.get(&index, &any).len(), 1);
        let cpu = index.insert(&labels("cpu"));
        assert!(Arc::ptr_eq(&selections.get(&index, &up), &selections.get(&index, &up)));
        assert_eq!(selections.get(&index, &any).len(), 2);
        index.remove(vec![cpu]);
        assert_eq!(selections.get(&index, &any).len(), 1);
    }

    #[test]
    fn the_number_of_selections_is_bounded() {
        let index = Index::default();
        let mut selections = Selections::default();
        for number in 0..SELECTIONS_MAX + 10 {
            selections.get(&index, &[Matcher::equal("a", number.to_string())]);
        }
        assert_eq!(selections.by_key.len(), SELECTIONS_MAX);
    }
}
