//! Scripts sent to the primary in batches, answered in order; with `WAIT` behind each batch if replicas are to confirm.
//!
//! Everything that waits when the connection is free goes out together, with one `WAIT` behind it: while that is on its way to the
//! replicas and back, the next batch gathers. So the cost of confirmation is shared by all who publish at the same time, and no timer
//! has to be tuned. Rejected: a `WAIT` for each publish (it blocks the connection, one round trip to the replicas each), and several
//! connections (each with a `WAIT` of its own; the order within a channel would need care).
//!
//! A request is done at most once. If the connection fails before it was written, or Redis says that it did not execute it, it waits
//! for the next connection until its deadline; if the connection fails with it under way, it ends as interrupted.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::confirmation::{Confirmation, Wait};
use super::connection::{ConnectionError, PrimaryConnection};
use super::link::Link;
use super::repair::Repair;
use super::resp::{self, Value};
use super::scripts::{self, Script};
use super::tails::Tails;
use crate::broker::BrokerError;
use holdfast_telemetry::IntCounter;

/// Requests that may wait. At 10,000 a second this is most of a second, and older ones have met their deadline by then.
pub(super) const QUEUE_MAX: usize = 8192;

/// Requests of one batch, so that the first of it does not wait for thousands behind it.
const BATCH_MAX: usize = 512;

/// Bytes of one batch, about what the kernel takes without blocking.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How often deadlines are looked at while there is no connection.
const EXPIRE_EVERY: Duration = Duration::from_millis(20);

/// What is to be done.
pub(super) enum Work {
    /// Run a script on `keys`; the history is put before `arguments`.
    Script { script: Script, keys: Vec<String>, arguments: Vec<Bytes> },
    /// A plain command.
    Command(Vec<Bytes>),
}

/// A publication that is stored, for this node's own record of it.
pub(super) struct Stored {
    pub(super) channel: Box<str>,
    pub(super) body: Bytes,
}

/// Work, and who waits for it.
pub(super) struct Request {
    pub(super) work: Work,
    /// What is stored by it.
    pub(super) stored: Option<Stored>,
    /// After this it is not begun any more.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Value, BrokerError>>,
    /// Others that asked the same before it was sent, and get the same answer.
    pub(super) sharers: Vec<oneshot::Sender<Result<Value, BrokerError>>>,
}

impl Work {
    /// What makes two reads the same: script, keys, and the arguments except the epoch a new stream would get.
    fn read_key(&self) -> Option<(&[String], &[Bytes])> {
        match self {
            Self::Script { script: Script::Read, keys, arguments } => Some((keys, &arguments[1..])),
            _ => None,
        }
    }
}

/// What a pipeline has to do with a change of the replication history.
pub(super) enum Part {
    /// It repairs before it does anything else, and says for which history that was done.
    Repairs(Box<Repair>, watch::Sender<String>),
    /// It waits, for a moment, until that was done, so that reads see the repaired streams.
    Waits(watch::Receiver<String>),
}

/// The task.
pub(super) struct Pipeline {
    pub(super) link: Link,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) confirmation: Option<Confirmation>,
    pub(super) reply_timeout: Duration,
    pub(super) part: Part,
    pub(super) tails: Arc<Tails>,
    pub(super) reads_shared: IntCounter,
}

/// Why serving over one connection ended without its failing.
enum End {
    Moved,
    NoMoreRequests,
}

impl Pipeline {
    /// Serves requests until `shutdown` or until nobody can make any.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut waiting = VecDeque::new();
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = connect(&mut self.link, &mut self.requests, &mut waiting) => {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        ended = self.serve(connected, &mut waiting) => ended,
                    }
                }
            };
            match ended {
                Ok(End::Moved) => {}
                Ok(End::NoMoreRequests) => return,
                Err(error) => self.link.failed(&error),
            }
        }
    }

    /// Serves requests over one connection until it fails.
    async fn serve(
        &mut self,
        mut primary: PrimaryConnection,
        waiting: &mut VecDeque<Request>,
    ) -> Result<End, ConnectionError> {
        let patience = self.reply_timeout
            + self.confirmation.as_ref().map_or(Duration::ZERO, Confirmation::limit);
        self.part.prepare(&mut primary, self.reply_timeout).await?;
        loop {
            let again_at = self.part.again_at();
            if again_at.is_some_and(|at| at <= Instant::now()) {
                self.part.prepare(&mut primary, self.reply_timeout).await?;
                continue;
            }
            if waiting.is_empty() {
                tokio::select! {
                    request = self.requests.recv() => match request {
                        Some(request) => waiting.push_back(request),
                        None => return Ok(End::NoMoreRequests),
                    },
                    // Nothing is under way, so whatever comes is the end of the connection.
                    unasked = primary.connection.read() => {
                        unasked?;
                        return Err(ConnectionError::Closed);
                    }
                    () = self.link.moved() => return Ok(End::Moved),
                    () = due(again_at) => continue,
                }
            }
            gather(&mut self.requests, waiting, BATCH_MAX);
            let wait = match &mut self.confirmation {
                Some(confirmation) => {
                    confirmation.look(&mut primary, self.reply_timeout).await?;
                    confirmation.wait()
                }
                None => None,
            };
            let (batch, bytes) = next_batch(&primary, waiting, wait);
            if batch.is_empty() {
                continue;
            }
            let shared: usize = batch.iter().map(|request| request.sharers.len()).sum();
            self.reads_shared.inc_by(shared as u64);
            let exchange = exchange(&mut primary, &bytes, batch, wait, &self.tails);
            let not_executed = tokio::select! {
                done = timeout(patience, exchange) => done.map_err(|_| ConnectionError::Timeout)??,
                // The requests under way are dropped, which tells those who wait that they were interrupted.
                () = self.link.moved() => return Ok(End::Moved),
            };
            if let Some((reason, requests)) = not_executed {
                for request in requests.into_iter().rev() {
                    waiting.push_front(request);
                }
                return Err(reason);
            }
        }
    }
}

impl Part {
    /// Does what a fresh connection needs before it serves.
    async fn prepare(
        &mut self,
        primary: &mut PrimaryConnection,
        limit: Duration,
    ) -> Result<(), ConnectionError> {
        match self {
            Self::Repairs(repair, done) => {
                repair.run(primary, limit).await?;
                done.send_replace(primary.history.clone());
            }
            Self::Waits(done) => {
                // A repair that takes longer makes reads less complete, not wrong.
                let _ = timeout(limit / 2, done.wait_for(|done| *done == primary.history)).await;
            }
        }
        Ok(())
    }

    /// When [`Self::prepare`] is due again.
    fn again_at(&self) -> Option<Instant> {
        match self {
            Self::Repairs(repair, _) => repair.again_at,
            Self::Waits(_) => None,
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for a connection; meanwhile requests whose deadline passes are answered.
async fn connect(
    link: &mut Link,
    requests: &mut mpsc::Receiver<Request>,
    waiting: &mut VecDeque<Request>,
) -> PrimaryConnection {
    let connecting = link.connect();
    tokio::pin!(connecting);
    loop {
        tokio::select! {
            connected = &mut connecting => return connected,
            () = sleep(EXPIRE_EVERY) => {
                gather(requests, waiting, QUEUE_MAX);
                let now = Instant::now();
                while waiting.front().is_some_and(|request| request.deadline <= now) {
                    give_up(waiting.pop_front());
                }
            }
        }
    }
}

/// Takes what has arrived, up to `max` requests waiting.
fn gather(requests: &mut mpsc::Receiver<Request>, waiting: &mut VecDeque<Request>, max: usize) {
    while waiting.len() < max
        && let Ok(request) = requests.try_recv()
    {
        waiting.push_back(request);
    }
}

fn give_up(request: Option<Request>) {
    if let Some(request) = request {
        answer(request, Err(BrokerError::Unavailable));
    }
}

/// Takes the next requests that are still wanted, and encodes them.
fn next_batch(
    primary: &PrimaryConnection,
    waiting: &mut VecDeque<Request>,
    wait: Option<Wait>,
) -> (VecDeque<Request>, BytesMut) {
    let now = Instant::now();
    let mut batch: VecDeque<Request> = VecDeque::new();
    let mut bytes = BytesMut::new();
    // By hash of what is read: the request of the batch that reads it.
    let mut reads: HashMap<u64, usize> = HashMap::new();
    while batch.len() < BATCH_MAX
        && bytes.len() < BATCH_BYTES_MAX
        && let Some(request) = waiting.pop_front()
    {
        if request.deadline <= now || request.reply.is_closed() {
            give_up(Some(request));
            continue;
        }
        if let Some(key) = request.work.read_key() {
            let at = *reads.entry(hash(&key)).or_insert(batch.len());
            // What is not sent yet answers for all who ask now; of what is under way nobody knows whether it was before their time.
            if let Some(same) = batch.get_mut(at).filter(|same| same.work.read_key() == Some(key)) {
                same.sharers.push(request.reply);
                continue;
            }
        }
        encode(&mut bytes, &request.work, primary);
        batch.push_back(request);
    }
    if let Some(wait) = wait.filter(|_| !batch.is_empty()) {
        let (replicas, timeout) = (wait.replicas.to_string(), wait.timeout.as_millis().to_string());
        resp::encode(&mut bytes, &["WAIT", &replicas, &timeout]);
    }
    (batch, bytes)
}

fn encode(bytes: &mut BytesMut, work: &Work, primary: &PrimaryConnection) {
    match work {
        Work::Command(words) => resp::encode(bytes, words),
        Work::Script { script, keys, arguments } => {
            encode_script(bytes, primary, *script, keys, arguments);
        }
    }
}

/// Appends the call of a script; the history goes before its arguments.
pub(super) fn encode_script(
    bytes: &mut BytesMut,
    primary: &PrimaryConnection,
    script: Script,
    keys: &[String],
    arguments: &[Bytes],
) {
    let digest = primary.digests.get(script as usize).map_or("", String::as_str);
    let count = keys.len().to_string();
    let mut words: Vec<&[u8]> = Vec::with_capacity(4 + keys.len() + arguments.len());
    words.extend([&b"EVALSHA"[..], digest.as_bytes(), count.as_bytes()]);
    words.extend(keys.iter().map(String::as_bytes));
    words.push(primary.history.as_bytes());
    words.extend(arguments.iter().map(|argument| &argument[..]));
    resp::encode(bytes, &words);
}

/// Requests that Redis said it did not execute, and what that says about the connection.
type NotExecuted = (ConnectionError, Vec<Request>);

/// Writes a batch, reads its replies and hands them out. Requests that end without a reply are dropped, which means interrupted.
async fn exchange(
    primary: &mut PrimaryConnection,
    bytes: &[u8],
    batch: VecDeque<Request>,
    wait: Option<Wait>,
    tails: &Tails,
) -> Result<Option<NotExecuted>, ConnectionError> {
    primary.connection.write(bytes).await?;
    let mut unconfirmed = Vec::new();
    let mut not_executed: Option<NotExecuted> = None;
    for request in batch {
        match primary.connection.read().await? {
            Value::Error(message) if wrong_server(&message) => {
                let refused = ConnectionError::Refused { command: "a command", message };
                not_executed.get_or_insert_with(|| (refused, Vec::new())).1.push(request);
            }
            Value::Error(message) => answer(request, Err(BrokerError::Refused(message))),
            value => {
                // Also before it is confirmed: subscribers have it already.
                if let Some(Stored { channel, body }) = &request.stored
                    && let Ok(done) = scripts::published(&value)
                    && !done.suppressed
                {
                    tails.published(Instant::now(), channel, &done.epoch, done.offset, body);
                }
                if wait.is_some() {
                    unconfirmed.push((request, value));
                } else {
                    answer(request, Ok(value));
                }
            }
        }
    }
    if let Some(Wait { replicas: wanted, .. }) = wait {
        match primary.connection.read().await? {
            Value::Integer(replicas) if replicas >= i64::from(wanted) => {
                for (request, value) in unconfirmed {
                    answer(request, Ok(value));
                }
            }
            Value::Integer(replicas) => {
                for (request, _) in unconfirmed {
                    answer(request, Err(BrokerError::Unconfirmed { replicas, wanted }));
                }
            }
            // The server stopped being a primary while we waited.
            _ => drop(unconfirmed),
        }
    }
    Ok(not_executed)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn answer(request: Request, result: Result<Value, BrokerError>) {
    let Request { reply, sharers, .. } = request;
    let mut waiting = std::iter::once(reply).chain(sharers).peekable();
    while let Some(reply) = waiting.next() {
        // Whoever asked may have gone away; then nobody misses the answer.
        if waiting.peek().is_none() {
            let _ = reply.send(result);
            return;
        }
        let _ = reply.send(result.clone());
    }
}

/// Whether an error reply means that this connection is not to a working primary of ours, and that the command was not executed.
fn wrong_server(message: &str) -> bool {
    ["READONLY", "NOSCRIPT", "LOADING", "MASTERDOWN", "NOAUTH", "NOPERM"]
        .iter()
        .any(|code| message.starts_with(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_say_nothing_was_done_are_tried_again() {
        assert!(wrong_server("READONLY You can't write against a read only replica."));
        assert!(wrong_server("NOSCRIPT No matching script."));
        assert!(!wrong_server("OOM command not allowed when used memory > 'maxmemory'."));
        assert!(!wrong_server("ERR Error running script"));
    }
}
