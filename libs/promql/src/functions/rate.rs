//! How native histograms change over a range.

use holdfast_series::{Histogram, ResetHint};

use super::{Point, Window};
use crate::histogram::{self, Mismatch};
use crate::notes::Note;

/// The change over the range, as if the histograms reached to its edges; `None` if it holds numbers too.
pub(super) fn of_histograms(window: &Window<'_>, counter: bool, per_second: bool) -> Option<Point> {
    if !window.samples.is_empty() {
        window.notes.add(Note::MixedInRange(window.metric()));
        return None;
    }
    let [first, .., last] = window.histograms else { return None };
    let change = match change(window, counter) {
        Ok(change) => change,
        Err(mismatch) => {
            window.notes.add(mismatch.note(window.metric()));
            return None;
        }
    };
    let mut to_zero = f64::INFINITY;
    if counter && change.count > 0.0 && first.histogram.count >= 0.0 {
        let covered = (last.timestamp_ms - first.timestamp_ms) as f64 / 1000.0;
        to_zero = covered * (first.histogram.count / change.count);
    }
    let instants = (first.timestamp_ms, last.timestamp_ms);
    let factor = window.factor(instants, window.histograms.len(), to_zero, per_second);
    Some(histogram::scaled(&change, factor).into())
}

fn change(window: &Window<'_>, counter: bool) -> Result<Histogram, Mismatch> {
    let all = window.histograms;
    let (first, last) = (&all[0].histogram, &all[all.len() - 1].histogram);
    let mut change = histogram::combined(last, first, -1.0)?;
    if counter {
        for pair in all.windows(2) {
            let (before, after) = (&pair[0].histogram, &pair[1].histogram);
            if after.reset_hint == ResetHint::Gauge {
                window.notes.add(Note::NotACounterHistogram(window.metric()));
            }
            if histogram::was_reset(before, after) {
                change = histogram::combined(&change, before, 1.0)?;
            }
        }
    } else if [first, last].iter().any(|found| found.reset_hint != ResetHint::Gauge) {
        window.notes.add(Note::NotAGaugeHistogram(window.metric()));
    }
    change.reset_hint = ResetHint::Gauge;
    Ok(change)
}

/// The change between the last two samples, or its rate.
pub(super) fn of_last_two(window: &Window<'_>, per_second: bool) -> Option<Point> {
    let newest_float = window.samples.last().map(|sample| sample.timestamp_ms);
    let newest_histogram = window.histograms.last().map(|sample| sample.timestamp_ms);
    if let [.., before, _] = window.samples
        && newest_histogram.is_none_or(|at| at < before.timestamp_ms)
    {
        return window.last_two(per_second).map(Point::Float);
    }
    let [.., before, last] = window.histograms else { return mixed(window) };
    if newest_float.is_some_and(|at| at > before.timestamp_ms) {
        return mixed(window);
    }
    let gauge = last.histogram.reset_hint == ResetHint::Gauge;
    if per_second && gauge {
        window.notes.add(Note::NotACounterHistogram(window.metric()));
    } else if !per_second && !gauge {
        window.notes.add(Note::NotAGaugeHistogram(window.metric()));
    }
    let reset = per_second && histogram::was_reset(&before.histogram, &last.histogram);
    let change = if reset {
        Ok((*last.histogram).clone())
    } else {
        histogram::combined(&last.histogram, &before.histogram, -1.0)
    };
    match change {
        Ok(mut change) => {
            change.reset_hint = ResetHint::Gauge;
            let seconds = (last.timestamp_ms - before.timestamp_ms) as f64 / 1000.0;
            let factor = if per_second { 1.0 / seconds } else { 1.0 };
            Some(histogram::scaled(&change, factor).into())
        }
        Err(mismatch) => {
            window.notes.add(mismatch.note(window.metric()));
            None
        }
    }
}

/// Says that the last two samples are of two kinds, unless there is only one.
fn mixed(window: &Window<'_>) -> Option<Point> {
    if window.len() > 1 {
        window.notes.add(Note::MixedInRange(window.metric()));
    }
    None
}
