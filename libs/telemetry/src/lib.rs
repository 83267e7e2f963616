//! How a Holdfast program shows what it does: figures, logs, traces, health, and the few lines every program shares.
//!
//! The three programs must look alike to the operator and to each other, so everything one of them says about itself goes through
//! here. Rejected: a global metrics registry (two instances in one test process would share it), and a metrics façade in front of
//! the `prometheus` crate (one more vocabulary for the same five types).
//!
//! - [`metrics`]: the registry of a process, constructors that register, and the Prometheus text of it.
//! - [`striped`]: counters and histograms that several threads change at every request.
//! - [`logs`]: log lines to stderr, and tracing spans to an OpenTelemetry collector where one is named.
//! - [`traces`]: spans of what was measured elsewhere, to the same collector.
//! - [`spans`]: spans whose identity others were told before they ended.
//! - [`errors`]: an error with its whole chain of causes in one line.
//! - [`health`]: what must hold before this process may be given work.
//! - [`http`]: `/metrics`, `/health/live`, `/health/ready`.
//! - [`operators`]: the listener these are on, bounded.
//! - [`announce`] and [`shutdown`]: the first line a program prints and the signal on which it ends.

pub mod announce;
pub mod errors;
mod filesystems;
pub mod health;
mod host;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod operators;
mod process;
pub mod shutdown;
pub mod spans;
pub mod striped;
mod throttle;
pub mod traces;

pub use striped::{StripedCounter, StripedCounterVec, StripedHistogram, StripedHistogramVec};

pub use prometheus::{
    self, Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Registry,
};
