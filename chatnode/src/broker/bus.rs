//! What nodes say to each other: orders, questions with a deadline, and that they are alive.
//!
//! Built on [`Broker::signal`] alone, so that it works over every broker: each node follows one channel of its own and one that all
//! share. A node that was heard of within `ALIVE_FOR` is alive; a survey of all waits for an answer of each of those, and says who
//! stayed silent. The asking node answers its own question without the broker, so a cluster of one needs none.
//!
//! Messages are not kept: one that is sent while a node is not connected is lost to it. So an order is confirmed only by its answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{Audience, Broker, Pending};
use crate::metrics::Metrics;
use crate::stream::{Lineage, Publication};

/// How often a node says that it is alive.
const HELLO_EVERY: Duration = Duration::from_secs(2);

/// A node counts as alive for this long after it was last heard of: two of three hellos may be lost.
const ALIVE_FOR: Duration = Duration::from_secs(7);

/// Most nodes remembered; far more than one Redis can serve.
const NODES_MAX: usize = 1024;

/// Messages that may wait to be handled. Handlers only start work, so more means that this node is stuck.
const WAITING_MAX: usize = 4096;

/// Control characters keep clients out of these channels.
const ALL_NODES: &str = "\u{1}nodes";
const ONE_NODE: &str = "\u{1}node-";
/// Prefix of the channels nodes probe themselves with.
pub(crate) const PROBE: &str = "\u{1}probe-";

/// Unique name of a running node; a restarted one has another.
pub type NodeId = Arc<str>;

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Every node, this one included.
    All,
    /// The node with this id.
    Node(&'a str),
}

/// What a node is asked or told.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who asks.
    pub from: NodeId,
    /// What exactly.
    pub payload: Bytes,
}

/// Handles one kind of question. Calls are made in the order the questions arrived, so what must keep that order is done before the
/// future is returned.
pub trait Respond: Send + Sync + 'static {
    /// The answer; what is told and not asked is answered too, and nobody reads it.
    fn respond(&self, question: Question) -> BoxFuture<'static, Bytes>;
}

impl<F: Fn(Question) -> BoxFuture<'static, Bytes> + Send + Sync + 'static> Respond for F {
    fn respond(&self, question: Question) -> BoxFuture<'static, Bytes> {
        self(question)
    }
}

/// Outcome of [`Bus::survey`].
#[derive(Debug, Default)]
pub struct Survey {
    /// Answers, in the order they came.
    pub answers: Vec<(NodeId, Bytes)>,
    /// Nodes that are alive and did not answer in time.
    pub silent: Vec<NodeId>,
}

/// A node that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its id.
    pub id: NodeId,
    /// Its name in the settings.
    pub name: Arc<str>,
}

/// This node's end of the bus; clones share it.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    id: NodeId,
    name: Arc<str>,
    broker: Arc<dyn Broker>,
    metrics: Metrics,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    handlers: HashMap<&'static str, Arc<dyn Respond>>,
    /// Questions of ours that are open: number → where answers go.
    open: HashMap<u64, mpsc::Sender<(NodeId, Bytes)>>,
    questions: u64,
    /// Other nodes, and when they were last heard of.
    others: BTreeMap<NodeId, (Arc<str>, Instant)>,
}

/// Parts messages between nodes from what is meant for clients.
pub struct Switchboard {
    hub: Arc<dyn Audience>,
    bus: mpsc::Sender<Bytes>,
    probe: mpsc::Sender<(Box<str>, Bytes)>,
    metrics: Metrics,
}

/// The receiving ends of a [`Switchboard`].
pub struct Lines {
    /// For [`Bus::run`].
    pub bus: mpsc::Receiver<Bytes>,
    /// For the probe: channel and message.
    pub probe: mpsc::Receiver<(Box<str>, Bytes)>,
}

impl Switchboard {
    /// In front of `hub`.
    pub fn new(hub: Arc<dyn Audience>, metrics: Metrics) -> (Self, Lines) {
        let (bus, bus_line) = mpsc::channel(WAITING_MAX);
        let (probe, probe_line) = mpsc::channel(WAITING_MAX);
        (Self { hub, bus, probe, metrics }, Lines { bus: bus_line, probe: probe_line })
    }
}

impl Audience for Switchboard {
    fn publication(&self, channel: &str, publication: &Publication, lineage: Option<Arc<Lineage>>) {
        self.hub.publication(channel, publication, lineage);
    }

    fn join(&self, channel: &str, info: &str) {
        self.hub.join(channel, info);
    }

    fn leave(&self, channel: &str, info: &str) {
        self.hub.leave(channel, info);
    }

    fn signal(&self, channel: &str, message: &Bytes) {
        let full = if channel.starts_with(PROBE) {
            self.probe.try_send((channel.into(), message.clone())).is_err()
        } else {
            self.bus.try_send(message.clone()).is_err()
        };
        if full {
            self.metrics.broker.node_messages_dropped.inc();
        }
    }

    fn interrupted(&self) {
        self.hub.interrupted();
    }
}

/// A message as it travels: `<kind> <number> <from> <subject>\n<payload>`; kinds are q(uestion), a(nswer), h(ello), b(ye).
fn encode(kind: char, number: u64, from: &str, subject: &str, payload: &[u8]) -> Bytes {
    let mut message = format!("{kind} {number} {from} {subject}\n").into_bytes();
    message.extend_from_slice(payload);
    Bytes::from(message)
}

struct Message {
    kind: char,
    number: u64,
    from: NodeId,
    subject: String,
    payload: Bytes,
}

fn decode(message: &Bytes) -> Option<Message> {
    let end = message.iter().position(|byte| *byte == b'\n')?;
    let mut words = std::str::from_utf8(&message[..end]).ok()?.splitn(4, ' ');
    Some(Message {
        kind: words.next()?.parse().ok()?,
        number: words.next()?.parse().ok()?,
        from: words.next()?.into(),
        subject: words.next()?.to_owned(),
        payload: message.slice(end + 1..),
    })
}

impl Bus {
    /// For a node called `name`.
    pub fn new(broker: Arc<dyn Broker>, name: &str, metrics: Metrics) -> Self {
        let id = uuid::Uuid::new_v4().to_string().into();
        let tables = Mutex::default();
        Self { shared: Arc::new(Shared { id, name: name.into(), broker, metrics, tables }) }
    }

    /// This node's id.
    pub fn node(&self) -> &NodeId {
        &self.shared.id
    }

    /// Questions of `kind` are answered by `handler` from now on; `kind` is a word without spaces.
    pub fn answer(&self, kind: &'static str, handler: impl Respond) {
        self.lock().handlers.insert(kind, Arc::new(handler));
    }

    /// Nodes that are alive, this one included, by id.
    pub fn nodes(&self) -> Vec<NodeEntry> {
        let now = Instant::now();
        let own = NodeEntry { id: self.shared.id.clone(), name: Arc::clone(&self.shared.name) };
        let tables = self.lock();
        let others = tables.others.iter().filter(|(_, (_, heard_at))| now - *heard_at < ALIVE_FOR);
        let others = others.map(|(id, (name, _))| NodeEntry { id: id.clone(), name: name.clone() });
        std::iter::once(own).chain(others).collect()
    }

    /// Sends a message; ready once it is on its way. Whether it arrived shows only a [`Self::survey`].
    #[expect(clippy::needless_pass_by_value, reason = "as in `survey`, which keeps it")]
    pub fn tell(&self, target: Target<'_>, kind: &'static str, payload: Bytes) -> Pending<()> {
        let message = encode('q', 0, &self.shared.id, kind, &payload);
        self.shared.broker.signal(&channel(target), message)
    }

    /// Asks, and waits for the answers of all nodes that are asked and alive, or until `limit` has passed.
    pub async fn survey(
        &self,
        target: Target<'_>,
        kind: &'static str,
        payload: Bytes,
        limit: Duration,
    ) -> Survey {
        let deadline = Instant::now() + limit;
        let own = &self.shared.id;
        let mut silent: Vec<NodeId> = match target {
            Target::All => self.nodes().into_iter().map(|node| node.id).collect(),
            Target::Node(id) => vec![id.into()],
        };
        let mut survey = Survey::default();
        let asks_own = silent.iter().any(|id| id == own);
        if silent.len() > usize::from(asks_own) || target == Target::All {
            let (sender, mut answers) = mpsc::channel(NODES_MAX);
            let open = self.open(sender);
            let message = encode('q', open.number, own, kind, &payload);
            let asked = self.shared.broker.signal(&channel(target), message);
            if asks_own {
                silent.retain(|id| id != own);
                survey.answers.extend(self.answer_own(kind, payload, deadline).await);
            }
            // A question that could not be sent has no answers; the silent ones say so.
            if timeout_at(deadline, asked).await.is_ok_and(|sent| sent.is_ok()) {
                while !silent.is_empty()
                    && let Ok(Some((from, answer))) = timeout_at(deadline, answers.recv()).await
                {
                    silent.retain(|id| *id != from);
                    survey.answers.push((from, answer));
                }
            }
        } else {
            silent.clear();
            survey.answers.extend(self.answer_own(kind, payload, deadline).await);
        }
        survey.silent = silent;
        survey
    }

    async fn answer_own(
        &self,
        kind: &str,
        payload: Bytes,
        deadline: Instant,
    ) -> Option<(NodeId, Bytes)> {
        let handler = self.lock().handlers.get(kind).cloned()?;
        let from = self.shared.id.clone();
        let answer = handler.respond(Question { from: from.clone(), payload });
        Some((from, timeout_at(deadline, answer).await.ok()?))
    }

    fn open(&self, answers: mpsc::Sender<(NodeId, Bytes)>) -> Open<'_> {
        let mut tables = self.lock();
        // 0 is for what nobody waits for.
        tables.questions += 1;
        let number = tables.questions;
        tables.open.insert(number, answers);
        Open { bus: self, number }
    }

    /// Handles what comes in and says hello until `shutdown`.
    pub async fn run(self, mut line: mpsc::Receiver<Bytes>, shutdown: CancellationToken) {
        let own = channel(Target::Node(&self.shared.id));
        let tasks = TaskTracker::new();
        let mut ticks = interval(HELLO_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                message = line.recv() => match message {
                    Some(message) => self.handle(&message, &tasks),
                    None => break,
                },
                _ = ticks.tick() => {
                    self.forget_the_dead();
                    tasks.spawn(self.clone().greet(own.clone()));
                }
            }
        }
        // Whoever does not hear this learns it by silence.
        let bye = encode('b', 0, &self.shared.id, "-", b"");
        let _ = self.shared.broker.signal(ALL_NODES, bye).await;
        tasks.close();
    }

    /// Says that this node is alive. Following is asked for each time, as it may have failed before.
    async fn greet(self, own: String) {
        let broker = &self.shared.broker;
        let hello = encode('h', 0, &self.shared.id, "-", self.shared.name.as_bytes());
        // The next round tries again, and a broker that is away is counted where its connections are kept.
        let _ = futures_util::future::join(broker.follow(ALL_NODES), broker.follow(&own)).await;
        let _ = broker.signal(ALL_NODES, hello).await;
    }

    fn handle(&self, message: &Bytes, tasks: &TaskTracker) {
        let Some(message) = decode(message) else {
            return warn!("message between nodes that no chat node wrote");
        };
        let Message { kind, number, from, subject, payload } = message;
        match kind {
            // Our own question to all was answered without the broker.
            'q' if from == self.shared.id && number > 0 => {}
            'q' => {
                let handler = self.lock().handlers.get(subject.as_str()).cloned();
                let Some(handler) = handler else { return };
                let answer = handler.respond(Question { from: from.clone(), payload });
                let bus = self.clone();
                tasks.spawn(async move {
                    let answer = answer.await;
                    if number > 0 {
                        let message = encode('a', number, &bus.shared.id, "-", &answer);
                        // Whoever asked counts us as silent.
                        let _ =
                            bus.shared.broker.signal(&channel(Target::Node(&from)), message).await;
                    }
                });
            }
            'a' => {
                if let Some(answers) = self.lock().open.get(&number) {
                    // Whoever asked has stopped waiting.
                    let _ = answers.try_send((from, payload));
                }
            }
            'h' if from != self.shared.id => self.met(&from, &String::from_utf8_lossy(&payload)),
            'b' if self.lock().others.remove(&from).is_some() => {
                info!(node = &*from, "another node has ended");
            }
            _ => {}
        }
        self.count();
    }

    fn met(&self, id: &NodeId, name: &str) {
        let mut tables = self.lock();
        let known = tables.others.contains_key(id);
        if known || tables.others.len() < NODES_MAX {
            tables.others.insert(Arc::clone(id), (name.into(), Instant::now()));
        }
        drop(tables);
        if !known {
            info!(node = &**id, name, "another node is there");
        }
    }

    fn forget_the_dead(&self) {
        let now = Instant::now();
        self.lock().others.retain(|id, (name, heard_at)| {
            let alive = now - *heard_at < ALIVE_FOR;
            if !alive {
                info!(node = &**id, name = &**name, "another node is silent");
            }
            alive
        });
        self.count();
    }

    fn count(&self) {
        let others = i64::try_from(self.lock().others.len()).unwrap_or(i64::MAX);
        self.shared.metrics.broker.nodes.set(others.saturating_add(1));
    }

    /// A panic while the lock is held is a bug that has been reported; the tables are changed in single steps.
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question of ours, closed when dropped.
struct Open<'a> {
    bus: &'a Bus,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.bus.lock().open.remove(&self.number);
    }
}

fn channel(target: Target<'_>) -> String {
    match target {
        Target::All => ALL_NODES.to_owned(),
        Target::Node(id) => format!("{ONE_NODE}{id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_whatever_they_carry() {
        let message = decode(&encode('q', 7, "n1", "kind", b"a\nb \xff")).unwrap();
        assert_eq!((message.kind, message.number, &*message.from), ('q', 7, "n1"));
        assert_eq!((message.subject.as_str(), &message.payload[..]), ("kind", &b"a\nb \xff"[..]));
        for bad in ["", "\n", "q\n", "q x n k\n", "qq 1 n k\n", "q 1 n k"] {
            assert!(decode(&Bytes::from(bad)).is_none(), "{bad:?}");
        }
    }
}
