//! Chat clients that send numbered messages at a steady pace and keep what they receive.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_settings::Secret;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::outcome::{Counts, Outcome, Sent};
use crate::observe::chat_client::{ChatClient, Event, Options, mint};
use crate::up::Plan;
use crate::up::folder::Run;

/// Clients, and the pause between two messages of one: about two hundred messages a second.
pub(super) const CLIENTS: usize = 6;
const SEND_EVERY: Duration = Duration::from_millis(30);

/// A message without an answer for this long counts as not acknowledged.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Readers get this long to receive what was sent last.
const DELIVER_WITHIN: Duration = Duration::from_secs(15);

/// What the local cluster's channels keep, and more than the load produces while a demonstration waits for the cluster to heal.
const MESSAGES_MAX: usize = 20_000;

/// Clients that send and receive.
pub(super) struct Load {
    clients: Vec<ChatClient>,
    readers: JoinSet<()>,
    received: Vec<Arc<Mutex<Counts>>>,
    senders: JoinSet<Vec<Sent>>,
    stop: CancellationToken,
    /// When the last acknowledged message was sent.
    newest: watch::Receiver<Option<Instant>>,
    room: String,
}

impl Load {
    pub(super) async fn start(plan: &Plan, run: &Run) -> Result<Self, String> {
        let secret =
            Secret::from_file(&run.secret("chat.secret")).map_err(|error| error.to_string())?;
        let url = format!("ws://{}/connection/websocket", plan.chat);
        let room = format!("demonstration-{}", uuid::Uuid::new_v4().simple());
        let (newest_sender, newest) = watch::channel(None);
        let mut load = Self {
            clients: Vec::new(),
            readers: JoinSet::new(),
            received: Vec::new(),
            senders: JoinSet::new(),
            stop: CancellationToken::new(),
            newest,
            room,
        };
        for index in 0..CLIENTS {
            let (secret, user) = (secret.clone(), format!("demo-{index}"));
            let tokens = Arc::new(move || mint(&secret, &user, Duration::from_hours(1)));
            let mut options = Options::new(url.clone(), tokens);
            options.call_timeout = ANSWER_WITHIN;
            let (client, mut events) = ChatClient::start(options);
            client.subscribe(&load.room, None).await.map_err(|error| error.to_string())?;
            let received = Arc::new(Mutex::new(Counts::new()));
            load.received.push(Arc::clone(&received));
            load.readers.spawn(async move {
                while let Some(event) = events.recv().await {
                    if let Event::Publication(publication) = event
                        && let Some(key) = key(&publication.data)
                    {
                        let mut received = received.lock().expect("nobody panics with it");
                        *received.entry(key).or_default() += 1;
                    }
                }
            });
            load.clients.push(client);
        }
        for (index, client) in load.clients.iter().enumerate() {
            let (client, room) = (client.clone(), load.room.clone());
            load.senders.spawn(send(index, client, room, load.stop.clone(), newest_sender.clone()));
        }
        Ok(load)
    }

    /// Waits until a message that was sent after `since` is acknowledged.
    pub(super) async fn acknowledged_after(&self, since: Instant) {
        let mut newest = self.newest.clone();
        let later = |at: &Option<Instant>| at.is_some_and(|at| at > since);
        // An error means that nobody sends any more, and then nobody waits either.
        let _ended = newest.wait_for(later).await;
    }

    /// Stops the load and finds out what became of every message.
    pub(super) async fn finish(mut self, killed: Instant) -> Result<Outcome, String> {
        self.stop.cancel();
        let sent: Vec<Sent> =
            std::mem::take(&mut self.senders).join_all().await.into_iter().flatten().collect();
        let client = &self.clients[0];
        let history = client
            .whole_history(&self.room, MESSAGES_MAX)
            .await
            .map_err(|error| format!("the history cannot be read: {error}"))?;
        let mut stored = Counts::new();
        for publication in &history.publications {
            if let Some(key) = key(&publication.data) {
                *stored.entry(key).or_default() += 1;
            }
        }
        let everything = async {
            while !self
                .received
                .iter()
                .all(|r| undelivered(&stored, &r.lock().expect("nobody panics with it")) == 0)
            {
                sleep(Duration::from_millis(50)).await;
            }
        };
        // What is still missing then is counted.
        let _late = timeout(DELIVER_WITHIN, everything).await;
        let mut outcome = Outcome::judge(&sent, &stored, killed);
        for received in &self.received {
            let received = received.lock().expect("nobody panics with it");
            outcome.undelivered += undelivered(&stored, &received);
            outcome.delivered_twice += received.values().filter(|count| **count > 1).count();
        }
        for client in self.clients {
            client.close().await;
        }
        Ok(outcome)
    }
}

/// Messages of the history that a reader has not received.
fn undelivered(stored: &Counts, received: &Counts) -> usize {
    stored.keys().filter(|key| !received.contains_key(key)).count()
}

/// Sends numbered messages at a steady pace, whatever becomes of them, until told to stop; each is answered or given up by then.
async fn send(
    index: usize,
    client: ChatClient,
    room: String,
    stop: CancellationToken,
    newest: watch::Sender<Option<Instant>>,
) -> Vec<Sent> {
    let mut ticks = interval(SEND_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    let mut sent = Vec::new();
    let mut number = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(Ok(done)) = under_way.join_next() => sent.push(done),
            _ = ticks.tick() => {
                number += 1;
                let (client, room, newest) = (client.clone(), room.clone(), newest.clone());
                under_way.spawn(async move {
                    let at = Instant::now();
                    let data = json!({ "from": index, "number": number });
                    let published = client.publish(&room, data).await.is_ok();
                    if published {
                        newest.send_if_modified(|newest| {
                            let is_later = newest.is_none_or(|newest| at > newest);
                            if is_later {
                                *newest = Some(at);
                            }
                            is_later
                        });
                    }
                    Sent { client: index, number, at, acknowledged: published.then(Instant::now) }
                });
            }
        }
    }
    sent.extend(under_way.join_all().await);
    sent
}

fn key(data: &Value) -> Option<(usize, u64)> {
    let from = usize::try_from(data.get("from")?.as_u64()?).ok()?;
    Some((from, data.get("number")?.as_u64()?))
}
