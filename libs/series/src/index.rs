//! Which series there are, found by label: for each pair of name and value the sorted numbers of the series that carry it.
//!
//! A selection starts from the shortest list some matcher names and filters the rest by looking at the labels themselves. Rejected:
//! intersecting the lists of all matchers; the list of a `job` is long, and comparing one label of a candidate is as cheap as a step
//! of the intersection.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::labels::{Label, Labels};
use crate::matcher::Matcher;
use crate::series::Series;

/// Numbers of series, ascending.
type Postings = Vec<u64>;

/// The index of a store.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_labels: HashMap<Labels, Arc<Series>>,
    by_id: BTreeMap<u64, Arc<Series>>,
    postings: HashMap<Arc<str>, HashMap<Arc<str>, Postings>>,
    symbols: HashSet<Arc<str>>,
    next_id: u64,
    removals: u64,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, labels: &Labels) -> Option<&Arc<Series>> {
        self.by_labels.get(labels)
    }

    /// Adds a series, its strings replaced by shared ones.
    pub(crate) fn insert(&mut self, labels: &Labels) -> Arc<Series> {
        self.insert_as(self.next_id, labels)
    }

    /// Adds a series under the number it had before; it must be higher than all others so far.
    pub(crate) fn insert_as(&mut self, id: u64, labels: &Labels) -> Arc<Series> {
        let shared = labels
            .as_slice()
            .iter()
            .map(|label| Label { name: self.symbol(&label.name), value: self.symbol(&label.value) })
            .collect();
        let labels = Labels::from_labels(shared);
        self.reserve(id);
        let series = Arc::new(Series::new(id, labels.clone()));
        for label in labels.as_slice() {
            let values = self.postings.entry(Arc::clone(&label.name)).or_default();
            // Numbers only grow, so the lists stay sorted.
            values.entry(Arc::clone(&label.value)).or_default().push(id);
        }
        self.by_id.insert(id, Arc::clone(&series));
        self.by_labels.insert(labels, Arc::clone(&series));
        series
    }

    /// Numbers up to `id` are not given to new series.
    pub(crate) fn reserve(&mut self, id: u64) {
        self.next_id = self.next_id.max(id.saturating_add(1));
    }

    /// The number of the next series.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Series numbered `id` or higher.
    pub(crate) fn since(&self, id: u64) -> impl Iterator<Item = &Arc<Series>> {
        self.by_id.range(id..).map(|(_, series)| series)
    }

    /// How often series were removed; numbers found before the last removal may be gone.
    pub(crate) fn removals(&self) -> u64 {
        self.removals
    }

    fn symbol(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.symbols.get(text) {
            return Arc::clone(known);
        }
        self.symbols.insert(Arc::clone(text));
        Arc::clone(text)
    }

    /// Forgets series, and the strings only they used.
    pub(crate) fn remove(&mut self, gone: Vec<Arc<Series>>) {
        let ids: HashSet<u64> = gone.iter().map(|series| series.id).collect();
        let pairs: HashSet<&Label> =
            gone.iter().flat_map(|series| series.labels.as_slice()).collect();
        for label in pairs {
            let Some(values) = self.postings.get_mut(&label.name) else { continue };
            if let Some(list) = values.get_mut(&label.value) {
                list.retain(|id| !ids.contains(id));
                if list.is_empty() {
                    values.remove(&label.value);
                }
            }
            if values.is_empty() {
                self.postings.remove(&label.name);
            }
        }
        for series in &gone {
            self.by_id.remove(&series.id);
            self.by_labels.remove(&series.labels);
        }
        drop(gone);
        self.removals += 1;
        self.symbols.retain(|symbol| Arc::strong_count(symbol) > 1);
    }

    /// All series.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.by_id.values()
    }

    /// The series that pass every matcher, oldest first.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> Vec<Arc<Series>> {
        let passes = |series: &&Arc<Series>| {
            matchers.iter().all(|matcher| matcher.matches(series.labels.value(matcher.name())))
        };
        match self.shortest_list(matchers) {
            Some(ids) => {
                ids.iter().filter_map(|id| self.by_id.get(id)).filter(passes).cloned().collect()
            }
            None => self.by_id.values().filter(passes).cloned().collect(),
        }
    }

    /// The shortest list of candidates that some matcher names; `None` if none does.
    fn shortest_list(&self, matchers: &[Matcher]) -> Option<Postings> {
        let mut best: Option<Vec<&Postings>> = None;
        let length = |lists: &[&Postings]| lists.iter().map(|list| list.len()).sum::<usize>();
        // A matcher that the empty value passes also selects series without the label, which no list has.
        for matcher in matchers.iter().filter(|matcher| !matcher.matches("")) {
            let Some(values) = self.postings.get(matcher.name()) else { return Some(Vec::new()) };
            let lists: Vec<&Postings> = match matcher.listed_values() {
                Some(words) => words.iter().filter_map(|word| values.get(*word)).collect(),
                None if best.is_none() => values
                    .iter()
                    .filter(|(value, _)| matcher.matches(value))
                    .map(|(_, list)| list)
                    .collect(),
                None => continue,
            };
            if best.as_ref().is_none_or(|best| length(&lists) < length(best)) {
                best = Some(lists);
            }
        }
        best.map(|lists| {
            let mut ids: Postings = lists.into_iter().flatten().copied().collect();
            ids.sort_unstable();
            ids
        })
    }

    /// Names of all labels.
    pub(crate) fn label_names(&self) -> impl Iterator<Item = Arc<str>> {
        self.postings.keys().cloned()
    }

    /// Values of the label `name`.
    pub(crate) fn label_values(&self, name: &str) -> impl Iterator<Item = Arc<str>> {
        self.postings.get(name).into_iter().flat_map(HashMap::keys).cloned()
    }

    /// For each label name its values with the number of series that carry them.
    pub(crate) fn cardinality(
        &self,
    ) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = (&Arc<str>, usize)>)> {
        self.postings
            .iter()
            .map(|(name, values)| (name, values.iter().map(|(value, list)| (value, list.len()))))
    }

    /// Bytes of the strings, each counted once, and of the lists.
    pub(crate) fn size_bytes(&self) -> usize {
        let strings: usize = self.symbols.iter().map(|symbol| symbol.len() + 16).sum();
        let lists: usize =
            self.postings.values().flat_map(HashMap::values).map(|list| list.capacity() * 8).sum();
        strings + lists
    }
}
