//! What the rules of a tick and the panels of a dashboard cost: `cargo bench -p holdfast-promql [-- TARGETS [ROUNDS]]`.
//!
//! A store with as many targets of a thousand series as asked for (20 if nothing is said) and ten minutes of samples every five seconds;
//! the expressions are those of rules over all targets and of an overview dashboard. Times are CPU time, so that other work on the machine
//! shows little; `valgrind --tool=callgrind` tells where the instructions go.

#![expect(clippy::unwrap_used, reason = "a bench that fails shows where")]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::hint::black_box;
use std::time::Duration;

use holdfast_promql::{Expression, Options, format_value, instant, range};
use holdfast_series::{Labels, Store, StoreConfig};

const STEP_MS: i64 = 5_000;
const SAMPLES: i64 = 120;
const START_MS: i64 = 1_700_000_000_000;
const END_MS: i64 = START_MS + (SAMPLES - 1) * STEP_MS;

/// Evaluated at one instant.
const RULES: &[&str] = &[
    "sum by (job) (rate(requests_total[1m]))",
    "sum by (job, code) (rate(requests_total[5m]))",
    "sum by (job) (rate(requests_total{code=~\"5..\"}[1m])) / sum by (job) (rate(requests_total[1m]))",
    "histogram_quantile(0.99, sum by (le, job) (rate(latency_bucket[1m])))",
    "avg by (job) (load)",
    "max by (instance) (load) > 1e9",
    "count(up == 0)",
    "up == 0",
    "sum(connections) by (job) > 1e12",
    "max_over_time(load[1m]) > 1e9",
];

/// Evaluated over the ten minutes in steps of fifteen seconds.
const PANELS: &[&str] = &[
    "sum(rate(requests_total[1m]))",
    "sum by (instance) (rate(requests_total[1m]))",
    "histogram_quantile(0.95, sum by (le) (rate(latency_bucket[5m])))",
    "topk(5, sum by (instance) (connections))",
    "avg by (job) (avg_over_time(load[1m]))",
];

fn main() {
    let numbers: Vec<i64> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let (targets, rounds) =
        (numbers.first().copied().unwrap_or(20), numbers.get(1).copied().unwrap_or(5));
    let store = store(targets);
    println!("{} series, {rounds} rounds", store.series_count());
    let options = Options::default();
    let rules: Vec<Expression> =
        RULES.iter().map(|text| Expression::parse(text).unwrap()).collect();
    let mut all = Duration::ZERO;
    for rule in &rules {
        all += shown(rule.text(), rounds, || {
            black_box(instant(&store, rule, END_MS, &options).unwrap());
        });
    }
    println!("{:>10.3} ms  all rules", all.as_secs_f64() * 1000.0);
    for text in PANELS {
        let panel = Expression::parse(text).unwrap();
        shown(text, rounds, || {
            let answer = range(&store, &panel, START_MS, END_MS, 15_000, &options).unwrap();
            black_box(format_value(&answer.value));
        });
    }
}

/// Prints the mean CPU time of some rounds and returns it.
fn shown(name: &str, rounds: i64, mut run: impl FnMut()) -> Duration {
    let begun = cpu_time();
    (0..rounds).for_each(|_| run());
    let mean = cpu_time().checked_sub(begun).unwrap() / u32::try_from(rounds).unwrap();
    println!("{:>10.3} ms  {name}", mean.as_secs_f64() * 1000.0);
    mean
}

/// CPU time of this thread, which is the only one.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// A thousand series per target: 500 counters by path and code, 400 buckets, 100 gauges.
fn store(targets: i64) -> Store {
    let store = Store::new(StoreConfig { series_max: 1_000_000, ..StoreConfig::default() });
    let mut random = fastrand::Rng::with_seed(1);
    let mut all = Vec::new();
    for target in 0..targets {
        let (instance, job) = (format!("10.0.0.{target}:9100"), format!("job-{}", target % 5));
        let base = [("instance", instance.as_str()), ("job", job.as_str())];
        let mut add = |name: &str, more: &[(&str, &str)]| {
            let pairs = [("__name__", name)].into_iter().chain(base).chain(more.iter().copied());
            all.push((Labels::from_pairs(pairs), 0.0));
        };
        add("up", &[]);
        for path in 0..100 {
            for code in ["200", "301", "404", "500", "503"] {
                add("requests_total", &[("path", &format!("/api/v1/{path}")), ("code", code)]);
            }
        }
        for path in 0..40 {
            for bound in ["0.005", "0.01", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "+Inf"] {
                add("latency_bucket", &[("path", &format!("/api/v1/{path}")), ("le", bound)]);
            }
        }
        for index in 0..49 {
            add("load", &[("core", &index.to_string())]);
            add("connections", &[("pool", &index.to_string())]);
        }
        add("memory_bytes", &[]);
    }
    for step in 0..SAMPLES {
        for (labels, value) in &mut all {
            *value = match labels.metric_name() {
                "up" => 1.0,
                "load" | "connections" | "memory_bytes" => random.f64() * 100.0,
                _ => *value + f64::from(random.u8(0..20)),
            };
            store.append(labels, START_MS + step * STEP_MS, *value).unwrap();
        }
    }
    store
}
