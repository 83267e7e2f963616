//! Records. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::time::Instant;

use crate::broker::{Change, Condition, Key, Record, Window, Write};

#[derive(Default)]
struct Entry {
    fields: Record,
    ranks: HashMap<String, i64>,
    expires_at: Option<Instant>,
}

/// Grows with what is written, as Redis does: a chat model on a single node keeps its records here.
#[derive(Default)]
pub(super) struct RecordTable {
    records: HashMap<(&'static str, Box<str>), Entry>,
}

impl RecordTable {
    pub(super) fn write(&mut self, now: Instant, key: Key<'_>, write: &Write) -> bool {
        let name = (key.collection, key.id.into());
        if self.records.get(&name).is_some_and(|entry| entry.has_expired(now)) {
            self.records.remove(&name);
        }
        let entry = self.records.entry(name.clone()).or_default();
        let done = write.conditions.iter().all(|condition| entry.meets(condition));
        if done {
            for change in &write.changes {
                entry.apply(change);
            }
            if let Some(ttl) = write.ttl {
                entry.expires_at = Some(now + ttl);
            }
        }
        if entry.is_empty() {
            self.records.remove(&name);
        }
        done
    }

    pub(super) fn fields(&self, now: Instant, key: Key<'_>) -> Option<&Record> {
        self.entry(now, key).map(|entry| &entry.fields)
    }

    pub(super) fn ranked(&self, now: Instant, key: Key<'_>, window: Window) -> Vec<(String, i64)> {
        let Some(entry) = self.entry(now, key) else { return Vec::new() };
        let mut ranked: Vec<_> = entry.ranks.iter().map(|(name, score)| (*score, name)).collect();
        ranked.sort_unstable();
        if window.highest_first {
            ranked.reverse();
        }
        let window = ranked.into_iter().skip(window.offset as usize).take(window.limit as usize);
        window.map(|(score, name)| (name.clone(), score)).collect()
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.records.retain(|_, entry| !entry.has_expired(now));
    }

    fn entry(&self, now: Instant, key: Key<'_>) -> Option<&Entry> {
        let entry = self.records.get(&(key.collection, key.id.into()))?;
        (!entry.has_expired(now)).then_some(entry)
    }
}

impl Entry {
    fn has_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.ranks.is_empty()
    }

    fn meets(&self, condition: &Condition) -> bool {
        let below = |count: usize, max: u32| count < max as usize;
        match condition {
            Condition::Absent => self.is_empty(),
            Condition::Present => !self.is_empty(),
            Condition::FieldAbsent(name) => !self.fields.contains_key(name),
            Condition::FieldPresent(name) => self.fields.contains_key(name),
            Condition::FieldIs(name, value) => self.fields.get(name) == Some(value),
            Condition::FieldsBelow(max) => below(self.fields.len(), *max),
            Condition::MembersBelow(max) => below(self.ranks.len(), *max),
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        std::str::from_utf8(self.fields.get(name)?).ok()?.parse().ok()
    }

    fn set_number(&mut self, name: &str, number: i64) {
        self.fields.insert(name.to_owned(), Bytes::from(number.to_string()));
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Set(name, value) => drop(self.fields.insert(name.clone(), value.clone())),
            Change::Raise(name, to) if self.number(name).is_some_and(|now| now >= *to) => {}
            Change::Raise(name, to) => self.set_number(name, *to),
            Change::Add(name, by) => {
                self.set_number(name, self.number(name).unwrap_or(0).saturating_add(*by));
            }
            Change::Remove(name) => drop(self.fields.remove(name)),
            Change::Rank(member, score) => drop(self.ranks.insert(member.clone(), *score)),
            Change::Unrank(member) => drop(self.ranks.remove(member)),
            Change::Clear => {
                self.fields.clear();
                self.ranks.clear();
            }
        }
    }
}
