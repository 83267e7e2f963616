//! What this process uses: CPU, memory, file descriptors, threads, under the names every Prometheus client library gives them.
//!
//! Read from `/proc/self` when somebody asks: two small files and one `stat`. Rejected: a library's process table (it
//! walks far more than one process needs). On a system without `/proc` the figures stay at 0.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge};
use sysinfo::System;

use crate::throttle::{self, Throttle};

/// Half the shortest scrape interval in use (1 s), so a scrape each second always sees fresh figures and a crowd of scrapers
/// costs two readings a second.
pub(crate) const REFRESH_PERIOD: Duration = Duration::from_millis(500);
/// Kernels before 6.2 do not tell the number of descriptors by `stat`, and listing 10,000 of them takes milliseconds.
const DESCRIPTOR_LIST_PERIOD: Duration = Duration::from_secs(10);
/// Ticks per second in `/proc/self/stat`: `USER_HZ`, fixed at 100 in Linux' user-space interface on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;
const BYTES_PER_KIB: i64 = 1024;

const VALID: &str = "the names of process metrics are valid";

/// Exports `process_*`.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    start_time: Gauge,
    open_fds: IntGauge,
    max_fds: Gauge,
    threads: IntGauge,
    throttles: Mutex<Throttles>,
}

#[derive(Debug)]
struct Throttles {
    refresh: Throttle,
    descriptor_list: Throttle,
}

/// What `/proc/self/stat` tells.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// Since boot.
    start_seconds: f64,
    threads: i64,
}

impl ProcessCollector {
    pub(crate) fn new() -> Self {
        let int = |name, help| IntGauge::new(name, help).expect(VALID);
        let float = |name, help| Gauge::new(name, help).expect(VALID);
        let this = Self {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "User and system CPU time used, in seconds",
            )
            .expect(VALID),
            resident_bytes: int("process_resident_memory_bytes", "Resident memory size"),
            start_time: float(
                "process_start_time_seconds",
                "Start time of the process since the Unix epoch",
            ),
            open_fds: int("process_open_fds", "Open file descriptors"),
            max_fds: float("process_max_fds", "Limit on open file descriptors"),
            threads: int("process_threads", "Threads of the process"),
            throttles: Mutex::new(Throttles {
                refresh: Throttle::new(REFRESH_PERIOD),
                descriptor_list: Throttle::new(DESCRIPTOR_LIST_PERIOD),
            }),
        };
        // Both are fixed for the life of the process (the limit as long as nobody calls prlimit on it), so they are read once.
        if let (Some(stat), Ok(boot)) = (read("stat", parse_stat), System::boot_time()) {
            this.start_time.set(boot as f64 + stat.start_seconds);
        }
        if let Some(limit) = read("limits", parse_max_fds) {
            this.max_fds.set(limit);
        }
        this
    }

    fn refresh(&self) {
        let mut throttles = self.throttles.lock().unwrap_or_else(PoisonError::into_inner);
        let now = throttle::now();
        if !throttles.refresh.pass(now) {
            return;
        }
        if let Some(stat) = read("stat", parse_stat) {
            // Never negative: the kernel's figure is monotonic and only this lock's holder adds.
            self.cpu_seconds.inc_by((stat.cpu_seconds - self.cpu_seconds.get()).max(0.0));
            self.threads.set(stat.threads);
        }
        if let Some(bytes) = read("status", parse_resident_bytes) {
            self.resident_bytes.set(bytes);
        }
        let listed = || throttles.descriptor_list.pass(now).then(list_descriptors).flatten();
        if let Some(count) = stat_descriptors().or_else(listed) {
            self.open_fds.set(count);
        }
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.start_time,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn read<T>(file: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
    parse(&fs::read_to_string(format!("/proc/self/{file}")).ok()?)
}

/// proc(5): fields are counted after the command name, which may hold spaces and parentheses itself.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Field 3 (state) is the first after the name, so field n of proc(5) stands at n - 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let (user, system) = (field(14)?, field(15)?);
    Some(Stat {
        cpu_seconds: (user + system) / TICKS_PER_SECOND,
        start_seconds: field(22)? / TICKS_PER_SECOND,
        threads: fields.get(20 - 3)?.parse().ok()?,
    })
}

fn parse_resident_bytes(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * BYTES_PER_KIB)
}

fn parse_max_fds(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        soft => soft.parse().ok(),
    }
}

/// Since Linux 6.2 the size of `/proc/self/fd` is the number of descriptors; before that it is 0.
fn stat_descriptors() -> Option<i64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then(|| i64::try_from(size).ok()).flatten()
}

fn list_descriptors() -> Option<i64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // The listing itself holds one.
    i64::try_from(count.saturating_sub(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_stat_line_of_a_process_with_an_odd_name() {
        let text = "4242 (chat) node (x) S 1 4242 4242 0 -1 4194560 1500 0 3 0 150 50 0 0 20 0 9 0 12345 \
                    800000000 5000 18446744073709551615 1 1 0 0 0 0 0 0 0";
        let expected = Stat { cpu_seconds: 2.0, start_seconds: 123.45, threads: 9 };
        assert_eq!(parse_stat(text), Some(expected));
        for broken in ["", "1 (a) S 1 2", "1 a S"] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn reads_resident_memory_and_the_descriptor_limit() {
        assert_eq!(parse_resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(parse_resident_bytes("Name:\tx\n"), None);
        let limits =
            |soft: &str| format!("Limit  Soft\nMax open files   {soft}   1048576  files\n");
        assert_eq!(parse_max_fds(&limits("1024")), Some(1024.0));
        assert_eq!(parse_max_fds(&limits("unlimited")), Some(f64::INFINITY));
        assert_eq!(parse_max_fds("Max cpu time  unlimited\n"), None);
    }

    #[test]
    fn counts_descriptors_both_ways_alike() {
        // Other tests of this process open and close descriptors meanwhile, so the two may differ a little.
        let listed = list_descriptors().unwrap();
        assert!(listed > 0);
        if let Some(counted) = stat_descriptors() {
            assert!((counted - listed).abs() < 64, "{counted} against {listed}");
        }
    }
}
