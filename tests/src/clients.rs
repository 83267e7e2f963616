//! Chat clients that send numbered messages into a room and remember what they saw, so that a test can say what was lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_supervisor::observe::chat_client::{ChatClient, Event, Options, State, mint};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;
use crate::ledger::Sight;
use crate::wait;

/// Connection tokens of a test live longer than any test.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// Time between two messages of one client.
const SEND_EVERY: Duration = Duration::from_millis(20);
/// A publish may have to wait for a failover.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A client is in its room after milliseconds.
const JOIN_WITHIN: Duration = Duration::from_mins(1);
/// Messages read back from a history at most.
const HISTORY_MAX: usize = 100_000;

/// What a client saw of the room.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Everything, in the order it came.
    pub sights: Vec<Sight>,
    /// Reconnects after which everything missed was recovered.
    pub recovered: u64,
    /// Reconnects after which the node said that something is missing.
    pub unrecovered: u64,
    /// Subscriptions a node ended for good, and why.
    pub ended: Vec<String>,
    /// From each loss of the connection that was noticed until the client was subscribed again.
    pub reconnects: Vec<Duration>,
}

impl Seen {
    /// Ids of the messages in the order they came.
    pub fn ids(&self) -> impl Iterator<Item = &String> {
        self.sights.iter().filter_map(|sight| match sight {
            Sight::Message(id) => Some(id),
            Sight::Unrecovered => None,
        })
    }
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
    /// If that does not work within a minute.
    pub async fn join(cluster: &Cluster, name: &str, room: &str) -> Self {
        let (secret, user) = (cluster.chat_secret(), name.to_owned());
        let tokens = Arc::new(move || mint(&secret, &user, TOKEN_LIFETIME));
        let mut options = Options::new(cluster.chat_url(), tokens);
        options.call_timeout = CALL_TIMEOUT;
        let (client, events) = ChatClient::start(options);
        client.connected(JOIN_WITHIN).await.expect("the balancer takes clients");
        let seen = Arc::default();
        let collector = collect(events, client.state(), Arc::clone(&seen));
        let collector = AbortOnDropHandle::new(tokio::spawn(collector));
        wait::until("a client's subscription", JOIN_WITHIN, async || {
            let subscribed = client.subscribe(room, None).await;
            subscribed.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { name: name.to_owned(), client, seen, _collector: collector }
    }

    /// What it saw so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures how long users are cut off")]
async fn collect(
    mut events: mpsc::Receiver<Event>,
    mut state: watch::Receiver<State>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut lost_at: Option<Instant> = None;
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => event,
                None => return,
            },
            Ok(()) = state.changed() => {
                if matches!(*state.borrow_and_update(), State::Connecting { .. }) {
                    lost_at.get_or_insert_with(Instant::now);
                }
                continue;
            }
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Publication(publication) => {
                seen.sights.extend(id_of(&publication.data).map(Sight::Message));
            }
            Event::Subscribed(subscribed) => {
                seen.reconnects.extend(lost_at.take().map(|lost_at| lost_at.elapsed()));
                match subscribed.recovered {
                    Some(true) => seen.recovered += 1,
                    Some(false) => {
                        seen.unrecovered += 1;
                        seen.sights.push(Sight::Unrecovered);
                    }
                    None => {}
                }
            }
            Event::Unsubscribed { reason, .. } => seen.ended.push(reason),
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
    /// Ids that were acknowledged, in the order they were sent, by sender.
    pub acked: BTreeMap<String, Vec<String>>,
    /// Ids without an acknowledgement, and why: they may have been stored or not.
    pub failed: Vec<(String, String)>,
    /// The longest any sender went without an acknowledgement.
    pub longest_wait: Duration,
}

impl Sent {
    /// All acknowledged ids.
    pub fn all_acked(&self) -> Vec<String> {
        self.acked.values().flatten().cloned().collect()
    }
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
            all.longest_wait = all.longest_wait.max(sent.longest_wait);
        }
        all
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures how long users wait")]
async fn send(client: ChatClient, name: String, room: String, stop: CancellationToken) -> Sent {
    let (mut acked, mut sent) = (Vec::new(), Sent::default());
    let mut last = Instant::now();
    for number in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let id = format!("{name}-{number}");
        match client.publish(&room, json!({"id": id, "text": "a message"})).await {
            Ok(()) => {
                acked.push(id);
                sent.longest_wait = sent.longest_wait.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => sent.failed.push((id, error.to_string())),
        }
        tokio::time::sleep(SEND_EVERY).await;
    }
    sent.acked.insert(name, acked);
    sent
}

/// Ids in the room's history, oldest first.
///
/// # Panics
/// If the history cannot be read.
pub async fn history(member: &Member, room: &str) -> Vec<String> {
    let history = member.client.whole_history(room, HISTORY_MAX).await.expect("read the history");
    history.publications.iter().filter_map(|publication| id_of(&publication.data)).collect()
}

/// The acknowledged ids that are not among `ids` exactly once, with how often they are.
pub fn not_once<'a>(
    acked: &[String],
    ids: impl IntoIterator<Item = &'a String>,
) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    let times = |id: &String| counts.get(id.as_str()).copied().unwrap_or(0);
    acked.iter().filter(|id| times(id) != 1).map(|id| (id.clone(), times(id))).collect()
}
