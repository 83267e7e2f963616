//! The index of a block in memory, as long as it is used.
//!
//! Symbols and posting lists are loaded together, pages of series one by one; all of them share one bounded cache over all blocks, so
//! that a year of blocks costs no more memory than an hour. Posting lists stay as they are on disk until a selector asks for them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use quick_cache::Weighter;

use super::footer::Part;
use crate::codec::{Reader, expand};
use crate::labels::{Label, Labels};
use crate::matcher::Matcher;

/// Bytes of all indexes and pages together: a dashboard's queries over some days of a small cluster, or one query over 200,000 series.
const CACHE_BYTES: u64 = 24 * 1024 * 1024;
/// Entries expected, for the size of the cache's own tables.
const CACHE_ENTRIES: usize = 1024;

/// What a query over a block needs first.
#[derive(Debug)]
pub(crate) struct Index {
    symbols: Vec<Arc<str>>,
    /// By name: values with their lists.
    names: HashMap<Arc<str>, Vec<List>>,
    raw: Vec<u8>,
    pub(crate) pages: Vec<Part>,
    weight: u64,
}

#[derive(Debug)]
struct List {
    value: Arc<str>,
    count: usize,
    range: Range<usize>,
}

/// A series of a page: what names it, and where its samples are.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) labels: Labels,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) checksum: u32,
}

impl Index {
    /// From its three parts, as they are on disk.
    pub(crate) fn parse(symbols: &[u8], postings: &[u8], pages: &[u8]) -> Option<Self> {
        let symbols = parse_symbols(&expand(symbols)?)?;
        let raw = expand(postings)?;
        let mut reader = Reader::new(&raw);
        let mut names: HashMap<Arc<str>, Vec<List>> = HashMap::new();
        let mut lists = Vec::new();
        for _ in 0..reader.count()? {
            let name = symbol(&symbols, reader.varint()?)?;
            let value = symbol(&symbols, reader.varint()?)?;
            let (count, len) = (usize::try_from(reader.varint()?).ok()?, reader.varint()?);
            lists.push((name, value, count, usize::try_from(len).ok()?));
        }
        let mut start = raw.len() - reader.rest().len();
        for (name, value, count, len) in lists {
            let end = start.checked_add(len).filter(|&end| end <= raw.len() && count <= len)?;
            names.entry(name).or_default().push(List { value, count, range: start..end });
            start = end;
        }
        let pages = parse_pages(&expand(pages)?)?;
        let strings: usize = symbols.iter().map(|text| text.len() + 32).sum();
        let lists: usize = names.values().map(|lists| lists.len() * size_of::<List>()).sum();
        let weight = (strings + lists + raw.len() + pages.len() * size_of::<Part>()) as u64;
        Some(Self { symbols, names, raw, pages, weight })
    }

    /// The series of a page as it is on disk.
    pub(crate) fn page(&self, bytes: &[u8]) -> Option<Vec<Entry>> {
        let raw = expand(bytes)?;
        let mut reader = Reader::new(&raw);
        let mut offset = reader.varint()?;
        let mut entries = Vec::new();
        while !reader.is_empty() {
            let mut labels = Vec::new();
            for _ in 0..reader.count()? {
                let name = symbol(&self.symbols, reader.varint()?)?;
                labels.push(Label { name, value: symbol(&self.symbols, reader.varint()?)? });
            }
            let (len, checksum) = (reader.varint()?, reader.u32()?);
            let labels = Labels::from_labels(labels);
            entries.push(Entry { labels, offset, len: usize::try_from(len).ok()?, checksum });
            offset = offset.checked_add(len)?;
        }
        Some(entries)
    }

    /// Numbers of the series that pass those of `matchers` that lists can answer, ascending; `None` if none of them can. The others
    /// must be tested on the labels.
    pub(crate) fn candidates(&self, matchers: &[Matcher]) -> Option<Vec<u64>> {
        let mut best: Option<Vec<u64>> = None;
        // A matcher that the empty value passes also selects series without the label, which no list has.
        for matcher in matchers.iter().filter(|matcher| !matcher.matches("")) {
            let lists = self.names.get(matcher.name()).map_or(&[][..], Vec::as_slice);
            let passing: Vec<&List> =
                lists.iter().filter(|list| matcher.matches(&list.value)).collect();
            let count: usize = passing.iter().map(|list| list.count).sum();
            // Testing the labels of a few candidates is cheaper than decoding a long list.
            if best.as_ref().is_some_and(|best| best.len() * 4 < count) {
                continue;
            }
            let mut found: Vec<u64> = Vec::with_capacity(count);
            for list in passing {
                self.decode(list, &mut found);
            }
            found.sort_unstable();
            best = Some(match best {
                None => found,
                Some(best) => intersect(&best, &found),
            });
        }
        best
    }

    fn decode(&self, list: &List, into: &mut Vec<u64>) {
        let mut reader = Reader::new(&self.raw[list.range.clone()]);
        let mut number = 0_u64;
        for _ in 0..list.count {
            let Some(step) = reader.varint() else { return };
            number = number.saturating_add(step);
            into.push(number);
        }
    }

    /// Names of all labels.
    pub(crate) fn label_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// Values of a label.
    pub(crate) fn label_values(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.names.get(name).into_iter().flatten().map(|list| &list.value)
    }
}

fn parse_symbols(raw: &[u8]) -> Option<Vec<Arc<str>>> {
    let mut reader = Reader::new(raw);
    (0..reader.count()?).map(|_| reader.text().map(Arc::from)).collect()
}

fn parse_pages(raw: &[u8]) -> Option<Vec<Part>> {
    let mut reader = Reader::new(raw);
    let mut pages = Vec::new();
    for _ in 0..reader.count()? {
        let (offset, len) = (reader.varint()?, u32::try_from(reader.varint()?).ok()?);
        pages.push(Part { offset, len, checksum: reader.u32()? });
    }
    Some(pages)
}

fn symbol(symbols: &[Arc<str>], number: u64) -> Option<Arc<str>> {
    symbols.get(usize::try_from(number).ok()?).cloned()
}

fn intersect(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut rest = b;
    let mut both = Vec::new();
    for &number in a {
        rest = &rest[rest.partition_point(|&other| other < number)..];
        if rest.first() == Some(&number) {
            both.push(number);
        }
    }
    both
}

/// What the cache holds: the index of a block, or one of its pages.
#[derive(Debug, Clone)]
pub(crate) enum Cached {
    Index(Arc<Index>),
    Page(Arc<Vec<Entry>>),
}

/// Number of the block, and of its page; the index itself is `None`.
pub(crate) type Key = (u64, Option<usize>);

/// Weighs what the cache holds.
#[derive(Debug, Clone)]
pub(crate) struct Weigh;

impl Weighter<Key, Cached> for Weigh {
    fn weight(&self, _: &Key, cached: &Cached) -> u64 {
        match cached {
            Cached::Index(index) => index.weight,
            Cached::Page(entries) => {
                let labels: usize = entries.iter().map(|entry| entry.labels.len()).sum();
                (entries.len() * (size_of::<Entry>() + 48) + labels * size_of::<Label>()) as u64
            }
        }
    }
}

/// Indexes and pages of all blocks.
pub(crate) type Cache = quick_cache::sync::Cache<Key, Cached, Weigh>;

/// An empty cache.
pub(crate) fn cache() -> Cache {
    Cache::with_weighter(CACHE_ENTRIES, CACHE_BYTES, Weigh)
}
