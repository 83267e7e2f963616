//! What the machine has left: CPU, memory, load, file systems, network.
//!
//! Every program exports the figures of the machine it runs on, so a cluster needs no separate host agent to be watched. Only what is
//! exported is refreshed (never the process table), and only when somebody asks. Network devices and file systems take several system
//! calls each and change slowly, so they are read less often.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntGauge};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, NetworkData, Networks, System};

use crate::filesystems::Filesystems;
use crate::process::REFRESH_PERIOD;
use crate::throttle::{self, Throttle};

/// File systems and network devices are listed anew this often.
const LIST_PERIOD: Duration = Duration::from_secs(10);
/// Traffic of a machine with itself.
const LOOPBACK: &str = "lo";

const VALID: &str = "the names of host metrics are valid";

/// Exports `host_*`.
#[derive(Debug)]
pub(crate) struct HostCollector {
    cpu_usage: Gauge,
    memory_total: IntGauge,
    memory_available: IntGauge,
    load1: Gauge,
    filesystems: Filesystems,
    network_receive: IntCounter,
    network_transmit: IntCounter,
    sources: Mutex<Sources>,
}

/// What the figures are read from; absent where the system refuses to tell.
#[derive(Debug)]
struct Sources {
    refresh: Throttle,
    list: Throttle,
    system: Option<System>,
    networks: Option<Networks>,
}

impl HostCollector {
    pub(crate) fn new() -> Self {
        let int = |name, help| IntGauge::new(name, help).expect(VALID);
        let counter = |name, help| IntCounter::new(name, help).expect(VALID);
        let this = Self {
            cpu_usage: Gauge::new(
                "host_cpu_usage_ratio",
                "Share of all CPUs in use since the last reading, 0 to 1",
            )
            .expect(VALID),
            memory_total: int("host_memory_total_bytes", "Memory of the machine"),
            memory_available: int(
                "host_memory_available_bytes",
                "Memory that can be given to programs without swapping",
            ),
            load1: Gauge::new("host_load1", "Load average over one minute").expect(VALID),
            filesystems: Filesystems::new(),
            network_receive: counter(
                "host_network_receive_bytes_total",
                "Bytes received on all network devices but the loopback",
            ),
            network_transmit: counter(
                "host_network_transmit_bytes_total",
                "Bytes sent on all network devices but the loopback",
            ),
            sources: Mutex::new(Sources {
                refresh: Throttle::new(REFRESH_PERIOD),
                list: Throttle::new(LIST_PERIOD),
                system: System::new().ok(),
                networks: Networks::new_with_refreshed_list().ok(),
            }),
        };
        this.start();
        this
    }

    /// Usage is the difference of two readings and devices count since boot, so both need a first reading.
    fn start(&self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(system) = &mut sources.system {
            system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        }
        for device in devices(sources.networks.as_ref()) {
            self.network_receive.inc_by(device.total_received());
            self.network_transmit.inc_by(device.total_transmitted());
        }
    }

    fn refresh(&self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let now = throttle::now();
        if sources.refresh.pass(now)
            && let Some(system) = &mut sources.system
        {
            self.refresh_system(system);
        }
        if sources.list.pass(now) {
            self.filesystems.refresh();
            self.refresh_network(sources.networks.as_mut());
        }
    }

    fn refresh_system(&self, system: &mut System) {
        system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        self.cpu_usage.set((f64::from(system.global_cpu_usage()) / 100.0).clamp(0.0, 1.0));
        self.memory_total.set(saturate(system.total_memory()));
        self.memory_available.set(saturate(system.available_memory()));
        if let Ok(load) = System::load_average() {
            self.load1.set(load.one);
        }
    }

    /// Adds what each device did since the last reading, so that a device that goes away does not make the sum fall.
    fn refresh_network(&self, networks: Option<&mut Networks>) {
        let Some(networks) = networks else { return };
        networks.refresh(true);
        for device in devices(Some(networks)) {
            self.network_receive.inc_by(device.received());
            self.network_transmit.inc_by(device.transmitted());
        }
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_usage,
            &self.memory_total,
            &self.memory_available,
            &self.load1,
            &self.filesystems,
            &self.network_receive,
            &self.network_transmit,
        ]
    }
}

impl Collector for HostCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn devices(networks: Option<&Networks>) -> impl Iterator<Item = &NetworkData> {
    let all = networks.into_iter().flat_map(|networks| networks.iter());
    all.filter(|(name, _)| *name != LOOPBACK).map(|(_, device)| device)
}

pub(crate) fn saturate(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
