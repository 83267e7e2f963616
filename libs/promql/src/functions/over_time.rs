//! Functions of ranges in which native histograms and numbers may stand side by side.

use std::sync::Arc;

use holdfast_series::Histogram;

use super::{Point, Window};
use crate::histogram;
use crate::notes::Note;

/// The sum or the mean; `None` if the range holds numbers too.
pub(super) fn sum(window: &Window<'_>, mean: bool) -> Option<Point> {
    if !window.samples.is_empty() {
        window.notes.add(Note::MixedInRange(window.metric()));
        return None;
    }
    let (first, rest) = window.histograms.split_first()?;
    let mut sum: Histogram = (*first.histogram).clone();
    for sample in rest {
        match histogram::combined(&sum, &sample.histogram, 1.0) {
            Ok(next) => sum = next,
            Err(mismatch) => {
                window.notes.add(mismatch.note(window.metric()));
                return None;
            }
        }
    }
    let count = window.histograms.len() as f64;
    Some(if mean { histogram::scaled(&sum, 1.0 / count) } else { sum }.into())
}

/// The oldest value and its time.
pub(super) fn first(window: &Window<'_>) -> (i64, Point) {
    in_order(window).next().unwrap_or((window.end_ms, Point::Float(f64::NAN)))
}

/// The newest value and its time.
pub(super) fn last(window: &Window<'_>) -> (i64, Point) {
    in_order(window).last().unwrap_or((window.end_ms, Point::Float(f64::NAN)))
}

/// How often a value differs from the one before it; another kind of value always does.
pub(super) fn changes(window: &Window<'_>) -> f64 {
    count_pairs(window, |before, value| match (before, value) {
        #[expect(clippy::float_cmp, reason = "any change counts")]
        (Point::Float(before), Point::Float(value)) => {
            before != value && !(before.is_nan() && value.is_nan())
        }
        (Point::Histogram(before), Point::Histogram(value)) => !histogram::equal(before, value),
        _ => true,
    })
}

/// How often a counter was reset; another kind of value means that it was.
pub(super) fn resets(window: &Window<'_>) -> f64 {
    count_pairs(window, |before, value| match (before, value) {
        (Point::Float(before), Point::Float(value)) => value < before,
        (Point::Histogram(before), Point::Histogram(value)) => histogram::was_reset(before, value),
        _ => true,
    })
}

fn count_pairs(window: &Window<'_>, test: impl Fn(&Point, &Point) -> bool) -> f64 {
    let points: Vec<Point> = in_order(window).map(|(_, point)| point).collect();
    points.windows(2).filter(|pair| test(&pair[0], &pair[1])).count() as f64
}

/// Values of both kinds in the order of time.
fn in_order<'w>(window: &'w Window<'_>) -> impl Iterator<Item = (i64, Point)> + 'w {
    let mut floats = window.samples.iter().peekable();
    let mut histograms = window.histograms.iter().peekable();
    std::iter::from_fn(move || {
        let float_first = match (floats.peek(), histograms.peek()) {
            (Some(float), Some(histogram)) => float.timestamp_ms <= histogram.timestamp_ms,
            (float, _) => float.is_some(),
        };
        if float_first {
            return floats.next().map(|sample| (sample.timestamp_ms, Point::Float(sample.value)));
        }
        let sample = histograms.next()?;
        Some((sample.timestamp_ms, Point::Histogram(Arc::clone(&sample.histogram))))
    })
}
