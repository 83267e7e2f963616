//! `[metrics]`: the embedded store, the remote that may stand in for it, and where samples are sent to.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_series::{Labels, is_label_name};
use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;
use super::remote::Remote;
use crate::remote::client::Endpoint;
use crate::remote::send::Destination;

/// A week: the same hour of the same day before, for comparison.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// 1 GiB: a week of 1 s samples of a small cluster, and nothing that fills a disk unnoticed.
const DISK_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Less could not hold the blocks of an hour of a small cluster.
const DISK_BYTES_LEAST: u64 = 16 * 1024 * 1024;
/// Longer than a sender's retries after a short outage, short enough for memory to hold it.
const OUT_OF_ORDER_WINDOW: Duration = Duration::from_mins(5);
/// Memory holds the window uncompacted.
const OUT_OF_ORDER_WINDOW_MAX: Duration = Duration::from_hours(1);
/// About a day of a small cluster's samples, compressed, while no destination takes any.
const REMOTE_WRITE_QUEUE_BYTES_MAX: u64 = 1 << 30;
/// A panel that takes longer is noticed by whoever looks at it.
const SLOW_QUERY: Duration = Duration::from_secs(5);
/// The queue is dropped by segments of 8 MiB.
const REMOTE_WRITE_QUEUE_BYTES_LEAST: u64 = 32 << 20;

/// The embedded store.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Samples older than this are dropped.
    pub retention: Duration,
    /// The oldest blocks go when all of them together are larger.
    pub disk_bytes_max: u64,
    /// How much older than the newest of its series a sample may be.
    pub out_of_order_window: Duration,
    /// New series above this are refused and counted.
    pub series_max: usize,
    /// Labels added to what is sent elsewhere.
    pub external_labels: Labels,
    /// A query that takes longer is logged.
    pub slow_query: Duration,
    /// Where rules and queries are answered instead of by the embedded store.
    pub remote: Option<Endpoint>,
    /// Where samples are sent to.
    pub remote_write: Vec<Destination>,
    /// Most bytes of samples that wait to be sent.
    pub remote_write_queue_bytes_max: u64,
}

/// Who answers for series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Backend {
    #[default]
    Embedded,
    Prometheus,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    #[serde(with = "duration")]
    pub(super) retention: Duration,
    pub(super) disk_bytes_max: u64,
    #[serde(with = "duration")]
    pub(super) out_of_order_window: Duration,
    pub(super) series_max: usize,
    #[serde(with = "duration")]
    pub(super) slow_query: Duration,
    pub(super) backend: Backend,
    pub(super) external_labels: BTreeMap<String, String>,
    pub(super) prometheus: Option<Remote>,
    pub(super) remote_write: Vec<Remote>,
    pub(super) remote_write_queue_bytes_max: u64,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            retention: RETENTION,
            disk_bytes_max: DISK_BYTES_MAX,
            out_of_order_window: OUT_OF_ORDER_WINDOW,
            // About ten times what thirty nodes expose.
            series_max: 50_000,
            slow_query: SLOW_QUERY,
            backend: Backend::default(),
            external_labels: BTreeMap::new(),
            prometheus: None,
            remote_write: Vec::new(),
            remote_write_queue_bytes_max: REMOTE_WRITE_QUEUE_BYTES_MAX,
        }
    }
}

impl Checker<'_> {
    pub(super) fn metrics(&mut self, written: Written) -> Option<Metrics> {
        self.require(
            written.retention.as_secs() >= 600,
            "metrics.retention",
            "expected at least 10m; rules look back further than that",
        );
        self.require(written.series_max >= 100, "metrics.series_max", "expected at least 100");
        self.require(
            written.disk_bytes_max >= DISK_BYTES_LEAST,
            "metrics.disk_bytes_max",
            format!("expected at least {DISK_BYTES_LEAST}"),
        );
        self.require(
            written.out_of_order_window <= OUT_OF_ORDER_WINDOW_MAX,
            "metrics.out_of_order_window",
            format!("expected at most {OUT_OF_ORDER_WINDOW_MAX:?}; memory holds the window"),
        );
        for name in written.external_labels.keys() {
            let valid = is_label_name(name) && !name.starts_with("__");
            let key = format!("metrics.external_labels.{name}");
            self.require(valid, &key, "expected a label name that does not begin with __");
        }
        self.require(
            (written.backend == Backend::Prometheus) == written.prometheus.is_some(),
            "metrics.prometheus",
            "expected together with backend = \"prometheus\", and only then",
        );
        let remote = match written.prometheus {
            Some(remote) => Some(self.remote("metrics.prometheus", remote)?),
            None => None,
        };
        let queue = written.remote_write_queue_bytes_max;
        self.require(
            queue >= REMOTE_WRITE_QUEUE_BYTES_LEAST,
            "metrics.remote_write_queue_bytes_max",
            format!("expected at least {REMOTE_WRITE_QUEUE_BYTES_LEAST}"),
        );
        Some(Metrics {
            retention: written.retention,
            disk_bytes_max: written.disk_bytes_max,
            out_of_order_window: written.out_of_order_window,
            series_max: written.series_max,
            slow_query: written.slow_query,
            external_labels: Labels::from_pairs(&written.external_labels),
            remote,
            remote_write: self.destinations(written.remote_write)?,
            remote_write_queue_bytes_max: queue,
        })
    }
}
