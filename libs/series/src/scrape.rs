//! From the text of one scrape into the store.
//!
//! A target's series hardly change, and they come in the same order every time. So a [`ScrapeCache`] remembers which series the text
//! `name{…}` of a line stands for and which line comes next: after the first scrape a line costs a comparison and an append. The cache
//! also knows what the scrape before had, which is how series that vanished get their staleness marker. A scrape counts as a whole: a
//! text with a fault in it changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::append::{Appender, SeriesRef};
use crate::labels::{Label, Labels, METRIC_NAME};
use crate::store::Store;
use crate::text::{self, ParseError, RawSample};
use crate::{Sample, stale_marker};

/// What a target's scrapes have in common: its labels, and the series its lines stand for.
#[derive(Debug)]
pub struct ScrapeCache {
    target: Vec<Label>,
    /// In the order of the first scrape that had them.
    known: Vec<Known>,
    /// Where in `known` a text stands, for lines out of order.
    positions: HashMap<Arc<str>, usize>,
    scrape: u64,
}

#[derive(Debug)]
struct Known {
    text: Arc<str>,
    series: SeriesRef,
    /// The last scrape that had it.
    scrape: u64,
    /// Lines with a timestamp of their own end by themselves and get no staleness marker.
    timed: bool,
}

/// What came of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrapeSummary {
    /// Samples in the text.
    pub samples: usize,
    /// Series that were not there before.
    pub new_series: usize,
    /// Samples refused: too many series, out of order, or the same series twice in the text.
    pub rejected: usize,
    /// Series that vanished since the scrape before.
    pub vanished: usize,
}

impl ScrapeCache {
    /// For a target with these labels (`job`, `instance`, …). A label of the same name in the text becomes `exported_<name>`.
    pub fn new(target: &Labels) -> Self {
        let target = target.as_slice().to_vec();
        Self { target, known: Vec::new(), positions: HashMap::new(), scrape: 0 }
    }

    /// Where the series of a line is, looked for at `expected` first.
    fn position(&self, text: &str, expected: usize) -> Option<usize> {
        match self.known.get(expected) {
            Some(known) if *known.text == *text => Some(expected),
            _ => self.positions.get(text).copied(),
        }
    }

    fn labels(&self, sample: &RawSample<'_>) -> Result<Labels, ParseError> {
        let mut labels = self.target.clone();
        for (name, value) in sample.labels()? {
            let taken = self.target.iter().any(|label| &*label.name == name);
            if taken && name != METRIC_NAME {
                labels.push(Label::new(format!("exported_{name}"), &*value));
            } else {
                labels.push(Label::new(name, &*value));
            }
        }
        Ok(Labels::from_labels(labels))
    }
}

impl Store {
    /// Adds all samples of `body`, scraped at `ts_ms`, and ends the series that the scrape before had and this one has not.
    ///
    /// # Errors
    /// If the text has a fault; then nothing is added, and the caller should treat the scrape as failed ([`Store::mark_stale`]).
    pub fn append_scrape(
        &self,
        cache: &mut ScrapeCache,
        body: &str,
        ts_ms: i64,
    ) -> Result<ScrapeSummary, ParseError> {
        // Nothing is changed before the last line is read.
        let mut lines = Vec::with_capacity(cache.known.len());
        let mut unknown = HashMap::new();
        let mut expected = 0;
        for sample in text::parse(body) {
            let sample = sample?;
            let position = cache.position(sample.series, expected);
            match position {
                Some(position) => expected = position + 1,
                None => {
                    unknown.insert(sample.series, cache.labels(&sample)?);
                }
            }
            lines.push((sample, position));
        }
        cache.scrape += 1;
        let mut summary = ScrapeSummary { samples: lines.len(), ..ScrapeSummary::default() };
        let mut appender = self.appender();
        for (sample, position) in lines {
            let position = position.or_else(|| {
                let labels = unknown.get(sample.series)?;
                position_of_new(&mut appender, cache, &sample, labels, &mut summary)
            });
            let taken = position.is_some_and(|position| {
                let known = &mut cache.known[position];
                known.scrape = cache.scrape;
                known.timed = sample.timestamp_ms.is_some();
                let timestamp_ms = sample.timestamp_ms.unwrap_or(ts_ms);
                let sample = Sample { timestamp_ms, value: sample.value };
                appender.push(&mut known.series, sample).is_ok()
            });
            summary.rejected += usize::from(!taken);
        }
        summary.vanished = end_series(&mut appender, cache, ts_ms);
        Ok(summary)
    }

    /// Ends all series of a target, because a scrape failed or the target is gone. Returns how many.
    pub fn mark_stale(&self, cache: &mut ScrapeCache, ts_ms: i64) -> usize {
        cache.scrape += 1;
        end_series(&mut self.appender(), cache, ts_ms)
    }
}

/// Adds the series of a line to the store and the cache; `None` beyond the limit, so that its samples are refused.
fn position_of_new(
    appender: &mut Appender<'_>,
    cache: &mut ScrapeCache,
    sample: &RawSample<'_>,
    labels: &Labels,
    summary: &mut ScrapeSummary,
) -> Option<usize> {
    if let Some(position) = cache.positions.get(sample.series) {
        return Some(*position);
    }
    let (series, new) = appender.series(labels).ok()?;
    summary.new_series += usize::from(new);
    let (text, position) = (Arc::from(sample.series), cache.known.len());
    cache.positions.insert(Arc::clone(&text), position);
    cache.known.push(Known { text, series, scrape: cache.scrape, timed: false });
    Some(position)
}

/// Ends the series that the current scrape did not have.
fn end_series(appender: &mut Appender<'_>, cache: &mut ScrapeCache, ts_ms: i64) -> usize {
    let (before, scrape) = (cache.known.len(), cache.scrape);
    cache.known.retain_mut(|known| {
        let current = known.scrape == scrape;
        if !current && !known.timed {
            let marker = Sample { timestamp_ms: ts_ms, value: stale_marker() };
            // A marker that comes too late for its series has nothing left to end.
            let _late = appender.push(&mut known.series, marker);
        }
        current
    });
    let vanished = before - cache.known.len();
    if vanished > 0 {
        let texts = cache.known.iter().map(|known| Arc::clone(&known.text));
        cache.positions = texts.enumerate().map(|(at, text)| (text, at)).collect();
    }
    vanished
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "samples come back bit by bit")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::StoreConfig;
    use crate::{Matcher, is_stale};

    fn store(series_max: usize) -> Store {
        Store::new(StoreConfig {
            retention: Duration::from_mins(1),
            series_max,
            out_of_order_window: Duration::ZERO,
            ..StoreConfig::default()
        })
    }

    fn cache() -> ScrapeCache {
        ScrapeCache::new(&Labels::from_pairs([("job", "chatnode"), ("instance", "a:1")]))
    }

    fn values(store: &Store, name: &str) -> Vec<f64> {
        let data = store.select(&[Matcher::equal("__name__", name)], 0, i64::MAX);
        data.iter().flat_map(|series| series.samples.iter().map(|sample| sample.value)).collect()
    }

    #[test]
    fn a_scrape_carries_the_labels_of_its_target() {
        let store = store(10);
        let summary = store.append_scrape(&mut cache(), "up{job=\"x\",a=\"1\"} 1\n", 5).unwrap();
        assert_eq!(summary, ScrapeSummary { samples: 1, new_series: 1, ..Default::default() });
        assert_eq!(
            store.series(&[])[0].to_string(),
            r#"{__name__="up", a="1", exported_job="x", instance="a:1", job="chatnode"}"#
        );
    }

    #[test]
    fn vanished_series_end_and_may_return() {
        let store = store(10);
        let mut cache = cache();
        store.append_scrape(&mut cache, "a 1\nb 2\n", 1000).unwrap();
        let summary = store.append_scrape(&mut cache, "a 1\n", 2000).unwrap();
        assert_eq!((summary.vanished, summary.new_series), (1, 0));
        let summary = store.append_scrape(&mut cache, "a 1\nb 3\n", 3000).unwrap();
        assert_eq!((summary.vanished, summary.new_series), (0, 0));
        let b = values(&store, "b");
        assert!(b.len() == 3 && is_stale(b[1]) && b[2] == 3.0, "{b:?}");
        assert_eq!(store.mark_stale(&mut cache, 4000), 2);
        assert_eq!(store.mark_stale(&mut cache, 5000), 0);
        assert!(is_stale(values(&store, "a")[3]));
    }

    #[test]
    fn a_fault_anywhere_changes_nothing() {
        let store = store(10);
        let mut cache = cache();
        let error = store.append_scrape(&mut cache, "a 1\nb{x} 2\n", 1000).unwrap_err();
        assert_eq!(error.line, 2);
        assert_eq!(store.series_count(), 0);
    }

    #[test]
    fn the_series_limit_refuses_new_series_only() {
        let store = store(1);
        let mut cache = cache();
        let summary = store.append_scrape(&mut cache, "a 1\nb 2\n", 1000).unwrap();
        assert_eq!((summary.new_series, summary.rejected), (1, 1));
        let summary = store.append_scrape(&mut cache, "a 2\na 3\nb 2\n", 2000).unwrap();
        assert_eq!((summary.samples, summary.rejected, summary.vanished), (3, 2, 0));
        assert_eq!(values(&store, "a"), [1.0, 2.0]);
    }

    #[test]
    fn a_series_dropped_by_retention_is_made_again() {
        let store = store(10);
        let mut cache = cache();
        store.append_scrape(&mut cache, "a 1\n", 1000).unwrap();
        assert_eq!(store.truncate(2000), 1);
        store.append_scrape(&mut cache, "a 2\n", 3000).unwrap();
        assert_eq!(values(&store, "a"), [2.0]);
    }

    #[test]
    fn lines_with_their_own_timestamp_are_kept_at_it() {
        let store = store(10);
        let mut cache = cache();
        store.append_scrape(&mut cache, "a 1 500\n", 1000).unwrap();
        let summary = store.append_scrape(&mut cache, "", 2000).unwrap();
        assert_eq!(summary.vanished, 1);
        assert_eq!(values(&store, "a"), [1.0], "no marker");
    }
}
