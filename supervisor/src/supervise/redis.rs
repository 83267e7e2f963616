//! Redis: a controller for each primary, and the endpoint that tells clients where the primaries are.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::{Daemon, sentinels};
use crate::act::redis::{Families, RedisController};
use crate::cluster::RedisStatus;
use crate::config::Redis;
use crate::control::{Control, QUEUE_MAX};
use crate::observe::redis::RedisSamples;
use crate::observe::scrape::Source;
use crate::record::Sink;
use crate::serve::sentinel;
use crate::serve::tls::Renewal;

impl Daemon {
    /// Starts them all, in the order of the settings.
    pub(super) fn redis(
        &mut self,
        sentinel: Option<TcpListener>,
        control: &mut Control,
        sink: &Sink,
    ) -> anyhow::Result<Vec<Parts>> {
        let families = Families::register(&self.registry);
        let mut all = Vec::new();
        let mut primaries = Vec::new();
        for settings in self.config.redis.clone() {
            let (sender, commands) = mpsc::channel(QUEUE_MAX);
            let (controller, handles) = RedisController::new(
                settings.clone(),
                self.config.supervisor.observe_only,
                self.config.supervisor.state_dir.clone(),
                self.group.clone(),
                &families,
                Arc::clone(sink),
                commands,
            );
            self.tasks.spawn("redis", |stop| controller.run(stop));
            primaries.push(sentinel::Primary {
                topology: handles.topology,
                samples: handles.samples.clone(),
                events: handles.events,
                orders: sender.clone(),
                login: settings.login(),
            });
            control.redis.insert(settings.name.clone(), sender);
            all.push(Parts { settings, status: handles.status, samples: handles.samples });
        }
        if let Some((listener, settings)) = sentinel.zip(self.config.sentinel.clone()) {
            let tls = match settings.tls {
                None => None,
                Some(files) => {
                    let (renewal, acceptor) = Renewal::new(files, &self.registry)?;
                    self.tasks.spawn("certificate", |stop| renewal.run(stop));
                    Some(acceptor)
                }
            };
            let endpoint = sentinel::Endpoint {
                primaries,
                name: self.config.supervisor.name.clone(),
                login: settings.login,
                tls,
                peer_tls: settings.peer_tls,
                sentinels: sentinels::of(&self.group),
                sink: Arc::clone(sink),
            };
            let registry = self.registry.clone();
            self.tasks.spawn("sentinel", |stop| async move {
                if let Err(error) = sentinel::run(listener, endpoint, &registry, stop).await {
                    tracing::error!(%error, "the Sentinel-compatible endpoint ended");
                }
            });
        }
        Ok(all)
    }
}

/// What others need of a Redis controller.
pub(super) struct Parts {
    pub(super) settings: Redis,
    pub(super) status: watch::Receiver<RedisStatus>,
    samples: watch::Receiver<Vec<RedisSamples>>,
}

impl Parts {
    /// Every server with an exposition that comes from the connection that is open anyway.
    pub(super) fn sources(&self) -> impl Iterator<Item = (String, Source)> {
        self.settings.servers.iter().map(|server| {
            let (samples, address) = (self.samples.clone(), server.address.clone());
            let read = move || {
                let samples = samples.borrow();
                let own = samples.iter().find(|sample| sample.address == address);
                own.map(exposition).ok_or_else(|| "not probed yet".to_owned())
            };
            (server.address.to_string(), Source::Read(Arc::new(read)))
        })
    }
}

/// A server's figures in the Prometheus text format.
fn exposition(samples: &RedisSamples) -> String {
    let mut text = String::new();
    for (name, labels, value) in samples.exposition() {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{name}=\"{value}\"")
            })
            .collect();
        writeln!(text, "{name}{{{}}} {value}", labels.join(","))
            .expect("writing to a string cannot fail");
    }
    text
}
