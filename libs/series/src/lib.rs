//! Embedded time-series store and parser of the Prometheus text format.
//!
//! - [`text`]: exposition text → samples, borrowed from the text. [`protobuf`]: the other format, with native histograms.
//! - [`Labels`], [`Matcher`]: what names a series, and what selects it.
//! - [`Store`]: compressed samples in memory, found by label. [`ScrapeCache`] is the quick way in for targets that are scraped again
//!   and again.
//!
//! - [`Disk`]: write-ahead log and blocks under a store, so that it survives a restart and holds more than memory does.
//!
//! The store knows no clock and does no IO while it takes samples: every timestamp is an argument, and its owner calls the disk side when
//! it is time to write. Without a disk side it lives in memory alone.

mod append;
mod cardinality;
mod chunk;
mod codec;
mod disk;
mod exemplar;
mod histogram;
mod index;
mod labels;
mod matcher;
mod metadata;
pub mod protobuf;
mod query;
mod queue;
mod scrape;
mod selection;
mod series;
mod store;
mod tap;
pub mod text;

pub use append::{AppendError, Appender, SeriesRef};
pub use cardinality::{Cardinality, Count};
#[doc(hidden)]
pub use disk::fuzz;
pub use disk::{Disk, DiskConfig, DiskError, DiskStats, Maintained, OpenError, OpenReport};
pub use exemplar::{Exemplar, SeriesExemplars};
pub use histogram::{
    Bucket, CUSTOM_BOUNDS_SCHEMA, Histogram, HistogramError, HistogramSample, ResetHint, Span,
    indexed,
};

pub use labels::{Label, Labels, METRIC_NAME, is_label_name, is_metric_name};
pub use matcher::{MatchKind, Matcher, MatcherError};
pub use metadata::{Metadata, MetricKind};
pub use query::Visitor;
pub use scrape::{Relabel, ScrapeCache, ScrapeError, ScrapeOptions, ScrapeReport, ScrapeSummary};
pub use store::{SeriesData, Store, StoreConfig, StoreStats};
pub use tap::Tap;

/// One value at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The value; [`stale_marker`] says that the series ended here.
    pub value: f64,
}

/// Bits of the NaN that ends a series, the same as in Prometheus.
const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The NaN that ends a series: after it, a query finds nothing until the next real sample.
pub fn stale_marker() -> f64 {
    f64::from_bits(STALE_BITS)
}

/// Whether `value` is the staleness marker, told from every other NaN by its bits.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}
