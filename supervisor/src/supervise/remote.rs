//! The remotes of the metrics engine, put together: who answers the rules, and who gets the samples.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use holdfast_series::Store;
use holdfast_telemetry::Registry;

use super::rules::{SharedSource, local::Local, remote::Remote};
use super::tasks::Tasks;
use crate::config::Config;
use crate::remote::collect::Collector;
use crate::remote::metrics::Metrics;
use crate::remote::prometheus::Prometheus;
use crate::remote::send::{RemoteSender, release};
use crate::serve::http::MetricsInfo;

/// Folder of the queue within the state folder.
const QUEUE: &str = "remote-write";

/// The remote that stands in for the embedded store, if one is set.
pub(super) fn prometheus(config: &Config) -> anyhow::Result<Option<Arc<Prometheus>>> {
    let Some(endpoint) = config.metrics.remote.clone() else { return Ok(None) };
    let remote = Prometheus::new(endpoint).context("metrics.prometheus")?;
    Ok(Some(Arc::new(remote)))
}

/// What the rules are evaluated on.
pub(super) fn source(
    remote: Option<&Arc<Prometheus>>,
    store: &Arc<Store>,
    registry: &Registry,
) -> SharedSource {
    let local = Local::new(Arc::clone(store), registry);
    match remote {
        Some(remote) => Arc::new(Remote::new(Arc::clone(remote), local)),
        None => Arc::new(local),
    }
}

/// Begins to send samples to where the settings say.
pub(super) fn write(
    config: &Config,
    state_dir: &Path,
    store: &Arc<Store>,
    registry: &Registry,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let settings = &config.metrics;
    if settings.remote_write.is_empty() {
        return Ok(());
    }
    let names = settings.remote_write.iter().map(|destination| destination.name.as_str());
    let metrics = Arc::new(Metrics::register(registry, names));
    let collector = Collector::open(
        &state_dir.join(QUEUE),
        settings.remote_write_queue_bytes_max,
        settings.external_labels.clone(),
        Arc::clone(&metrics),
    )
    .context("supervisor.state_dir: cannot open the queue of samples to send")?;
    let collector = Arc::new(collector);
    let mut places = Vec::new();
    for destination in settings.remote_write.clone() {
        let sender = RemoteSender::new(destination, &collector, Arc::clone(&metrics))
            .context("metrics.remote_write")?;
        places.push(sender.place());
        tasks.spawn("remote write", |stop| sender.run(stop));
    }
    let (spool, _) = collector.reader();
    tasks.spawn("remote write queue", |stop| release(spool, places, stop));
    let tap = Arc::clone(&collector);
    tasks.spawn("remote write collector", |stop| collector.run(stop));
    store.set_tap(tap).map_err(|_| anyhow::anyhow!("the store has a tap already"))
}

/// What the Prometheus API tells about the settings.
pub(super) fn info(config: &Config, remote: Option<Arc<Prometheus>>) -> MetricsInfo {
    let settings = &config.metrics;
    let mut yaml = format!(
        "global:\n  scrape_interval: {}ms\n  evaluation_interval: {}ms\n",
        config.scrape.interval.as_millis(),
        config.rules.evaluation_interval.as_millis()
    );
    let mut list = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            yaml.push_str(title);
            yaml.extend(items);
        }
    };
    // JSON strings are YAML strings.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let labels = settings.external_labels.iter();
    let labels = labels.map(|(name, value)| format!("    {name}: {}\n", quoted(value)));
    list("  external_labels:\n", labels.collect());
    let files = config.rules.files.iter().map(|file| format!("- {}\n", quoted(file)));
    list("rule_files:\n", files.collect());
    let destinations = settings.remote_write.iter().map(|destination| {
        let (name, url) = (&destination.name, destination.endpoint.shown_url());
        format!("- url: {}\n  name: {}\n", quoted(&url), quoted(name))
    });
    list("remote_write:\n", destinations.collect());
    MetricsInfo {
        config_yaml: yaml,
        retention: format!("{}s", settings.retention.as_secs()),
        external_labels: settings.external_labels.clone(),
        slow_query: settings.slow_query,
        started_at: chrono::Utc::now(),
        remote,
    }
}
