//! The registry of a process and its Prometheus text.
//!
//! One [`Registry`] per process, made by [`registry`] and handed down; names are written out in full by whoever owns the metric. The
//! constructors register at once, so a metric that is used is a metric that is shown. They panic on an invalid or repeated name:
//! both are our own mistakes, made at start-up and seen by any test that builds the struct.

use prometheus::core::{Collector, MetricVec};
use prometheus::proto::MetricType;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::host::HostCollector;
use crate::process::ProcessCollector;
use crate::striped::{StripedCounterVec, StripedHistogramBuilder, StripedHistogramVec};

const VALID: &str = "metric names, labels and buckets are valid";
const UNIQUE: &str = "each metric is registered once";

/// A registry with the figures of this process, of its host, and `<program>_build_info{version}`.
///
/// `program` is the prefix of the program's metrics: `supervisor`, `balancer` or `chatnode`.
///
/// # Panics
/// `program` cannot start a metric name.
pub fn registry(program: &'static str, version: &'static str) -> Registry {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::new())).expect(UNIQUE);
    registry.register(Box::new(HostCollector::new())).expect(UNIQUE);
    let help = "Version of the running program, always 1";
    gauge_vec(&registry, &format!("{program}_build_info"), help, &["version"])
        .with_label_values(&[version])
        .set(1);
    registry
}

/// The registry in the Prometheus text format 0.0.4.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
        // What was encoded before is valid by itself and better than nothing.
        tracing::error!(error = %crate::errors::Chain(&error), "cannot encode all metrics");
    }
    text
}

/// A counter of events; its name ends in `_total`.
///
/// # Panics
/// The name is invalid or taken; the same holds for every constructor here.
pub fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

/// [`counter_vec`] for what several threads count at every request.
pub fn striped_counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> StripedCounterVec {
    register(registry, StripedCounterVec::new(Opts::new(name, help), labels))
}

/// [`counter`] with labels.
pub fn counter_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// A counter of something fractional, such as seconds.
pub fn float_counter(registry: &Registry, name: &str, help: &str) -> Counter {
    register(registry, Counter::new(name, help))
}

/// [`float_counter`] with labels.
pub fn float_counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> CounterVec {
    register(registry, CounterVec::new(Opts::new(name, help), labels))
}

/// A whole number that goes up and down.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

/// [`gauge`] with labels.
pub fn gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A fractional number that goes up and down.
pub fn float_gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help))
}

/// [`float_gauge`] with labels.
pub fn float_gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name, help), labels))
}

/// A distribution; `buckets` are upper bounds in the metric's unit, ascending, without `+Inf`.
pub fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options))
}

/// [`histogram`] with labels.
pub fn histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, labels))
}

/// [`histogram_vec`] for what several threads observe at every request.
pub fn striped_histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> StripedHistogramVec {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec()).variable_labels(labels);
    register(registry, MetricVec::create(MetricType::HISTOGRAM, StripedHistogramBuilder, options))
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect(VALID);
    registry.register(Box::new(metric.clone())).expect(UNIQUE);
    metric
}
