//! One suite over every broker: what the rest of the node relies on, whatever keeps it.

mod backends;
mod cases;
mod tls;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_chatnode::broker::bus::{Bus, Switchboard};
use holdfast_chatnode::broker::memory::MemoryBroker;
use holdfast_chatnode::broker::redis::RedisBroker;
use holdfast_chatnode::broker::{Audience, Broker, PublishOptions, Published, Retention};
use holdfast_chatnode::config;
use holdfast_chatnode::metrics::Metrics;
use holdfast_chatnode::stream::{Lineage, Publication};
use holdfast_telemetry::metrics::registry;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::kit::eventually;

/// What came to an audience, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Publication { channel: String, publication: Publication, epoch: Option<String> },
    Join(String, String),
    Leave(String, String),
    Interrupted,
}

#[derive(Default)]
struct Recorder {
    heard: Mutex<Vec<Heard>>,
}

impl Recorder {
    fn note(&self, heard: Heard) {
        self.heard.lock().unwrap().push(heard);
    }

    /// What was heard of one channel.
    fn of(&self, name: &str) -> Vec<Heard> {
        let heard = self.heard.lock().unwrap();
        let of = heard.iter().filter(|heard| match heard {
            Heard::Publication { channel, .. }
            | Heard::Join(channel, _)
            | Heard::Leave(channel, _) => channel == name,
            Heard::Interrupted => false,
        });
        of.cloned().collect()
    }
}

impl Audience for Recorder {
    fn publication(&self, channel: &str, publication: &Publication, lineage: Option<Arc<Lineage>>) {
        let (channel, publication) = (channel.to_owned(), publication.clone());
        let epoch = lineage.map(|lineage| lineage.visible().to_string());
        self.note(Heard::Publication { channel, publication, epoch });
    }

    fn join(&self, channel: &str, info: &str) {
        self.note(Heard::Join(channel.to_owned(), info.to_owned()));
    }

    fn leave(&self, channel: &str, info: &str) {
        self.note(Heard::Leave(channel.to_owned(), info.to_owned()));
    }

    fn signal(&self, _channel: &str, _message: &Bytes) {}

    fn interrupted(&self) {
        self.note(Heard::Interrupted);
    }
}

/// A broker as a node has it.
struct World {
    broker: Arc<dyn Broker>,
    recorder: Arc<Recorder>,
    bus: Bus,
    _end: DropGuard,
}

impl World {
    /// Over Redis with these settings, or in memory.
    fn start(settings: config::Broker) -> Self {
        let metrics = Metrics::register(&registry("chatnode", "test"));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let recorder = Arc::<Recorder>::default();
        let (switchboard, lines) = Switchboard::new(Arc::clone(&recorder) as _, metrics.clone());
        let audience = Arc::new(switchboard);
        let broker: Arc<dyn Broker> = match settings {
            config::Broker::Memory => Arc::new(MemoryBroker::start(audience, &tasks, &shutdown)),
            config::Broker::Redis(settings) => Arc::new(RedisBroker::start(
                settings, "a node", audience, &metrics, &tasks, &shutdown,
            )),
        };
        let bus = Bus::new(Arc::clone(&broker), "a node", metrics);
        tasks.spawn(bus.clone().run(lines.bus, shutdown.clone()));
        Self { broker, recorder, bus, _end: shutdown.drop_guard() }
    }

    /// Publishes `data` and keeps the latest 3 for a minute.
    async fn publish(&self, channel: &str, data: &str) -> Published {
        let publication = publication(data);
        self.broker.publish(channel, publication, kept(3)).await.expect("it is published")
    }

    /// Waits until this many things were heard of a channel.
    async fn heard(&self, channel: &str, count: usize) -> Vec<Heard> {
        eventually("what was to be heard", async || {
            let heard = self.recorder.of(channel);
            (heard.len() >= count).then_some(heard)
        })
        .await
    }
}

fn publication(data: &str) -> Publication {
    Publication { data: data.to_owned().into(), ..Publication::default() }
}

fn kept(size: u32) -> PublishOptions {
    let retention = Retention { size, ttl: Duration::from_mins(1), ..Retention::default() };
    PublishOptions { retention, ..PublishOptions::default() }
}
