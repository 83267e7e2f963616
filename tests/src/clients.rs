//! Chat clients that send numbered messages into a room and remember what they saw, so that a test can say what was lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_supervisor::observe::chat_client::{ChatClient, Event, Options, mint};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;

/// Connection tokens of a test live longer than any test.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// Time between two messages of one client.
const SEND_EVERY: Duration = Duration::from_millis(20);
/// Messages read back from a history at most.
const HISTORY_MAX: usize = 100_000;

/// What a client saw of the room.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Ids of the messages in the order they came.
    pub ids: Vec<String>,
    /// Reconnects after which everything missed was recovered.
    pub recovered: u64,
    /// Reconnects after which the node said that something is missing.
    pub unrecovered: u64,
}

/// A client that is in the room.
#[derive(Debug)]
pub struct Member {
    /// Its user name.
    pub name: String,
    /// Its connection.
    pub client: ChatClient,
    seen: Arc<Mutex<Seen>>,
    _collector: AbortOnDropHandle<()>,
}

impl Member {
    /// Connects through the balancer and subscribes to `room`.
    ///
    /// # Panics
    /// If that does not work within ten seconds.
    pub async fn join(cluster: &Cluster, name: &str, room: &str) -> Self {
        let (secret, user) = (cluster.chat_secret(), name.to_owned());
        let tokens = Arc::new(move || mint(&secret, &user, TOKEN_LIFETIME));
        let mut options = Options::new(cluster.chat_url(), tokens);
        options.call_timeout = Duration::from_secs(10);
        let (client, events) = ChatClient::start(options);
        client.connected(Duration::from_secs(10)).await.expect("the balancer takes clients");
        let seen = Arc::default();
        let collector = AbortOnDropHandle::new(tokio::spawn(collect(events, Arc::clone(&seen))));
        client.subscribe(room, None).await.expect("anybody may subscribe to a room");
        Self { name: name.to_owned(), client, seen, _collector: collector }
    }

    /// What it saw so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn collect(mut events: mpsc::Receiver<Event>, seen: Arc<Mutex<Seen>>) {
    while let Some(event) = events.recv().await {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Publication(publication) => seen.ids.extend(id_of(&publication.data)),
            Event::Subscribed(subscribed) => match subscribed.recovered {
                Some(true) => seen.recovered += 1,
                Some(false) => seen.unrecovered += 1,
                None => {}
            },
            Event::Unsubscribed { .. } => {}
        }
    }
}

fn id_of(data: &Value) -> Option<String> {
    data.get("id").and_then(Value::as_str).map(str::to_owned)
}

/// All members send until told to stop.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    senders: Vec<AbortOnDropHandle<Sent>>,
}

/// What became of the messages.
#[derive(Debug, Default)]
pub struct Sent {
    /// Ids that were acknowledged.
    pub acked: Vec<String>,
    /// Ids without an acknowledgement, and why: they may have been stored or not.
    pub failed: Vec<(String, String)>,
}

impl Load {
    /// Starts sending.
    pub fn start(members: &[Member], room: &str) -> Self {
        let stop = CancellationToken::new();
        let senders = members.iter().map(|member| {
            let (client, name) = (member.client.clone(), member.name.clone());
            let task = send(client, name, room.to_owned(), stop.clone());
            AbortOnDropHandle::new(tokio::spawn(task))
        });
        Self { senders: senders.collect(), stop }
    }

    /// Stops after the message each is sending, and says what became of all.
    ///
    /// # Panics
    /// If a sender panicked.
    pub async fn stop(self) -> Sent {
        self.stop.cancel();
        let mut all = Sent::default();
        for sender in self.senders {
            let sent = sender.await.expect("a sender does not panic");
            all.acked.extend(sent.acked);
            all.failed.extend(sent.failed);
        }
        all
    }
}

async fn send(client: ChatClient, name: String, room: String, stop: CancellationToken) -> Sent {
    let mut sent = Sent::default();
    for number in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let id = format!("{name}-{number}");
        match client.publish(&room, json!({"id": id, "text": "a message"})).await {
            Ok(()) => sent.acked.push(id),
            Err(error) => sent.failed.push((id, error.to_string())),
        }
        tokio::time::sleep(SEND_EVERY).await;
    }
    sent
}

/// How often each id is in the room's history.
///
/// # Panics
/// If the history cannot be read.
pub async fn history(member: &Member, room: &str) -> BTreeMap<String, usize> {
    let history = member.client.whole_history(room, HISTORY_MAX).await.expect("read the history");
    count(history.publications.iter().filter_map(|publication| id_of(&publication.data)))
}

/// How often each id is there.
pub fn count(ids: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

/// The acknowledged ids that are not there exactly once, with how often they are.
pub fn not_once(acked: &[String], counts: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let times = |id: &String| counts.get(id).copied().unwrap_or(0);
    acked.iter().filter(|id| times(id) != 1).map(|id| (id.clone(), times(id))).collect()
}
