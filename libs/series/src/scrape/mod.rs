//! From the text of one scrape into the store.
//!
//! A target's series hardly change, and they come in the same order every time. So a [`ScrapeCache`] remembers the series in the order
//! of the last text: a line that is where it was costs one comparison and an append, and its labels are never looked at again. Texts of
//! the series stand one behind the other in one string, because there are as many as series in the store. A table to find lines that
//! moved is made when the first one is met and dropped with the scrape. The cache also knows what the scrape before had, which is how
//! series that vanished get their staleness marker. A scrape counts as a whole: a text with a fault in it changes nothing.

mod cache;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::append::Appender;
use crate::exemplar::Exemplar;
use crate::histogram::Histogram;
use crate::labels::{Labels, METRIC_NAME};
use crate::metadata::Metadata;
use crate::protobuf::{Families, ProtobufError};
use crate::store::Store;
use crate::text::{self, Entries, Entry, Format, ParseError, Parser, RawExemplar, Statement};
use crate::{Sample, stale_marker};
use cache::Table;
pub use cache::{Relabel, ScrapeCache, ScrapeOptions};

/// Metrics about a scrape, in the order of [`ScrapeReport::values`].
const REPORT_NAMES: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

/// Why a scrape was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScrapeError {
    /// The text has a fault.
    #[error("exposition cannot be read")]
    Parse(#[from] ParseError),
    /// The messages have a fault.
    #[error("protobuf exposition cannot be read")]
    Protobuf(#[from] ProtobufError),
    /// It has more samples than its target may have.
    #[error("more than {limit} samples")]
    SampleLimit {
        /// The bound.
        limit: usize,
    },
    /// A series has more labels than it may have.
    #[error("line {line}: series with {found} labels, more than {limit}")]
    LabelLimit {
        /// Number of the line, from 1.
        line: usize,
        /// Labels it has.
        found: usize,
        /// The bound.
        limit: usize,
    },
}

/// What came of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrapeSummary {
    /// Samples in the text.
    pub samples: usize,
    /// Samples left after relabelling.
    pub kept: usize,
    /// Series that the scrape before did not have.
    pub new_series: usize,
    /// Samples refused: too many series, out of order, or the same series twice in the text.
    pub rejected: usize,
    /// Series that vanished since the scrape before.
    pub vanished: usize,
}

/// What is stored about a scrape, under the names that Prometheus gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScrapeReport {
    /// Whether it succeeded.
    pub up: bool,
    /// How long it took.
    pub duration_seconds: f64,
    /// What came of it; nothing if it failed.
    pub summary: ScrapeSummary,
}

impl ScrapeReport {
    fn values(&self) -> [f64; REPORT_NAMES.len()] {
        let ScrapeSummary { samples, kept, new_series, .. } = self.summary;
        let up = f64::from(u8::from(self.up));
        [up, self.duration_seconds, samples as f64, kept as f64, new_series as f64]
    }
}

/// A line that was read and not yet stored.
struct Line {
    place: Place,
    value: f64,
    timestamp_ms: Option<i64>,
}

/// Where the series of a line is.
#[derive(Clone, Copy)]
enum Place {
    /// Among those of the scrape before.
    Known(u32),
    /// Among those this scrape has met first.
    Fresh(u32),
}

/// A series this scrape has met first; without labels it was dropped by relabelling.
struct Fresh<'a> {
    text: &'a str,
    labels: Option<Labels>,
}

/// A text that was read and is to be stored as a whole.
struct Reading<'a> {
    lines: Vec<Line>,
    /// By the number of their line, ascending; the value of such a line does not count.
    histograms: Vec<(usize, &'a Arc<Histogram>)>,
    fresh: Vec<Fresh<'a>>,
    exemplars: Vec<(usize, RawExemplar<'a>)>,
    /// Samples that relabelling left.
    kept: usize,
    /// Whether every line is where it was in the scrape before.
    in_place: bool,
    /// Identifies what the text says about its metrics.
    statements: u64,
}

impl Store {
    /// Adds all samples of `body`, scraped at `ts_ms`, and ends the series that the scrape before had and this one has not.
    ///
    /// # Errors
    /// If the text has a fault or passes a limit; then nothing is added, and the caller should treat the scrape as failed
    /// ([`Store::mark_stale`]).
    pub fn append_scrape(
        &self,
        cache: &mut ScrapeCache,
        body: &str,
        format: Format,
        ts_ms: i64,
    ) -> Result<ScrapeSummary, ScrapeError> {
        let reading = read(cache, Parser::new(body, format))?;
        self.note_statements(cache, &reading, || Parser::new(body, format));
        Ok(self.append_reading(cache, &reading, ts_ms))
    }

    /// As [`Store::append_scrape`], for a body of Prometheus' protobuf format.
    ///
    /// # Errors
    /// If the body has a fault or passes a limit.
    pub fn append_protobuf(
        &self,
        cache: &mut ScrapeCache,
        body: &[u8],
        ts_ms: i64,
    ) -> Result<ScrapeSummary, ScrapeError> {
        let families = Families::read(body, cache.options.classic_histograms)?;
        let reading = read(cache, families.entries())?;
        self.note_statements(cache, &reading, || families.entries());
        Ok(self.append_reading(cache, &reading, ts_ms))
    }

    /// Stores what was read and ends the series that it has not.
    fn append_reading(
        &self,
        cache: &mut ScrapeCache,
        reading: &Reading<'_>,
        ts_ms: i64,
    ) -> ScrapeSummary {
        let mut summary = ScrapeSummary {
            samples: reading.lines.len(),
            kept: reading.kept,
            ..ScrapeSummary::default()
        };
        cache.scrape = cache.scrape.wrapping_add(1);
        let mut appender = self.appender();
        let places = add_fresh(&mut appender, cache, &reading.fresh, &mut summary);
        let mut order = Vec::new();
        let mut histograms = reading.histograms.iter().peekable();
        for (number, line) in reading.lines.iter().enumerate() {
            let histogram = histograms.next_if(|(of, _)| *of == number);
            let position = match line.place {
                Place::Known(position) => Some(position),
                Place::Fresh(index) => places[index as usize],
            };
            let Some(position) = position else {
                summary.rejected += 1;
                continue;
            };
            let known = &mut cache.known[position as usize];
            if !reading.in_place && known.scrape != cache.scrape {
                order.push(position);
            }
            known.scrape = cache.scrape;
            let timestamp_ms = line.timestamp_ms.filter(|_| cache.options.honor_timestamps);
            known.timed = timestamp_ms.is_some();
            if let Some(series) = &mut known.series {
                let timestamp_ms = timestamp_ms.unwrap_or(ts_ms);
                let pushed = match histogram {
                    Some((_, histogram)) => {
                        appender.push_histogram(series, timestamp_ms, Arc::clone(histogram))
                    }
                    None => appender.push(series, Sample { timestamp_ms, value: line.value }),
                };
                summary.rejected += usize::from(pushed.is_err());
            }
        }
        self.note_exemplars(cache, reading, &places, ts_ms);
        if !reading.in_place {
            summary.vanished = end_series(&mut appender, cache, ts_ms);
            cache.reorder(&order);
        }
        summary
    }

    /// Ends all series of a target, because a scrape failed or the target is gone. Returns how many.
    pub fn mark_stale(&self, cache: &mut ScrapeCache, ts_ms: i64) -> usize {
        cache.scrape = cache.scrape.wrapping_add(1);
        let ended = end_series(&mut self.appender(), cache, ts_ms);
        cache.reorder(&[]);
        ended
    }

    /// Adds what is to be known about the scrape itself: `up`, `scrape_duration_seconds` and so on.
    pub fn append_report(&self, cache: &mut ScrapeCache, report: &ScrapeReport, ts_ms: i64) {
        self.append_about(cache, report.values(), ts_ms);
    }

    /// Ends the series about the scrapes of a target that is gone.
    pub fn end_report(&self, cache: &mut ScrapeCache, ts_ms: i64) {
        self.append_about(cache, [stale_marker(); REPORT_NAMES.len()], ts_ms);
    }

    fn append_about(&self, cache: &mut ScrapeCache, values: [f64; REPORT_NAMES.len()], ts_ms: i64) {
        let mut appender = self.appender();
        if cache.report.is_empty() {
            let named = REPORT_NAMES.map(|name| cache.target.with(METRIC_NAME, name));
            let found: Result<Vec<_>, _> = named
                .iter()
                .map(|labels| appender.series(labels).map(|(series, _)| series))
                .collect();
            // Beyond the series limit there is no room for them; the store counts that, and the next scrape tries again.
            let Ok(found) = found else { return };
            cache.report = found.into();
        }
        for (series, value) in cache.report.iter_mut().zip(values) {
            // Two scrapes within a millisecond: the first one stands, the store counts the other.
            let _double = appender.push(series, Sample { timestamp_ms: ts_ms, value });
        }
    }

    /// Keeps what an exposition says about its metrics, if that is something new.
    fn note_statements<'a, E: Entries<'a>>(
        &self,
        cache: &mut ScrapeCache,
        reading: &Reading<'_>,
        entries: impl FnOnce() -> E,
    ) {
        if reading.statements == cache.statements {
            return;
        }
        cache.statements = reading.statements;
        let mut entries = entries();
        let mut families: HashMap<&str, Metadata> = HashMap::new();
        while let Some(entry) = entries.next_entry("") {
            let Ok(Entry::About(family, statement)) = entry else { continue };
            let family = families.entry(family).or_default();
            match statement {
                Statement::Kind(kind) => family.kind = kind,
                Statement::Help(help) => family.help = text::unescape_help(help).into(),
                Statement::Unit(unit) => family.unit = unit.into(),
            }
        }
        for (name, metadata) in families {
            self.set_metadata(name, &metadata);
        }
    }

    fn note_exemplars(
        &self,
        cache: &ScrapeCache,
        reading: &Reading<'_>,
        places: &[Option<u32>],
        ts_ms: i64,
    ) {
        for (line, raw) in &reading.exemplars {
            let position = match reading.lines[*line].place {
                Place::Known(position) => Some(position),
                Place::Fresh(index) => places[index as usize],
            };
            let series = position.and_then(|at| cache.known[at as usize].series.as_ref());
            // It was read once already, when the text was checked.
            if let (Some(series), Ok((labels, value, timestamp_ms))) = (series, raw.read()) {
                let labels = Labels::from_pairs(labels);
                let timestamp_ms = timestamp_ms.unwrap_or(ts_ms);
                self.append_exemplar(series.labels(), Exemplar { labels, value, timestamp_ms });
            }
        }
    }
}

/// Reads an exposition without changing anything.
fn read<'a>(
    cache: &ScrapeCache,
    mut entries: impl Entries<'a>,
) -> Result<Reading<'a>, ScrapeError> {
    let mut reading = Reading {
        lines: Vec::with_capacity(cache.known.len()),
        histograms: Vec::new(),
        fresh: Vec::new(),
        exemplars: Vec::new(),
        kept: 0,
        in_place: true,
        statements: 0,
    };
    let mut statements = DefaultHasher::new();
    let mut fresh: HashMap<&str, u32> = HashMap::new();
    let mut table: Option<Table> = None;
    let mut expected = 0;
    while let Some(entry) = entries.next_entry(cache.text(expected)) {
        let sample = match entry? {
            Entry::Sample(sample) => sample,
            Entry::Histogram(sample, histogram) => {
                reading.histograms.push((reading.lines.len(), histogram));
                sample
            }
            Entry::Exemplar(exemplar) => {
                exemplar.read()?;
                reading.exemplars.push((reading.lines.len().saturating_sub(1), exemplar));
                continue;
            }
            Entry::About(family, statement) => {
                (family, statement).hash(&mut statements);
                continue;
            }
        };
        let place = if cache.text(expected) == sample.series && expected < cache.known.len() {
            Place::Known(count(expected))
        } else {
            reading.in_place = false;
            let table = table.get_or_insert_with(|| cache.table());
            match table.find(cache, sample.series) {
                Some(position) => Place::Known(position),
                None => Place::Fresh(if let Some(index) = fresh.get(sample.series) {
                    *index
                } else {
                    let index = count(reading.fresh.len());
                    fresh.insert(sample.series, index);
                    let labels = cache.labels(&sample)?;
                    reading.fresh.push(Fresh { text: sample.series, labels });
                    index
                }),
            }
        };
        let dropped = match place {
            Place::Known(position) => {
                expected = position as usize + 1;
                cache.known[position as usize].series.is_none()
            }
            Place::Fresh(index) => reading.fresh[index as usize].labels.is_none(),
        };
        reading.kept += usize::from(!dropped);
        if let Some(limit) = cache.options.sample_limit.filter(|limit| reading.kept > *limit) {
            return Err(ScrapeError::SampleLimit { limit });
        }
        if let Some(exemplar) = sample.exemplar {
            exemplar.read()?;
            reading.exemplars.push((reading.lines.len(), exemplar));
        }
        let (value, timestamp_ms) = (sample.value, sample.timestamp_ms);
        reading.lines.push(Line { place, value, timestamp_ms });
    }
    reading.in_place &= reading.lines.len() == cache.known.len();
    reading.statements = statements.finish();
    Ok(reading)
}

/// Adds the series this scrape has met first to the store and the cache. `None` for those beyond the series limit, whose samples are
/// refused.
fn add_fresh(
    appender: &mut Appender<'_>,
    cache: &mut ScrapeCache,
    fresh: &[Fresh<'_>],
    summary: &mut ScrapeSummary,
) -> Vec<Option<u32>> {
    let mut add = |fresh: &Fresh<'_>| {
        let series = match &fresh.labels {
            Some(labels) => Some(appender.series(labels).ok()?.0),
            None => None,
        };
        summary.new_series += usize::from(series.is_some());
        Some(cache.push(fresh.text, series))
    };
    fresh.iter().map(&mut add).collect()
}

/// Ends the series that the current scrape did not have.
fn end_series(appender: &mut Appender<'_>, cache: &mut ScrapeCache, ts_ms: i64) -> usize {
    let mut vanished = 0;
    for known in cache.known.iter_mut().filter(|known| known.scrape != cache.scrape) {
        vanished += 1;
        if let Some(series) = known.series.as_mut().filter(|_| !known.timed) {
            let marker = Sample { timestamp_ms: ts_ms, value: stale_marker() };
            // A marker that comes too late for its series has nothing left to end.
            let _late = appender.push(series, marker);
        }
    }
    vanished
}

/// Lines of a text are counted in 32 bits; bodies are bounded far below that.
fn count(number: usize) -> u32 {
    u32::try_from(number).expect("a scrape has fewer than 2^32 lines")
}

/// For tests and callers that need no options.
impl ScrapeCache {
    /// For a target with these labels (`job`, `instance`, …) and nothing special about it.
    pub fn new(target: &Labels) -> Self {
        Self::with_options(target, Arc::new(ScrapeOptions::default()))
    }
}

#[cfg(test)]
mod tests;
