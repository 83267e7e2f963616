//! Queries, as anybody who reaches the HTTP API may send them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use holdfast_promql::{Expression, Interruption, Options, format_value, instant, range};
use holdfast_series::{Histogram, Labels, Span, Store, StoreConfig};

const END_MS: i64 = 600_000;
/// Looks at the clock, so to say, that a query gets: an input is to take milliseconds.
const CHECKS_MAX: u32 = 2_000;

/// Ten minutes of the series that the seeds name.
static STORE: LazyLock<Store> = LazyLock::new(|| {
    let store = Store::new(StoreConfig::default());
    let add = |pairs: &[(&str, &str)], factor: f64| {
        let labels = Labels::from_pairs(pairs.iter().copied());
        for step in 0..=20 {
            store.append(&labels, step * 30_000, step as f64 * factor).expect("in order");
        }
    };
    for job in ["api-1", "db-2"] {
        for name in ["requests_total", "load", "info"] {
            add(&[("__name__", name), ("job", job), ("code", "500"), ("zone", "a")], 1.5);
        }
        for (bound, factor) in [("0.1", 1.0), ("1", 2.0), ("+Inf", 3.0)] {
            add(&[("__name__", "latency_bucket"), ("job", job), ("le", bound)], factor);
        }
        let labels = Labels::from_pairs([("__name__", "native"), ("job", job)]);
        for step in 0..=20_i64 {
            let counts = vec![step as f64, 2.0, 3.0];
            let histogram = Histogram {
                schema: i8::from(step < 10),
                zero_threshold: 0.001,
                count: counts.iter().sum(),
                sum: 7.0,
                positive_spans: vec![Span { offset: -1, length: 3 }],
                positive_counts: counts,
                ..Histogram::default()
            };
            store.append_histogram(&labels, step * 30_000, Arc::new(histogram)).expect("in order");
        }
    }
    store
});

/// Parses, prints, and evaluates at an instant and over a range.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(expression) = Expression::parse(text) else { return };
    let _text = expression.pretty();
    let checks = AtomicU32::new(0);
    let impatient =
        || (checks.fetch_add(1, Ordering::Relaxed) > CHECKS_MAX).then_some(Interruption::TimedOut);
    let options =
        Options { samples_max: 20_000, interrupted: Some(&impatient), ..Options::default() };
    let answers = [
        instant(&*STORE, &expression, END_MS, &options),
        range(&*STORE, &expression, END_MS - 120_000, END_MS, 40_000, &options),
    ];
    for answer in answers.into_iter().flatten() {
        assert!(format_value(&answer.value).starts_with("{\"resultType\":"));
    }
}
