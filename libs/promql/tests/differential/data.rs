//! Samples of an hour, the same in every run: counters with resets, gauges, gaps, series that begin late, NaN and infinities.

use std::fmt::Write as _;
use std::time::Duration;

use holdfast_series::{Labels, Sample, Store, StoreConfig};

/// A multiple of two hours, which is where Prometheus cuts its blocks.
pub(crate) const START_MS: i64 = 1_699_999_200_000;
pub(crate) const END_MS: i64 = START_MS + 3_600_000;

pub(crate) type Samples = Vec<(Labels, Vec<Sample>)>;

pub(crate) fn samples() -> Samples {
    let mut random = fastrand::Rng::with_seed(7);
    let mut all = Vec::new();
    for (job, instances) in [("api", 4), ("db", 2)] {
        for instance in 0..instances {
            let instance = format!("{job}-{instance}");
            let zone = if instance.ends_with(['0', '2']) { "a" } else { "b" };
            let base = [("job", job), ("instance", instance.as_str())];
            for code in ["200", "500"] {
                let labels = with("requests_total", &base, &[("code", code), ("zone", zone)]);
                all.push((labels, counter(&mut random)));
            }
            all.push((with("memory_bytes", &base, &[("zone", zone)]), gauge(&mut random, 1e9)));
            all.push((with("load", &base, &[]), gauge(&mut random, 4.0)));
            all.push((with("limit", &base, &[]), constant(&mut random, 3.0)));
            all.push((
                with(
                    "info",
                    &base,
                    &[("version", if instance.ends_with('0') { "1" } else { "2" })],
                ),
                constant(&mut random, 1.0),
            ));
            let mut below = Vec::new();
            for bound in ["0.1", "0.5", "1", "2.5", "+Inf"] {
                below = add(&counter(&mut random), &below);
                all.push((with("latency_bucket", &base, &[("le", bound)]), below.clone()));
            }
        }
    }
    for (name, value) in
        [("one", 1.0), ("zero", 0.0), ("endless", f64::INFINITY), ("nothing", f64::NAN)]
    {
        all.push((with("special", &[("kind", name)], &[]), constant(&mut random, value)));
    }
    all
}

fn with(name: &str, base: &[(&str, &str)], more: &[(&str, &str)]) -> Labels {
    Labels::from_pairs([("__name__", name)].iter().chain(base).chain(more).copied())
}

/// Instants every 15 s with some milliseconds of jitter; some missing, some series late, some ending early.
fn instants(random: &mut fastrand::Rng) -> Vec<i64> {
    let late = if random.u8(0..4) == 0 { random.i64(0..1_800_000) } else { 0 };
    let early = if random.u8(0..4) == 0 { random.i64(0..1_800_000) } else { 0 };
    let mut instants = Vec::new();
    let mut at = START_MS + late;
    while at <= END_MS - early {
        if random.u8(0..20) > 0 {
            instants.push(at + if random.bool() { random.i64(0..20) } else { 0 });
        }
        // Now and then a gap longer than the look-back.
        at += if random.u16(0..150) == 0 { 420_000 } else { 15_000 };
    }
    instants
}

fn series(
    random: &mut fastrand::Rng,
    mut next: impl FnMut(&mut fastrand::Rng) -> f64,
) -> Vec<Sample> {
    let instants = instants(random);
    instants.into_iter().map(|timestamp_ms| Sample { timestamp_ms, value: next(random) }).collect()
}

fn counter(random: &mut fastrand::Rng) -> Vec<Sample> {
    let mut total = f64::from(random.u16(0..500));
    series(random, |random| {
        total = if random.u8(0..60) == 0 { 0.0 } else { total + f64::from(random.u8(0..30)) };
        total
    })
}

fn gauge(random: &mut fastrand::Rng, size: f64) -> Vec<Sample> {
    series(random, |random| (random.f64() * size * 1000.0).round() / 1000.0)
}

fn constant(random: &mut fastrand::Rng, value: f64) -> Vec<Sample> {
    series(random, |_| value)
}

/// Cumulative buckets: each adds to the one below where that has a sample at the same instant.
fn add(own: &[Sample], below: &[Sample]) -> Vec<Sample> {
    if below.is_empty() {
        return own.to_vec();
    }
    below
        .iter()
        .zip(own.iter().cycle())
        .map(|(below, own)| Sample {
            timestamp_ms: below.timestamp_ms,
            value: below.value + own.value,
        })
        .collect()
}

pub(crate) fn store(samples: &Samples) -> Store {
    let store = Store::new(StoreConfig {
        retention: Duration::from_hours(24),
        series_max: 10_000,
        ..StoreConfig::default()
    });
    for (labels, samples) in samples {
        for sample in samples {
            store.append(labels, sample.timestamp_ms, sample.value).unwrap();
        }
    }
    store
}

/// The text from which promtool makes a block.
pub(crate) fn open_metrics(samples: &Samples) -> String {
    let mut text = String::new();
    for (labels, samples) in samples {
        let pairs: Vec<String> = labels
            .iter()
            .filter(|(name, _)| *name != "__name__")
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        for sample in samples {
            let value = holdfast_promql::format_number(sample.value);
            let (name, pairs) = (labels.metric_name(), pairs.join(","));
            let seconds = sample.timestamp_ms as f64 / 1000.0;
            writeln!(text, "{name}{{{pairs}}} {value} {seconds:.3}").unwrap();
        }
    }
    text + "# EOF\n"
}
