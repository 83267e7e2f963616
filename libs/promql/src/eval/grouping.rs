//! Which series belong together: found by the labels that count, without building a label set for each series.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use holdfast_series::{Labels, METRIC_NAME};

use super::Column;
use crate::plan::LabelList;

impl LabelList {
    /// The labels of the group a series belongs to.
    pub(super) fn key(&self, column: &Column) -> Labels {
        match self {
            Self::Only(names) => column.labels.filtered(|name| {
                !(column.nameless && name == METRIC_NAME) && names.iter().any(|n| n == name)
            }),
            Self::Except(names) => column
                .labels
                .filtered(|name| name != METRIC_NAME && !names.iter().any(|n| n == name)),
        }
    }

    fn rest<'c>(&'c self, labels: &'c Labels) -> impl Iterator<Item = (&'c str, &'c str)> {
        let names = match self {
            Self::Only(names) | Self::Except(names) => names,
        };
        labels.iter().filter(|(name, _)| *name != METRIC_NAME && !names.iter().any(|n| n == name))
    }

    fn hash(&self, column: &Column, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        match self {
            Self::Only(names) => {
                for name in names {
                    hasher.write(column.label(name).as_bytes());
                    hasher.write_u8(0xff);
                }
            }
            Self::Except(_) => {
                for (name, value) in self.rest(&column.labels) {
                    hasher.write(name.as_bytes());
                    hasher.write_u8(0xff);
                    hasher.write(value.as_bytes());
                    hasher.write_u8(0xff);
                }
            }
        }
        hasher.finish()
    }

    fn is_key_of(&self, key: &Labels, column: &Column) -> bool {
        match self {
            Self::Only(names) => names.iter().all(|name| key.value(name) == column.label(name)),
            Self::Except(_) => self.rest(&column.labels).eq(key.iter()),
        }
    }
}

/// Numbers groups in the order in which they are met.
pub(super) struct Grouping<'l> {
    list: &'l LabelList,
    state: RandomState,
    slots: HashMap<u64, Vec<usize>>,
    keys: Vec<Labels>,
}

impl<'l> Grouping<'l> {
    pub(super) fn new(list: &'l LabelList) -> Self {
        Self { list, state: RandomState::new(), slots: HashMap::new(), keys: Vec::new() }
    }

    /// The number of the group a series belongs to, and whether it is its first.
    pub(super) fn find(&mut self, column: &Column) -> (usize, bool) {
        let hash = match self.list {
            LabelList::Only(names) if names.is_empty() => 0,
            list => list.hash(column, &self.state),
        };
        let slot = self.slots.entry(hash).or_default();
        let known = slot.iter().find(|group| self.list.is_key_of(&self.keys[**group], column));
        if let Some(&known) = known {
            return (known, false);
        }
        let group = self.keys.len();
        slot.push(group);
        self.keys.push(self.list.key(column));
        (group, true)
    }

    /// The labels of each group.
    pub(super) fn into_keys(self) -> Vec<Labels> {
        self.keys
    }
}
