//! How much room do the machine's file systems have left?
//!
//! Asking a file system can take forever: a dead disk, a user-space file system whose server hangs. So it is asked by a thread of its own,
//! never by the one that answers a scrape; as long as one asking has not returned, no other is begun and the last figures stay. Network
//! file systems are not asked at all.

use std::sync::{Arc, Mutex, TryLockError};
use std::thread;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use sysinfo::{DiskRefreshKind, Disks};

use crate::host::saturate;

/// Mount points exported at most; container hosts have hundreds.
const MOUNT_POINTS_MAX: usize = 32;

const VALID: &str = "the names of file system metrics are valid";

/// Exports `host_filesystem_*`; clones share the figures.
#[derive(Clone, Debug)]
pub(crate) struct Filesystems {
    size: IntGaugeVec,
    avail: IntGaugeVec,
    /// Locked while the file systems are asked, which tells whether one asking is still out.
    reading: Arc<Mutex<Reading>>,
}

#[derive(Debug)]
struct Reading {
    disks: Option<Disks>,
    exported: Vec<String>,
}

impl Filesystems {
    pub(crate) fn new() -> Self {
        let by_mount = |name: &str, help: &str| {
            IntGaugeVec::new(Opts::new(name, help), &["mountpoint"]).expect(VALID)
        };
        Self {
            size: by_mount("host_filesystem_size_bytes", "Size of the file system"),
            avail: by_mount(
                "host_filesystem_avail_bytes",
                "Space of the file system that is available to programs",
            ),
            reading: Arc::new(Mutex::new(Reading {
                disks: Disks::new().ok(),
                exported: Vec::new(),
            })),
        }
    }

    /// Begins to ask anew, unless the last asking has not returned. The figures follow when they are there.
    pub(crate) fn refresh(&self) {
        let this = self.clone();
        // Without a thread to spare the figures stay as they are.
        let _ = thread::Builder::new().name("filesystems".to_owned()).spawn(move || this.read());
    }

    fn read(&self) {
        let mut reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(poison)) => poison.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(disks) = &mut reading.disks else { return };
        disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage());
        let mut mounted = Vec::new();
        for disk in disks.iter().take(MOUNT_POINTS_MAX) {
            let mount_point = disk.mount_point().to_string_lossy().into_owned();
            self.size.with_label_values(&[&mount_point]).set(saturate(disk.total_space()));
            self.avail.with_label_values(&[&mount_point]).set(saturate(disk.available_space()));
            mounted.push(mount_point);
        }
        // One by one, because a scrape may come at any time and must not see an empty moment.
        for gone in reading.exported.iter().filter(|mount_point| !mounted.contains(mount_point)) {
            // It was exported by us, so an error would only say that it is gone already.
            let _ = self.size.remove_label_values(&[gone]);
            let _ = self.avail.remove_label_values(&[gone]);
        }
        reading.exported = mounted;
    }

    fn parts(&self) -> [&dyn Collector; 2] {
        [&self.size, &self.avail]
    }
}

impl Collector for Filesystems {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_exports_what_is_mounted_and_drops_what_is_gone() {
        let filesystems = Filesystems::new();
        filesystems.size.with_label_values(&["/gone"]).set(1);
        filesystems.reading.lock().unwrap().exported.push("/gone".to_owned());
        filesystems.read();

        let mounted = filesystems.reading.lock().unwrap().exported.clone();
        assert!(!mounted.contains(&"/gone".to_owned()));
        let shown: Vec<String> = filesystems
            .collect()
            .iter()
            .flat_map(MetricFamily::get_metric)
            .map(|metric| metric.get_label()[0].value().to_owned())
            .collect();
        assert_eq!(shown.len(), 2 * mounted.len(), "size and space of each: {shown:?}");
        assert!(!shown.contains(&"/gone".to_owned()));
    }

    #[test]
    fn a_reading_that_hangs_does_not_stop_the_next_from_returning() {
        let filesystems = Filesystems::new();
        let _hanging = filesystems.reading.lock().unwrap();
        filesystems.clone().read();
    }
}
