//! Demonstrations: a fault under load, and what became of every message.
//!
//! Clients go through the balancer, each sending numbered messages into one room and reading what the others send. A program is killed with
//! SIGKILL. Afterwards every acknowledged message must be in the room's history exactly once, and every reader must have received
//! every message of the history exactly once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::Secret;
use holdfast_telemetry::errors::Chain;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::folder::Run;
use super::{Plan, UpError, probe, show};
use crate::cli::client::Client;
use crate::observe::chat_client::{ChatClient, Event, Options, mint};
use crate::rehearse::faults::Fault;

/// Clients, and the pause between two messages of one: about two hundred messages a second.
const CLIENTS: usize = 6;
const SEND_EVERY: Duration = Duration::from_millis(30);

/// Load before the fault.
const WARM_UP: Duration = Duration::from_secs(2);

/// Load after the first acknowledgement that follows the fault, long enough for every client to have come back.
const AFTER: Duration = Duration::from_secs(5);

/// A cluster that has not acknowledged anything for this long after the fault has not healed itself.
const HEAL_WITHIN: Duration = Duration::from_mins(1);

/// A message without an answer for this long counts as not acknowledged.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Readers get this long to receive what was sent last.
const DELIVER_WITHIN: Duration = Duration::from_secs(15);

/// More than the load can produce in `WARM_UP + HEAL_WITHIN + AFTER`.
const MESSAGES_MAX: usize = 100_000;

/// What is demonstrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Kill the Redis primary under load
    #[value(alias = "failover-demo")]
    RedisPrimaryCrash,
    /// Kill a chat node under load
    #[value(alias = "node-crash")]
    ChatnodeCrash,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::RedisPrimaryCrash => "redis-primary-crash",
            Self::ChatnodeCrash => "chatnode-crash",
        }
    }
}

/// A message of the load.
struct Sent {
    client: usize,
    number: u64,
    at: Instant,
    acknowledged: Option<Instant>,
}

/// What a client has received, by sender and number.
type Received = HashMap<(usize, u64), u32>;

/// Runs a demonstration on a cluster that is ready, and prints its result.
pub(super) async fn run(
    scenario: Scenario,
    plan: &Plan,
    run: &Run,
    client: &Client,
    news: &mpsc::Sender<String>,
) -> Result<(), UpError> {
    let victim = victim(scenario, plan, client).await?;
    let program =
        if scenario == Scenario::RedisPrimaryCrash { "redis-server" } else { "holdfast-chatnode" };
    let failed =
        |error: &dyn std::fmt::Display| UpError::Scenario(format!("{}: {error}", scenario.name()));
    let load = Load::start(plan, run).await.map_err(|error| failed(&error))?;
    show::say(news, format!("{CLIENTS} clients send through the balancer"));
    sleep(WARM_UP).await;
    let fault = Fault::Kill { pid_file: run.pid_file(&victim), program: program.to_owned() };
    let injected = fault.inject().map_err(|error| failed(&Chain(&error)))?;
    let killed = Instant::now();
    let pid = injected.process().pid();
    show::say(news, format!("kill -9 {pid}  ({victim})"));
    let healed = timeout(HEAL_WITHIN, load.acknowledged_after(killed)).await;
    if healed.is_ok() {
        sleep(AFTER).await;
    }
    let result = load.finish(killed).await.map_err(|error| failed(&error))?;
    // The killed program is started again in the meantime; a demonstration ends with the cluster whole.
    let whole = async {
        while probe::cluster(client).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    let whole = timeout(HEAL_WITHIN, whole).await.is_ok();
    let report = json!({
        "scenario": scenario.name(), "killed": victim, "pid": pid, "whole_again": whole,
        "result": result.json(),
    });
    run.write_file("scenario.json", &format!("{report:#}\n"), 0o644)?;
    for line in result.lines(&victim, whole) {
        show::say(news, line);
    }
    match result
        .fault()
        .or_else(|| (!whole).then(|| "the cluster did not become whole again".to_owned()))
    {
        Some(fault) => Err(failed(&fault)),
        None => Ok(()),
    }
}

/// The program to kill.
async fn victim(scenario: Scenario, plan: &Plan, client: &Client) -> Result<String, UpError> {
    let fail = |text: String| UpError::Scenario(format!("{}: {text}", scenario.name()));
    let status = client.status().await.map_err(|error| fail(error.to_string()))?;
    let nothing = || fail("there is nothing to kill".to_owned());
    match scenario {
        Scenario::ChatnodeCrash => {
            // The one with the most clients, so that the fault is felt.
            let nodes = status.servers.nodes.into_iter();
            let count = |node: &crate::cluster::NodeStatus| {
                node.server.as_ref().map_or(0, |server| server.active_connections)
            };
            nodes.max_by_key(count).map(|node| node.name).ok_or_else(nothing)
        }
        Scenario::RedisPrimaryCrash => {
            let primary = status.redis.and_then(|redis| redis.primary).ok_or_else(nothing)?;
            let is_it = |address: &std::net::SocketAddr| address.to_string() == primary.to_string();
            let redis = plan.redis.iter().find(|redis| is_it(&redis.address));
            redis.map(|redis| redis.name.clone()).ok_or_else(nothing)
        }
    }
}

/// Clients that send and receive.
struct Load {
    clients: Vec<ChatClient>,
    readers: JoinSet<()>,
    received: Vec<Arc<std::sync::Mutex<Received>>>,
    senders: JoinSet<Vec<Sent>>,
    stop: tokio_util::sync::CancellationToken,
    /// When the last acknowledged message was sent.
    newest: tokio::sync::watch::Receiver<Option<Instant>>,
    room: String,
}

impl Load {
    async fn start(plan: &Plan, run: &Run) -> Result<Self, String> {
        let secret =
            Secret::from_file(&run.secret("chat.secret")).map_err(|error| error.to_string())?;
        let url = format!("ws://{}/connection/websocket", plan.chat);
        let room = format!("demonstration-{}", uuid::Uuid::new_v4().simple());
        let (newest_sender, newest) = tokio::sync::watch::channel(None);
        let mut load = Self {
            clients: Vec::new(),
            readers: JoinSet::new(),
            received: Vec::new(),
            senders: JoinSet::new(),
            stop: tokio_util::sync::CancellationToken::new(),
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
            let received = Arc::new(std::sync::Mutex::new(Received::new()));
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
    async fn acknowledged_after(&self, since: Instant) {
        let mut newest = self.newest.clone();
        let later = |at: &Option<Instant>| at.is_some_and(|at| at > since);
        // An error means that nobody sends any more, and then nobody waits either.
        let _ended = newest.wait_for(later).await;
    }

    /// Stops the load and finds out what became of every message.
    async fn finish(mut self, killed: Instant) -> Result<Outcome, String> {
        self.stop.cancel();
        let sent: Vec<Sent> =
            std::mem::take(&mut self.senders).join_all().await.into_iter().flatten().collect();
        let client = &self.clients[0];
        let history = client
            .whole_history(&self.room, MESSAGES_MAX)
            .await
            .map_err(|error| format!("the history cannot be read: {error}"))?;
        let mut stored = Received::new();
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
fn undelivered(stored: &Received, received: &Received) -> usize {
    stored.keys().filter(|key| !received.contains_key(key)).count()
}

/// Sends numbered messages at a steady pace, whatever becomes of them, until told to stop; each is answered or given up by then.
async fn send(
    index: usize,
    client: ChatClient,
    room: String,
    stop: tokio_util::sync::CancellationToken,
    newest: tokio::sync::watch::Sender<Option<Instant>>,
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

/// What became of the messages.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    sent: usize,
    acknowledged: usize,
    /// Acknowledged, and not in the history.
    lost: usize,
    /// More than once in the history.
    doubled: usize,
    /// Not acknowledged, and in the history all the same: the sender cannot know, and that is no fault.
    stored_unacknowledged: usize,
    /// Over all readers: in the history, and not received.
    undelivered: usize,
    /// Over all readers: received more than once.
    delivered_twice: usize,
    /// From the kill to the first acknowledgement of a message sent after it.
    first: Option<Duration>,
    /// The same, for the client that had to wait longest; `None` if one never got any.
    slowest: Option<Duration>,
}

impl Outcome {
    fn judge(sent: &[Sent], stored: &Received, killed: Instant) -> Self {
        let count = |sent: &Sent| stored.get(&(sent.client, sent.number)).copied().unwrap_or(0);
        let acknowledged = || sent.iter().filter(|sent| sent.acknowledged.is_some());
        let first_of = |client: usize| {
            let after = sent.iter().filter(|sent| sent.client == client && sent.at > killed);
            after.filter_map(|sent| Some(sent.acknowledged? - killed)).min()
        };
        let firsts: Vec<Option<Duration>> = (0..CLIENTS).map(first_of).collect();
        Self {
            sent: sent.len(),
            acknowledged: acknowledged().count(),
            lost: acknowledged().filter(|sent| count(sent) == 0).count(),
            doubled: stored.values().filter(|count| **count > 1).count(),
            stored_unacknowledged: sent
                .iter()
                .filter(|sent| sent.acknowledged.is_none() && count(sent) > 0)
                .count(),
            undelivered: 0,
            delivered_twice: 0,
            first: firsts.iter().flatten().min().copied(),
            slowest: firsts
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .and_then(|f| f.into_iter().max()),
        }
    }

    /// What is wrong with it, most important first.
    fn fault(&self) -> Option<String> {
        let faults = [
            (self.lost, "acknowledged messages are lost"),
            (self.doubled, "messages are in the history more than once"),
            (self.undelivered, "messages were not delivered to a reader"),
            (self.delivered_twice, "messages were delivered twice to a reader"),
        ];
        let found = faults.iter().find(|(count, _)| *count > 0);
        match found {
            Some((count, what)) => Some(format!("{count} {what}")),
            None if self.slowest.is_none() => {
                Some("after the kill a client never got an acknowledgement again".to_owned())
            }
            None => None,
        }
    }

    fn json(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        json!({
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "doubled": self.doubled,
            "stored_unacknowledged": self.stored_unacknowledged,
            "undelivered": self.undelivered,
            "delivered_twice": self.delivered_twice,
            "first_acknowledged_seconds": seconds(self.first),
            "slowest_client_seconds": seconds(self.slowest),
            "passed": self.fault().is_none(),
        })
    }

    fn lines(&self, victim: &str, whole: bool) -> Vec<String> {
        let time = |time: Option<Duration>| {
            time.map_or_else(
                || "never".to_owned(),
                |time| format!("{:.0} ms", time.as_secs_f64() * 1e3),
            )
        };
        let mut lines = vec![
            String::new(),
            format!("RESULT  kill -9 of {victim}"),
            format!("  next acknowledged message after     {}", time(self.first)),
            format!("  … for the client that waited most   {}", time(self.slowest)),
            format!("  messages sent                       {}", self.sent),
            format!("  acknowledged                        {}", self.acknowledged),
            format!("  acknowledged and lost               {}", self.lost),
            format!("  stored more than once               {}", self.doubled),
            format!("  stored though not acknowledged      {}", self.stored_unacknowledged),
            format!("  not delivered to some reader        {}", self.undelivered),
            format!("  delivered twice to some reader      {}", self.delivered_twice),
            format!("  cluster whole again                 {}", if whole { "yes" } else { "no" }),
        ];
        lines.push(match self.fault() {
            None if whole => "  PASSED".to_owned(),
            fault => format!(
                "  FAILED: {}",
                fault.unwrap_or_else(|| "the cluster is not whole".to_owned())
            ),
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn the_outcome_counts_what_matters() {
        let killed = Instant::now() + ms(1000);
        let message = |client, number, at: i64, acknowledged: Option<u64>| Sent {
            client,
            number,
            at: if at < 0 { killed - ms(100) } else { killed + ms(at.unsigned_abs()) },
            acknowledged: acknowledged.map(|after| killed + ms(after)),
        };
        let mut sent = vec![
            message(0, 1, -1, Some(1)),
            message(0, 2, -1, None),
            message(0, 3, 10, None),
            message(0, 4, 20, Some(700)),
            message(1, 1, 20, Some(900)),
        ];
        sent.extend((2..CLIENTS).map(|client| message(client, 1, 10, Some(800))));
        let mut stored: Received =
            sent.iter().map(|sent| ((sent.client, sent.number), 1)).collect();
        stored.remove(&(0, 3));
        let outcome = Outcome::judge(&sent, &stored, killed);
        assert_eq!((outcome.first, outcome.slowest), (Some(ms(700)), Some(ms(900))));
        assert_eq!((outcome.lost, outcome.doubled, outcome.stored_unacknowledged), (0, 0, 1));
        assert_eq!(outcome.fault(), None);

        stored.remove(&(0, 4));
        stored.insert((1, 1), 2);
        let outcome = Outcome::judge(&sent, &stored, killed);
        assert_eq!((outcome.lost, outcome.doubled), (1, 1));
        assert_eq!(outcome.fault().unwrap(), "1 acknowledged messages are lost");
    }

    #[tokio::test]
    async fn a_client_that_never_comes_back_is_a_fault() {
        let killed = Instant::now();
        let sent: Vec<Sent> = (1..CLIENTS)
            .map(|client| Sent {
                client,
                number: 1,
                at: killed + ms(1),
                acknowledged: Some(killed + ms(5)),
            })
            .collect();
        let stored = sent.iter().map(|sent| ((sent.client, sent.number), 1)).collect();
        let outcome = Outcome::judge(&sent, &stored, killed);
        assert_eq!((outcome.first, outcome.slowest), (Some(ms(5)), None));
        assert!(outcome.fault().unwrap().contains("never got"));
    }
}
