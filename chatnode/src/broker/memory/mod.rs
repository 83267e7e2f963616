//! The broker of a node that is alone: everything in this process's memory, gone when it ends.
//!
//! For first steps and tests. The state is pure and told the time; this file has the clock, the lock, and a task that hands events to
//! the audience in the order they happened. Delivery does not happen under the lock, because the audience calls back into the broker
//! while it holds locks of its own.

mod members;
mod rates;
mod records;
mod streams;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::members::Members as MemberTable;
use self::rates::Rates;
use self::records::RecordTable;
use self::streams::Streams;
use super::{
    Allowance, Audience, Broker, BrokerError, Key, MemberCounts, Members, PRESENCE_TTL, Pending,
    PublishOptions, Published, Range, Rate, Record, Records, Window, Write,
};
use crate::stream::{Lineage, Page, Publication};

/// Events that may wait for the audience, as many as may wait for Redis.
const DELIVERIES_MAX: usize = 8192;

/// How often what has expired is cleared away; until then it is only ignored.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

enum Delivery {
    Publication(Box<str>, Publication, Option<Arc<Lineage>>),
    Join(Box<str>, Box<str>),
    Leave(Box<str>, Box<str>),
    Signal(Box<str>, Bytes),
}

#[derive(Default)]
struct State {
    followed: HashSet<Box<str>>,
    streams: Streams,
    members: MemberTable,
    records: RecordTable,
    rates: Rates,
}

/// The broker.
pub struct MemoryBroker {
    state: Arc<Mutex<State>>,
    deliveries: mpsc::Sender<Delivery>,
}

impl MemoryBroker {
    /// Starts the broker's task on `tasks`; it ends with `shutdown`.
    pub fn start(
        audience: Arc<dyn Audience>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let (deliveries, waiting) = mpsc::channel(DELIVERIES_MAX);
        let state = Arc::<Mutex<State>>::default();
        tasks.spawn(serve(waiting, audience, Arc::clone(&state), shutdown.clone()));
        Self { state, deliveries }
    }

    /// Does `work` at once; its delivery is queued under the same lock, so that events go out in the order they happened.
    fn deliver<T: Send + 'static>(
        &self,
        channel: &str,
        work: impl FnOnce(&mut State, Instant) -> (T, Option<Delivery>),
    ) -> Pending<T> {
        let Ok(place) = self.deliveries.try_reserve() else {
            return outcome(Err(BrokerError::Overloaded));
        };
        let mut state = lock(&self.state);
        let (value, delivery) = work(&mut state, Instant::now());
        if let Some(delivery) = delivery
            && state.followed.contains(channel)
        {
            place.send(delivery);
        }
        outcome(Ok(value))
    }

    fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> Pending<T> {
        outcome(Ok(work(&mut lock(&self.state), Instant::now())))
    }
}

fn outcome<T: Send + 'static>(result: Result<T, BrokerError>) -> Pending<T> {
    Box::pin(std::future::ready(result))
}

/// A panic while the lock is held is a bug that has been reported; each table is changed in steps that leave it usable.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    mut waiting: mpsc::Receiver<Delivery>,
    audience: Arc<dyn Audience>,
    state: Arc<Mutex<State>>,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let delivery = tokio::select! {
            () = shutdown.cancelled() => return,
            delivery = waiting.recv() => delivery,
            now = ticks.tick() => {
                let state = &mut *lock(&state);
                state.streams.sweep(now);
                state.members.sweep(now);
                state.records.sweep(now);
                state.rates.sweep(now);
                continue;
            }
        };
        match delivery {
            Some(Delivery::Publication(channel, publication, lineage)) => {
                audience.publication(&channel, &publication, lineage);
            }
            Some(Delivery::Join(channel, info)) => audience.join(&channel, &info),
            Some(Delivery::Leave(channel, info)) => audience.leave(&channel, &info),
            Some(Delivery::Signal(channel, message)) => audience.signal(&channel, &message),
            None => return,
        }
    }
}

impl Broker for MemoryBroker {
    fn publish(
        &self,
        channel: &str,
        mut publication: Publication,
        options: PublishOptions,
    ) -> Pending<Published> {
        options.identify(&mut publication);
        self.deliver(channel, |state, now| {
            let (published, news) = state.streams.publish(now, channel, publication, &options);
            let delivery = news.map(|(publication, lineage)| {
                Delivery::Publication(channel.into(), publication, lineage)
            });
            (published, delivery)
        })
    }

    fn join(&self, channel: &str, info: &str) -> Pending<()> {
        self.deliver(channel, |_, _| ((), Some(Delivery::Join(channel.into(), info.into()))))
    }

    fn leave(&self, channel: &str, info: &str) -> Pending<()> {
        self.deliver(channel, |_, _| ((), Some(Delivery::Leave(channel.into(), info.into()))))
    }

    fn signal(&self, channel: &str, message: Bytes) -> Pending<()> {
        self.deliver(channel, |_, _| ((), Some(Delivery::Signal(channel.into(), message))))
    }

    fn read(&self, channel: &str, range: Range) -> Pending<Page> {
        self.with(|state, now| state.streams.read(now, channel, range))
    }

    fn remove_history(&self, channel: &str) -> Pending<()> {
        self.with(|state, _| state.streams.remove_history(channel))
    }

    fn add_member(&self, channel: &str, client: &str, user: &str, info: &str) -> Pending<()> {
        self.with(|state, now| state.members.add(now + PRESENCE_TTL, channel, client, user, info))
    }

    fn remove_member(&self, channel: &str, client: &str) -> Pending<()> {
        self.with(|state, _| state.members.remove(channel, client))
    }

    fn members(&self, channel: &str) -> Pending<Members> {
        self.with(|state, now| state.members.list(now, channel))
    }

    fn member_counts(&self, channel: &str) -> Pending<MemberCounts> {
        self.with(|state, now| state.members.counts(now, channel))
    }

    fn take(&self, key: &str, rate: Rate, cost: u32) -> Pending<Allowance> {
        self.with(|state, now| state.rates.take(now, key, rate, cost))
    }

    fn follow(&self, channel: &str) -> Pending<()> {
        self.with(|state, _| {
            state.followed.insert(channel.into());
        })
    }

    fn unfollow(&self, channel: &str) {
        lock(&self.state).followed.remove(channel);
    }

    fn probe_channels(&self, prefix: &str) -> Vec<String> {
        vec![prefix.to_owned()]
    }

    fn reconnect(&self, _channel: &str) {
        // Nothing is connected.
    }
}

impl Records for MemoryBroker {
    fn write(&self, key: Key<'_>, write: Write) -> Pending<bool> {
        self.with(|state, now| state.records.write(now, key, &write))
    }

    fn fields(&self, key: Key<'_>, names: &[&str]) -> Pending<Vec<Option<Bytes>>> {
        self.with(|state, now| {
            let record = state.records.fields(now, key);
            names.iter().map(|name| record?.get(*name).cloned()).collect()
        })
    }

    fn record(&self, key: Key<'_>) -> Pending<Record> {
        self.with(|state, now| state.records.fields(now, key).cloned().unwrap_or_default())
    }

    fn ranked(&self, key: Key<'_>, window: Window) -> Pending<Vec<(String, i64)>> {
        self.with(|state, now| state.records.ranked(now, key, window))
    }
}
