//! Series read once for several expressions, such as the rules of one tick.
//!
//! Decoding samples is most of what a rule costs, and rules come in families that look at the same series: a warning and an alert, one
//! window and another. What only one expression asks for goes straight to the source and is not kept. What is kept is bounded, and let
//! go when the last expression that announced itself has had it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_series::{METRIC_NAME, SeriesData};

use crate::QueryError;
use crate::querier::{Each, Querier, Selection, SeriesView};

/// Most selectors announced at a time; what comes beyond goes to the source each time.
const SHARED_MAX: usize = 1_000;
/// Most samples kept at a time, 16 bytes each: 32 MB beside the store. A selector with more is read each time.
const KEPT_SAMPLES_MAX: usize = 2_000_000;

/// The selectors that several expressions have in common, each to be read once over the longest time any of them asks for.
#[derive(Debug, Default)]
pub struct Shared {
    entries: Vec<Entry>,
    kept: AtomicUsize,
}

#[derive(Debug)]
struct Entry {
    selection: Selection,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Not read yet; so many expressions will ask.
    Unread(usize),
    Kept {
        series: Arc<Vec<SeriesData>>,
        samples: usize,
        /// How many will still ask.
        left: usize,
    },
    /// To be asked for at the source.
    Direct,
}

impl Shared {
    /// For expressions that will make these selections.
    pub fn new(selections: impl IntoIterator<Item = Selection>) -> Self {
        let mut counted: Vec<(Selection, usize)> = Vec::new();
        for selection in selections.into_iter().take(SHARED_MAX) {
            let known = counted.iter_mut().find(|(known, _)| {
                known.newest_only == selection.newest_only && known.same_matchers(&selection)
            });
            let Some((known, times)) = known else {
                counted.push((selection, 1));
                continue;
            };
            // Only the newest sample of a shorter time cannot be told from that of a longer one.
            let differs = (known.start_ms, known.end_ms) != (selection.start_ms, selection.end_ms);
            if selection.newest_only && differs {
                continue;
            }
            known.start_ms = known.start_ms.min(selection.start_ms);
            known.end_ms = known.end_ms.max(selection.end_ms);
            *times += 1;
        }
        let shared = counted.into_iter().filter(|(_, times)| *times > 1);
        let entry =
            |(selection, times)| Entry { selection, state: Mutex::new(State::Unread(times)) };
        Self { entries: shared.map(entry).collect(), kept: AtomicUsize::new(0) }
    }

    /// The source that reads from `below` what is not kept.
    pub fn over<'a>(&'a self, below: &'a dyn Querier) -> impl Querier + 'a {
        Over { shared: self, below }
    }

    /// Forgets what may hold series of a metric, because samples were added to it.
    pub fn forget(&mut self, metric: &str) {
        self.entries.retain(|entry| {
            let mut names = entry.selection.matchers.iter().filter(|m| m.name() == METRIC_NAME);
            !names.all(|matcher| matcher.matches(metric))
        });
    }

    /// The series of an entry, read if they are not yet; `None` if they are to be asked for at the source.
    fn series(
        &self,
        entry: &Entry,
        below: &dyn Querier,
    ) -> Result<Option<Arc<Vec<SeriesData>>>, QueryError> {
        // A panic of the source leaves the state as it was.
        let mut state = entry.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Unread(times) = *state {
            *state = self.read(&entry.selection, times, below)?;
        }
        let State::Kept { series, samples, left } = &mut *state else { return Ok(None) };
        let series = Arc::clone(series);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.kept.fetch_sub(*samples, Ordering::Relaxed);
            *state = State::Direct;
        }
        Ok(Some(series))
    }

    fn read(
        &self,
        selection: &Selection,
        left: usize,
        below: &dyn Querier,
    ) -> Result<State, QueryError> {
        let (mut all, mut samples) = (Vec::new(), 0);
        let room = KEPT_SAMPLES_MAX.saturating_sub(self.kept.load(Ordering::Relaxed));
        below.select(selection, &mut |view: SeriesView<'_>| {
            samples += view.samples.len() + view.histograms.len();
            if samples > room {
                return ControlFlow::Break(());
            }
            all.push(view.to_data());
            ControlFlow::Continue(())
        })?;
        if samples > room {
            return Ok(State::Direct);
        }
        self.kept.fetch_add(samples, Ordering::Relaxed);
        Ok(State::Kept { series: Arc::new(all), samples, left })
    }
}

struct Over<'a> {
    shared: &'a Shared,
    below: &'a dyn Querier,
}

impl Querier for Over<'_> {
    fn select(&self, selection: &Selection, each: &mut Each<'_>) -> Result<(), QueryError> {
        let mut entries = self.shared.entries.iter();
        let found = entries.find(|entry| {
            entry.selection.newest_only == selection.newest_only
                && selection.is_within(&entry.selection)
        });
        let series = match found {
            Some(entry) => self.shared.series(entry, self.below)?,
            None => None,
        };
        let Some(series) = series else { return self.below.select(selection, each) };
        let mut show = |series| part(selection, SeriesView::of(series), each);
        let _stopped = series.iter().try_for_each(&mut show);
        Ok(())
    }
}

/// Shows the part of a series that the selection asks for, if there is any.
fn part(selection: &Selection, series: SeriesView<'_>, each: &mut Each<'_>) -> ControlFlow<()> {
    let (start_ms, end_ms) = (selection.start_ms, selection.end_ms);
    let cut = |before: &dyn Fn(i64) -> usize| (before(start_ms), before(end_ms + 1));
    let (first, last) =
        cut(&|ms| series.samples.partition_point(|sample| sample.timestamp_ms < ms));
    let samples = &series.samples[first..last];
    let (first, last) =
        cut(&|ms| series.histograms.partition_point(|sample| sample.timestamp_ms < ms));
    let histograms = &series.histograms[first..last];
    if samples.is_empty() && histograms.is_empty() {
        return ControlFlow::Continue(());
    }
    each(SeriesView { labels: series.labels, samples, histograms })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use holdfast_series::{Labels, Sample};

    use super::*;
    use crate::{Expression, Options, format_value, instant};

    /// Two series with a sample a second, and a list of what was asked.
    #[derive(Default)]
    struct Source {
        asked: RefCell<Vec<(i64, i64, bool)>>,
        broken: bool,
    }

    impl Querier for Source {
        fn select(&self, selection: &Selection, each: &mut Each<'_>) -> Result<(), QueryError> {
            let Selection { start_ms, end_ms, newest_only, .. } = *selection;
            self.asked.borrow_mut().push((start_ms, end_ms, newest_only));
            if self.broken {
                return Err(QueryError { source_name: "test".into(), cause: "broken".into() });
            }
            for node in ["a", "b"] {
                let labels = Labels::from_pairs([("__name__", "m_total"), ("node", node)]);
                let times = (0..=600).map(|second| second * 1000);
                let samples: Vec<Sample> = times
                    .filter(|ms| (start_ms..=end_ms).contains(ms))
                    .map(|timestamp_ms| Sample { timestamp_ms, value: timestamp_ms as f64 })
                    .collect();
                if each(SeriesView { labels: &labels, samples: &samples, histograms: &[] })
                    .is_break()
                {
                    break;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn equal_selectors_are_read_once_over_the_longest_time() {
        let options = Options::default();
        let texts = [
            "sum(rate(m_total[1m]))",
            "max_over_time(m_total[5m])",
            "m_total",
            "m_total > 3",
            "m_total offset 1m",
            "other",
        ];
        let rules = texts.map(|text| Expression::parse(text).unwrap());
        let (source, alone) = (Source::default(), Source::default());
        let selections = rules.iter().flat_map(|rule| rule.selections(600_000, &options));
        let shared = Shared::new(selections);
        let shared_source = shared.over(&source);
        for rule in &rules {
            let value = |querier: &dyn Querier| {
                format_value(&instant(querier, rule, 600_000, &options).unwrap().value)
            };
            assert_eq!(value(&shared_source), value(&alone), "{rule}");
        }
        assert_eq!(
            *source.asked.borrow(),
            [
                (300_001, 600_000, false),
                (300_001, 600_000, true),
                (240_001, 540_000, true),
                (300_001, 600_000, true),
            ],
            "the ranges together, the newest together, the rest each for itself"
        );
        assert_eq!(alone.asked.borrow().len(), 6);
    }

    #[test]
    fn what_is_kept_goes_when_it_was_used_or_is_no_longer_true() {
        let options = Options::default();
        let rule = Expression::parse("m_total").unwrap();
        let source = Source::default();
        let ask = |shared: &Shared| {
            let answer = instant(&shared.over(&source), &rule, 1000, &options);
            assert!(answer.is_ok());
            source.asked.borrow().len()
        };
        let twice = || [&rule, &rule].into_iter().flat_map(|rule| rule.selections(1000, &options));
        let shared = Shared::new(twice());
        assert_eq!([ask(&shared), ask(&shared), ask(&shared)], [1, 1, 2], "announced twice");
        assert_eq!(shared.kept.load(Ordering::Relaxed), 0);
        let mut shared = Shared::new(twice());
        assert_eq!(ask(&shared), 3);
        shared.forget("other");
        assert_eq!(ask(&shared), 3);
        shared.forget("m_total");
        assert_eq!(ask(&shared), 4);
    }

    #[test]
    fn a_failed_read_is_no_answer() {
        let options = Options::default();
        let rule = Expression::parse("m_total").unwrap();
        let source = Source { broken: true, ..Source::default() };
        let twice = [&rule, &rule].into_iter().flat_map(|rule| rule.selections(1000, &options));
        let shared = Shared::new(twice);
        for _ in 0..2 {
            assert!(instant(&shared.over(&source), &rule, 1000, &options).is_err());
        }
    }
}
