//! What the store costs: CPU time per sample on the way in and out, memory per series, bytes per sample on disk.
//!
//! 200 targets of 1,000 series each, scraped every 5 s for ten minutes, as in the benchmark of the whole; the scrape's text is not part
//! of it. Values are a mix as chat nodes expose it: constants, counters that grow by whole numbers, gauges with noise. Run it with
//! `cargo bench -p holdfast-series`; the last line is the result. CPU time comes from the process clock, so other load on the
//! machine does not show.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends when something is wrong"
)]

use std::ops::ControlFlow;

use holdfast_series::{Disk, DiskConfig, Labels, Matcher, Sample, SeriesRef, StoreConfig};

const TARGETS: usize = 200;
const SERIES: usize = 1000;
const STEP_MS: i64 = 5000;
const STEPS: i64 = 120;
/// A multiple of the cuts' grid.
const START_MS: i64 = 1_800_000_000_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        store: StoreConfig { series_max: TARGETS * SERIES, ..StoreConfig::default() },
        bytes_max: None,
    };
    let (disk, _) = Disk::open(folder.path(), config, START_MS).unwrap();
    let store = disk.store();
    let mut random = fastrand::Rng::with_seed(1);
    let mut values = vec![0.0_f64; TARGETS * SERIES];
    let mut targets: Vec<Vec<SeriesRef>> = Vec::new();
    for target in 0..TARGETS {
        let mut appender = store.appender();
        let names = (0..SERIES).map(|number| labels(target, number));
        targets.push(names.map(|labels| appender.series(&labels).unwrap().0).collect());
    }
    println!("memory with all series and no sample: {} MB", resident_mb());
    let (mut appending, mut flushing) = (0.0, 0.0);
    for step in 0..STEPS {
        for (number, value) in values.iter_mut().enumerate() {
            *value = next(*value, number % SERIES, &mut random);
        }
        let timestamp_ms = START_MS + step * STEP_MS;
        let begun = cpu_seconds();
        for (target, series) in targets.iter_mut().enumerate() {
            let mut appender = store.appender();
            for (number, series) in series.iter_mut().enumerate() {
                let value = values[target * SERIES + number];
                appender.push(series, Sample { timestamp_ms, value }).unwrap();
            }
        }
        appending += cpu_seconds() - begun;
        let begun = cpu_seconds();
        disk.flush().unwrap();
        flushing += cpu_seconds() - begun;
    }
    let samples = (TARGETS * SERIES) as f64 * STEPS as f64;
    let stats = store.stats();
    let memory_mb = resident_mb();
    let in_memory = stats.chunk_bytes as f64 / samples;
    let log = disk.stats().log_bytes as f64 / samples;
    let end_ms = START_MS + STEPS * STEP_MS;
    let begun = cpu_seconds();
    let (mut read, m) = (0, [Matcher::equal("job", "bench")]);
    store.visit(&m, end_ms - 60_000, end_ms, false, &mut |_, samples, _| {
        read += samples.len();
        ControlFlow::Continue(())
    });
    let rule_ns = (cpu_seconds() - begun) * 1e9 / (TARGETS * SERIES) as f64;
    assert_eq!(read, TARGETS * SERIES * 12);
    let begun = cpu_seconds();
    disk.maintain(end_ms + 10 * 60_000).unwrap();
    let cut = cpu_seconds() - begun;
    disk.maintain(end_ms + 10 * 60_000).unwrap();
    let stats = disk.stats();
    let on_disk = stats.block_bytes as f64 / stats.block_samples as f64;
    println!("cut of {} samples: {cut:.2} s of CPU", stats.block_samples);
    println!(
        "bench-series append_ns={:.0} flush_ns={:.0} last_minute_of_a_series_ns={rule_ns:.0} \
         memory_mb={memory_mb} memory_bytes_per_sample={in_memory:.2} log_bytes_per_sample={log:.2} \
         block_bytes_per_sample={on_disk:.2}",
        appending * 1e9 / samples,
        flushing * 1e9 / samples,
    );
}

fn labels(target: usize, number: usize) -> Labels {
    let instance = format!("10.0.{}.{}:9100", target / 100, target % 100);
    let (name, path) = (format!("bench_metric_{}", number / 10), (number % 10).to_string());
    let pairs = [
        ("__name__", name.as_str()),
        ("job", "bench"),
        ("instance", &instance),
        ("path", &path),
        ("server", "chatnode"),
    ];
    Labels::from_pairs(pairs)
}

/// Of ten series four are constant, three are counters, two are gauges of whole numbers, one is a measured time.
fn next(value: f64, number: usize, random: &mut fastrand::Rng) -> f64 {
    match number % 10 {
        0..=3 => number as f64,
        4..=6 => value + random.i64(0..50) as f64,
        7..=8 => random.i64(90..110) as f64,
        _ => (random.f64() * 1e3).round() / 1e6,
    }
}

fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let (user, system) = (usage.user_time(), usage.system_time());
    (user.tv_sec() + system.tv_sec()) as f64 + (user.tv_usec() + system.tv_usec()) as f64 / 1e6
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
